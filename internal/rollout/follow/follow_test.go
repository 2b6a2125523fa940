package follow

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// node is what an agent does with what the API says, without an API and a kernel.
type node struct {
	*Follower
	name    string
	state   *cluster.State
	records map[string]*record.Record
	engine  *compile.Compiler
}

func newNode(name string) *node {
	empty, _ := cluster.NewState(cluster.Objects{})
	f := &node{Follower: New(Options{Node: name}), name: name, state: empty, records: map[string]*record.Record{}, engine: compile.New(compile.Options{Node: name})}
	f.Watches(true)
	return f
}

// to goes to another state and other rollouts.
func (f *node) to(s *cluster.State, records map[string]*record.Record) {
	b := kube.Batch{Pods: map[cluster.Key]*kube.Pod{}, Namespaces: map[string]*cluster.Namespace{}, Nodes: map[string]*cluster.Node{},
		Policies: map[kube.PolicyKey]*kube.Policy{}, Rollouts: map[string]*record.Record{}, Ranges: s.PodRanges(), RangesChanged: true}
	for _, e := range f.state.Endpoints() {
		b.Pods[e.Key] = nil
	}
	for _, e := range s.Endpoints() {
		b.Pods[e.Key] = &kube.Pod{Endpoint: e}
	}
	for _, n := range f.state.Namespaces() {
		b.Namespaces[n.Name] = nil
	}
	for _, n := range s.Namespaces() {
		b.Namespaces[n.Name] = &n
	}
	for _, n := range f.state.Nodes() {
		b.Nodes[n.Name] = nil
	}
	for _, n := range s.Nodes() {
		b.Nodes[n.Name] = &n
	}
	for _, p := range f.state.Policies() {
		b.Policies[cluster.Key{Namespace: p.Namespace, Name: p.Name}] = nil
	}
	for _, p := range s.Policies() {
		b.Policies[cluster.Key{Namespace: p.Namespace, Name: p.Name}] = &kube.Policy{Policy: p}
	}
	for name := range f.records {
		b.Rollouts[name] = nil
	}
	maps.Copy(b.Rollouts, records)
	f.state, f.records = s, records
	f.put(b)
}

// put does what the feed and the engine do with a batch.
func (f *node) put(b kube.Batch) {
	c := f.Take(b)
	x := Edits{Batch: b, Policies: c.Policies}
	for key, p := range b.Pods {
		if p == nil {
			x.Pods = append(x.Pods, PodEdit{Key: key})
		} else {
			x.Pods = append(x.Pods, PodEdit{Key: key, Pod: f.Pod(key)})
		}
	}
	for _, key := range c.Pods {
		x.Pods = append(x.Pods, PodEdit{Key: key, Pod: f.Pod(key)})
	}
	x.Apply(f.engine)
	f.engine.Flush()
	c.Apply()
	c.Done()
}

// settle is what happens then: living connections are judged, and perhaps the API takes the report.
func (f *node) settle(stored bool) {
	f.judged(f.begun())
	if stored {
		f.Stored(v1alpha1.NodeEnforcementStatus{Rollouts: f.Report()})
	}
	f.put(kube.Batch{})
}

// drawRecord draws a rollout that touches none of the policies that are taken, and returns those that it touches.
func drawRecord(t *rapid.T, name, digest string, s *cluster.State, taken []rollout.Ref) (*record.Record, []rollout.Ref) {
	policies, removed := clustertest.Candidates(t, s)
	used := slices.Clone(taken)
	var c rollout.Change
	for _, p := range policies {
		if !slices.Contains(used, rollout.RefOf(p)) {
			c.Policies, used = append(c.Policies, p), append(used, rollout.RefOf(p))
		}
	}
	for _, p := range removed {
		if !slices.Contains(used, rollout.RefOf(p)) {
			c.Remove = append(c.Remove, rollout.RefOf(p))
		}
	}
	spec := &rollout.Spec{Name: name, Change: c, Digest: digest, Steps: []rollout.Step{{Kind: rollout.Audit},
		{Kind: rollout.Enforce, Cohort: rollout.Cohort{Percent: rapid.SampledFrom([]int{1, 40, 100}).Draw(t, "percent"), Nodes: []string{"n1"}}},
		{Kind: rollout.Pause}, {Kind: rollout.Enforce, Cohort: rollout.Cohort{Percent: rapid.SampledFrom([]int{1, 40, 100}).Draw(t, "percent")}}}}
	r := &record.Record{Name: name, Spec: spec, Digest: digest, Status: rollout.Status{Rollout: name, Digest: digest, Revision: rapid.IntRange(1, 2).Draw(t, "revision"),
		Phase: rapid.SampledFrom([]rollout.Phase{rollout.Progressing, rollout.Progressing, rollout.Paused, rollout.Complete, rollout.RolledBack}).Draw(t, "phase"),
		Step:  rapid.IntRange(0, 3).Draw(t, "step")}}
	if r.Status.Phase == rollout.Complete {
		r.Complete = &record.Finished{Change: c, Digest: digest, At: time.Unix(int64(len(taken)), 0)}
	}
	switch rapid.IntRange(0, 5).Draw(t, "edited") {
	case 0: // and nobody has followed yet
		r.Digest = "another"
		edited := *spec
		edited.Digest, edited.Policies = "another", nil
		r.Spec = &edited
	case 1: // into what cannot be used
		r.Digest, r.Spec = "bad", nil
	}
	return r, c.Touches()
}

// moved draws other steps for rollouts.
func moved(t *rapid.T, records map[string]*record.Record) map[string]*record.Record {
	now := map[string]*record.Record{}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		x := *records[name]
		x.Status.Step = rapid.IntRange(0, 3).Draw(t, "step")
		now[name] = &x
	}
	return now
}

// TestTakeIsRewrite: whatever the API says one after the other, what the agent's engine has in force equals the reference's
// verdict of the whole state rewritten by the stored statuses, for every connection with an end on the node; and never more
// before the living connections are judged and that is stored. The judges judge by the same without the candidate, and with
// it for everyone.
func TestTakeIsRewrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		f := newNode(rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node"))
		records := map[string]*record.Record{}
		for i := range 5 {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				a, taken := drawRecord(t, "a", fmt.Sprint("a", i), s, nil)
				b, _ := drawRecord(t, "b", fmt.Sprint("b", i), s, taken)
				records = map[string]*record.Record{"a": a, "b": b}
			case 2:
				records = moved(t, records)
			default:
				s = clustertest.Mutate(t, s)
			}
			f.to(s, records)
			f.check(t)
			if rapid.Bool().Draw(t, "settle") {
				f.settle(rapid.Bool().Draw(t, "stored"))
				f.check(t)
			}
		}
	})
}

func (f *node) check(t *rapid.T) {
	t.Helper()
	var all []record.Record
	for _, name := range slices.Sorted(maps.Keys(f.records)) {
		all = append(all, *f.records[name])
	}
	bottom := rewrite(t, f.state, record.Finals(all)...)
	parts := map[string]rollout.Part{}
	for _, x := range all {
		u := f.all[x.Name]
		isUnderWay := x.Spec != nil && x.Status.Active() && x.Digest == x.Status.Digest
		if isUnderWay != (u != nil) {
			t.Fatalf("rollout %s: %s of %s, and the spec is %s: judged %v", x.Name, x.Status.Phase, x.Status.Digest, x.Digest, u != nil)
		}
		if isUnderWay && u.living && u.stored {
			parts[x.Name] = x.Status.Part(x.Spec, bottom)
		}
	}
	f.compare(t, "in force", f.engine, rewrite(t, bottom, values(parts, "")...))
	for _, u := range f.now {
		f.compare(t, u.name+" before", u.judge.Before, rewrite(t, bottom, values(parts, u.name)...))
		everyone := rollout.Part{Name: u.name, Change: f.records[u.name].Spec.Change, Everyone: true}
		f.compare(t, u.name+" after", u.judge.After, rewrite(t, bottom, append(values(parts, u.name), everyone)...))
	}
	for _, n := range f.Report() {
		x := f.records[n.Name]
		isHeld := x.Status.Active() && (f.all[n.Name] == nil || parts[n.Name].Name == "" && x.Status.Cohort(x.Spec).Percent > 0)
		if n.InForce == isHeld {
			t.Fatalf("rollout %s: held %v, and reported is %+v", n.Name, isHeld, n)
		}
	}
}

// values are the parts but one's, by name.
func values(parts map[string]rollout.Part, but string) []rollout.Part {
	var all []rollout.Part
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if name != but {
			all = append(all, parts[name])
		}
	}
	return all
}

func rewrite(t *rapid.T, s *cluster.State, parts ...rollout.Part) *cluster.State {
	out, err := rollout.Rewrite(s, parts...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *node) compare(t *rapid.T, what string, c *compile.Compiler, want *cluster.State) {
	t.Helper()
	for range 8 {
		tuple := want.Resolve(clustertest.Tuple(t, want)).Tuple()
		if got, ref := c.Decide(tuple).Verdict, f.reference(want, tuple); got != ref {
			t.Fatalf("%s: %s: %s, and the reference says %s", what, tuple, got, ref)
		}
	}
}

// reference is what the reference evaluator says of the sides of a connection that are on the node.
func (f *node) reference(s *cluster.State, t flow.Tuple) flow.Verdict {
	d := eval.Evaluate(s, s.Resolve(t))
	for _, x := range []struct {
		side *eval.Side
		pod  *cluster.Endpoint
	}{{d.Egress, d.Connection.From.Endpoint}, {d.Ingress, d.Connection.To.Endpoint}} {
		if x.side != nil && x.side.Verdict == flow.Deny && x.pod != nil && x.pod.Node == f.name {
			return flow.Deny
		}
	}
	return flow.Allow
}

// What a status says anew of the same policies is nothing new to the compilers, though it was decoded anew.
func TestStatusAloneChangesNoPolicy(t *testing.T) {
	f := benchNode(t)
	read := func(phase rollout.Phase) map[string]*record.Record {
		x := benchRollout(t, 1)
		x.Status.Phase = phase
		return map[string]*record.Record{"r": x}
	}
	f.put(kube.Batch{Rollouts: read(rollout.Progressing)})
	f.settle(true)
	in := f.Take(kube.Batch{Rollouts: read(rollout.Paused)})
	told := map[cluster.Key]*policy.Policy{}
	for _, p := range in.Policies {
		told[p.Key] = p.Policy
	}
	if len(told) != 2*benchSpaces {
		t.Fatalf("%d policies are told", len(told))
	}
	before := f.engine.Generation()
	x := Edits{Policies: in.Policies}
	for _, key := range in.Pods {
		x.Pods = append(x.Pods, PodEdit{Key: key, Pod: f.Pod(key)})
	}
	x.Apply(f.engine)
	if delta := f.engine.Flush(); len(delta.Ops) > 0 || f.engine.Generation() != before {
		t.Errorf("it changes %d elements", len(delta.Ops))
	}
	for _, p := range f.Take(kube.Batch{Rollouts: read(rollout.Progressing)}).Policies {
		if told[p.Key] != p.Policy {
			t.Errorf("%s is another object", p.Key)
		}
	}
}

// A report is bounded: rollouts that are under way come before those that are over, and of findings the first ones seen.
func TestReportOfRolloutsIsBounded(t *testing.T) {
	f := newNode("n1")
	all := map[string]*record.Record{}
	for i := range 2 * maxRollouts {
		x := &record.Record{Name: fmt.Sprintf("r%02d", i), Status: rollout.Status{Phase: rollout.RolledBack}}
		switch i {
		case 30:
			x.Status.Phase = rollout.Paused
		case 31:
			x.Name = record.ReturnName // which people wait for
		}
		all[x.Name] = x
	}
	f.put(kube.Batch{Rollouts: all})
	names := f.Report()
	if len(names) != maxRollouts || names[maxRollouts-3].Name != "r17" || names[maxRollouts-2].Name != "r30" ||
		names[maxRollouts-1].Name != record.ReturnName || !names[0].InForce || names[maxRollouts-2].InForce {
		t.Errorf("%d are reported, the last ones %+v", len(names), names[len(names)-2:])
	}
	var e rollout.Evidence
	for i := range 2 * maxFindings {
		at := time.Unix(int64(2*maxFindings-i), 0)
		e.Add(rollout.Finding{Kind: rollout.NewlyDenied, Source: fmt.Sprintf("a/w%02d", i), Count: 3, First: at, Last: at})
	}
	for i := range 2 * maxWorkloads {
		e.Know(fmt.Sprint("a/w", i))
	}
	if got := bounded(e); len(got.Findings) != maxFindings || got.Findings[0].Source != "a/w20" || got.More != 3*maxFindings || len(got.Workloads) != maxWorkloads ||
		len(e.Findings) != 2*maxFindings {
		t.Errorf("%d findings from %s on, and %d more", len(got.Findings), got.Findings[0].Source, got.More)
	}
}

// What the agent before this one reported is what this one goes on from, if it is of the same.
// Who waits for the end of a rollout's policies, as "rollout resume" does, goes by the reports.
func TestRolloutIsToldOfUntilItIsInForceNoMore(t *testing.T) {
	f := newNode("n7")
	f.put(kube.Batch{Rollouts: map[string]*record.Record{record.ReturnName: {Name: record.ReturnName, Status: rollout.Status{Phase: rollout.Complete}}}})
	c := f.Take(kube.Batch{Rollouts: map[string]*record.Record{record.ReturnName: nil}})
	if all := f.Report(); len(all) != 1 || all[0].Name != record.ReturnName || !all[0].InForce {
		t.Errorf("the API has it no more, and the kernel has: %+v", all)
	}
	c.Apply()
	c.Done()
	if all := f.Report(); len(all) != 0 {
		t.Errorf("the kernel has it no more: %+v", all)
	}
}

func TestRolloutIsRestored(t *testing.T) {
	was := v1alpha1.NodeRollout{Name: "r", Digest: "1", Revision: 1, Living: true, Evidence: v1alpha1.RolloutEvidence{Connections: 7}}
	for name, c := range map[string]struct {
		change      func(*v1alpha1.NodeRollout)
		living      bool
		connections int64
	}{
		"the same":         {func(*v1alpha1.NodeRollout) {}, true, 7},
		"another revision": {func(n *v1alpha1.NodeRollout) { n.Revision = 2 }, false, 0},
		"another spec":     {func(n *v1alpha1.NodeRollout) { n.Digest = "2" }, false, 0},
		"another step":     {func(n *v1alpha1.NodeRollout) { n.StepIndex = 1 }, true, 0},
		"not judged yet":   {func(n *v1alpha1.NodeRollout) { n.Living = false }, false, 7},
	} {
		f := newNode("n7")
		n := was
		c.change(&n)
		f.Restore(v1alpha1.NodeEnforcementStatus{Rollouts: []v1alpha1.NodeRollout{n}})
		if r := f.Report(); len(r) != 1 || r[0].Evidence.Connections != 7 {
			t.Errorf("%s: before the API has said anything, %+v is reported", name, r)
		}
		x := benchRollout(t, 1)
		spec := *x.Spec
		spec.Steps = append(spec.Steps, rollout.Step{Kind: rollout.Enforce, Cohort: rollout.Cohort{Percent: 100}})
		x.Spec = &spec
		f.put(kube.Batch{Rollouts: map[string]*record.Record{"r": x}})
		if r := f.Report()[0]; r.Living != c.living || r.InForce != c.living || r.Evidence.Connections != c.connections {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
