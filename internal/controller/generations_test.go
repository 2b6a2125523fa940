package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/generation/configmaps"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

func TestWhenABurstIsDue(t *testing.T) {
	p := pace{quiet: 5 * time.Second, longest: time.Minute, every: 20 * time.Second}
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for what, c := range map[string]struct {
		burst
		want time.Time
	}{
		"one change":                  {burst{first: at(0), last: at(0)}, at(5)},
		"several":                     {burst{first: at(0), last: at(9)}, at(14)},
		"that do not end":             {burst{first: at(0), last: at(58)}, at(60)},
		"soon after the last one":     {burst{first: at(0), last: at(0), noted: at(-2)}, at(18)},
		"not soon after the last one": {burst{first: at(0), last: at(0), noted: at(-100)}, at(5)},
	} {
		if got := c.due(p); !got.Equal(c.want) {
			t.Errorf("%s is due after %s, want %s", what, got.Sub(start), c.want.Sub(start))
		}
	}
}

// noted is what a leader keeps of a cluster that a test makes up.
type noted struct {
	*fakeAPI
	*generations
	policies map[kube.PolicyKey]*kube.Policy
	records  []record.Record
	stop     func()
}

func newNoted(t *testing.T) *noted {
	n := &noted{fakeAPI: newFakeAPI(t), policies: map[kube.PolicyKey]*kube.Policy{}}
	n.lead()
	return n
}

// lead has another process lead, which knows nothing.
func (n *noted) lead() {
	if n.stop != nil {
		n.stop()
	}
	n.generations = newGenerations(n.options(), newMetrics())
	n.pace = pace{quiet: time.Millisecond, longest: time.Second, every: time.Millisecond, retry: time.Millisecond, prove: time.Hour, within: time.Minute}
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	g := n.generations
	n.stop = func() { cancel(); <-done }
	n.t.Cleanup(n.stop)
	go func() { defer close(done); g.run(ctx) }()
}

func (n *noted) set(name, app string) {
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: name, IsolatesIngress: true,
		Subject: policy.Pods{Namespaces: label.MustParse("kubernetes.io/metadata.name=shop"), Pods: label.MustParse("app=" + app)}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.policies[cluster.Key{Namespace: "shop", Name: name}] = &kube.Policy{Policy: p}
}

func (n *noted) seen() { n.look(n.policies, n.records, true, time.Now()) }

// await waits for the history to say something, each entry as "why mark".
func (n *noted) await(want ...string) generation.History {
	n.t.Helper()
	deadline := time.Now().Add(25 * time.Second)
	for {
		h, err := configmaps.Open(n.client, "ringfence-system").History(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		var got []string
		for _, e := range h {
			got = append(got, strings.TrimSpace(e.Why+" "+string(e.Mark)))
		}
		if strings.Join(got, "\n") == strings.Join(want, "\n") {
			return h
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the history is %q, want %q", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (n *noted) move(r record.Record, commands ...rollout.Command) record.Record {
	n.t.Helper()
	s := r.Status.Follow(r.Spec, "", start)
	for _, c := range commands {
		var err error
		if s, err = s.Do(r.Spec, c, rollout.Health{}, start); err != nil {
			n.t.Fatal(err)
		}
	}
	return r.With(s, time.Now())
}

// returnTo is the return to an entry, in force.
func (n *noted) returnTo(e generation.Entry) record.Record {
	n.t.Helper()
	kept, err := n.store.Get(n.t.Context(), e.ID)
	if err != nil {
		n.t.Fatal(err)
	}
	now, err := (&view{policies: n.policies}).inForce()
	if err != nil {
		n.t.Fatal(err)
	}
	change, err := record.Difference(now, kept.Policies)
	if err != nil {
		n.t.Fatal(err)
	}
	object, err := record.NewReturn(generation.Return{Number: e.Number, ID: e.ID}, change)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.move(read(n.t, object), rollout.Promote)
}

// What is applied together is one generation; a rollout that went through is a good one; what was returned from is a bad one;
// and it makes no difference who leads.
func TestGenerationsOfACluster(t *testing.T) {
	n := newNoted(t)
	n.set("db", "db")
	n.seen()
	first := n.await("the first that was seen")[0]
	n.stop() // so that all of these come before anything is written
	for i := range 7 {
		n.set(fmt.Sprintf("p%d", i), "x")
		n.seen()
	}
	n.lead()
	n.seen()
	history := []string{"the first that was seen", "policies changed: +shop/p0 +shop/p1 +shop/p2 +shop/p3 +shop/p4 and 2 more"}
	n.await(history...)
	n.set("db", "other")
	delete(n.policies, cluster.Key{Namespace: "shop", Name: "p0"})
	n.seen()
	history = append(history, "policies changed: ~shop/db -shop/p0")
	n.await(history...)

	lockdown := read(t, objectOf(t, written))
	n.records = []record.Record{n.move(lockdown)}
	n.seen() // under way for a cohort is no generation
	n.lead() // while it ends
	n.records = []record.Record{n.move(lockdown, rollout.Promote, rollout.Promote, rollout.Promote)}
	n.seen()
	history = append(history, "rollout lockdown complete good")
	n.await(history...)
	n.records = nil
	n.seen()
	history = append(history, "rollout lockdown no more in force")
	n.await(history...)

	n.records = []record.Record{n.returnTo(first)}
	n.lead()
	n.seen()
	history[4] += " bad"
	history = append(history, fmt.Sprintf("returned to entry 1 (%s)", first.ID.Short()))
	if h := n.await(history...); h[5].ID != first.ID || h[5].ReturnedTo != 1 {
		t.Errorf("the return is %+v", h[5])
	}
	n.set("db", "later") // which the return brought
	n.set("new", "new")  // what the return does not bring is as the API has it, and nobody returned from it
	n.seen()
	history = append(history, "policies changed: +shop/new")
	n.await(history...)
	n.records = nil
	n.lead()
	n.seen()
	history = append(history, "resumed")
	n.await(history...)
}

// value sums up a metric.
func value(t *testing.T, m *metrics, name string) float64 {
	t.Helper()
	all, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, x := range f.GetMetric() {
			sum += x.GetGauge().GetValue() + x.GetCounter().GetValue()
		}
	}
	return sum
}

// Whoever may not write is said to, and everything else goes on; once it may, it does.
func TestGenerationsThatCannotBeKept(t *testing.T) {
	a := newFakeAPI(t)
	may := make(chan struct{})
	a.client.PrependReactor("create", "configmaps", func(k8stesting.Action) (bool, runtime.Object, error) {
		select {
		case <-may:
			return false, nil, nil
		default:
			return true, nil, apierrors.NewForbidden(corev1.Resource("configmaps"), "", fmt.Errorf("no right"))
		}
	})
	if _, err := a.client.NetworkingV1().NetworkPolicies("shop").Create(t.Context(), &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "db"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l := newLeader(a.options(), newMetrics())
	l.kept.pace.quiet, l.kept.pace.every, l.kept.pace.retry = time.Millisecond, time.Millisecond, time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	said := func() bool {
		all := l.kept.conditions()
		return len(all) == 1 && all[0].Type == NotKept && strings.Contains(all[0].Message, "no right")
	}
	a.until("it is said", func(record.Record) bool {
		return said() && value(t, l.metrics, "ringfence_conditions") == 1
	})
	if value(t, l.metrics, "ringfence_generation_writes_total") == 0 {
		t.Error("it is not counted")
	}
	a.until("rollouts go on", func(r record.Record) bool { return r.Status.Phase == rollout.Progressing })
	close(may)
	a.until("it is kept", func(record.Record) bool { return len(l.kept.conditions()) == 0 })
	h, err := configmaps.Open(a.client, "ringfence-system").History(t.Context())
	if err != nil || len(h) != 1 {
		t.Errorf("the history is %+v, %v", h, err)
	}
}
