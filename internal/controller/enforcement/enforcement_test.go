package enforcement

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

type status = v1alpha1.NodeEnforcementStatus

// world makes views.
type world struct {
	t        *testing.T
	pods     []*cluster.Endpoint
	policies map[cluster.Key]*kube.Policy
	nodes    []inforce.Node
	reports  map[string]status
}

func newWorld(t *testing.T, nodes int) *world {
	w := &world{t: t, policies: map[cluster.Key]*kube.Policy{}, reports: map[string]status{}}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		w.nodes = append(w.nodes, inforce.Node{Name: name, BootID: "boot"})
		w.reports[name] = status{Ready: true, BootID: "boot", Observed: v1alpha1.ObservedVersions{NetworkPolicies: "100", ClusterNetworkPolicies: "100"}}
	}
	return w
}

func (w *world) pod(namespace, name, node string) {
	w.pods = append(w.pods, &cluster.Endpoint{Key: cluster.Key{Namespace: namespace, Name: name}, Node: node,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(len(w.pods) >> 8), byte(len(w.pods))})}})
}

// policy puts one over all pods of a namespace, or of all where it has none.
func (w *world) policy(namespace, name, version string, generation int64) {
	w.t.Helper()
	p := policy.Policy{Tier: policy.Admin, Namespace: namespace, Name: name, Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}}
	if namespace != "" {
		p.Tier = policy.Namespace
		s, err := label.Parse("kubernetes.io/metadata.name=" + namespace)
		if err != nil {
			w.t.Fatal(err)
		}
		p.Subject.Namespaces = s
	}
	made, err := policy.New(p)
	if err != nil {
		w.t.Fatal(err)
	}
	w.policies[cluster.Key{Namespace: namespace, Name: name}] = &kube.Policy{Policy: made, UID: "uid-" + name, Generation: generation, ResourceVersion: version}
}

func (w *world) report(node string, change func(*status)) {
	r := w.reports[node]
	change(&r)
	w.reports[node] = r
}

func (w *world) view() View {
	w.t.Helper()
	o := cluster.Objects{Endpoints: w.pods}
	for _, p := range w.policies {
		o.Policies = append(o.Policies, p.Policy)
	}
	s, err := cluster.NewState(o)
	if err != nil {
		w.t.Fatal(err)
	}
	v := View{State: s, Policies: map[cluster.Key]*kube.Policy{}, Nodes: append([]inforce.Node(nil), w.nodes...), Reports: map[string]status{}}
	for k, p := range w.policies {
		v.Policies[k] = p
	}
	for k, r := range w.reports {
		v.Reports[k] = r
	}
	return v
}

func TestEvaluate(t *testing.T) {
	w := newWorld(t, 3)
	w.pod("shop", "a", "n1")
	w.pod("shop", "b", "n2")
	w.pod("shop", "c", "n2")
	w.pod("lab", "d", "n3")
	w.pod("lab", "e", "nowhere")
	w.policy("shop", "old", "90", 1)
	w.policy("shop", "new", "110", 4)
	w.policy("lab", "only", "90", 1)
	w.policy("", "guard", "100", 2)
	w.report("n1", func(r *status) { r.Observed.NetworkPolicies = "110" })
	w.report("n3", func(r *status) {
		r.Observed.NetworkPolicies, r.Closed, r.Defective = "110", []string{"lab/d"}, []v1alpha1.PolicyReference{{Kind: "NetworkPolicy", Namespace: "lab", Name: "only"}}
	})
	got := evaluate(w.view())
	for o, want := range map[object]string{
		{false, "guard"}: "true InForce in force on 3 of 3 nodes and for 3 of 4 pods",
		{true, "shop"}: "false OnItsWay 1 of 2 policies are in force on all of 3 nodes; new: in force on 2 of 3 nodes and for 1 of 3 pods: " +
			"n2: its agent has not reported it in force yet",
		{true, "lab"}: "false Unreadable 0 of 1 policies are in force on all of 3 nodes; only: in force on 3 of 3 nodes and for 0 of 1 pods: it cannot be read",
	} {
		if g := got[o]; g == nil || !strings.HasPrefix(fmt.Sprint(g.enforced, " ", g.reason, " ", g.message), want) {
			t.Errorf("of %v it says %+v, want %s", o, g, want)
		}
	}
	if len(got) != 3 {
		t.Errorf("it speaks of %d objects", len(got))
	}
	s := got[object{true, "shop"}].status
	if s.Policies != 2 || s.PoliciesInForce != 1 || s.Nodes != 3 || s.Pods != 3 || s.PodsInForce != 1 || len(s.NotInForce) != 1 || s.NotInForce[0].Generation != 4 {
		t.Errorf("of the namespace it says %+v", s)
	}

	delete(w.reports, "n1")
	w.report("n2", func(r *status) { r.BootID = "before" })
	w.report("n3", func(r *status) { r.Ready, r.Message = false, "OffPath" })
	if g := evaluate(w.view())[object{false, "guard"}]; g.reason != reasonNodes || !strings.Contains(g.message, "on 0 of 3 nodes and for 0 of 4 pods: n1: no agent") {
		t.Errorf("without nodes that are well it says %+v", g)
	}
	w.nodes = nil
	if g := evaluate(w.view())[object{false, "guard"}]; g.enforced || g.reason != reasonNoNodes {
		t.Errorf("without nodes it says %+v", g)
	}
}

// The status that we write makes no policy newer.
func TestAStatusIsNoNewVersion(t *testing.T) {
	w := newWorld(t, 2)
	w.policy("", "guard", "150", 2) // as a controller sees it that begins after its predecessor wrote
	var c inforce.Cluster
	c.SetDigests([]inforce.Version{versionOf(cluster.Key{Name: "guard"}, w.policies[cluster.Key{Name: "guard"}])})
	for _, n := range w.nodes {
		w.report(n.Name, func(r *status) { r.ClusterDigest = c.ClusterDigest })
	}
	if g := evaluate(w.view())[object{false, "guard"}]; !g.enforced {
		t.Errorf("it says %+v", g)
	}
}

func TestDue(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	said := func(version string, enforced bool, text string, ago time.Duration) *written {
		return &written{version: version, enforced: enforced, text: text, at: now.Add(-ago)}
	}
	is := func(version string, enforced bool) *want {
		return &want{version: version, enforced: enforced, message: "m"}
	}
	same := is("1", true).text()
	for _, c := range []struct {
		name  string
		was   *written
		is    *want
		short time.Duration // for how long it has not been enforced
		want  urgency
	}{
		{"a new one in force", nil, is("1", true), 0, news},
		{"a new one that may be in a moment", nil, is("1", false), settles - 1, notDue},
		{"a new one that is not", nil, is("1", false), settles, news},
		{"a new version in force", said("1", true, same, 0), is("2", true), 0, news},
		{"a new version on its way", said("1", true, same, time.Hour), is("2", false), settles - 1, notDue},
		{"a new version that does not come", said("1", true, same, 0), is("2", false), settles, news},
		{"in force at last", said("1", false, same, 0), is("1", true), 0, news},
		{"a node starts", said("1", true, same, time.Hour), is("1", false), grace - 1, notDue},
		{"a node does not come back", said("1", true, same, 0), is("1", false), grace, news},
		{"nothing new", said("1", true, same, time.Hour), is("1", true), 0, notDue},
		{"one pod more", said("1", true, "less", counts-1), is("1", true), 0, notDue},
		{"one pod more, a while ago", said("1", true, "less", counts), is("1", true), 0, figures},
		{"one node more", said("1", false, "less", progress-1), is("1", false), time.Hour, notDue},
		{"some nodes more", said("1", false, "less", progress), is("1", false), time.Hour, farther},
	} {
		h := held{was: c.was, is: c.is}
		if !c.is.enforced {
			h.short = now.Add(-c.short)
		}
		if got := h.due(now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	h := held{is: is("1", true), again: now.Add(1)}
	if h.due(now) != notDue {
		t.Error("what failed is tried at once")
	}
	h = held{was: said("1", true, same, 0)}
	if h.due(now) != notDue {
		t.Error("what nobody has looked at is taken away")
	}
}

// api is an API that keeps what is applied, and counts.
type api struct {
	*dynamicfake.FakeDynamicClient
	said    map[object]*unstructured.Unstructured
	writes  int
	deletes int
	fail    error
}

func newAPI() *api {
	a := &api{said: map[object]*unstructured.Unstructured{}}
	a.FakeDynamicClient = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		Namespaces: "NamespaceEnforcementList", kube.ClusterPolicies: "ClusterNetworkPolicyList"})
	a.PrependReactor("patch", "*", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if a.writes++; a.fail != nil {
			return true, nil, a.fail
		}
		p := action.(k8stesting.PatchAction)
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal(p.GetPatch(), &u.Object); err != nil {
			return true, nil, err
		}
		o := object{p.GetResource() == Namespaces, p.GetName()}
		if o.namespace == (p.GetSubresource() == "status") {
			return true, nil, errors.New("it goes to another place")
		}
		a.said[o] = u
		return true, u, nil
	})
	a.PrependReactor("delete", "*", func(action k8stesting.Action) (bool, runtime.Object, error) {
		a.deletes++
		delete(a.said, object{true, action.(k8stesting.DeleteAction).GetName()})
		return true, nil, nil
	})
	a.PrependReactor("list", "*", func(action k8stesting.Action) (bool, runtime.Object, error) {
		list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}}
		for o, u := range a.said {
			if o.namespace == (action.GetResource() == Namespaces) {
				list.Items = append(list.Items, *u)
			}
		}
		return true, list, nil
	})
	return a
}

func (a *api) condition(o object) metav1.Condition {
	if a.said[o] == nil {
		return metav1.Condition{}
	}
	list, _, _ := unstructured.NestedSlice(a.said[o].Object, "status", "conditions")
	for _, kind := range []string{Condition, WideCondition} {
		if c := find(list, kind); c != nil {
			return *c
		}
	}
	return metav1.Condition{}
}

// run has a keeper do what it does in some seconds.
func run(t *testing.T, k *Keeper, w *world, now *time.Time, seconds int) {
	t.Helper()
	for range seconds {
		if k.Wants(*now) {
			k.Look(w.view())
		}
		k.step(t.Context(), *now)
		*now = now.Add(time.Second)
	}
}

func TestKeeper(t *testing.T) {
	a, w := newAPI(), newWorld(t, 2)
	now := time.Now()
	k := New(a, slog.New(slog.DiscardHandler))
	w.policy("", "guard", "90", 1)
	w.policy("shop", "web", "90", 1)
	w.pod("shop", "a", "n1")
	guard, shop := object{false, "guard"}, object{true, "shop"}
	run(t, k, w, &now, 5)
	if c := a.condition(guard); c.Status != "True" || c.ObservedGeneration != 1 || c.Message != "in force on 2 of 2 nodes and for 1 of 1 pods" {
		t.Errorf("it says %+v", c)
	}
	if c := a.condition(shop); c.Status != "True" || a.writes != 2 {
		t.Errorf("it says %+v after %d writes", c, a.writes)
	}

	// A new version comes in force in a moment: it is written once.
	w.policy("shop", "web", "110", 2)
	run(t, k, w, &now, 2)
	for _, n := range w.nodes {
		w.report(n.Name, func(r *status) { r.Observed.NetworkPolicies = "110" })
	}
	run(t, k, w, &now, 5)
	if c := a.condition(shop); c.Status != "True" || a.writes != 3 {
		t.Errorf("it says %+v after %d writes", c, a.writes)
	}

	// One that does not is written as that, and again when it is.
	w.policy("shop", "web", "120", 3)
	run(t, k, w, &now, 9)
	if c := a.condition(shop); c.Status != "False" || c.Reason != reasonOnItsWay || a.writes != 4 {
		t.Errorf("it says %+v after %d writes", c, a.writes)
	}
	for _, n := range w.nodes {
		w.report(n.Name, func(r *status) { r.Observed.NetworkPolicies = "120" })
	}
	run(t, k, w, &now, 5)
	if c := a.condition(shop); c.Status != "True" || a.writes != 5 {
		t.Errorf("it says %+v after %d writes", c, a.writes)
	}

	// Pods come and go, and a node is started anew: nothing is written. A node that stays away is.
	w.report("n2", func(r *status) { r.BootID = "before" })
	for i := range 20 {
		w.pod("shop", fmt.Sprint("more-", i), "n1")
		run(t, k, w, &now, 2)
	}
	w.report("n2", func(r *status) { r.BootID = "boot" })
	run(t, k, w, &now, 20)
	if a.writes != 5 {
		t.Errorf("%d writes of what will be over", a.writes-5)
	}
	w.report("n2", func(r *status) { r.BootID = "before" })
	run(t, k, w, &now, 70)
	if c := a.condition(guard); c.Status != "False" || c.Reason != reasonNodes || a.writes != 7 {
		t.Errorf("it says %+v after %d writes", c, a.writes)
	}

	// The next process goes on from there.
	before := a.condition(guard).LastTransitionTime
	k = New(a, slog.New(slog.DiscardHandler))
	run(t, k, w, &now, 5)
	if a.writes != 7 || a.deletes != 0 {
		t.Errorf("the next one writes %d, and deletes %d", a.writes-7, a.deletes)
	}
	run(t, k, w, &now, int(anew.Seconds())+10)
	if c := a.condition(guard); !c.LastTransitionTime.Equal(&before) {
		t.Errorf("since %s it is since %s", before, c.LastTransitionTime)
	}

	// What is gone is not spoken of.
	clear(w.policies)
	run(t, k, w, &now, 5)
	if a.deletes != 1 || a.said[shop] != nil || len(k.objects) != 0 {
		t.Errorf("%d deletes, %d objects", a.deletes, len(k.objects))
	}
}

func TestWhatCannotBeWrittenIsTriedAgain(t *testing.T) {
	a, w := newAPI(), newWorld(t, 1)
	now := time.Now()
	var log strings.Builder
	k := New(a, slog.New(slog.NewTextHandler(&log, nil)))
	w.policy("shop", "web", "90", 1)
	a.fail = apierrors.NewForbidden(Namespaces.GroupResource(), "shop", errors.New("no"))
	run(t, k, w, &now, 100)
	if a.writes < 2 || a.writes > 8 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%d attempts, and the log says %s", a.writes, log.String())
	}
	a.fail = nil
	run(t, k, w, &now, 60)
	if c := a.condition(object{true, "shop"}); c.Status != "True" {
		t.Errorf("it says %+v", c)
	}
}

// A thousand nodes and as many namespaces: what all of it costs.
func TestAThousandNodesDoNotFlood(t *testing.T) {
	a, w := newAPI(), newWorld(t, 1000)
	now := time.Now()
	k := New(a, slog.New(slog.DiscardHandler))
	for i := range 1000 {
		ns := fmt.Sprint("ns-", i)
		for j := range 3 {
			w.policy(ns, fmt.Sprint("p", j), "90", 1)
		}
		w.pod(ns, "a", fmt.Sprintf("n%d", i%1000+1))
	}
	begun := time.Now()
	evaluate(w.view())
	t.Logf("3,000 policies on 1,000 nodes are judged in %s", time.Since(begun))
	step := func(seconds int) {
		for range seconds {
			before := a.writes
			k.step(t.Context(), now)
			if n := a.writes - before; n > burst {
				t.Fatalf("%d writes at once", n)
			}
			now = now.Add(time.Second)
		}
	}
	step(1)
	k.Look(w.view())
	step(50)
	if a.writes > burst+50*perSecond || a.writes < 50*perSecond {
		t.Errorf("%d writes in 50 seconds", a.writes)
	}
	step(60)
	if a.writes != 1000 {
		t.Errorf("%d writes of 1000 namespaces", a.writes)
	}
	w.nodes = append(w.nodes, inforce.Node{Name: "new"})
	k.Look(w.view())
	step(30)
	w.reports["new"] = w.reports["n1"]
	k.Look(w.view())
	step(200)
	if a.writes != 1000 {
		t.Errorf("a node that comes costs %d writes", a.writes-1000)
	}
}
