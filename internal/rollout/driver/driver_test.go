package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
)

// rig is a machine without a kernel: what is in force is what Rewrite said when it was last put in force.
type rig struct {
	*testing.T
	*Driver
	folder string
	base   *cluster.State
	kernel *compile.Compiler
	judged *cluster.State
	again  bool
	living []flow.Tuple
	listed int
	broken error // of listing connections
	pods   map[cluster.Key]Pod
	said   []string
	now    time.Time
	// answers are to queries, by the step that they are asked in.
	answers map[string][]rollout.Measurement
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, folder: t.TempDir(), pods: map[cluster.Key]Pod{}, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	r.base = world(t)
	for _, e := range r.base.Endpoints() {
		r.pods[e.Key] = Pod{Ready: true}
	}
	r.open()
	return r
}

func (r *rig) options() Options {
	return Options{Folder: r.folder,
		Decide: func(t flow.Tuple) flow.Decision { return r.kernel.Decide(t) },
		Living: func(context.Context) ([]flow.Tuple, error) { r.listed++; return r.living, r.broken },
		Pod:    func(k cluster.Key) (Pod, bool) { p, ok := r.pods[k]; return p, ok },
		Measured: func(step string, queries []rollout.Query) []rollout.Measurement {
			if len(queries) == 0 {
				return nil
			}
			return r.answers[step]
		},
		Again: func() { r.again = true },
		Say:   func(format string, args ...any) { r.said = append(r.said, fmt.Sprintf(format, args...)) }}
}

// open is the start of a program, and of another one after a crash.
func (r *rig) open() {
	r.Helper()
	var err error
	if r.Driver, err = Open(r.options()); err != nil {
		r.Fatal(err)
	}
}

// follow takes in manifests.
func (r *rig) follow(specs ...*rollout.Spec) {
	r.Helper()
	r.Follow(specs, r.now)
	r.enforce()
}

func (r *rig) enforce() {
	r.Helper()
	r.again = false
	s, err := r.Rewrite(r.base)
	if err != nil {
		r.Fatal(err)
	}
	r.judged = s
	r.kernel = compile.New(compile.Options{})
	r.kernel.Update(s, nil)
	r.Enforced(s)
}

// pass lets seconds pass.
func (r *rig) pass(seconds int) {
	r.Helper()
	for range seconds {
		r.now = r.now.Add(time.Second)
		r.judgeLiving(r.Context())
		if r.again {
			r.enforce()
		}
		r.Driver.pass(r.now)
		if r.again {
			r.enforce()
		}
	}
}

func (r *rig) view(name string) View {
	r.Helper()
	now, _ := r.Views()
	for _, v := range now {
		if v.Rollout == name {
			return v
		}
	}
	return View{}
}

func (r *rig) want(name string, phase rollout.Phase, step, cohort int) View {
	r.Helper()
	v := r.view(name)
	if v.Phase != phase || v.Step != step || len(v.Cohort) != cohort {
		r.Fatalf("%s is %s in step %d (%s) with %d pods, want %s in %d with %d", name, v.Phase, v.Step, v.Reason, len(v.Cohort), phase, step, cohort)
	}
	return v
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

// world is four web pods, a database, its batch job and a DNS server; the database is for web pods and the job.
func world(t *testing.T) *cluster.State {
	t.Helper()
	o := cluster.Objects{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	pod := func(ns, name, owner, labels string, i int) {
		k, v, _ := strings.Cut(labels, "=")
		e := &cluster.Endpoint{Key: cluster.Key{Namespace: ns, Name: name}, Addresses: []netip.Addr{addr(i)}, Labels: label.MustSet(map[string]string{k: v})}
		if owner != "" {
			e.Owner = cluster.Owner{Kind: "Deployment", Name: owner}
		}
		o.Endpoints = append(o.Endpoints, e)
	}
	for i := range 4 {
		pod("shop", fmt.Sprintf("web-%d", i), "web", "app=web", i+1)
	}
	pod("shop", "db", "", "app=db", 10)
	pod("shop", "stranger", "", "app=stranger", 11)
	pod("kube-system", "dns", "", "k8s-app=kube-dns", 12)
	o.Policies = []*policy.Policy{np(t, "db", "app=db", flow.Ingress, accept("app=web", 5432))}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func accept(pods string, port uint16) policy.Rule {
	return policy.Rule{Action: policy.Accept, Ports: []policy.Port{{Protocol: flow.TCP, First: port, Last: port}},
		Peers: []policy.Peer{{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: label.Everything(), Pods: label.MustParse(pods)}}}}
}

func np(t *testing.T, name, subject string, d flow.Direction, rules ...policy.Rule) *policy.Policy {
	t.Helper()
	p := policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: name, File: name + ".yaml", Line: 1,
		Subject: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=shop"), Pods: label.MustParse(subject)}}
	if p.Ingress, p.IsolatesIngress = rules, true; d == flow.Egress {
		p.Egress, p.IsolatesEgress, p.Ingress, p.IsolatesIngress = rules, true, nil, false
	}
	made, err := policy.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func spec(name, digest string, p *policy.Policy, steps ...rollout.Step) *rollout.Spec {
	a := rollout.DefaultAnalysis()
	a.Coverage.Then, a.Probes.Then = rollout.Pass, rollout.Pass
	return &rollout.Spec{Name: name, Digest: digest, Change: rollout.Change{Policies: []*policy.Policy{p}}, Steps: steps, Analysis: a}
}

var (
	audit  = rollout.Step{Kind: rollout.Audit, For: 3 * time.Second}
	canary = rollout.Step{Kind: rollout.Enforce, For: 3 * time.Second, Cohort: rollout.Cohort{Percent: 10}}
	all    = rollout.Step{Kind: rollout.Enforce, For: 3 * time.Second, Cohort: rollout.Cohort{Percent: 100}}
)

// webOut lets web pods out to the database only.
func webOut(t *testing.T) *policy.Policy {
	return np(t, "web", "app=web", flow.Egress, accept("app=db", 5432))
}

func toDB(i int) flow.Tuple {
	return flow.Tuple{Source: addr(i), Destination: addr(10), Protocol: flow.TCP, Port: 5432}
}

func toStranger(i int) flow.Tuple {
	return flow.Tuple{Source: addr(i), Destination: addr(11), Protocol: flow.TCP, Port: 80}
}

func TestGoesThrough(t *testing.T) {
	r := newRig(t)
	r.follow(spec("r", "1", webOut(t), audit, canary, all))
	r.want("r", rollout.Progressing, 0, 0)
	if d := r.Saw(toDB(1), flow.Allow, false, r.now); d != nil {
		t.Errorf("what stays as it is differs: %+v", d)
	}
	r.pass(5)
	r.want("r", rollout.Progressing, 1, 1)
	r.pass(4)
	r.want("r", rollout.Progressing, 2, 4)
	r.pass(4)
	v := r.want("r", rollout.Complete, 3, 4)
	if !v.InForce || !slices.Equal(v.Differs, []string{"NetworkPolicy shop/web"}) {
		t.Errorf("complete, and %+v", v)
	}
	if rule := r.kernel.Decide(toDB(1)).Rule; rule.Name != "db" {
		t.Errorf("by %s", rule)
	}
	if d := r.kernel.Decide(toStranger(1)); d.Verdict != flow.Deny || d.Rule.Name != "web" {
		t.Errorf("in the end, a stranger: %+v", d)
	}
	text := strings.Join(r.said, "\n")
	for _, want := range []string{"step 1 of 3: audit for 3s", "step 1 passed", "step 3 of 3: enforce all pods for 3s", "Complete"} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is said %d times in\n%s", want, strings.Count(text, want), text)
		}
	}
	o := r.base.Objects() // now the files say the same
	o.Policies = append(o.Policies, webOut(t))
	var err error
	if r.base, err = cluster.NewState(o); err != nil {
		t.Fatal(err)
	}
	r.enforce()
	if v := r.view("r"); len(v.Differs) > 0 {
		t.Errorf("the files say the same, and it differs in %s", v.Differs)
	}
}

func TestDenialRollsBackAtOnce(t *testing.T) {
	r := newRig(t)
	r.follow(spec("r", "1", webOut(t), canary, all))
	r.pass(2)
	v := r.want("r", rollout.Progressing, 0, 1)
	var member, other int
	for i := range 4 {
		if "shop/web-"+fmt.Sprint(i) == v.Cohort[0] {
			member = i + 1
		} else {
			other = i + 1
		}
	}
	if d := r.kernel.Decide(toStranger(other)); d.Verdict != flow.Allow {
		t.Fatalf("who is not in the cohort is judged by the candidate: %+v", d)
	}
	denied := r.kernel.Decide(toStranger(member))
	if denied.Verdict != flow.Deny || denied.Rule.Name != "web (candidate)" {
		t.Fatalf("the canary: %+v", denied)
	}
	d := r.Saw(toStranger(member), flow.Deny, false, r.now)
	if d == nil || d.Candidate || d.Verdict != flow.Allow || d.Rollout != "r" {
		t.Errorf("the denial: %+v", d)
	}
	select {
	case <-r.wake:
	default:
		t.Error("nobody is woken by a denial")
	}
	r.Driver.pass(r.now) // without any time
	if !r.again {
		t.Fatal("nothing is to be put in force again")
	}
	r.enforce()
	v = r.want("r", rollout.RolledBack, 0, 0)
	if f := v.Evidence.Findings; len(f) != 1 || !f[0].Enforced || f[0].Kind != rollout.NewlyDenied || f[0].Before != "no policy" ||
		f[0].After != "shop/web (candidate) egress (web.yaml:1)" || f[0].Source != "shop/web" || f[0].Destination != "shop/stranger" || f[0].Port != "80/tcp" {
		t.Errorf("found %+v", f)
	}
	if r.judged != r.base {
		t.Error("something is left of it")
	}
	if d := r.Saw(toStranger(member), flow.Allow, false, r.now); d != nil {
		t.Errorf("what is over still differs: %+v", d)
	}
}

func TestWhatIsOpenIsJudgedBeforeAnythingIsEnforced(t *testing.T) {
	r := newRig(t)
	r.living = []flow.Tuple{toStranger(1), toDB(2)}
	r.broken = errors.New("not now")
	r.follow(spec("r", "1", webOut(t), all))
	r.pass(10)
	r.want("r", rollout.Progressing, 0, 0) // nobody could list them yet
	if n := strings.Count(strings.Join(r.said, "\n"), "not now"); n != 1 {
		t.Errorf("the error is told %d times", n)
	}
	r.broken = nil
	r.pass(1)
	v := r.want("r", rollout.RolledBack, 0, 0)
	if f := v.Evidence.Findings; len(f) != 1 || !f[0].Live || f[0].Enforced {
		t.Errorf("found %+v", f)
	}
	if r.listed != 11 {
		t.Errorf("connections were listed %d times", r.listed)
	}
}

func TestWhatCannotBeJudgedIsNoFinding(t *testing.T) {
	r := newRig(t)
	r.follow(spec("r", "1", webOut(t), audit, all))
	unknown := flow.Tuple{Source: addr(1), Destination: addr(99), Protocol: flow.TCP, Port: 80}
	for what, saw := range map[string]func() *judge.Difference{
		"an unknown pod":       func() *judge.Difference { return r.Saw(unknown, flow.Allow, false, r.now) },
		"a verdict of before":  func() *judge.Difference { return r.Saw(toStranger(1), flow.Deny, false, r.now) },
		"pods of no concern":   func() *judge.Difference { return r.Saw(toDB(11), flow.Deny, false, r.now) },
		"a tuple that is none": func() *judge.Difference { return r.Saw(flow.Tuple{}, flow.Allow, false, r.now) },
	} {
		if d := saw(); d != nil {
			t.Errorf("%s: %+v", what, d)
		}
	}
	if e := r.view("r").Evidence; len(e.Findings) > 0 || e.Uncertain != 2 || e.Connections != 0 {
		t.Errorf("evidence %+v", e)
	}
}

// A crash at any moment: the next program finds the same, or what is to be put in force is not in force yet.
func TestCrashAtAnyMoment(t *testing.T) {
	s := spec("r", "1", webOut(t), audit, canary, all)
	for _, seconds := range []int{0, 1, 4, 5, 8, 9, 12, 13, 20} {
		r := newRig(t)
		r.follow(s)
		r.pass(seconds)
		before, members := r.view("r"), len(r.view("r").Cohort)
		r.again = false
		r.open()
		r.follow(s)
		after := r.view("r")
		if after.Phase != before.Phase || after.Step != before.Step || len(after.Cohort) != members {
			t.Errorf("after %d s: %s step %d with %d pods, and then %s step %d with %d", seconds, before.Phase, before.Step, members,
				after.Phase, after.Step, len(after.Cohort))
		}
		r.now = r.now.Add(time.Hour)
		r.pass(20)
		r.want("r", rollout.Complete, 3, 4)
	}
}

// A disk that takes nothing stops what would widen, and not what narrows.
func TestDiskThatTakesNothing(t *testing.T) {
	r := newRig(t)
	r.follow(spec("r", "1", webOut(t), audit, canary, all))
	r.pass(2)
	good := r.file
	r.file = filepath.Join(r.folder, "none", "rollouts.json")
	r.pass(10)
	r.want("r", rollout.Progressing, 0, 0)
	r.file = good
	r.pass(2)
	v := r.want("r", rollout.Progressing, 1, 1)
	r.file = filepath.Join(r.folder, "none", "rollouts.json")
	member := int(v.Cohort[0][len(v.Cohort[0])-1]-'0') + 1
	r.Saw(toStranger(member), flow.Deny, false, r.now)
	r.pass(1)
	r.want("r", rollout.RolledBack, 1, 0)
}

func TestRolloutsOfOnePolicyTakeTurns(t *testing.T) {
	r := newRig(t)
	a, b := spec("a", "1", webOut(t), all), spec("b", "1", np(t, "web", "app=web", flow.Egress, accept("app=stranger", 80)), audit, all)
	c := spec("c", "1", np(t, "other", "app=stranger", flow.Egress), all)
	r.follow(a, b, c)
	r.pass(2)
	r.want("a", rollout.Progressing, 0, 4)
	if v := r.want("b", rollout.Waiting, 0, 0); !strings.Contains(v.Reason, "rollout a") {
		t.Errorf("b waits for %s", v.Reason)
	}
	r.want("c", rollout.Progressing, 0, 1)
	r.pass(4)
	r.want("a", rollout.Complete, 1, 4)
	r.want("b", rollout.Progressing, 0, 0) // its turn, on top of a
	if d := r.Saw(toDB(1), flow.Allow, false, r.now); d == nil || !d.Candidate || d.Verdict != flow.Deny || d.Rollout != "b" {
		t.Errorf("b beside a: %+v", d)
	}
	r.pass(5)
	r.want("b", rollout.RolledBack, 0, 0)
	if d := r.kernel.Decide(toStranger(1)); d.Verdict != flow.Deny {
		t.Error("a is not in force any more")
	}
}

func TestFormerRevisionIsKept(t *testing.T) {
	r := newRig(t)
	r.follow(spec("r", "1", webOut(t), all))
	r.pass(6)
	r.want("r", rollout.Complete, 1, 4)
	r.open() // the next program never saw the first revision's manifest
	second := spec("r", "2", np(t, "web", "app=web", flow.Egress, accept("app=stranger", 80)), canary, all)
	r.follow(second)
	r.pass(1)
	r.want("r", rollout.Progressing, 0, 1)
	if err := r.Do("r", rollout.Abort, r.now); err != nil {
		t.Fatal(err)
	}
	r.enforce()
	if d := r.kernel.Decide(toStranger(1)); d.Verdict != flow.Deny || d.Rule.Name != "web" {
		t.Errorf("the first revision is not in force: %+v", d)
	}
	if err := r.Do("r", rollout.Retry, r.now); err != nil {
		t.Fatal(err)
	}
	r.enforce()
	r.pass(10)
	r.want("r", rollout.Complete, 2, 4)
	if d := r.kernel.Decide(toStranger(1)); d.Verdict != flow.Allow {
		t.Errorf("the second revision is not in force: %+v", d)
	}
	if err := r.Do("r", rollout.Undo, r.now); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.follow(second)
	if d := r.kernel.Decide(toStranger(1)); d.Verdict != flow.Deny {
		t.Errorf("after the undo, the first revision is not in force: %+v", d)
	}
	r.follow() // removed: the files rule
	if r.judged != r.base {
		t.Error("something of a rollout that is no more is in force")
	}
	_, past := r.Views()
	if len(past) != 1 || !strings.Contains(past[0].Events[len(past[0].Events)-1].Text, "removed") {
		t.Errorf("its history is %+v", past)
	}
	now, kept, err := Read(r.folder)
	if err != nil || len(now) != 0 || len(kept) != 1 || !reflect.DeepEqual(kept[0].Status, past[0].Status) {
		t.Errorf("kept are %+v, %+v, %v", now, kept, err)
	}
}

func TestHealthOfTheCohort(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*rig, cluster.Key)
		reason string
	}{
		"not ready": {func(r *rig, k cluster.Key) { r.pods[k] = Pod{} }, "not ready any more: shop/web-"},
		"gone":      {func(r *rig, k cluster.Key) { delete(r.pods, k) }, "not ready any more: shop/web-"},
		"restarted": {func(r *rig, k cluster.Key) { r.pods[k] = Pod{Ready: true, Restarts: 1} }, "restarted: shop/web-"},
		"no answers": {func(r *rig, k cluster.Key) {
			for range 10 {
				r.Ended(k, cluster.Key{}, flow.Unanswered)
				r.Ended(cluster.Key{Namespace: "shop", Name: "db"}, cluster.Key{}, flow.Well)
			}
		}, "100% of the cohort's connections failed, 0% of all others"},
		"resets": {func(r *rig, k cluster.Key) {
			for range 10 {
				r.Ended(cluster.Key{}, k, flow.Reset)
				r.Ended(cluster.Key{Namespace: "shop", Name: "db"}, cluster.Key{}, flow.Well)
			}
		}, "100% of the cohort's established connections were reset, 0% of all others"},
		"resets as ever": {func(r *rig, k cluster.Key) {
			for range 10 {
				r.Ended(cluster.Key{}, k, flow.Reset)
				r.Ended(cluster.Key{Namespace: "shop", Name: "db"}, cluster.Key{}, flow.Reset)
			}
		}, ""},
		"another pod": {func(r *rig, k cluster.Key) {
			for _, e := range r.base.Endpoints() {
				if e.Key != k {
					r.pods[e.Key] = Pod{Restarts: 7}
				}
			}
		}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			slow := canary
			slow.For = time.Hour
			r.follow(spec("r", "1", webOut(t), slow, all))
			r.pass(3)
			ns, name, _ := strings.Cut(r.want("r", rollout.Progressing, 0, 1).Cohort[0], "/")
			c.change(r, cluster.Key{Namespace: ns, Name: name})
			r.pass(2)
			if c.reason == "" {
				r.want("r", rollout.Progressing, 0, 1)
				return
			}
			if v := r.want("r", rollout.RolledBack, 0, 0); !strings.Contains(v.Reason, c.reason) {
				t.Errorf("because %s", v.Reason)
			}
		})
	}
}

func TestLostProbePauses(t *testing.T) {
	r := newRig(t)
	s := spec("r", "1", webOut(t), audit, all)
	s.Analysis.Probes.Then = rollout.Inconclusive
	r.follow(s)
	r.pass(6)
	if v := r.want("r", rollout.Paused, 0, 0); v.Reason != "would lose DNS of shop/web" {
		t.Errorf("because %s", v.Reason)
	}
}

// TestQueries: answers are those of the step, and a bad one rolls back.
func TestQueries(t *testing.T) {
	r := newRig(t)
	most := 0.01
	asks := spec("r", "1", webOut(t), audit, canary, all)
	asks.Analysis.Queries = []rollout.Query{{Name: "errors", Max: &most}}
	answer := func(v float64) []rollout.Measurement {
		return []rollout.Measurement{{Query: "errors", Values: []float64{v}}}
	}
	r.answers = map[string][]rollout.Measurement{"r 1 0": answer(0)}
	r.follow(asks)
	r.pass(2)
	if v := r.view("r"); !slices.Equal(v.Queries, []string{"errors: 0 (at most 0.01)"}) {
		t.Errorf("shown %q", v.Queries)
	}
	r.pass(4)
	v := r.want("r", rollout.Progressing, 1, 1)
	if !slices.Equal(v.Queries, []string{"errors: no answer: it was not asked yet"}) {
		t.Errorf("the answers of another step are shown: %q", v.Queries)
	}
	r.answers["r 1 1"] = answer(0.5)
	r.pass(1)
	if v := r.want("r", rollout.RolledBack, 1, 0); v.Reason != "query errors: 0.5 is more than 0.01" || v.Queries != nil {
		t.Errorf("%s, %q", v.Reason, v.Queries)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	if err := r.Do("r", rollout.Promote, r.now); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	r.follow(spec("r", "1", webOut(t), audit, all))
	if err := r.Do("r", rollout.Undo, r.now); err == nil {
		t.Error("what is not complete can be undone")
	}
	if err := os.WriteFile(filepath.Join(r.folder, "rollouts.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.options()); err == nil || !strings.Contains(err.Error(), "begin anew") {
		t.Errorf("damage: %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	s := spec("r", "1", webOut(t), rollout.Step{Kind: rollout.Pause}, all)
	r.follow(s)
	r.Saw(toDB(1), flow.Allow, false, r.now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Driver.Run(ctx); close(done) }()
	cancel()
	<-done
	if now, _, err := Read(r.folder); err != nil || len(now) != 1 || now[0].Phase != rollout.Paused {
		t.Errorf("left behind: %+v, %v", now, err)
	}
}
