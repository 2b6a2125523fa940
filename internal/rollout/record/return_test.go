package record_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// isolating is a policy for each word, "name" or "name=app".
func isolating(t *testing.T, words ...string) []*policy.Policy {
	t.Helper()
	b := manifest.NewBundle()
	for _, w := range words {
		name, app, _ := strings.Cut(w, "=")
		b.Decode(w, fmt.Appendf(nil, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: shop}\nspec: {podSelector: {matchLabels: {app: x%s}}}\n", name, app))
	}
	r := b.Finish(manifest.Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	return r.Objects.Policies
}

func returnTo(t *testing.T, number uint64, now, wanted []*policy.Policy) *unstructured.Unstructured {
	t.Helper()
	c, err := record.Difference(now, wanted)
	if err != nil {
		t.Fatal(err)
	}
	u, err := record.NewReturn(generation.Return{Number: number, ID: generation.Of(wanted)}, c)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// rollouts is an API with rollouts.
func rollouts(t *testing.T, objects ...runtime.Object) *dynamicfake.FakeDynamicClient {
	t.Helper()
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{record.Resource: "PolicyRolloutList"}, objects...)
}

// forEveryone are the policies in force, if the API has some.
func forEveryone(t *testing.T, all []record.Record, api []*policy.Policy) []*policy.Policy {
	t.Helper()
	s, err := cluster.NewState(cluster.Objects{Policies: api})
	if err == nil {
		s, err = rollout.Rewrite(s, record.Finals(all)...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.Policies()
}

func inForce(t *testing.T, c *dynamicfake.FakeDynamicClient, api []*policy.Policy) generation.ID {
	t.Helper()
	all, err := record.List(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return generation.Of(forEveryone(t, all, api))
}

// A return has exactly the generation in force, at once and over whatever else is; a second one takes the place of the first,
// whole; and without it everything is as it was.
func TestReturn(t *testing.T) {
	complete := read(t, object(t, text)) // by a clock that is ahead
	status := complete.Status.Follow(complete.Spec, "", now)
	status.Phase, status.Step = rollout.Complete, len(complete.Spec.Steps)
	ahead, err := complete.With(status, time.Now().Add(time.Hour)).Object()
	if err != nil {
		t.Fatal(err)
	}
	underWay := object(t, strings.NewReplacer("name: lockdown", "name: going", "name: web", "name: api", "name: old", "name: older").Replace(text))
	begun := read(t, underWay)
	if underWay, err = begun.With(begun.Status.Follow(begun.Spec, "", now), now).Object(); err != nil {
		t.Fatal(err)
	}
	c := rollouts(t, ahead, underWay)
	api := isolating(t, "a", "b", "old", "web")
	before := inForce(t, c, api)
	without := forEveryone(t, []record.Record{read(t, ahead)}, api)
	for i, wanted := range [][]*policy.Policy{isolating(t, "a", "b=2", "gone"), isolating(t, "web=3", "a"), isolating(t, "a", "b=2", "gone")} {
		number := uint64(i + 1)
		r, err := record.Return(t.Context(), c, returnTo(t, number, without, wanted))
		if err != nil {
			t.Fatal(err)
		}
		if inForce(t, c, api) != generation.Of(wanted) || r.Former != nil {
			t.Errorf("return %d is not in force as it should be: %+v", number, r.Status)
		}
		if to := r.Returned(); to == nil || to.Number != number || to.ID != generation.Of(wanted) || to.Time.IsZero() {
			t.Errorf("returned to %+v", to)
		}
	}
	if r, err := record.Get(t.Context(), c, "going"); err != nil || r.Status.Phase != rollout.Aborted {
		t.Errorf("what was under way is %s, %v", r.Status.Phase, err)
	}
	for name, command := range map[string]rollout.Command{"going": rollout.Retry, "lockdown": rollout.Undo} {
		if _, err := record.Do(t.Context(), c, name, command); err == nil || !strings.Contains(err.Error(), "policies were returned to entry 3") {
			t.Errorf("%s %s: %v", command, name, err)
		}
	}
	all, err := record.List(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	fresh := read(t, object(t, strings.Replace(text, "name: lockdown", "name: fresh", 1)))
	if why := fresh.WaitsFor(all); !strings.Contains(why, "returned to entry 3") {
		t.Errorf("another one waits for %q", why)
	}
	if to, err := record.Resume(t.Context(), c); err != nil || to.Number != 3 {
		t.Errorf("resumed from %+v, %v", to, err)
	}
	if inForce(t, c, api) != before {
		t.Error("something of the return is left")
	}
	if _, err := record.Resume(t.Context(), c); !errors.Is(err, record.ErrNotReturned) {
		t.Errorf("once more: %v", err)
	}
}

// A controller may come before, and people may end a return by its name.
func TestReturnGoesOn(t *testing.T) {
	api, wanted := isolating(t, "a"), isolating(t, "a=2")
	c := rollouts(t)
	first := true
	c.PrependReactor("update", "policyrollouts", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if !first {
			return false, nil, nil
		}
		first = false
		there, err := c.Tracker().Get(record.Resource, "", record.ReturnName)
		if err != nil {
			return true, nil, err
		}
		r := read(t, there.(*unstructured.Unstructured))
		u, err := r.With(r.Status.Follow(r.Spec, "", now), now).Object()
		if err == nil {
			err = c.Tracker().Update(record.Resource, u, "")
		}
		if err == nil {
			err = apierrors.NewConflict(record.Resource.GroupResource(), record.ReturnName, errors.New("it is newer"))
		}
		return true, nil, err
	})
	returned := func() {
		t.Helper()
		r, err := record.Return(t.Context(), c, returnTo(t, 1, api, wanted))
		if err != nil || r.Status.Phase != rollout.Complete || inForce(t, c, api) != generation.Of(wanted) {
			t.Fatalf("it is %s, %v", r.Status.Phase, err)
		}
	}
	returned()
	if r, err := record.Do(t.Context(), c, record.ReturnName, rollout.Undo); err != nil || r.Returned() != nil {
		t.Fatalf("undone: %+v, %v", r.Returned(), err)
	}
	returned() // the same, once more
}

// Who may not write statuses leaves it to a controller, which has to need nothing but time.
func TestReturnIsLeftToAController(t *testing.T) {
	api, wanted := isolating(t, "a"), isolating(t, "b")
	c := rollouts(t)
	c.PrependReactor("update", "policyrollouts", func(a k8stesting.Action) (bool, runtime.Object, error) {
		return a.GetSubresource() == "status", nil, apierrors.NewForbidden(record.Resource.GroupResource(), record.ReturnName, errors.New("no right"))
	})
	r, err := record.Return(t.Context(), c, returnTo(t, 1, api, wanted))
	if err != nil || r.Returned() != nil {
		t.Fatalf("it is %+v, %v", r.Status, err)
	}
	other := read(t, object(t, text))
	if why := other.WaitsFor([]record.Record{other, r}); !strings.Contains(why, "returned to entry 1") {
		t.Errorf("another one waits for %q", why)
	}
	at := now
	s := r.Status.Follow(r.Spec, "", at)
	for range 3 {
		at = at.Add(time.Second)
		s = s.Tick(r.Spec, rollout.Health{InForce: true, NotReady: []string{"shop/x"}, Lost: []string{"DNS of shop/x"}}, at)
	}
	if r = r.With(s, at); r.Returned() == nil {
		t.Errorf("after three seconds it is %s: %s", s.Phase, s.Reason)
	}
}

func TestReturnsThatCannotBe(t *testing.T) {
	b := manifest.NewBundle()
	b.Decode("bad.yaml", []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: bad, namespace: shop}\nspec: {podSelectr: {}}\n"))
	bad := b.Finish(manifest.Options{}).Objects.Policies
	if _, err := record.Difference(isolating(t, "a"), bad); err == nil || !strings.Contains(err.Error(), "NetworkPolicy shop/bad") {
		t.Errorf("a stand-in: %v", err)
	}
	if c, err := record.Difference(slices.Concat(isolating(t, "a"), bad), slices.Concat(isolating(t, "a=2"), bad)); err != nil || len(c.Policies) != 1 {
		t.Errorf("a stand-in that is there: %+v, %v", c, err)
	}
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprintf("p%d", i))
	}
	large := isolating(t, many[:900]...)
	for _, p := range large {
		p.Ingress = []policy.Rule{{Action: policy.Accept, Peers: []policy.Peer{{Kind: policy.PeerAnyone}}}}
		for port := range uint16(20) {
			p.Ingress[0].Ports = append(p.Ingress[0].Ports, policy.Port{Protocol: flow.TCP, First: 1000 + 2*port, Last: 1000 + 2*port})
		}
	}
	for want, policies := range map[string][]*policy.Policy{"1001 policies differ": isolating(t, many...), "the 900 policies that differ are": large} {
		if _, err := record.NewReturn(generation.Return{}, rollout.Change{Policies: policies}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	c := rollouts(t, object(t, strings.Replace(text, "name: lockdown", "name: "+record.ReturnName, 1)))
	if _, err := record.Return(t.Context(), c, returnTo(t, 1, isolating(t, "a"), isolating(t, "b"))); err == nil || !strings.Contains(err.Error(), "is no return to a generation") {
		t.Errorf("over a rollout of that name: %v", err)
	}
	if _, err := c.Resource(record.Resource).Get(t.Context(), record.ReturnName, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}
