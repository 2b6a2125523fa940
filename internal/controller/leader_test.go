package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/controller/enforcement"
	"github.com/ringfence-project/ringfence/internal/generation/mapstest"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// fakeAPI keeps one PolicyRollout as an API does: with resource versions, and conflicts.
type fakeAPI struct {
	t      *testing.T
	client *fake.Clientset
	wide   *dynamicfake.FakeDynamicClient

	mu      sync.Mutex
	version int
	refuse  func(status map[string]any) error // what a write is refused with; may be nil
}

func newFakeAPI(t *testing.T) *fakeAPI {
	a := &fakeAPI{t: t, version: 1, client: mapstest.Versioned(fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "w", Labels: map[string]string{"app": "web"}},
			Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}}}}))}
	a.wide = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		inforce.Resource: "NodeEnforcementList", enforcement.Namespaces: "NamespaceEnforcementList", kube.ClusterPolicies: "ClusterNetworkPolicyList", record.Resource: "PolicyRolloutList",
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}: "CustomResourceDefinitionList"}, objectOf(t, written))
	a.wide.PrependReactor("update", record.Resource.Resource, func(action k8stesting.Action) (bool, runtime.Object, error) {
		u := action.(k8stesting.UpdateAction).GetObject().(*unstructured.Unstructured).DeepCopy()
		a.mu.Lock()
		defer a.mu.Unlock()
		if u.GetResourceVersion() != strconv.Itoa(a.version) {
			return true, nil, apierrors.NewConflict(record.Resource.GroupResource(), u.GetName(), errors.New("it is newer"))
		}
		if a.refuse != nil {
			if err := a.refuse(u.Object["status"].(map[string]any)); err != nil {
				return true, nil, err
			}
		}
		a.version++
		u.SetResourceVersion(strconv.Itoa(a.version))
		return true, u, a.wide.Tracker().Update(record.Resource, u, "")
	})
	return a
}

func (a *fakeAPI) options() Options {
	return Options{Client: a.client, Dynamic: a.wide, Namespace: "ringfence-system", Identity: "one", Log: slog.New(slog.DiscardHandler)}
}

func (a *fakeAPI) get() record.Record {
	a.t.Helper()
	r, err := record.Get(a.t.Context(), a.wide, "lockdown")
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// agent reports that the stored status is in force on the node, with evidence.
func (a *fakeAPI) agent(e rollout.Evidence) {
	a.t.Helper()
	s := a.get().Status
	u := objectOf(a.t, string(mustYAML(a.t, map[string]any{"apiVersion": "ringfence.dev/v1alpha1", "kind": "NodeEnforcement", "metadata": map[string]any{"name": "n1"},
		"status": map[string]any{"ready": true, "rollouts": []any{map[string]any{"name": "lockdown", "digest": s.Digest, "revision": s.Revision,
			"stepIndex": s.Step, "phase": string(s.Phase), "inForce": true, "living": true, "evidence": record.ToEvidence(e)}}}})))
	reports := a.wide.Resource(inforce.Resource)
	_, err := reports.Update(a.t.Context(), u, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = reports.Create(a.t.Context(), u, metav1.CreateOptions{})
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// until looks until a condition holds.
func (a *fakeAPI) until(what string, holds func(record.Record) bool) {
	a.t.Helper()
	deadline := time.Now().Add(25 * time.Second)
	for !holds(a.get()) {
		if time.Now().After(deadline) {
			a.t.Fatalf("it never came that %s: %+v", what, a.get().Status)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// events are the reasons of all Events.
func (a *fakeAPI) events() string {
	a.t.Helper()
	list, err := a.client.CoreV1().Events(metav1.NamespaceDefault).List(a.t.Context(), metav1.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		all = append(all, e.Reason)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// run runs a controller until the test, or what is returned, ends it.
func (a *fakeAPI) run(o Options) (stop func()) {
	ctx, cancel := context.WithCancel(a.t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	})
	a.t.Cleanup(stop)
	return stop
}

// It drives by the API what the tests of decisions show, and another one goes on from what is stored.
func TestDrivesByTheAPI(t *testing.T) {
	a := newFakeAPI(t)
	stop := a.run(a.options())
	a.until("it begins", func(r record.Record) bool { return r.Status.Phase == rollout.Progressing })
	a.agent(rollout.Evidence{Connections: 3, Workloads: []string{"shop/web"}})
	a.until("it is in force", func(r record.Record) bool { return r.Nodes == "1/1" && r.Status.Evidence.Connections == 3 })
	stop()
	if _, err := record.Do(t.Context(), a.wide, "lockdown", rollout.Promote); err != nil { // nobody drives, and people can
		t.Fatal(err)
	}
	if s := a.get().Status; s.Phase != rollout.Progressing || s.Step != 1 {
		t.Fatalf("it is %+v", s)
	}
	next := a.options()
	next.Identity = "two"
	a.run(next)
	var e rollout.Evidence
	e.Add(rollout.Finding{Kind: rollout.NewlyDenied, Enforced: true, Source: "shop/web", Destination: "kube-system/dns", Port: "53/udp", First: time.Now()})
	a.agent(e)
	a.until("it is rolled back", func(r record.Record) bool { return r.Status.Phase == rollout.RolledBack })
	a.until("it is told", func(record.Record) bool { return a.events() == "RolledBack Step Step Step" })
}

// A candidate that takes the API from a pod which plainly uses it does not pass.
func TestTheAPIServerIsProbed(t *testing.T) {
	a := newFakeAPI(t)
	pods := a.client.CoreV1().Pods("shop")
	web, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web.Spec.ServiceAccountName = "web"
	web.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}}}
	if _, err := pods.Update(t.Context(), web, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}}, Ports: []discoveryv1.EndpointPort{{Port: new(int32(6443))}}}
	if _, err := a.client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.run(a.options())
	a.until("it is found", func(r record.Record) bool { return slices.Equal(r.Lost, []string{"API server of shop/web"}) })
}

// Whatever is refused is as it was, and is tried again; and of each thing that happens there is one Event.
func TestConflictsAndRefusals(t *testing.T) {
	a := newFakeAPI(t)
	failures := 0
	a.refuse = func(map[string]any) error {
		if failures++; failures%3 != 0 {
			return []error{apierrors.NewInternalError(errors.New("no disk")), apierrors.NewConflict(record.Resource.GroupResource(), "lockdown", errors.New("newer"))}[failures%2]
		}
		return nil
	}
	l := newLeader(a.options(), newMetrics())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	a.until("it begins", func(r record.Record) bool { return r.Status.Phase == rollout.Progressing })
	var e rollout.Evidence
	e.Saw("shop/web")
	a.agent(e)
	a.until("it is heard", func(r record.Record) bool { return r.Status.Evidence.Connections == 1 })
	if _, err := record.Do(t.Context(), a.wide, "lockdown", rollout.Hold); err != nil && !apierrors.IsInternalError(errors.Unwrap(err)) {
		t.Fatal(err)
	}
	if _, err := record.Do(t.Context(), a.wide, "lockdown", rollout.Abort); err != nil {
		if _, err = record.Do(t.Context(), a.wide, "lockdown", rollout.Abort); err != nil {
			t.Fatal(err)
		}
	}
	a.until("it is told", func(record.Record) bool { return strings.Contains(a.events(), "Aborted") })
	if n := strings.Count(a.events(), "Aborted"); n != 1 {
		t.Errorf("events are %s", a.events())
	}
	if s := a.get().Status; s.Phase != rollout.Aborted {
		t.Errorf("it is %+v", s)
	}
}

// Nothing is expected of nodes that are not meant to run an agent, nor are their pods counted.
func TestNodesThatAreNotMeant(t *testing.T) {
	a := newFakeAPI(t)
	for name, c := range map[string]struct {
		nodes, meant, spared string
	}{
		"all":           {"", "n1 n2 n3", ""},
		"some":          {"os=linux", "n1 n2", "n3"},
		"without value": {"os=linux,worker=", "n2", "n1 n3"},
		"none":          {"os=other", "", "n1 n2 n3"},
	} {
		t.Run(name, func(t *testing.T) {
			o := a.options()
			if c.nodes != "" {
				s, err := label.Parse(c.nodes)
				if err != nil {
					t.Fatal(err)
				}
				o.Nodes = &s
			}
			l := newLeader(o, newMetrics())
			l.world.take(kube.Batch{Nodes: map[string]*cluster.Node{
				"n1": {Name: "n1", Labels: label.MustSet(map[string]string{"os": "linux"})},
				"n2": {Name: "n2", Labels: label.MustSet(map[string]string{"os": "linux", "worker": ""})},
				"n3": {Name: "n3", Labels: label.MustSet(map[string]string{"os": "windows"})}}})
			var meant []string
			for _, n := range l.view(nil).Nodes {
				meant = append(meant, n.Name)
			}
			spared := slices.Sorted(maps.Keys(l.snapshot(time.Now(), nil).spared))
			if got := strings.Join(meant, " "); got != c.meant || strings.Join(spared, " ") != c.spared {
				t.Errorf("it expects something of %q, and spares %q", got, spared)
			}
		})
	}
}

// What may not be read is said, and moves nothing.
func TestForbidden(t *testing.T) {
	a := newFakeAPI(t)
	a.wide.PrependReactor("list", inforce.Resource.Resource, func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(inforce.Resource.GroupResource(), "", fmt.Errorf("no right"))
	})
	l := newLeader(a.options(), newMetrics())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	a.until("it begins", func(r record.Record) bool { return r.Status.Phase == rollout.Progressing })
	if why := l.notReady(); !strings.Contains(why, "no right") {
		t.Errorf("it is not ready as %q", why)
	}
	if r := a.get(); r.Status.Watched != 0 || r.Nodes != "0/1, not n1" {
		t.Errorf("it is %+v", r)
	}
}
