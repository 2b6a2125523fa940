package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/live/pods"
	"github.com/ringfence-project/ringfence/internal/live/wire"
	"github.com/ringfence-project/ringfence/internal/policytest"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// probed is a cluster with a shop, in which probe pods run as soon as they are made.
type probed struct {
	*liveRun
	t      *testing.T
	client *fake.Clientset
	wide   *dynamicfake.FakeDynamicClient
	mu     sync.Mutex
	of     map[string]*corev1.Pod // by address
	// open reports whether one pod can reach another.
	open func(from, to *corev1.Pod) bool
}

func newProbed(t *testing.T) *probed {
	namespace := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/metadata.name": name}}}
	}
	pod := func(namespace, name, app, ip string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": app, "pod-template-hash": "x"}},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "agent", Image: "ringfence:1"}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}}}
	}
	left := pod("shop", "ringfence-probe-old-0", "job", "10.0.0.8") // by another run
	left.Labels[pods.Label] = "old"
	agent := pod("ringfence-system", "agent", "agent", "192.0.2.1")
	agent.Labels["app.kubernetes.io/name"], agent.Spec.HostNetwork = "ringfence", true
	web := metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	client := fake.NewClientset(left, namespace("shop"), namespace("ringfence-system"), agent,
		namespace("bank"), pod("bank", "vault", "vault", "10.0.0.9"),
		pod("shop", "web", "web", "10.0.0.1"), pod("shop", "db", "db", "10.0.0.2"), pod("shop", "job", "job", "10.0.0.3"),
		&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &web}}}}}})
	wide := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		inforce.Resource: "NodeEnforcementList", kube.ClusterPolicies: "ClusterNetworkPolicyList", record.Resource: "PolicyRolloutList"})
	p := &probed{t: t, client: client, wide: wide, of: map[string]*corev1.Pod{}}
	p.open = func(from, to *corev1.Pod) bool { return to.Labels["app"] != "db" || from.Labels["app"] == "web" }
	client.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		made := a.(k8stesting.CreateAction).GetObject().(*corev1.Pod)
		made.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.1.%d", len(p.of)+1)}}}
		p.of[made.Status.PodIPs[0].IP] = made.DeepCopy()
		return false, nil, nil
	})
	client.PrependReactor("create", "selfsubjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		r.Status.Allowed = true
		return true, r, nil
	})
	p.liveRun = &liveRun{liveFlags: &liveFlags{live: true, most: 10, patience: time.Millisecond, settle: 50 * time.Millisecond, lifetime: time.Minute, agents: "ringfence-system"},
		api: &api{client: client, dynamic: wide}, stderr: &bytes.Buffer{}, exec: p.run}
	return p
}

// run stands for the program in the pods.
func (p *probed) run(_ context.Context, namespace, name, _ string, command []string, stdout, _ io.Writer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var from *corev1.Pod
	for _, x := range p.of {
		if x.Namespace == namespace && x.Name == name {
			from = x
		}
	}
	for _, text := range command[5:] {
		target, err := wire.ParseTarget(text)
		if err != nil {
			return err
		}
		answer := wire.Answer{Target: text, Outcome: wire.Answered}
		if !target.To.Addr().IsLoopback() && !p.open(from, p.of[target.To.Addr().String()]) {
			answer = wire.Answer{Target: text, Outcome: wire.Silent, Why: "timeout"}
		}
		if err := json.NewEncoder(stdout).Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

const shopTest = `
kind: PolicyTest
fixtures: [extra.yaml]
tests:
- name: the web only
  cases:
  - {from: shop/web, to: "shop/db:5432", want: allow, by: shop/db}
  - {from: [shop/job, shop/visitor], to: "shop/db:5432", want: deny}
- name: from elsewhere
  cases:
  - {from: 198.51.100.1, to: "shop/db:5432", want: deny}
- name: a label opens
  patch: [{pod: shop/job, labels: {app: web}}]
  cases: [{from: shop/job, to: "shop/db:5432", want: allow}]
invariants:
- {never: "* !shop/app=web -> shop/db:5432"}
`

const visitor = `{apiVersion: v1, kind: Pod, metadata: {name: visitor, namespace: shop, labels: {app: visitor}}, spec: {containers: [{name: c, image: i}]}}`

// test runs the test in the cluster and returns what it writes.
func (p *probed) test(t *testing.T) (*policytest.Report, string, error) {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "extra.yaml"), []byte(visitor), 0o644); err != nil {
		t.Fatal(err)
	}
	docs, problems := policytest.Read(filepath.Join(folder, "shop_test.yaml"), []byte(shopTest))
	runner := &policytest.Runner{}
	var out bytes.Buffer
	report, err := p.report(t.Context(), &out, runner, func() *policytest.Report { return runner.Docs(docs, problems) })
	if report != nil {
		if err := report.Text(&out, policytest.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	left, listErr := p.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: pods.Label})
	if listErr != nil {
		t.Fatal(listErr)
	}
	if len(left.Items) > 1 && !p.keep {
		t.Errorf("%d pods are left", len(left.Items)-1)
	}
	return report, strings.ReplaceAll(out.String(), folder+"/", ""), err
}

func TestLive(t *testing.T) {
	p := newProbed(t)
	report, text, err := p.test(t)
	if err != nil || !report.OK() {
		t.Fatalf("%v\n%s%s", err, text, p.stderr)
	}
	for _, want := range []string{"not made, evaluated only (1 connection): nobody can be asked to connect from outside of the cluster",
		"not made, evaluated only (1 connection): probe pods are only made in namespaces that the tests name, or else",
		"ok: 4 of 4 tests hold, 5 checks, 9 connections, 6 made with packets, 3 not made"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if want := "making 4 probe pods in 1 namespace, for at most 1m0s (label ringfence.dev/probe="; !strings.Contains(p.stderr.(*bytes.Buffer).String(), want) {
		t.Errorf("it says %s", p.stderr)
	}
}

// A policy that comes while the pods are made is told.
func TestLiveChanges(t *testing.T) {
	p := newProbed(t)
	p.client.PrependReactor("create", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
		return false, nil, p.client.Tracker().Add(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "new"}})
	})
	if _, _, err := p.test(t); err != nil {
		t.Fatal(err)
	}
	if want := "warning: policies changed while it ran, and what failed may be due to that: NetworkPolicy shop/new\n"; !strings.Contains(p.stderr.(*bytes.Buffer).String(), want) {
		t.Errorf("no %q in %s", want, p.stderr)
	}
}

func TestLiveNotEnforced(t *testing.T) {
	p := newProbed(t)
	p.open = func(_, _ *corev1.Pod) bool { return true }
	report, text, err := p.test(t)
	if err != nil || report.OK() {
		t.Fatalf("%v\n%s", err, text)
	}
	if want := "shop/job -> shop/db:5432: want deny, got allow; the policies deny it, so they are not enforced"; !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}

// Namespaces that no test names are left alone, unless they are asked for.
func TestLiveNamespaces(t *testing.T) {
	for _, mend := range []func(*probed){func(p *probed) { p.namespaces = []string{"bank"} }, func(p *probed) { p.everywhere = true }} {
		p := newProbed(t)
		mend(p)
		if report, text, err := p.test(t); err != nil || !report.OK() || !strings.Contains(text, "7 made with packets, 2 not made") {
			t.Errorf("%v\n%s", err, text)
		}
		if want := "making 5 probe pods in 2 namespaces"; !strings.Contains(p.stderr.(*bytes.Buffer).String(), want) {
			t.Errorf("no %q in %s", want, p.stderr)
		}
	}
}

func TestLiveDryRun(t *testing.T) {
	p := newProbed(t)
	p.dryRun = true
	_, text, err := p.test(t)
	want := `4 probe pods in 1 namespace:
NAMESPACE   STANDS FOR          LABELS        LISTENS ON
shop        shop/db             app=db        tcp/5432
shop        shop/job            app=job       tcp/8080
shop        shop/visitor        app=visitor   -
shop        shop/job, shop/web  app=web       -
`
	want = strings.Join(strings.Fields(want), " ")
	if got := strings.Join(strings.Fields(text), " "); err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("%v\n%s", err, text)
	}
	if len(p.of) > 0 {
		t.Errorf("%d pods were made", len(p.of))
	}
}

// What speaks against it is said before anything is made.
func TestLiveRefuses(t *testing.T) {
	for _, c := range []struct {
		mend func(*probed)
		want string
	}{
		{func(p *probed) { p.most = 3 }, "these tests need 4 probe pods, more than --max-probes 3"},
		{func(p *probed) {
			if err := p.wide.Tracker().Add(rolloutObject(p.t, "db", time.Now())); err != nil {
				p.t.Fatal(err)
			}
		}, "rollout lockdown is under way, and about workloads that probe pods would stand for"},
		{func(p *probed) { p.agents = "other" }, "no agent in namespace other tells the image of probe pods: give --image"},
		{func(p *probed) {
			p.client.PrependReactor("create", "selfsubjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
				return true, a.(k8stesting.CreateAction).GetObject(), nil
			})
		}, "you may not create pods in namespace shop, list pods in namespace shop"},
	} {
		p := newProbed(t)
		c.mend(p)
		if _, _, err := p.test(t); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
		if len(p.of) > 0 {
			t.Errorf("%s: %d pods were made", c.want, len(p.of))
		}
	}
}

// A rollout that is not about the workloads that are tested does not mind.
func TestLiveBesideARollout(t *testing.T) {
	p := newProbed(t)
	if err := p.wide.Tracker().Add(rolloutObject(t, "other", time.Now())); err != nil {
		t.Fatal(err)
	}
	if report, text, err := p.test(t); err != nil || !report.OK() {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestLiveKeep(t *testing.T) {
	p := newProbed(t)
	p.keep = true
	if _, _, err := p.test(t); err != nil {
		t.Fatal(err)
	}
	if want := `the probe pods are kept and end by themselves within 1m0s; "kubectl -n shop delete pod,lease -l ringfence.dev/probe=`; !strings.Contains(p.stderr.(*bytes.Buffer).String(), want) {
		t.Errorf("no %q in %s", want, p.stderr)
	}
}
