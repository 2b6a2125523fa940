package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/live"
	"github.com/ringfence-project/ringfence/internal/live/wire"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// shopPlan has web reach db on 53/udp, which job may not.
func shopPlan(t *testing.T) *live.Plan {
	t.Helper()
	pod := func(n byte, namespace, name string) *cluster.Endpoint {
		return &cluster.Endpoint{Key: cluster.Key{Namespace: namespace, Name: name}, Labels: label.MustSet(map[string]string{"app": name, "hash": "x"}),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, n})}, Ports: []cluster.Port{{Name: "dns", Protocol: flow.UDP, Number: 53}}}
	}
	web, job, db := pod(1, "shop", "web"), pod(2, "jobs", "job"), pod(3, "shop", "db")
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "db", IsolatesIngress: true,
		Subject: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=shop"), Pods: label.MustParse("app=db")},
		Ingress: []policy.Rule{{Action: policy.Accept, Ports: []policy.Port{{Protocol: flow.UDP, Name: "dns"}},
			Peers: []policy.Peer{{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=shop"), Pods: label.Everything()}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := cluster.NewState(cluster.Objects{Endpoints: []*cluster.Endpoint{web, job, db}, Policies: []*policy.Policy{p},
		Namespaces: []cluster.Namespace{{Name: "shop", Labels: label.MustSet(map[string]string{cluster.NameLabel: "shop"})}, {Name: "jobs", Labels: label.MustSet(map[string]string{cluster.NameLabel: "jobs"})}}})
	if err != nil {
		t.Fatal(err)
	}
	planner := live.NewPlanner(s, live.Options{})
	for _, from := range []*cluster.Endpoint{web, job} {
		c := cluster.Connection{From: cluster.Party{Endpoint: from, Addr: from.Addresses[0]}, To: cluster.Party{Endpoint: db, Addr: db.Addresses[0]}, Protocol: flow.UDP, Port: 53}
		if why := planner.Add(s, c); why != "" {
			t.Fatal(why)
		}
	}
	return planner.Plan()
}

// world is a cluster whose pods run as soon as they are made, and whose network is a function.
type world struct {
	*fake.Clientset
	mu       sync.Mutex
	commands int
	names    []string // of pods, by address
	network  func(from, to *corev1.Pod, tries int) wire.Outcome
	tries    map[string]int
	run      func(*corev1.Pod) // makes a pod run, or not
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	w := &world{Clientset: fake.NewClientset(objects...), tries: map[string]int{}}
	w.network = func(from, to *corev1.Pod, _ int) wire.Outcome {
		if to.Labels["app"] == "db" && from.Namespace == "jobs" {
			return wire.Silent
		}
		return wire.Answered
	}
	w.run = func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.9.0.%d", len(w.names)+1)}}
		w.names = append(w.names, p.Namespace+"/"+p.Name)
	}
	w.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		w.run(a.(k8stesting.CreateAction).GetObject().(*corev1.Pod))
		return false, nil, nil
	})
	return w
}

// exec stands for the program in the pods.
func (w *world) exec(ctx context.Context, namespace, name, _ string, command []string, stdout, _ io.Writer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	from, err := w.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commands++
	for _, text := range command[5:] {
		target, err := wire.ParseTarget(text)
		if err != nil {
			return err
		}
		outcome := wire.Answered
		if !target.To.Addr().IsLoopback() {
			to := strings.Split(w.names[target.To.Addr().As4()[3]-1], "/")
			peer, err := w.CoreV1().Pods(to[0]).Get(ctx, to[1], metav1.GetOptions{})
			if err != nil {
				return err
			}
			key := from.Name + text
			w.tries[key]++
			outcome = w.network(from, peer, w.tries[key])
		}
		if err := json.NewEncoder(stdout).Encode(wire.Answer{Target: text, Outcome: outcome}); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) session(t *testing.T) *Session {
	return New(Options{Client: w, Exec: w.exec, Image: "ringfence:1", Patience: time.Millisecond, Settle: 100 * time.Millisecond,
		Startup: 10 * time.Second, Lifetime: time.Minute, Tell: func(text string) { t.Log(text) }}, shopPlan(t))
}

// left are the pods and leases that are there.
func (w *world) left(t *testing.T) []string {
	t.Helper()
	var all []string
	pods, err := w.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		all = append(all, "pod "+p.Namespace+"/"+p.Name)
	}
	leases, err := w.CoordinationV1().Leases("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases.Items {
		all = append(all, "lease "+l.Namespace+"/"+l.Name)
	}
	return all
}

func TestSession(t *testing.T) {
	w := newWorld(t)
	s := w.session(t)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.left(t)); n != 3+2 {
		t.Errorf("made: %q", w.left(t))
	}
	results, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		want := live.Answered
		if !s.plan.Allowed[i] {
			want = live.Silent
		}
		if r.Outcome != want {
			t.Errorf("%s: %+v", s.plan.Describe(i), r)
		}
	}
	if err := s.Remove(t.Context()); err != nil || len(w.left(t)) > 0 {
		t.Errorf("%v, left: %q", err, w.left(t))
	}
}

// What is closed at first, because nobody knows the pods, and open at first, because no rule is in force, is waited for; and
// no denial counts before the pods are known.
func TestRulesTakeAMoment(t *testing.T) {
	w := newWorld(t)
	known := false
	w.network = func(from, to *corev1.Pod, tries int) wire.Outcome {
		switch {
		case from.Namespace == "jobs" && to.Labels["app"] == "db":
			if !known {
				t.Error("a denial is asked for before anything is known to be in force")
			}
			if tries < 3 {
				return wire.Answered
			}
			return wire.Silent
		case tries < 3:
			return wire.Silent
		}
		known = true
		return wire.Answered
	}
	s := w.session(t)
	s.Settle = time.Minute
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	results, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if (r.Outcome == live.Answered) != s.plan.Allowed[i] {
			t.Errorf("%s: %+v", s.plan.Describe(i), r)
		}
	}
}

// The API server may lose the way to a pod for a moment, and for good.
func TestLostCommands(t *testing.T) {
	for lost, want := range map[int]bool{2: true, 1000: false} {
		w := newWorld(t)
		s := w.session(t)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		left := lost
		s.Exec = func(ctx context.Context, namespace, pod, container string, command []string, stdout, stderr io.Writer) error {
			mu.Lock()
			left--
			lose := left >= 0
			mu.Unlock()
			if lose {
				return errors.New("no route to the kubelet")
			}
			return w.exec(ctx, namespace, pod, container, command, stdout, stderr)
		}
		if _, err := s.Connect(t.Context()); (err == nil) != want {
			t.Errorf("%d commands lost: %v", lost, err)
		}
	}
}

// What is not in force stays so, and is what comes out.
func TestNotInForce(t *testing.T) {
	w := newWorld(t)
	w.network = func(_, _ *corev1.Pod, _ int) wire.Outcome { return wire.Answered }
	s := w.session(t)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	results, err := s.Connect(t.Context())
	if err != nil || slices.ContainsFunc(results, func(r live.Result) bool { return r.Outcome != live.Answered }) {
		t.Errorf("%+v, %v", results, err)
	}
}

// Pods stand for workloads in what policies look at, and are nobody's and harmless otherwise.
func TestObjects(t *testing.T) {
	w := newWorld(t)
	s := w.session(t)
	p := s.pod(2, s.plan.Probes[1], "uid")
	if p.Namespace != "shop" || p.Labels["app"] != "db" || p.Labels["hash"] != "" || len(p.Labels) != 2 || p.Labels[Label] != s.run {
		t.Errorf("%s with labels %v", p.Namespace, p.Labels)
	}
	c := p.Spec.Containers[0]
	if want := []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}}; !slices.Equal(c.Ports, want) {
		t.Errorf("ports %v", c.Ports)
	}
	if want := strings.Fields("ringfence probe serve udp/53"); !slices.Equal(c.Command, want) {
		t.Errorf("command %q", c.Command)
	}
	owner := metav1.GetControllerOf(p)
	if owner == nil || owner.Kind != "Lease" || owner.UID != "uid" || owner.Name != s.lease("shop").Name || owner.BlockOwnerDeletion != nil {
		t.Errorf("owner %+v", owner)
	}
	sc, of := c.SecurityContext, p.Spec.SecurityContext
	restricted := *of.RunAsNonRoot && of.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault && !*sc.AllowPrivilegeEscalation &&
		slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(sc.Capabilities.Add) == 0 && !p.Spec.HostNetwork && len(p.Spec.Volumes) == 0 &&
		len(of.Sysctls) == 1 && of.Sysctls[0].Name == "net.ipv4.ip_unprivileged_port_start"
	if !restricted {
		t.Errorf("not restricted: %+v %+v", of, sc)
	}
	if len(p.Spec.ReadinessGates) != 1 || p.Spec.RestartPolicy != corev1.RestartPolicyNever || *p.Spec.ActiveDeadlineSeconds != 60 || *p.Spec.AutomountServiceAccountToken {
		t.Errorf("%+v", p.Spec)
	}
	if c.Resources.Requests.Cpu().MilliValue() > 10 || c.Resources.Limits.Memory().IsZero() {
		t.Errorf("resources %+v", c.Resources)
	}
}

// Whatever goes wrong on the way, what was made is removed, and the reason is told.
func TestFailures(t *testing.T) {
	waiting := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "the registry says no"}}}}
		}
	}
	for _, c := range []struct {
		name string
		mend func(*world, *Session)
		want string
	}{
		{"no image", func(w *world, _ *Session) { w.run = waiting("ImagePullBackOff") }, "with image ringfence:1: ImagePullBackOff: the registry says no"},
		{"an old image", func(w *world, _ *Session) {
			w.run = func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodFailed
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", Message: "unknown command \"probe\"\n"}}}}
			}
		}, `its container ended, Error: unknown command "probe"`},
		{"no node", func(w *world, s *Session) {
			s.Startup = 50 * time.Millisecond
			w.run = func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodPending
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes"}}
			}
		}, "the probe pods do not run within 50ms: pod jobs/ringfence-probe-"},
		{"a quota", func(w *world, _ *Session) {
			w.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
				if a.GetNamespace() == "shop" {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("exceeded quota"))
				}
				return false, nil, nil
			})
		}, "make a probe pod in namespace shop, for shop/db: pods is forbidden: exceeded quota"},
		{"no right to leases", func(w *world, _ *Session) {
			w.PrependReactor("create", "leases", func(k8stesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "leases"}, "", errors.New("no"))
			})
		}, "make the Lease that probe pods belong to, in namespace jobs"},
		{"a command fails", func(w *world, s *Session) {
			s.Startup = 50 * time.Millisecond
			s.Exec = func(context.Context, string, string, string, []string, io.Writer, io.Writer) error {
				return errors.New("no shell")
			}
		}, "does not listen: have probe pod "},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.session(t)
			c.mend(w, s)
			if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if err := s.Remove(t.Context()); err != nil || len(w.left(t)) > 0 {
				t.Errorf("%v, left: %q", err, w.left(t))
			}
		})
	}
}

// An interrupt ends everything but the cleaning up.
func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	s := w.session(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := s.Remove(ctx); err != nil || len(w.left(t)) > 0 {
		t.Errorf("%v, left: %q", err, w.left(t))
	}
}

// What cannot be removed is said, with what removes it.
func TestCannotRemove(t *testing.T) {
	w := newWorld(t)
	s := w.session(t)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.PrependReactor("delete", "*", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetNamespace() == "shop" {
			return true, nil, errors.New("the API is away")
		}
		return false, nil, nil
	})
	err := s.Remove(t.Context())
	for _, want := range []string{"kubectl -n shop delete pod,lease -l " + Label + "=" + s.run, "end by themselves within 1m0s", "lease shop/ringfence-probe-"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if n := len(w.left(t)); n != 3 {
		t.Errorf("left: %q", w.left(t))
	}
}

// What an earlier run has left behind is removed once its time is over, and that of a run under way stays.
func TestLeftovers(t *testing.T) {
	lease := func(run string, age time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: prefix + run, UID: "u", Labels: map[string]string{Label: run}},
			Spec: coordinationv1.LeaseSpec{AcquireTime: new(metav1.NewMicroTime(time.Now().Add(-age))), LeaseDurationSeconds: new(int32(600))}}
	}
	w := newWorld(t, lease("old", time.Hour), lease("other", 10*time.Minute))
	s := w.session(t)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := w.left(t); !slices.Equal(left, []string{"lease shop/ringfence-probe-other"}) {
		t.Errorf("left: %q", left)
	}
}

func TestRights(t *testing.T) {
	w := newWorld(t)
	w.PrependReactor("create", "selfsubjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		r := a.(k8stesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		of := r.Spec.ResourceAttributes
		r.Status.Allowed = of.Namespace != "shop" || of.Verb != "delete" && of.Subresource == ""
		return true, r, nil
	})
	missing, err := w.session(t).Missing(t.Context())
	want := []string{"delete pods in namespace shop", "get pods/exec in namespace shop", "create pods/exec in namespace shop", "delete leases in namespace shop"}
	if err != nil || !slices.Equal(missing, want) {
		t.Errorf("%q, %v", missing, err)
	}
}

func TestSurroundings(t *testing.T) {
	selects := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	budget := func(name string, spec policyv1.PodDisruptionBudgetSpec) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: spec}
	}
	service := func(name string, published bool, selector map[string]string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{PublishNotReadyAddresses: published, Selector: selector}}
	}
	one, half := intstr.FromInt32(1), intstr.FromString("50%")
	w := newWorld(t,
		budget("number", policyv1.PodDisruptionBudgetSpec{Selector: selects, MinAvailable: &one}),
		budget("percent", policyv1.PodDisruptionBudgetSpec{Selector: selects, MinAvailable: &half}),
		budget("missing", policyv1.PodDisruptionBudgetSpec{Selector: selects, MaxUnavailable: &one}),
		budget("other", policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"hash": "x"}}, MaxUnavailable: &one}),
		service("web", false, map[string]string{"app": "web"}), service("peers", true, map[string]string{"app": "db"}), service("none", true, nil),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "fence", Name: "a", Labels: map[string]string{"app.kubernetes.io/name": "ringfence"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "keep", Image: "no"}, {Name: "agent", Image: "registry.example/ringfence:2"}}}})
	if blocked, err := w.session(t).Blocked(t.Context()); err != nil || !slices.Equal(blocked, []string{"shop/missing", "shop/percent"}) {
		t.Errorf("%q, %v", blocked, err)
	}
	if p, err := Published(t.Context(), w); err != nil || len(p) != 1 || p[0].Name != "peers" || p[0].Selector.String() != "app=db" {
		t.Errorf("%+v, %v", p, err)
	}
	for namespace, want := range map[string]string{"fence": "registry.example/ringfence:2", "shop": ""} {
		if image, err := AgentImage(t.Context(), w, namespace); err != nil || image != want {
			t.Errorf("%s: %q, %v", namespace, image, err)
		}
	}
}

// The role in the documentation has the rights that are asked for.
func TestDocumentedRole(t *testing.T) {
	text, err := os.ReadFile("../../../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Rights() {
		rule := regexp.MustCompile(fmt.Sprintf(`(?m)^- \{apiGroups: \["?%s"?\], resources: \[%s\], verbs: \[(.*, )?%s(, .*)?\]\}$`, regexp.QuoteMeta(r.Group), r.Resource, r.Verb))
		if !rule.Match(text) {
			t.Errorf("the role has no right to %s", r)
		}
	}
}
