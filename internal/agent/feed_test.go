package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout/follow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// wires are a node's interfaces, as a locator sees them.
type wires struct {
	mu    sync.Mutex
	at    map[netip.Addr]place
	there map[int]bool
	wake  chan struct{}
}

func newWires() *wires {
	return &wires{at: map[netip.Addr]place{}, there: map[int]bool{}, wake: make(chan struct{}, 1)}
}

func (w *wires) locate(p *kube.Pod) (place, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.at[p.Addresses[0]]; ok && w.there[at.index] {
		return at, nil
	}
	return place{}, errors.New("nowhere")
}

func (w *wires) exists(index int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.there[index]
}

func (w *wires) addresses() []netip.Addr { return nil }

func (w *wires) ranges() []netip.Prefix { return nil }

func (w *wires) watch(context.Context) (<-chan struct{}, error) { return w.wake, nil }

// plug gives an address to an interface, and unplug takes an interface away.
func (w *wires) plug(a netip.Addr, name string, index int) {
	w.mu.Lock()
	w.at[a], w.there[index] = place{at: ruleset.Attachment{Interface: name}, index: index}, true
	w.mu.Unlock()
	w.wake <- struct{}{}
}

func (w *wires) unplug(index int) {
	w.mu.Lock()
	w.there[index] = false
	w.mu.Unlock()
	w.wake <- struct{}{}
}

var (
	webAddr = netip.MustParseAddr("10.1.0.1")
	dbAddr  = netip.MustParseAddr("10.1.0.2")
	farAddr = netip.MustParseAddr("10.2.0.1")
)

// fed is an engine on a fake kernel that follows a fake API.
type fed struct {
	t      *testing.T
	client *fake.Clientset
	wires  *wires
	feed   *feed
	engine *engine.Engine
	kernel *dataplane.FakeKernel
}

func startFed(t *testing.T, client *fake.Clientset, o Options) *fed {
	f := &fed{t: t, client: client, wires: newWires(), kernel: dataplane.NewFakeKernel()}
	source := kube.New(kube.Options{Client: o.Client, Dynamic: o.Dynamic})
	f.feed = newFeed(source, f.wires, follow.Options{Node: "n1"})
	f.engine = engine.New(f.kernel.Open(), compile.Options{Node: "n1"})
	done := make(chan error, 2)
	ctx := t.Context()
	go func() { done <- source.Run(ctx) }()
	go func() { done <- f.engine.RunFeed(ctx, f.feed, func(engine.Event) {}) }()
	t.Cleanup(func() {
		if err := errors.Join(<-done, <-done); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	return f
}

// placed says on which interface the kernel has an address; "" if it has it on none.
func (f *fed) placed(a netip.Addr) string { return f.engine.Ruleset().Locals[a].Interface }

func (f *fed) reaches(from, to netip.Addr) bool {
	return f.kernel.Connect(flow.Tuple{Source: from, Destination: to, Protocol: flow.TCP, Port: 80}).Send()
}

func (f *fed) update(p *corev1.Pod) {
	f.t.Helper()
	_, err := f.client.CoreV1().Pods("shop").Update(f.t.Context(), p, metav1.UpdateOptions{})
	must(f.t, err)
}

func TestPodsAreKnownOnceTheyHaveAPlace(t *testing.T) {
	o, client := options(apiNode(netip.MustParsePrefix("10.1.0.0/24")), onlyFrom("db", "web"), apiPod("web", "1", "n1", webAddr),
		apiPod("db", "2", "n1", dbAddr), apiPod("far", "3", "n2", farAddr))
	f := startFed(t, client, o)
	eventually(t, "the API's objects are there", func() bool { _, waiting := f.feed.count(); return waiting == 2 && f.engine.At(farAddr).Endpoint != nil })
	if p := f.engine.At(webAddr); !p.Unknown || f.placed(webAddr) != "" {
		t.Errorf("a pod without a place is %v, at %q", p, f.placed(webAddr))
	}
	if p := f.engine.At(farAddr); p.Endpoint == nil || p.Endpoint.Name != "far" {
		t.Errorf("another node's pod is %v", p)
	}
	f.wires.plug(webAddr, "veth1", 1)
	f.wires.plug(dbAddr, "veth2", 2)
	eventually(t, "both have a place", func() bool { return f.placed(webAddr) == "veth1" && f.placed(dbAddr) == "veth2" })
	if !f.reaches(webAddr, dbAddr) || f.reaches(farAddr, dbAddr) {
		t.Errorf("web reaches db: %v, far does: %v", f.reaches(webAddr, dbAddr), f.reaches(farAddr, dbAddr))
	}
	if got := f.feed.pod(cluster.Key{Namespace: "shop", Name: "web"}); got == nil || got.UID != "1" {
		t.Errorf("the feed knows %+v", got)
	}
	ended := apiPod("web", "1", "n1", webAddr)
	ended.Status.Phase = corev1.PodSucceeded
	f.update(ended)
	eventually(t, "an ended pod has no address", func() bool { return f.placed(webAddr) == "" })
}

func TestAReportIsOfWhatIsInForce(t *testing.T) {
	broken := onlyFrom("web", "db")
	broken.Name, broken.Generation, broken.Spec.Ingress[0].From[0].PodSelector.MatchLabels["app"] = "broken", 3, "no value: spaces"
	o, client := options(onlyFrom("db", "web"), broken, apiPod("web", "1", "n1", webAddr), apiPod("far", "3", "n2", farAddr))
	f := startFed(t, client, o)
	report := func() (s v1alpha1.NodeEnforcementStatus) {
		f.feed.report(&s, time.Now())
		return s
	}
	eventually(t, "both policies are in force", func() bool { return report().Policies == 2 })
	var want inforce.Digest
	only := inforce.Policy{Kind: "NetworkPolicy", Namespace: "shop", Name: "only"}
	want.Toggle(only)
	want.Toggle(inforce.Policy{Kind: "NetworkPolicy", Namespace: "shop", Name: "broken", Generation: 3})
	r := report()
	if r.Digest != want.String() {
		t.Errorf("the digest is %s, want %s", r.Digest, want)
	}
	if len(r.Defective) != 1 || r.Defective[0].Name != "broken" || !slices.Equal(r.Closed, []string{"shop/web"}) {
		t.Errorf("defective are %v, closed %v", r.Defective, r.Closed)
	}
	f.wires.plug(webAddr, "veth1", 1)
	must(t, client.NetworkingV1().NetworkPolicies("shop").Delete(t.Context(), "broken", metav1.DeleteOptions{}))
	want = 0
	want.Toggle(only)
	eventually(t, "it is right", func() bool {
		r := report()
		return r.Digest == want.String() && r.Policies == 1 && len(r.Defective)+len(r.Closed) == 0
	})

	// What the kernel refuses is not in force, whatever the API says.
	f.kernel.Fail(1, 1)
	changed := onlyFrom("web", "nobody")
	changed.Generation = 2
	_, err := client.NetworkingV1().NetworkPolicies("shop").Update(t.Context(), changed, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "the kernel refuses", func() bool { return f.engine.Status().Err != nil })
	if r := report(); r.Digest != want.String() {
		t.Errorf("the digest is %s, want %s as before", r.Digest, want)
	}
	f.kernel.Fail(0, 1)
	want.Toggle(only)
	only.Generation = 2
	want.Toggle(only)
	eventually(t, "it is in force", func() bool { return report().Digest == want.String() })
}

// Status that is written to ClusterNetworkPolicies is no news: every node would report it.
func TestStatusOfPoliciesIsNotReported(t *testing.T) {
	f := newFeed(nil, nil, follow.Options{Node: "n1"})
	guard := kube.PolicyKey{Name: "guard"}
	p := func(generation int64) map[kube.PolicyKey]*kube.Policy {
		return map[kube.PolicyKey]*kube.Policy{guard: {Policy: &policy.Policy{Tier: policy.Admin, Name: "guard"}, UID: "g", Generation: generation}}
	}
	for _, step := range []struct {
		networkPolicies, wide string
		policies              map[kube.PolicyKey]*kube.Policy
		want                  v1alpha1.ObservedVersions
	}{
		{"10", "", nil, v1alpha1.ObservedVersions{NetworkPolicies: "10"}},
		{"10", "11", nil, v1alpha1.ObservedVersions{NetworkPolicies: "10", ClusterNetworkPolicies: "11"}},
		{"12", "12", p(1), v1alpha1.ObservedVersions{NetworkPolicies: "12", ClusterNetworkPolicies: "12"}},
		{"13", "14", nil, v1alpha1.ObservedVersions{NetworkPolicies: "13", ClusterNetworkPolicies: "12"}},
		{"13", "15", map[kube.PolicyKey]*kube.Policy{{Namespace: "shop", Name: "web"}: nil}, v1alpha1.ObservedVersions{NetworkPolicies: "13", ClusterNetworkPolicies: "12"}},
		{"13", "16", p(2), v1alpha1.ObservedVersions{NetworkPolicies: "13", ClusterNetworkPolicies: "16"}},
		{"13", "17", map[kube.PolicyKey]*kube.Policy{guard: nil}, v1alpha1.ObservedVersions{NetworkPolicies: "13", ClusterNetworkPolicies: "17"}},
	} {
		f.done(kube.Batch{Policies: step.policies, Observed: map[string]string{"networkpolicies": step.networkPolicies, "clusternetworkpolicies": step.wide}}, nil)
		var s v1alpha1.NodeEnforcementStatus
		f.report(&s, time.Now())
		if s.Observed != step.want {
			t.Errorf("after %+v it reports %+v", step, s.Observed)
		}
	}
	if f.clusterDigest != 0 {
		t.Error("the digest of no ClusterNetworkPolicies is not that of none")
	}
}

// An address that leads elsewhere is another pod's, which the API does not know yet, until the API says that its pod was
// started anew.
func TestAMovedAddressIsNotBelieved(t *testing.T) {
	o, client := options(apiPod("web", "1", "n1", webAddr), apiPod("db", "2", "n1", dbAddr))
	f := startFed(t, client, o)
	f.wires.plug(webAddr, "veth1", 1)
	eventually(t, "the pod has a place", func() bool { return f.placed(webAddr) == "veth1" })
	f.wires.unplug(1)
	eventually(t, "its place is gone", func() bool { return f.placed(webAddr) == "" })
	f.wires.plug(webAddr, "veth9", 9)
	f.wires.plug(dbAddr, "veth2", 2)
	eventually(t, "the other has a place", func() bool { return f.placed(dbAddr) == "veth2" })
	told := apiPod("web", "1", "n1", webAddr)
	told.Labels["more"] = "labels"
	f.update(told)
	eventually(t, "it is told", func() bool {
		p := f.feed.pod(cluster.Key{Namespace: "shop", Name: "web"})
		return p != nil && p.Labels.String() != "app=web"
	})
	if at := f.placed(webAddr); at != "" {
		t.Errorf("the address is believed to be web's, at %s", at)
	}
	told.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}
	f.update(told)
	eventually(t, "it is started anew", func() bool { return f.placed(webAddr) == "veth9" })

	// Another pod of the same name is another pod.
	must(t, client.CoreV1().Pods("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}))
	eventually(t, "the pod is gone", func() bool { return f.placed(webAddr) == "" })
	_, err := client.CoreV1().Pods("shop").Create(t.Context(), apiPod("web", "7", "n1", farAddr), metav1.CreateOptions{})
	must(t, err)
	f.wires.plug(farAddr, "veth3", 3)
	eventually(t, "the new one is there", func() bool { return f.placed(farAddr) == "veth3" })
}
