package inforce

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
)

func TestADigestIsOfASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.Custom(func(t *rapid.T) Policy {
			return Policy{Kind: "NetworkPolicy", Namespace: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "namespace"),
				Name: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name"), UID: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "uid"),
				Generation: rapid.Int64Range(1, 3).Draw(t, "generation")}
		})
		toggled := rapid.SliceOf(policy).Draw(t, "toggled")
		var a, b Digest
		in := map[Policy]bool{}
		for _, p := range toggled {
			a.Toggle(p)
			in[p] = !in[p]
		}
		other := map[Policy]bool{}
		for _, p := range rapid.Permutation(toggled).Draw(t, "in another order") {
			b.Toggle(p)
			other[p] = !other[p]
		}
		if a != b {
			t.Errorf("the order matters: %s and %s", a, b)
		}
		var fresh Digest
		for p, is := range in {
			if is {
				fresh.Toggle(p)
			}
		}
		if a != fresh {
			t.Errorf("%s is not that of what is left, %s", a, fresh)
		}
	})
}

func np(name, version string) Version {
	return Version{Policy{Kind: "NetworkPolicy", Namespace: "shop", Name: name, UID: "u", Generation: 1}, version}
}

func ready(observed string) v1alpha1.NodeEnforcementStatus {
	return v1alpha1.NodeEnforcementStatus{Ready: true, BootID: "boot", Digest: "another",
		Observed: v1alpha1.ObservedVersions{NetworkPolicies: observed}}
}

func TestJudge(t *testing.T) {
	with := func(r v1alpha1.NodeEnforcementStatus, change func(*v1alpha1.NodeEnforcementStatus)) v1alpha1.NodeEnforcementStatus {
		change(&r)
		return r
	}
	type status = v1alpha1.NodeEnforcementStatus
	for name, c := range map[string]struct {
		report  *status
		version string
		why     string
	}{
		"as it is":           {report: new(ready("100")), version: "100"},
		"or newer":           {report: new(ready("1000")), version: "999"},
		"no report":          {version: "100", why: "no agent has reported"},
		"older":              {report: new(ready("999")), version: "1000", why: "not reported it in force yet"},
		"nothing seen":       {report: new(ready("")), version: "100", why: "not reported it in force yet"},
		"not to be compared": {report: new(ready("abd")), version: "abc", why: "not reported it in force yet"},
		"the same policies": {report: new(with(ready("abd"), func(s *status) { s.Digest = Digest(7).String() })),
			version: "abc"},
		"no policies in force": {report: new(with(ready(""), func(s *status) { s.Digest = Digest(0).String() })), version: "100", why: "not reported it"},
		"not ready":            {report: new(with(ready("100"), func(s *status) { s.Ready, s.Message = false, "OffPath: no" })), version: "100", why: "OffPath: no"},
		"another start": {report: new(with(ready("100"), func(s *status) { s.BootID = "before" })), version: "100",
			why: "started anew"},
		"watch forbidden": {report: new(with(ready("99"), func(s *status) {
			s.Conditions = []v1alpha1.NodeCondition{{Type: "Forbidden", Object: "networkpolicies", Message: "no right"}}
		})), version: "100", why: "Forbidden: no right"},
	} {
		cluster := Cluster{Nodes: []Node{{"n1", "boot"}}, Reports: map[string]status{}, Digest: Digest(7).String()}
		if c.report != nil {
			cluster.Reports["n1"] = *c.report
		}
		j := cluster.Judge(np("web", c.version))
		if c.why == "" {
			if !j.Enforced() || len(j.Missing) > 0 {
				t.Errorf("%s: %+v", name, j)
			}
		} else if j.Enforced() || len(j.Missing) != 1 || !strings.Contains(j.Missing[0].Why, c.why) {
			t.Errorf("%s: %+v, want %q", name, j, c.why)
		}
	}
}

// What is written to the status of a ClusterNetworkPolicy gives it a newer version, which no node reports.
func TestAStatusIsNoNewPolicy(t *testing.T) {
	guard := Version{Policy{Kind: "ClusterNetworkPolicy", Name: "guard", UID: "g", Generation: 3}, "250"}
	web := np("web", "99")
	report := ready("100")
	report.Observed.ClusterNetworkPolicies = "200"
	var d Digest
	d.Toggle(guard.Policy)
	report.ClusterDigest = d.String()
	c := Cluster{Nodes: []Node{{"n1", "boot"}}, Reports: map[string]v1alpha1.NodeEnforcementStatus{"n1": report}}
	if c.Judge(guard).Enforced() {
		t.Error("without knowing all policies that is a guess")
	}
	c.SetDigests([]Version{guard, web, np("other", "101")})
	if j := c.Judge(guard); !j.Enforced() {
		t.Errorf("the status hides that it is in force: %+v", j)
	}
	if c.Judge(np("other", "101")).Enforced() {
		t.Error("a NetworkPolicy has no status")
	}
	changed := guard
	changed.Generation++
	c.SetDigests([]Version{changed, web})
	if c.Judge(changed).Enforced() {
		t.Error("a new generation is in force before a node reports it")
	}
}

func TestWhatDeniesInItsSteadIsNotThePolicy(t *testing.T) {
	r := ready("100")
	r.Defective = []v1alpha1.PolicyReference{{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"}}
	c := Cluster{Nodes: []Node{{"n1", "boot"}}, Reports: map[string]v1alpha1.NodeEnforcementStatus{"n1": r}}
	if j := c.Judge(np("web", "100")); j.Enforced() || !j.Defective || j.InForce != 1 {
		t.Errorf("the policy that could not be read: %+v", j)
	}
	if j := c.Judge(np("db", "100")); !j.Enforced() {
		t.Errorf("another one: %+v", j)
	}
	if (Cluster{}).Judge(np("web", "1")).Enforced() {
		t.Error("a cluster without nodes enforces")
	}
}

// api is a fake one, with an agent that reports to it.
type api struct {
	*dynamicfake.FakeDynamicClient
	mu  sync.Mutex
	now v1alpha1.NodeEnforcementStatus
}

func newAPI() *api {
	return &api{FakeDynamicClient: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{Resource: "NodeEnforcementList"})}
}

func (a *api) set(f func(*v1alpha1.NodeEnforcementStatus)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.now)
}

func (a *api) writes() int {
	n := 0
	for _, x := range a.Actions() {
		if x.Matches("patch", "nodeenforcements") || x.Matches("create", "nodeenforcements") {
			n++
		}
	}
	return n
}

func (a *api) reporter(nodes int) *Reporter {
	return &Reporter{Client: a, Node: "n1", UID: func() string { return "uid" }, Nodes: func() int { return nodes },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: func() v1alpha1.NodeEnforcementStatus {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.now
		}}
}

func TestReports(t *testing.T) {
	a := newAPI()
	r := a.reporter(1)
	a.now = ready("100")
	a.now.Closed = slices.Repeat([]string{"shop/web"}, MaxList+1)
	a.now.Message = strings.Repeat("ä", 2*maxMessage)
	for range 2 {
		if !r.write(t.Context()) {
			t.Fatal("it could not be written")
		}
	}
	if n := a.writes(); n != 2 {
		t.Errorf("%d writes, want a patch and a creation, and none for what did not change", n)
	}
	a.set(func(s *v1alpha1.NodeEnforcementStatus) {
		s.Observed.NetworkPolicies, s.Closed, s.Message = "101", nil, ""
	})
	if !r.write(t.Context()) {
		t.Fatal("it could not be written")
	}
	if n := a.writes(); n != 3 {
		t.Errorf("%d writes, want one more", n)
	}
	reports, err := List(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	got := reports.ByNode["n1"]
	if got.Observed.NetworkPolicies != "101" || len(got.Closed) != 0 || got.Message != "" || got.Updated.IsZero() {
		t.Errorf("the report is %+v", got)
	}
	object, err := a.Resource(Resource).Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if owners := object.GetOwnerReferences(); len(owners) != 1 || owners[0].UID != "uid" {
		t.Errorf("it goes with %v", owners)
	}
}

func TestReportsAreBounded(t *testing.T) {
	s := v1alpha1.NodeEnforcementStatus{Message: strings.Repeat("ä", 2*maxMessage), Closed: make([]string, 100),
		Conditions: make([]v1alpha1.NodeCondition, 100), Defective: make([]v1alpha1.PolicyReference, 100)}
	trim(&s)
	if len(s.Closed) != MaxList || len(s.Conditions) != MaxList || len(s.Defective) != MaxList || len([]rune(s.Message)) != maxMessage {
		t.Errorf("%d closed, %d conditions, %d defective, message of %d", len(s.Closed), len(s.Conditions), len(s.Defective), len([]rune(s.Message)))
	}
}

// An API that refuses is asked again, and what changed meanwhile is one report.
func TestReporterTriesAgain(t *testing.T) {
	a := newAPI()
	refused := make(chan struct{}, 1)
	var once sync.Once
	a.PrependReactor("patch", "nodeenforcements", func(k8stesting.Action) (handled bool, _ runtime.Object, err error) {
		once.Do(func() { handled, err = true, errors.New("busy"); refused <- struct{}{} })
		return handled, nil, err
	})
	a.now = ready("1")
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan error)
	go func() { done <- a.reporter(1).Run(ctx, changed) }()
	changed <- struct{}{}
	<-refused
	a.set(func(s *v1alpha1.NodeEnforcementStatus) { s.Observed.NetworkPolicies = "2" })
	for {
		reports, err := List(t.Context(), a)
		if err == nil && reports.ByNode["n1"].Observed.NetworkPolicies == "2" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := a.writes(); n != 3 {
		t.Errorf("%d writes, want one that failed, a patch and a creation", n)
	}
}

func TestFollow(t *testing.T) {
	a := newAPI()
	reports, err := List(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	watcher := watch.NewFake()
	a.PrependWatchReactor("nodeenforcements", func(k8stesting.Action) (bool, watch.Interface, error) { return true, watcher, nil })
	done := make(chan error)
	go func() {
		done <- reports.Follow(t.Context(), a, func() bool { return reports.ByNode["n1"].Observed.NetworkPolicies != "2" })
	}()
	r := a.reporter(1)
	for _, v := range []string{"1", "2"} {
		a.set(func(s *v1alpha1.NodeEnforcementStatus) { *s = ready(v) })
		if !r.write(t.Context()) {
			t.Fatal("it could not be written")
		}
		object, err := a.Resource(Resource).Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		watcher.Modify(object)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !watcher.IsStopped() {
		t.Error("it is still watched")
	}
}

func TestListOfAnAPIThatKnowsNoReports(t *testing.T) {
	a := newAPI()
	a.PrependReactor("list", "nodeenforcements", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(Resource.GroupResource(), "")
	})
	if _, err := List(t.Context(), a); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("the error is %v", err)
	}
}

func TestAThousandNodesWriteAHundredASecond(t *testing.T) {
	if got := Spread(1000); got != 10*time.Second {
		t.Errorf("1000 nodes spread their reports over %s", got)
	}
	if got := Spread(0); got <= 0 {
		t.Errorf("no time to choose from: %s", got)
	}
}
