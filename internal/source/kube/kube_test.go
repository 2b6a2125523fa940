package kube

import (
	"errors"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// world is an API and a source that follows it, with what the source has said so far.
type world struct {
	t      *testing.T
	client *fake.Clientset
	wide   *dynamicfake.FakeDynamicClient
	source *Source
	have   Batch
	// installed says whether the API knows ClusterNetworkPolicies, and terminating whether their definition goes.
	installed, terminating atomic.Bool
	watched                sync.Map // names of resources
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{t: t, client: fake.NewClientset(objects...), have: newBatch()}
	w.wide = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		ClusterPolicies: "ClusterNetworkPolicyList", record.Resource: "PolicyRolloutList", definitions: "CustomResourceDefinitionList"})
	w.wide.PrependReactor("list", ClusterPolicies.Resource, func(k8stesting.Action) (bool, runtime.Object, error) {
		if w.installed.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewNotFound(ClusterPolicies.GroupResource(), "")
	})
	w.wide.PrependReactor("get", definitions.Resource, func(a k8stesting.Action) (bool, runtime.Object, error) {
		d := &unstructured.Unstructured{}
		d.SetName(a.(k8stesting.GetAction).GetName())
		if w.terminating.Load() {
			now := metav1.Now()
			d.SetDeletionTimestamp(&now)
		}
		return true, d, nil
	})
	w.client.PrependWatchReactor("*", w.noteWatch(w.client.Tracker()))
	w.wide.PrependWatchReactor("*", w.noteWatch(w.wide.Tracker()))
	w.source = New(Options{Client: w.client, Dynamic: w.wide, Retry: time.Millisecond, Health: true})
	return w
}

func (w *world) noteWatch(of k8stesting.ObjectTracker) k8stesting.WatchReactionFunc {
	return func(a k8stesting.Action) (bool, watch.Interface, error) {
		i, err := of.Watch(a.GetResource(), a.GetNamespace())
		w.watched.Store(a.GetResource().Resource, true)
		return true, i, err
	}
}

// awaitWatch waits until changes of a resource are seen: the fake API forgets what happens between a list and the watch
// that follows it.
func (w *world) awaitWatch(resource string) {
	w.t.Helper()
	w.until(resource+" are watched", func() bool { _, ok := w.watched.Load(resource); return ok })
}

// run follows the API until the test ends.
func (w *world) run() {
	done := make(chan error, 1)
	ctx := w.t.Context()
	go func() { done <- w.source.Run(ctx) }()
	w.t.Cleanup(func() {
		if err := <-done; err != nil {
			w.t.Errorf("Run ended with %v", err)
		}
	})
}

// until takes what changes until a condition holds.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		w.take()
		if holds() {
			return
		}
		select {
		case <-w.source.Changed():
		case <-w.source.ConditionsChanged():
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			w.t.Fatalf("it never came that %s; conditions %v", what, w.source.Conditions())
		}
	}
}

func (w *world) take() {
	b, ok := w.source.Take()
	if !ok {
		return
	}
	merge(w.have.Pods, b.Pods)
	merge(w.have.Namespaces, b.Namespaces)
	merge(w.have.Nodes, b.Nodes)
	merge(w.have.Policies, b.Policies)
	merge(w.have.Rollouts, b.Rollouts)
	merge(w.have.CronJobs, b.CronJobs)
	maps.Copy(w.have.Observed, b.Observed)
	if b.RangesChanged {
		w.have.Ranges = b.Ranges
	}
	if b.APIServersChanged {
		w.have.APIServers = b.APIServers
	}
}

func merge[K comparable, V any](into, from map[K]*V) {
	for k, v := range from {
		if v == nil {
			delete(into, k)
		} else {
			into[k] = v
		}
	}
}

func (w *world) condition(kind string) string {
	for _, c := range w.source.Conditions() {
		if c.Type == kind {
			return c.Object + ": " + c.Message
		}
	}
	return ""
}

func (w *world) must(_ any, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func pod(name, address string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "1", Labels: map[string]string{"app": name}},
		Spec:   corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "x", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}}
}

func networkPolicy(name string, peers ...networkingv1.NetworkPolicyPeer) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers}}}}
}

func clusterPolicy(name string, priority any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": name}, "spec": map[string]any{"tier": "Admin", "priority": priority,
			"subject": map[string]any{"namespaces": map[string]any{}},
			"ingress": []any{map[string]any{"action": "Deny", "from": []any{map[string]any{"namespaces": map[string]any{}}}}}}}}
}

var web = cluster.Key{Namespace: "shop", Name: "web"}

func TestAWholeClusterComesFirst(t *testing.T) {
	w := newWorld(t, pod("web", "10.1.0.1"), networkPolicy("closed"),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"env": "prod"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.1.0.0/24"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}}})
	w.installed.Store(true)
	w.must(w.wide.Resource(ClusterPolicies).Create(t.Context(), clusterPolicy("guard", int64(10)), metav1.CreateOptions{}))
	var open atomic.Bool
	w.client.PrependReactor("list", "networkpolicies", func(k8stesting.Action) (bool, runtime.Object, error) {
		if open.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "networkpolicies"}, "", errors.New("no right"))
	})
	w.run()
	w.until("listing is forbidden", func() bool {
		return strings.HasPrefix(w.condition(Forbidden), "networkpolicies: ") && slices.Equal(w.source.Waiting(), []string{"networkpolicies"})
	})
	if b, ok := w.source.Take(); ok {
		t.Fatalf("half a cluster can be taken: %+v", b)
	}
	open.Store(true)
	w.until("all is there", func() bool {
		return len(w.have.Pods) == 1 && len(w.have.Policies) == 2 && len(w.have.Namespaces) == 1 && len(w.have.Nodes) == 1
	})
	<-w.source.Synced()
	p := w.have.Pods[web]
	if p.Node != "n1" || p.Addresses[0] != netip.MustParseAddr("10.1.0.1") || p.PortsNamed("http", flow.TCP)[0].Number != 80 || p.UID != "1" {
		t.Errorf("the pod is %+v", p)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}; !slices.Equal(w.have.Ranges, want) || !slices.Equal(w.source.NodeRanges("n1"), want) {
		t.Errorf("ranges are %v, the node's %v", w.have.Ranges, w.source.NodeRanges("n1"))
	}
	w.until("nothing is wrong any more", func() bool { return len(w.source.Conditions()) == 0 })
}

func TestPodsChangeAndGo(t *testing.T) {
	w := newWorld(t, pod("web", "10.1.0.1"))
	w.run()
	pods := w.client.CoreV1().Pods("shop")
	w.until("the pod is there", func() bool { return w.have.Pods[web] != nil })
	before := w.have.Pods[web]
	w.awaitWatch("pods")

	same := pod("web", "10.1.0.1")
	same.Annotations = map[string]string{"nobody": "cares"}
	w.must(pods.Update(t.Context(), same, metav1.UpdateOptions{}))
	w.must(pods.Create(t.Context(), pod("db", "10.1.0.2"), metav1.CreateOptions{}))
	w.until("the other pod is there", func() bool { return len(w.have.Pods) == 2 })
	if w.have.Pods[web] != before {
		t.Error("a change that matters to nobody was passed on")
	}
	ended := pod("web", "10.1.0.1")
	ended.Status.Phase = corev1.PodSucceeded
	w.must(pods.Update(t.Context(), ended, metav1.UpdateOptions{}))
	w.until("the pod has ended", func() bool { return w.have.Pods[web].Ended && len(w.have.Pods[web].Addresses) == 0 })
	w.must(nil, pods.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	w.until("the pod is gone", func() bool { return w.have.Pods[web] == nil })
}

// An address of a pod that cannot be read is an unknown pod's, not one of the world outside.
func TestMalformedPodsAreFenced(t *testing.T) {
	bad := pod("web", "10.1.0.1")
	bad.Labels["app"] = "no value: spaces"
	w := newWorld(t, bad)
	w.run()
	w.until("it is said", func() bool { return strings.HasPrefix(w.condition(Malformed), "Pod shop/web: ") })
	w.until("its address is a pod's", func() bool { return slices.Equal(w.have.Ranges, []netip.Prefix{netip.MustParsePrefix("10.1.0.1/32")}) })
	if len(w.have.Pods) != 0 {
		t.Errorf("half of a pod is used: %+v", w.have.Pods[web])
	}
	w.awaitWatch("pods")
	w.must(w.client.CoreV1().Pods("shop").Update(t.Context(), pod("web", "10.1.0.1"), metav1.UpdateOptions{}))
	w.until("it is right", func() bool { return w.have.Pods[web] != nil && len(w.have.Ranges) == 0 && w.condition(Malformed) == "" })
}

// What is gone is wrong no more.
func TestMalformedNodesAndNamespacesThatGo(t *testing.T) {
	w := newWorld(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "odd", Labels: map[string]string{"a": "no value: spaces"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "odd"}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "no address"}}}})
	w.run()
	said := func() string {
		var all []string
		for _, c := range w.source.Conditions() {
			if c.Type == Malformed {
				all = append(all, c.Object)
			}
		}
		return strings.Join(all, ", ")
	}
	w.until("it is said of both", func() bool { return said() == "Namespace odd, Node odd" })
	w.awaitWatch("namespaces")
	w.awaitWatch("nodes")
	w.must(nil, w.client.CoreV1().Namespaces().Delete(t.Context(), "odd", metav1.DeleteOptions{}))
	w.until("it is said of the node", func() bool { return said() == "Node odd" })
	w.must(nil, w.client.CoreV1().Nodes().Delete(t.Context(), "odd", metav1.DeleteOptions{}))
	w.until("it is said of neither", func() bool { return said() == "" })
}

func TestMalformedPoliciesAreStoodInFor(t *testing.T) {
	w := newWorld(t, networkPolicy("np", networkingv1.NetworkPolicyPeer{}))
	w.installed.Store(true)
	w.must(w.wide.Resource(ClusterPolicies).Create(t.Context(), clusterPolicy("wide", "a word"), metav1.CreateOptions{}))
	w.run()
	np, wide := PolicyKey{Namespace: "shop", Name: "np"}, PolicyKey{Name: "wide"}
	w.until("both are there", func() bool { return w.have.Policies[np] != nil && w.have.Policies[wide] != nil })
	for key, p := range w.have.Policies {
		if p.Defect == "" {
			t.Errorf("%s is no stand-in: %+v", key, p)
		}
	}
	var objects []string
	for _, c := range w.source.Conditions() {
		objects = append(objects, c.Type+" "+c.Object)
	}
	if want := []string{"Malformed ClusterNetworkPolicy wide", "Malformed NetworkPolicy shop/np"}; !slices.Equal(objects, want) {
		t.Errorf("conditions are of %q, want %q", objects, want)
	}
	w.awaitWatch("networkpolicies")
	w.awaitWatch(ClusterPolicies.Resource)
	w.must(w.client.NetworkingV1().NetworkPolicies("shop").Update(t.Context(), networkPolicy("np"), metav1.UpdateOptions{}))
	w.must(nil, w.wide.Resource(ClusterPolicies).Delete(t.Context(), "wide", metav1.DeleteOptions{}))
	w.until("all is right", func() bool {
		return w.have.Policies[np].Defect == "" && w.have.Policies[wide] == nil && w.condition(Malformed) == ""
	})
}

// What is seen of policies is told with the resource version that it is up to, and never before them.
func TestResourceVersionsAreOfWhatWasTaken(t *testing.T) {
	w := newWorld(t, networkPolicy("np"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1"}})
	w.run()
	np := PolicyKey{Namespace: "shop", Name: "np"}
	w.until("the policy is there", func() bool { return w.have.Policies[np] != nil })
	if uid, n := w.source.NodeUID("n1"), w.source.NodeCount(); uid != "u1" || n != 1 {
		t.Errorf("%d nodes, n1 with UID %q", n, uid)
	}
	w.awaitWatch("networkpolicies")
	for _, version := range []string{"42", "43"} {
		changed := networkPolicy("np")
		changed.ResourceVersion, changed.Generation = version, int64(len(w.have.Observed)+1)
		w.must(w.client.NetworkingV1().NetworkPolicies("shop").Update(t.Context(), changed, metav1.UpdateOptions{}))
		w.until("its version is seen", func() bool { return w.have.Observed["networkpolicies"] == version })
		if g := w.have.Policies[np].Generation; g != changed.Generation {
			t.Errorf("version %s is said to be seen, and generation %d is there", version, g)
		}
	}
}

// A status that is written to a policy is a newer version of it, and changes nothing.
func TestAStatusIsNoChange(t *testing.T) {
	w := newWorld(t)
	w.installed.Store(true)
	w.run()
	wide := w.wide.Resource(ClusterPolicies)
	written := func(version string, generation int64) *unstructured.Unstructured {
		u := clusterPolicy("guard", int64(10))
		u.SetUID("g")
		u.SetResourceVersion(version)
		u.SetGeneration(generation)
		return u
	}
	w.awaitWatch(ClusterPolicies.Resource)
	w.must(wide.Create(t.Context(), written("41", 1), metav1.CreateOptions{}))
	guard := PolicyKey{Name: "guard"}
	w.until("it is there", func() bool { return w.have.Policies[guard] != nil })
	first := w.have.Policies[guard]
	w.must(wide.Update(t.Context(), written("42", 1), metav1.UpdateOptions{}))
	w.until("the version is seen", func() bool { return w.have.Observed[ClusterPolicies.Resource] == "42" })
	if w.have.Policies[guard] != first {
		t.Error("a status is passed on as a change")
	}
	w.must(wide.Update(t.Context(), written("43", 2), metav1.UpdateOptions{}))
	w.until("the version is seen", func() bool { return w.have.Observed[ClusterPolicies.Resource] == "43" })
	if w.have.Policies[guard].Generation != 2 {
		t.Error("a change is taken for a status")
	}
	w.must(nil, wide.Delete(t.Context(), "guard", metav1.DeleteOptions{}))
	w.until("it is gone", func() bool { return w.have.Policies[guard] == nil })
	w.must(wide.Create(t.Context(), written("45", 2), metav1.CreateOptions{}))
	w.until("it is there again", func() bool { return w.have.Policies[guard] != nil })
}

func TestRead(t *testing.T) {
	w := newWorld(t, pod("web", "10.1.0.1"), networkPolicy("np"), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.9.0.1", ClusterIPs: []string{"10.9.0.1"}, Ports: []corev1.ServicePort{{Port: 80}}}})
	for _, installed := range []bool{false, true} {
		want := []string{"NetworkPolicy shop/np"}
		if installed {
			w.installed.Store(true)
			w.must(w.wide.Resource(ClusterPolicies).Create(t.Context(), clusterPolicy("guard", int64(10)), metav1.CreateOptions{}))
			want = append(want, "ClusterNetworkPolicy /guard")
		}
		s, err := Read(t.Context(), w.source.options)
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, p := range s.Policies {
			have = append(have, p.Kind+" "+p.Key.String())
		}
		r := s.Bundle.Finish(manifest.Options{})
		if !slices.Equal(have, want) || len(r.Objects.Policies) != len(want) || len(r.Objects.Endpoints) != 1 || len(r.Services) != 1 {
			t.Errorf("it has %v, %+v", have, r)
		}
	}
	w.client.PrependReactor("list", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("no right"))
	})
	if _, err := Read(t.Context(), w.source.options); err == nil || !strings.HasPrefix(err.Error(), "list services: ") {
		t.Errorf("what may not be listed: %v", err)
	}
}

// The definition of ClusterNetworkPolicies may come later. When it goes, the API deletes the policies first: they stay.
func TestTheDefinitionComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.run()
	w.until("it is said", func() bool { return strings.Contains(w.condition(NotInstalled), "once their definition is installed") })
	<-w.source.Synced()
	wide := w.wide.Resource(ClusterPolicies)
	w.must(wide.Create(t.Context(), clusterPolicy("guard", int64(10)), metav1.CreateOptions{}))
	w.installed.Store(true)
	guard := PolicyKey{Name: "guard"}
	w.until("the policy is there", func() bool { return w.have.Policies[guard] != nil && w.condition(NotInstalled) == "" })

	w.awaitWatch(ClusterPolicies.Resource)
	w.terminating.Store(true)
	w.must(nil, wide.Delete(t.Context(), "guard", metav1.DeleteOptions{}))
	w.until("it is said", func() bool { return strings.Contains(w.condition(Uninstalled), "stay in force") })
	if w.have.Policies[guard] == nil {
		t.Error("a policy went with its definition")
	}
}

// Who waits for the definition is told by the API, and not by the next attempt.
func TestTheDefinitionIsAwaited(t *testing.T) {
	w := newWorld(t)
	w.source.options.Retry = time.Hour // between two attempts
	came := make(chan bool)
	go func() {
		w.source.awaitDefinition(t.Context(), ClusterPolicies.Resource+"."+ClusterPolicies.Group)
		close(came)
	}()
	w.awaitWatch(definitions.Resource)
	definition := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": ClusterPolicies.Resource + "." + ClusterPolicies.Group}}}
	w.must(w.wide.Resource(definitions).Create(t.Context(), definition, metav1.CreateOptions{}))
	select {
	case <-came:
		t.Error("a definition that is not in effect is taken for one that is")
	case <-time.After(50 * time.Millisecond):
	}
	definition = definition.DeepCopy()
	definition.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
	w.must(w.wide.Resource(definitions).Update(t.Context(), definition, metav1.UpdateOptions{}))
	select {
	case <-came:
	case <-time.After(20 * time.Second):
		t.Error("it is not seen that the definition is in effect")
	}
}

// A process that starts when the definition is gone begins with what the one before it knew, until the API says more.
func TestPoliciesOutliveTheirDefinitionAndTheProcess(t *testing.T) {
	memory := t.TempDir()
	dir := filepath.Join(memory, ClusterPolicies.Resource)
	guard, gone, torn := PolicyKey{Name: "guard"}, PolicyKey{Name: "gone"}, PolicyKey{Name: "torn"}
	t.Run("while it is installed", func(t *testing.T) {
		w := newWorld(t)
		w.source = New(Options{Client: w.client, Dynamic: w.wide, Retry: time.Millisecond, Memory: memory})
		w.installed.Store(true)
		wide := w.wide.Resource(ClusterPolicies)
		for _, name := range []string{"guard", "gone", "torn"} {
			w.must(wide.Create(t.Context(), clusterPolicy(name, int64(10)), metav1.CreateOptions{}))
		}
		w.run()
		w.until("they are there", func() bool { return len(w.have.Policies) == 3 })
		w.awaitWatch(ClusterPolicies.Resource)
		w.must(nil, wide.Delete(t.Context(), "gone", metav1.DeleteOptions{}))
		w.until("one is gone", func() bool { return w.have.Policies[gone] == nil })
	})
	w := newWorld(t)
	w.must(nil, os.WriteFile(filepath.Join(dir, "torn.json"), []byte("{"), 0o600))
	w.source = New(Options{Client: w.client, Dynamic: w.wide, Retry: time.Millisecond, Memory: memory})
	w.run()
	w.until("it is said", func() bool { return strings.Contains(w.condition(Uninstalled), "the 2 known last stay in force") })
	w.until("they are there", func() bool { return len(w.have.Policies) == 2 && w.have.Policies[guard] != nil })
	if p := w.have.Policies[guard]; p.Defect != "" || p.Priority != 10 {
		t.Errorf("it is another one: %+v", p)
	}
	if p := w.have.Policies[torn]; p == nil || p.Defect == "" {
		t.Errorf("what cannot be read is no stand-in that denies: %+v", p)
	}
	w.must(w.wide.Resource(ClusterPolicies).Create(t.Context(), clusterPolicy("torn", int64(1)), metav1.CreateOptions{}))
	w.installed.Store(true)
	w.until("the API's word counts again", func() bool {
		return len(w.have.Policies) == 1 && w.have.Policies[torn].Defect == "" && w.condition(Uninstalled) == ""
	})
	w.until("only what the API lists is kept", func() bool {
		left, err := os.ReadDir(dir)
		return err == nil && len(left) == 1 && left[0].Name() == "torn.json"
	})
}

// A folder that cannot be written is said, and keeps nothing from being enforced.
func TestWhatCannotBeKeptIsSaid(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	w := newWorld(t)
	w.must(nil, os.WriteFile(dir, nil, 0o600))
	w.source = New(Options{Client: w.client, Dynamic: w.wide, Retry: time.Millisecond, Memory: dir})
	w.installed.Store(true)
	w.must(w.wide.Resource(ClusterPolicies).Create(t.Context(), clusterPolicy("guard", int64(10)), metav1.CreateOptions{}))
	w.run()
	w.until("it is there, and said", func() bool {
		return w.have.Policies[PolicyKey{Name: "guard"}] != nil && strings.Contains(w.condition(NotKept), "keep guard: ")
	})
}

func TestWhatIsKnownStaysWhileTheAPIIsAway(t *testing.T) {
	w := newWorld(t, pod("web", "10.1.0.1"))
	var away atomic.Bool
	watches := make(chan *watch.FakeWatcher, 10)
	w.client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		if away.Load() {
			return true, nil, &url.Error{Op: "Get", URL: "https://api/pods?timeout=" + time.Now().String(), Err: errors.New("connection refused")}
		}
		return false, nil, nil
	})
	w.client.PrependWatchReactor("pods", func(k8stesting.Action) (bool, watch.Interface, error) {
		if away.Load() {
			return true, nil, errors.New("connection refused")
		}
		f := watch.NewFake()
		watches <- f
		return true, f, nil
	})
	w.run()
	w.until("the pod is there", func() bool { return w.have.Pods[web] != nil })
	away.Store(true)
	(<-watches).Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonGone})
	w.until("it is said", func() bool { return w.condition(Unreachable) == "pods: connection refused" })
	if w.have.Pods[web] == nil {
		t.Error("the pod is gone with the API")
	}
	w.must(nil, w.client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "shop", "web"))
	away.Store(false)
	w.until("the API is back", func() bool { return w.have.Pods[web] == nil && w.condition(Unreachable) == "" })
}

func policyRollout(name string, percent any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "ringfence.dev/v1alpha1", "kind": "PolicyRollout",
		"metadata": map[string]any{"name": name, "uid": "u"},
		"spec": map[string]any{"remove": []any{map[string]any{"kind": "NetworkPolicy", "namespace": "shop", "name": "old"}},
			"steps": []any{map[string]any{"enforce": map[string]any{"percent": percent}}}}}}
}

// A rollout whose spec cannot be used is passed on, as its status may say that something is in force; one whose status
// cannot be read is not, so that what was known of it stays.
func TestRolloutsAreFollowed(t *testing.T) {
	w := newWorld(t)
	rollouts := w.wide.Resource(record.Resource)
	w.must(rollouts.Create(t.Context(), policyRollout("r", int64(100)), metav1.CreateOptions{}))
	w.run()
	w.until("it is there", func() bool { return w.have.Rollouts["r"] != nil && w.have.Rollouts["r"].Spec != nil })
	w.until("it is watched", func() bool {
		return slices.ContainsFunc(w.wide.Actions(), func(a k8stesting.Action) bool { return a.Matches("watch", record.Resource.Resource) })
	})
	w.must(rollouts.Update(t.Context(), policyRollout("r", int64(101)), metav1.UpdateOptions{}))
	w.until("its error is said", func() bool {
		return w.have.Rollouts["r"].Spec == nil && strings.HasPrefix(w.condition(Malformed), "PolicyRollout r: PolicyRollout r: spec.steps[0].enforce.percent: ")
	})
	bad := policyRollout("r", int64(100))
	bad.Object["status"] = map[string]any{"stepIndex": "one"}
	w.must(rollouts.Update(t.Context(), bad, metav1.UpdateOptions{}))
	w.until("the status' error is said", func() bool { return strings.Contains(w.condition(Malformed), "its status cannot be read") })
	if w.have.Rollouts["r"].Spec != nil {
		t.Error("a rollout whose status cannot be read was passed on")
	}
	w.must(nil, rollouts.Delete(t.Context(), "r", metav1.DeleteOptions{}))
	w.until("it is gone", func() bool { return w.have.Rollouts["r"] == nil && w.condition(Malformed) == "" })
}

func TestCronJobsAreFollowed(t *testing.T) {
	w := newWorld(t, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "backup"}, Spec: batchv1.CronJobSpec{
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "backup"}}}}}}})
	w.run()
	backup := cluster.Key{Namespace: "shop", Name: "backup"}
	w.until("it is there", func() bool { return w.have.CronJobs[backup] != nil && w.have.CronJobs[backup].Template != nil })
	w.until("it is watched", func() bool {
		return slices.ContainsFunc(w.client.Actions(), func(a k8stesting.Action) bool { return a.Matches("watch", "cronjobs") })
	})
	yes := true
	w.must(w.client.BatchV1().CronJobs("shop").Update(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "backup"},
		Spec: batchv1.CronJobSpec{Suspend: &yes}}, metav1.UpdateOptions{}))
	w.until("it is suspended", func() bool { return w.have.CronJobs[backup] == nil })
}

func TestWhereTheAPIIsServedAndWhoAsks(t *testing.T) {
	slice := func(namespace, service string, addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: addresses}}, Ports: []discoveryv1.EndpointPort{{Port: new(int32(6443))}}}
	}
	asks := pod("web", "10.1.0.1")
	asks.Spec.ServiceAccountName = "web"
	asks.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}}}
	w := newWorld(t, asks, slice("default", "kubernetes", "192.0.2.1", "192.0.2.2"), slice("default", "other", "192.0.2.3"), slice("shop", "kubernetes", "192.0.2.4"))
	w.run()
	at := func(address string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(address), 6443) }
	w.until("both are known", func() bool {
		return slices.Equal(w.have.APIServers, []netip.AddrPort{at("192.0.2.1"), at("192.0.2.2")}) && w.have.Pods[web] != nil && w.have.Pods[web].UsesAPI
	})
	if vague := w.source.trimPod(asks).(*corev1.Pod); len(vague.Spec.Volumes) != 1 {
		t.Errorf("kept of its volumes is %+v", vague.Spec.Volumes)
	}
	w.awaitWatch("endpointslices")
	w.must(w.client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice("default", "kubernetes", "192.0.2.9"), metav1.UpdateOptions{}))
	w.until("it moved", func() bool { return slices.Equal(w.have.APIServers, []netip.AddrPort{at("192.0.2.9")}) })
	w.must(nil, w.client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}))
	w.until("it is gone", func() bool { return len(w.have.APIServers) == 0 })

	agents := New(Options{Client: w.client, Dynamic: w.wide})
	if p := agents.trimPod(asks).(*corev1.Pod); p.Spec.Volumes != nil || p.Spec.ServiceAccountName != "" {
		t.Errorf("an agent keeps %+v", p.Spec)
	}
}

func TestHealthOfPods(t *testing.T) {
	at := func(second int) metav1.Time { return metav1.Unix(int64(second), 0) }
	running := func(restarts int32, second int) corev1.ContainerStatus {
		return corev1.ContainerStatus{RestartCount: restarts, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(second)}}}
	}
	ready := func(status corev1.ConditionStatus, second int) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: at(second)}}
	}
	crashed := corev1.ContainerStatus{RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: at(60), FinishedAt: at(70)}}}
	w := newWorld(t, pod("web", "10.1.0.1"))
	w.run()
	for _, c := range []struct {
		what   string
		status corev1.PodStatus
		want   Health
	}{
		{"well", corev1.PodStatus{Conditions: ready("True", 5), ContainerStatuses: []corev1.ContainerStatus{running(0, 3)}}, Health{true, at(5).Time, time.Time{}}},
		{"not ready", corev1.PodStatus{Conditions: ready("False", 30), ContainerStatuses: []corev1.ContainerStatus{running(0, 3)}}, Health{false, at(30).Time, time.Time{}}},
		{"a sidecar restarted", corev1.PodStatus{Conditions: ready("True", 31), ContainerStatuses: []corev1.ContainerStatus{running(0, 3)},
			InitContainerStatuses: []corev1.ContainerStatus{running(1, 40)}}, Health{true, at(31).Time, at(40).Time}},
		{"waits to be started again", corev1.PodStatus{Conditions: ready("False", 70), ContainerStatuses: []corev1.ContainerStatus{crashed}},
			Health{false, at(70).Time, at(70).Time}},
	} {
		p := pod("web", "10.1.0.1")
		c.status.Phase, c.status.PodIP, c.status.PodIPs = p.Status.Phase, p.Status.PodIP, p.Status.PodIPs
		p.Status = c.status
		w.until("it is watched", func() bool {
			return slices.ContainsFunc(w.client.Actions(), func(a k8stesting.Action) bool { return a.Matches("watch", "pods") })
		})
		w.must(w.client.CoreV1().Pods("shop").Update(t.Context(), p, metav1.UpdateOptions{}))
		w.until(c.what, func() bool {
			have := w.have.Pods[web]
			return have != nil && have.Health.Ready == c.want.Ready && have.Since.Equal(c.want.Since) && have.Restarted.Equal(c.want.Restarted)
		})
	}
}
