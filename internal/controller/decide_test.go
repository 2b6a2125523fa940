package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// written is a rollout of two steps of ten seconds for the pods of shop/web.
const written = `apiVersion: ringfence.dev/v1alpha1
kind: PolicyRollout
metadata: {name: lockdown, uid: u, resourceVersion: "1", generation: 1}
spec:
  policies:
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
  steps:
  - audit: {for: 10s}
  - enforce: {percent: 10, for: 10s}
  - enforce: {percent: 100, for: 10s}
`

func objectOf(t testing.TB, manifest string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	u := new(unstructured.Unstructured)
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u
}

func read(t testing.TB, u *unstructured.Unstructured) record.Record {
	t.Helper()
	r, err := record.Read(u)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// drill is a cluster of two nodes with four pods of shop/web, whose agents do what they should unless a test says
// otherwise.
type drill struct {
	t   *testing.T
	s   snapshot
	all []record.Record
	mem []*memory
	// forgetful: each moment has another leader, which knows only what was written.
	forgetful bool
	seen      map[string]rollout.Evidence // by node, in the step that is reported
	of        map[string]stepOf
	mute      map[string]bool
	probes    []string
	phases    []string                      // that were gone through
	answers   map[int][]rollout.Measurement // to queries, by step
}

func newDrill(t *testing.T, manifests ...string) *drill {
	t.Helper()
	d := &drill{t: t, s: snapshot{now: start, pods: map[cluster.Key]*kube.Pod{}, reports: map[string]v1alpha1.NodeEnforcementStatus{},
		boots: map[string]string{"n1": "boot", "n2": "boot"}}, answers: map[int][]rollout.Measurement{}, seen: map[string]rollout.Evidence{}, of: map[string]stepOf{}, mute: map[string]bool{}}
	d.s.measured = func(step string, queries []rollout.Query) []rollout.Measurement {
		if len(queries) == 0 {
			return nil
		}
		var name, digest string
		var revision, at int
		if _, err := fmt.Sscan(step, &name, &digest, &revision, &at); err != nil {
			t.Errorf("a step is called %q: %v", step, err)
		}
		return d.answers[at]
	}
	for _, m := range manifests {
		d.all, d.mem = append(d.all, read(t, objectOf(t, m))), append(d.mem, &memory{})
	}
	for i := range 4 {
		d.setPod(fmt.Sprintf("web-%d", i), kube.Health{Ready: true, Since: start.Add(-time.Hour)})
	}
	return d
}

func (d *drill) setPod(name string, h kube.Health) *kube.Pod {
	n := len(d.s.pods)
	key := cluster.Key{Namespace: "shop", Name: name}
	p := d.s.pods[key]
	if p == nil {
		p = &kube.Pod{Endpoint: &cluster.Endpoint{Key: key, UID: "uid-" + name, Node: fmt.Sprintf("n%d", n%2+1), Created: start.Add(-2 * time.Hour),
			Labels: label.MustSet(map[string]string{"app": "web"}), Owner: cluster.Owner{Kind: "Deployment", Name: "web"}}, UID: "uid-" + name}
	}
	p.Health = h
	d.s.pods[key] = p
	d.remake()
	return p
}

func (d *drill) remake() {
	o := cluster.Objects{Namespaces: []cluster.Namespace{{Name: "shop"}}}
	for _, p := range d.s.pods {
		o.Endpoints = append(o.Endpoints, p.Endpoint)
	}
	var err error
	if d.s.state, err = cluster.NewState(o); err != nil {
		d.t.Fatal(err)
	}
}

// report has all agents put in force what is stored, and report it.
func (d *drill) report() {
	for _, n := range []string{"n1", "n2"} {
		if d.mute[n] {
			continue
		}
		s := v1alpha1.NodeEnforcementStatus{Ready: true, BootID: "boot"}
		for _, r := range d.all {
			of := stepOfStatus(r.Status)
			if d.of[n+r.Name] != of { // none of the steps here is a pause
				d.of[n+r.Name], d.seen[n+r.Name] = of, rollout.Evidence{}
			}
			s.Rollouts = append(s.Rollouts, v1alpha1.NodeRollout{Name: r.Name, Digest: of.digest, Revision: int64(of.revision), StepIndex: int32(of.step),
				Phase: string(r.Status.Phase), InForce: true, Living: true, Evidence: record.ToEvidence(d.seen[n+r.Name])})
		}
		d.s.reports[n] = s
	}
}

// saw has a node see a connection, of a kind of finding if one is given.
func (d *drill) saw(node string, kind rollout.FindingKind, enforced bool) {
	e := d.seen[node+d.all[0].Name]
	e.Saw("shop/web")
	if kind != "" {
		e.Add(rollout.Finding{Kind: kind, Enforced: enforced, Source: "shop/web", Destination: "shop/db", Port: "5432/tcp", Before: "no policy",
			After: "shop/web egress", Example: "shop/web-0 -> shop/db-0", First: d.s.now, Last: d.s.now})
	}
	d.seen[node+d.all[0].Name] = e
}

// pass lets seconds pass, each with a look of a controller.
func (d *drill) pass(seconds int) {
	d.t.Helper()
	for range seconds {
		d.s.now = d.s.now.Add(time.Second)
		for i := range d.all {
			m := d.mem[i]
			if d.forgetful {
				m = &memory{}
			}
			was := d.all[i].Status
			next := d.s.move(d.all, i, m, func(record.Record, *reach) []string { return d.probes })
			if d.forgetful {
				u, err := next.Object()
				if err != nil {
					d.t.Fatal(err)
				}
				next = read(d.t, u)
			}
			d.all[i] = next
			if is := next.Status; is.Phase != was.Phase || is.Step != was.Step || is.Revision != was.Revision {
				d.phases = append(d.phases, fmt.Sprintf("%s %s %d", next.Name, is.Phase, is.Step))
			}
		}
		d.report()
	}
}

func (d *drill) want(phase rollout.Phase, step int, reason string) {
	d.t.Helper()
	s := d.all[0].Status
	if s.Phase != phase || s.Step != step || !strings.Contains(s.Reason, reason) {
		d.t.Fatalf("it is %s in step %d, %q (nodes %s); want %s in step %d, %q", s.Phase, s.Step, s.Reason, d.all[0].Nodes, phase, step, reason)
	}
}

// twice runs a test with one leader, and with another one at each moment.
func twice(t *testing.T, run func(t *testing.T, forgetful bool)) {
	t.Run("one leader", func(t *testing.T) { run(t, false) })
	t.Run("always another leader", func(t *testing.T) { run(t, true) })
}

func TestGoesThroughItsSteps(t *testing.T) {
	twice(t, func(t *testing.T, forgetful bool) {
		d := newDrill(t, written)
		d.forgetful = forgetful
		for range 40 {
			d.pass(1)
			d.saw("n1", "", false)
			d.saw("n2", "", false)
		}
		want := []string{"lockdown Progressing 0", "lockdown Progressing 1", "lockdown Progressing 2", "lockdown Complete 3"}
		if !slices.Equal(d.phases, want) {
			t.Fatalf("it went %q, want %q; %v", d.phases, want, d.all[0].Status.Events)
		}
		if d.all[0].Complete == nil || d.all[0].Nodes != "2/2" {
			t.Errorf("at the end it is %+v", d.all[0])
		}
	})
}

func TestTimeCountsOnlyWhereItIsInForce(t *testing.T) {
	d := newDrill(t, written)
	d.mute["n2"] = true
	d.pass(25)
	d.want(rollout.Progressing, 0, "")
	if s := d.all[0].Status; s.Watched != 0 || d.all[0].Nodes != "1/2, not n2" {
		t.Errorf("watched %s on %s", s.Watched, d.all[0].Nodes)
	}
	d.pass(10) // and then a person is told
	d.want(rollout.Paused, 0, "nothing is known of node n2")
	d.mute["n2"] = false
	d.pass(2)
	d.want(rollout.Progressing, 0, "")

	d.s.deaf = true
	before := d.all[0].Status.Watched
	d.pass(30)
	if now := d.all[0].Status.Watched; now != before {
		t.Errorf("%s passed while nothing was heard", now-before)
	}
}

// A node that was started anew has nothing in force any more, whatever it said before; nor has one that is not ready.
// Nobody waits for a node that is not meant to run an agent, also if pods run there that the change selects.
func TestNodesThatAreSpared(t *testing.T) {
	d := newDrill(t, written)
	d.mute["n2"] = true
	d.pass(3)
	if s := d.all[0].Status; s.Watched != 0 || d.all[0].Nodes != "1/2, not n2" {
		t.Fatalf("watched %s on %s", s.Watched, d.all[0].Nodes)
	}
	d.s.spared = map[string]bool{"n2": true}
	d.pass(3)
	if s := d.all[0].Status; s.Watched == 0 || d.all[0].Nodes != "1/1" {
		t.Errorf("watched %s on %s", s.Watched, d.all[0].Nodes)
	}
}

func TestWhatANodeSaidBefore(t *testing.T) {
	d := newDrill(t, written)
	d.pass(3)
	s := d.all[0].Status
	if !d.s.enforces("n1", s) {
		t.Fatal("it is in force, and reported")
	}
	for what, change := range map[string]func(*v1alpha1.NodeEnforcementStatus, *v1alpha1.NodeRollout){
		"before the machine was started":  func(r *v1alpha1.NodeEnforcementStatus, _ *v1alpha1.NodeRollout) { r.BootID = "earlier" },
		"by an agent that is not ready":   func(r *v1alpha1.NodeEnforcementStatus, _ *v1alpha1.NodeRollout) { r.Ready = false },
		"of the step before":              func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.StepIndex-- },
		"of an earlier revision":          func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.Revision-- },
		"of another spec":                 func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.Digest = "other" },
		"of another rollout":              func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.Name = "other" },
		"that it is not in force":         func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.InForce = false },
		"that connections are not judged": func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.Living = false },
		"that it is over":                 func(_ *v1alpha1.NodeEnforcementStatus, x *v1alpha1.NodeRollout) { x.Phase = "Aborted" },
	} {
		r := d.s.reports["n1"]
		r.Rollouts = slices.Clone(r.Rollouts)
		change(&r, &r.Rollouts[0])
		other := d.s
		other.reports = map[string]v1alpha1.NodeEnforcementStatus{"n1": r}
		if other.enforces("n1", s) {
			t.Errorf("a report %s counts", what)
		}
	}
}

func TestRollsBackByItself(t *testing.T) {
	twice(t, func(t *testing.T, forgetful bool) {
		d := newDrill(t, written)
		d.forgetful = forgetful
		for range 15 {
			d.pass(1)
			d.saw("n1", "", false)
		}
		d.want(rollout.Progressing, 1, "")
		d.saw("n2", rollout.NewlyDenied, true)
		d.report()
		d.pass(1)
		d.want(rollout.RolledBack, 1, "denied 1 connection: shop/web -> shop/db 5432/tcp, once by shop/web egress")
		events := d.all[0].Status.Events
		e := eventOf(d.all[0], events[len(events)-1])
		if e.Type != "Warning" || e.Reason != "RolledBack" || !strings.Contains(e.Message, "; since 03:04:20.000 UTC, first shop/web-0 -> shop/db-0") || e.InvolvedObject.Name != "lockdown" {
			t.Errorf("the event is %s %s %q", e.Type, e.Reason, e.Message)
		}
		d.pass(20)
		d.want(rollout.RolledBack, 1, "")
		if d.all[0].Nodes != "2/2" || d.all[0].Cohort != 0 {
			t.Errorf("it is rolled back on %s, with a cohort of %d", d.all[0].Nodes, d.all[0].Cohort)
		}
	})
}

func TestAnAuditIsJudgedAtItsEnd(t *testing.T) {
	d := newDrill(t, written)
	d.pass(2)
	d.saw("n1", rollout.NewlyDenied, false)
	d.saw("n2", rollout.NewlyDenied, false)
	d.pass(7)
	d.want(rollout.Progressing, 0, "")
	d.pass(4)
	d.want(rollout.RolledBack, 0, "would deny 2 connections")
}

func TestNewlyAllowedPausesUntilPromoted(t *testing.T) {
	d := newDrill(t, written)
	d.pass(2)
	d.saw("n1", rollout.NewlyAllowed, false)
	d.pass(12)
	d.want(rollout.Paused, 0, "would newly allow 1 connection")
	d.probes = []string{"DNS of shop/web"}
	d.pass(1)
	s, err := d.all[0].Status.Do(d.all[0].Spec, rollout.Promote, rollout.Health{Lost: d.all[0].Lost}, d.s.now)
	if err != nil {
		t.Fatal(err)
	}
	d.all[0] = d.all[0].With(s, d.s.now)
	d.pass(2)
	d.want(rollout.Progressing, 1, "")
	for range 10 {
		d.saw("n1", "", false)
		d.pass(1)
	}
	d.want(rollout.Progressing, 2, "") // what was found, probes too, is accepted
}

// What nodes have seen is kept, when they go, and when their agents forget it.
func TestWhatWasSeenStaysSeen(t *testing.T) {
	d := newDrill(t, written)
	d.pass(2)
	d.saw("n2", rollout.NewlyDenied, false)
	d.report()
	d.pass(1)
	delete(d.s.reports, "n2")
	d.mute["n2"] = true
	d.seen["n1lockdown"] = rollout.Evidence{}
	d.pass(1)
	if e := d.all[0].Status.Evidence; len(e.Findings) != 1 || e.Connections != 1 || !slices.Equal(e.Workloads, []string{"shop/web"}) {
		t.Errorf("what is left is %+v", e)
	}
}

// TestQueries: what servers answer counts in the step in which they were asked, also for another leader.
func TestQueries(t *testing.T) {
	twice(t, func(t *testing.T, forgetful bool) {
		d := newDrill(t, written+"  analysis:\n    queries: [{name: errors, server: \"http://prometheus:9090\", query: errors, max: 0.01, then: Pause}]\n")
		d.forgetful = forgetful
		watch := func() {
			for range 12 {
				d.pass(1)
				d.saw("n1", "", false)
				d.saw("n2", "", false)
			}
		}
		watch()
		d.want(rollout.Paused, 0, "query errors has no answer: it was not asked yet")
		d.answers[0] = []rollout.Measurement{{Query: "errors", Values: []float64{0}}}
		d.pass(1)
		d.want(rollout.Progressing, 1, "")
		d.answers[1] = []rollout.Measurement{{Query: "errors", Values: []float64{0.5}}}
		d.pass(1)
		d.want(rollout.Paused, 1, "query errors: 0.5 is more than 0.01")
		s, err := d.all[0].Status.Do(d.all[0].Spec, rollout.Promote, rollout.Health{}, d.s.now)
		if err != nil {
			t.Fatal(err)
		}
		d.all[0] = d.all[0].With(s, d.s.now)
		watch()
		d.want(rollout.Progressing, 2, "")
	})
}

func TestHealthOfTheCohort(t *testing.T) {
	enforced := func(t *testing.T) *drill {
		d := newDrill(t, strings.Replace(written, "  - audit: {for: 10s}\n  - enforce: {percent: 10, for: 10s}\n", "", 1))
		d.setPod("web-1", kube.Health{Ready: false, Since: start.Add(-time.Minute), Restarted: start.Add(-time.Minute)})
		d.pass(3)
		d.want(rollout.Progressing, 0, "")
		return d
	}
	d := enforced(t) // one that was not ready before, and one that is new, and ends
	d.setPod("web-1", kube.Health{Ready: false, Since: start.Add(-time.Minute), Restarted: start.Add(-time.Minute)})
	young := d.setPod("web-9", kube.Health{Ready: false, Since: d.s.now})
	young.Created = d.s.now
	going := d.setPod("web-3", kube.Health{Ready: false, Since: d.s.now})
	going.Terminating = true
	d.pass(2)
	d.want(rollout.Progressing, 0, "")

	d.setPod("web-2", kube.Health{Ready: false, Since: d.s.now})
	d.pass(1)
	d.want(rollout.RolledBack, 0, "not ready any more: shop/web-2")

	d = enforced(t)
	d.setPod("web-0", kube.Health{Ready: true, Since: start.Add(-time.Hour), Restarted: d.s.now})
	d.pass(1)
	d.want(rollout.RolledBack, 0, "restarted: shop/web-0")
}

func TestCoverageWantsCronJobs(t *testing.T) {
	d := newDrill(t, written)
	o := d.s.state.Objects()
	o.Workloads = []cluster.Workload{{Key: cluster.Key{Namespace: "shop", Name: "backup"}, Kind: "CronJob",
		Template: &cluster.Endpoint{Key: cluster.Key{Namespace: "shop"}, Labels: label.MustSet(map[string]string{"app": "web"})}}}
	var err error
	if d.s.state, err = cluster.NewState(o); err != nil {
		t.Fatal(err)
	}
	for range 13 {
		d.pass(1)
		d.saw("n1", "", false)
	}
	d.want(rollout.Paused, 0, "no connection was seen of shop/backup")
}

func TestTwoRolloutsTakeTurns(t *testing.T) {
	twice(t, func(t *testing.T, forgetful bool) {
		d := newDrill(t, written, strings.Replace(written, "lockdown, uid: u", "other, uid: v", 1))
		d.forgetful = forgetful
		d.pass(3)
		if s := d.all[1].Status; s.Phase != rollout.Waiting || !strings.Contains(s.Reason, "lockdown") {
			t.Fatalf("the second is %s: %s", s.Phase, s.Reason)
		}
		s, err := d.all[0].Status.Do(d.all[0].Spec, rollout.Abort, rollout.Health{}, d.s.now)
		if err != nil {
			t.Fatal(err)
		}
		d.all[0] = d.all[0].With(s, d.s.now)
		d.pass(2)
		if s := d.all[1].Status; s.Phase != rollout.Progressing {
			t.Errorf("the second is %s: %s", s.Phase, s.Reason)
		}
		// Two at once, by whatever way, are one too many.
		both := d.all[0].Status
		both.Phase, both.Digest = rollout.Progressing, d.all[0].Digest
		both.Step = 1
		d.all[0] = d.all[0].With(both, d.s.now)
		second := d.all[1].Status
		second.Step = 1
		d.all[1] = d.all[1].With(second, d.s.now)
		d.pass(1)
		if a, b := d.all[0].Status, d.all[1].Status; a.Phase != rollout.Progressing || b.Phase != rollout.RolledBack || b.Reason == "" {
			t.Errorf("they are %s, and %s: %s", a.Phase, b.Phase, b.Reason)
		}
	})
}

// edit changes the spec as somebody who knows nothing of the status.
func (d *drill) edit(from, to string) {
	d.t.Helper()
	u, err := d.all[0].Object()
	if err != nil {
		d.t.Fatal(err)
	}
	data, err := yaml.Marshal(u.Object["spec"])
	if err != nil || !strings.Contains(string(data), from) {
		d.t.Fatalf("%q is not in %s: %v", from, data, err)
	}
	var spec map[string]any
	if err := yaml.Unmarshal([]byte(strings.Replace(string(data), from, to, 1)), &spec); err != nil {
		d.t.Fatal(err)
	}
	u = objectOf(d.t, string(mustYAML(d.t, map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": u.Object["metadata"],
		"spec": spec, "status": u.Object["status"]})))
	d.all[0] = read(d.t, u)
}

func mustYAML(t testing.TB, v any) []byte {
	t.Helper()
	data, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAnEditBeginsAnew(t *testing.T) {
	twice(t, func(t *testing.T, forgetful bool) {
		d := newDrill(t, written)
		d.forgetful = forgetful
		for range 15 {
			d.pass(1)
			d.saw("n1", "", false)
		}
		d.want(rollout.Progressing, 1, "")
		d.edit("percent: 10\n", "percent: 20\n")
		d.pass(1)
		d.want(rollout.Progressing, 0, "")
		if s := d.all[0].Status; s.Revision != 2 || s.Evidence.Connections != 0 || d.all[0].Former != nil {
			t.Errorf("it is %+v", s)
		}
		for range 40 {
			d.pass(1)
			d.saw("n1", "", false)
		}
		d.want(rollout.Complete, 3, "")
		done := d.all[0].Complete.Digest
		d.edit("percent: 20\n", "percent: 0\n") // with an error
		d.pass(1)
		d.want(rollout.Invalid, 0, "0 is not from 1 to 100")
		if f := d.all[0].Former; f == nil || f.Digest != done {
			t.Fatalf("what was complete is %+v", f)
		}
		d.edit("percent: 0\n", "percent: 30\n")
		d.pass(1)
		d.want(rollout.Progressing, 0, "")
		if f := d.all[0].Former; f == nil || f.Digest != done || d.all[0].Complete != nil {
			t.Errorf("what was complete is %+v", f)
		}
	})
}

func TestNewsAreTold(t *testing.T) {
	event := func(n int) rollout.Event {
		return rollout.Event{Time: start.Add(time.Duration(n) * time.Second), Text: fmt.Sprint(n)}
	}
	was := rollout.Status{Events: []rollout.Event{event(1), event(2)}}
	for _, c := range []struct {
		is   []rollout.Event
		want int
	}{{[]rollout.Event{event(1), event(2)}, 0}, {[]rollout.Event{event(1), event(2), event(3)}, 1}, {[]rollout.Event{event(2), event(3), event(4)}, 2},
		{[]rollout.Event{event(7)}, 1}} {
		if got := news(was, rollout.Status{Events: c.is}); len(got) != c.want {
			t.Errorf("after %v the news of %v are %v", was.Events, c.is, got)
		}
	}
	if got := news(rollout.Status{}, was); len(got) != 2 {
		t.Errorf("the first news are %v", got)
	}
}
