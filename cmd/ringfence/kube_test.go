package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// fakeCluster has two nodes, two pods on n1 and one on n2, a NetworkPolicy at version 10 and a ClusterNetworkPolicy at 20.
type fakeCluster struct {
	*api
	wide    *dynamicfake.FakeDynamicClient
	watcher *watch.FakeWatcher
	t       *testing.T
}

func newFakeCluster(t *testing.T) *fakeCluster {
	node := func(name string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}},
			Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: "boot"}}}
	}
	pod := func(name, node, ip string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name[:2]}},
			Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}}}
	}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", UID: "a", Generation: 1, ResourceVersion: "10"},
		Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}
	client := fake.NewClientset(node("n1"), node("n2"), pod("db-1", "n1", "10.1.0.1"), pod("db-2", "n2", "10.2.0.1"), pod("web", "n1", "10.1.0.2"))
	if err := client.Tracker().Add(np); err != nil {
		t.Fatal(err)
	}
	wide := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		inforce.Resource: "NodeEnforcementList", kube.ClusterPolicies: "ClusterNetworkPolicyList", record.Resource: "PolicyRolloutList"},
		&unstructured.Unstructured{Object: map[string]any{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
			"metadata": map[string]any{"name": "guard", "uid": "b", "generation": int64(1), "resourceVersion": "20"},
			"spec": map[string]any{"tier": "Admin", "priority": int64(1), "subject": map[string]any{"namespaces": map[string]any{}},
				"ingress": []any{map[string]any{"action": "Accept", "from": []any{map[string]any{"namespaces": map[string]any{}}}}}}}})
	f := &fakeCluster{api: &api{client: client, dynamic: wide, namespace: "shop"}, wide: wide, watcher: watch.NewFake(), t: t}
	wide.PrependWatchReactor("nodeenforcements", func(k8stesting.Action) (bool, watch.Interface, error) { return true, f.watcher, nil })
	return f
}

// report makes a node's report that everything up to some versions is in force.
func (f *fakeCluster) report(node, networkPolicies, clusterPolicies string) *unstructured.Unstructured {
	f.t.Helper()
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v1alpha1.NodeEnforcement{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "NodeEnforcement"}, ObjectMeta: metav1.ObjectMeta{Name: node},
		Status: v1alpha1.NodeEnforcementStatus{Ready: true, BootID: "boot", Updated: metav1.NewTime(time.Unix(0, 0)),
			Observed: v1alpha1.ObservedVersions{NetworkPolicies: networkPolicies, ClusterNetworkPolicies: clusterPolicies}}})
	if err != nil {
		f.t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: object}
}

func (f *fakeCluster) add(object *unstructured.Unstructured) {
	f.t.Helper()
	if _, err := f.wide.Resource(inforce.Resource).Create(f.t.Context(), object, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

func TestStatusOfPolicies(t *testing.T) {
	f := newFakeCluster(t)
	f.add(f.report("n1", "10", "20"))
	f.add(f.report("n2", "9", "21"))
	all, err := policiesOf(t.Context(), f.api, "shop", "")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := printPolicies(&b, all); err != nil {
		t.Fatal(err)
	}
	want := `POLICY                       NODES   PODS   IN FORCE
ClusterNetworkPolicy guard   2/2     3/3    yes
NetworkPolicy shop/db        1/2     1/2    no: n2: its agent has not reported it in force yet; its last report is of 00:00:00 UTC
`
	if b.String() != want {
		t.Errorf("it says\n%s, want\n%s", b.String(), want)
	}
	if all, err := policiesOf(t.Context(), f.api, "other", "name=n1"); err != nil || len(all) != 1 || all[0].Nodes != 1 || !all[0].Enforced {
		t.Errorf("in another namespace, on one node: %+v, %v", all, err)
	}
	if _, err := policiesOf(t.Context(), f.api, "", "name=n9"); err == nil || !strings.Contains(err.Error(), "no node has these labels") {
		t.Errorf("of no node: %v", err)
	}
}

func TestWaitForPolicies(t *testing.T) {
	f := newFakeCluster(t)
	f.add(f.report("n1", "10", "20"))
	w := waiter{api: f.api}
	for _, text := range []string{"policy/db", "policy/guard"} {
		r, err := parsePolicyRef(text)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.find(t.Context(), f.api)
		if err != nil {
			t.Fatal(err)
		}
		w.policies = append(w.policies, p)
	}
	done := make(chan error)
	go func() { done <- w.wait(t.Context()) }()
	f.watcher.Modify(f.report("n2", "10", "19"))
	f.watcher.Modify(f.report("n2", "10", "20"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.wide.Actions(), func(a k8stesting.Action) bool { return a.Matches("watch", "nodeenforcements") }) {
		t.Error("nobody watched")
	}
}

// What was written to the status of a policy makes it no newer to wait for.
func TestWaitForAPolicyWithAStatus(t *testing.T) {
	f := newFakeCluster(t)
	var c inforce.Cluster
	c.SetDigests([]inforce.Version{{Policy: inforce.Policy{Kind: "ClusterNetworkPolicy", Name: "guard", UID: "b", Generation: 1}}})
	for _, n := range []string{"n1", "n2"} {
		r := f.report(n, "10", "19")
		if err := unstructured.SetNestedField(r.Object, c.ClusterDigest, "status", "clusterDigest"); err != nil {
			t.Fatal(err)
		}
		f.add(r)
	}
	p, err := policyRef{"ClusterNetworkPolicy", "guard"}.find(t.Context(), f.api)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := (&waiter{api: f.api, policies: []inforce.Version{p}}).wait(ctx); err != nil {
		t.Error(err)
	}
}

func TestWaitSaysWhatIsMissing(t *testing.T) {
	f := newFakeCluster(t)
	f.add(f.report("n1", "10", "20"))
	p, err := policyRef{"NetworkPolicy", "db"}.find(t.Context(), f.api)
	if err != nil {
		t.Fatal(err)
	}
	w := waiter{api: f.api, policies: []inforce.Version{p}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("it ended with %v", err)
	}
	want := "not in force within 100ms:\n  NetworkPolicy shop/db: on 1 of 2 nodes\n    n2: no agent has reported from it"
	if got := w.missing(100 * time.Millisecond); got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	for _, r := range []policyRef{{"", "nobody"}, {"NetworkPolicy", "guard"}, {"ClusterNetworkPolicy", "db"}} {
		if p, err := r.find(t.Context(), f.api); err == nil {
			t.Errorf("%v is found to be %v", r, p)
		}
	}
}

func TestStatusOfNodes(t *testing.T) {
	f := newFakeCluster(t)
	agent := func(node string, running bool) {
		state := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		if running {
			state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		}
		if _, err := f.client.CoreV1().Pods("ringfence-system").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "agent-" + node, Labels: map[string]string{"app.kubernetes.io/name": "ringfence"}},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "agent"}}},
			Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "agent", State: state}}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	node := func(name string) {
		if _, err := f.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	node("n3")
	node("n4")
	for n, version := range map[string]string{"n1": "ringfence v2", "n2": "ringfence v1", "n3": "ringfence v2"} {
		r := f.report(n, "10", "20")
		if err := unstructured.SetNestedField(r.Object, version, "status", "agentVersion"); err != nil {
			t.Fatal(err)
		}
		f.add(r)
	}
	agent("n1", true)
	agent("n2", false)
	all, err := nodesOf(t.Context(), f.api, "ringfence-system")
	if err != nil {
		t.Fatal(err)
	}
	var good []bool
	for i := range all {
		good = append(good, all[i].isGood())
		all[i].Updated = metav1.Time{}
		all[i].Digest = "d"
	}
	if !slices.Equal(good, []bool{true, false, false, false}) {
		t.Errorf("good are %v", good)
	}
	var b bytes.Buffer
	if err := printNodes(&b, all); err != nil {
		t.Fatal(err)
	}
	want := `NODE   READY   POLICIES   DIGEST   REPORTED   WHAT IS WRONG
n1     yes     0          d        - ago      
n2     yes     0          d        - ago      its agent does not run: CrashLoopBackOff: what it reported last stays in force, and changes wait
n3     yes     0          d        - ago      no agent runs on it: what it reported last stays in force, and changes wait
n4     no      -          -        -          no agent runs on it; nothing was reported from it

The agents' versions differ:
  ringfence v1  n2
  ringfence v2  n1, n3
`
	if b.String() != want {
		t.Errorf("it says\n%s, want\n%s", &b, want)
	}
	f.client.(*fake.Clientset).PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
	})
	if all, err := nodesOf(t.Context(), f.api, "ringfence-system"); err != nil || !all[2].isGood() || all[3].isGood() {
		t.Errorf("who may not list pods is told %+v, %v", all, err)
	}
}

// A cluster that never had ClusterNetworkPolicies is well; one whose definition of them went has some in force that nobody sees.
func TestStatusOfAKindThatIsNotDefined(t *testing.T) {
	for condition, wrong := range map[string][]string{
		"NotInstalled": nil,
		"Uninstalled":  {"Uninstalled clusternetworkpolicies"},
	} {
		n := nodeStatus{Node: "n1", Reported: true}
		n.Ready = true
		n.Conditions = []v1alpha1.NodeCondition{{Type: condition, Object: "clusternetworkpolicies"}}
		if got := n.wrong(); !slices.Equal(got, wrong) || n.isGood() != (wrong == nil) {
			t.Errorf("with %s, wrong is %q, and well %t", condition, got, n.isGood())
		}
	}
}
