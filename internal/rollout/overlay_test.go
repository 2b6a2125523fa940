package rollout_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// follower is what an agent does: an overlay, and a compiler for each view, told what changes only.
type follower struct {
	*rollout.Overlay
	node     string
	state    *cluster.State
	views    map[string]rollout.View
	compiled map[string]*compile.Compiler
}

func newFollower(node string, s *cluster.State) *follower {
	f := &follower{Overlay: rollout.NewOverlay(node), node: node, state: empty(), views: map[string]rollout.View{}, compiled: map[string]*compile.Compiler{}}
	f.views["in force"], f.compiled["in force"] = f.InForce(), compile.New(compile.Options{Node: node})
	f.to(s, nil)
	return f
}

func empty() *cluster.State {
	s, _ := cluster.NewState(cluster.Objects{})
	return s
}

// to goes to another state, and if set is not nil to other rollouts.
func (f *follower) to(s *cluster.State, set func()) {
	pods, policies := map[cluster.Key]bool{}, map[cluster.Key]bool{}
	for _, e := range slices.Concat(f.state.Endpoints(), s.Endpoints()) {
		if now := s.Endpoint(e.Key); now != f.state.Endpoint(e.Key) {
			f.SetPod(e.Key, now)
			pods[e.Key] = true
		}
	}
	now := map[cluster.Key]*policy.Policy{}
	for _, p := range s.Policies() {
		now[keyOf(p)] = p
	}
	for _, p := range slices.Concat(f.state.Policies(), s.Policies()) {
		f.SetPolicy(keyOf(p), now[keyOf(p)])
		policies[keyOf(p)] = true
	}
	spaces := map[string]*cluster.Namespace{}
	for _, n := range f.state.Namespaces() {
		spaces[n.Name] = nil
	}
	for _, n := range s.Namespaces() {
		spaces[n.Name] = &n
	}
	for name, n := range spaces {
		f.SetNamespace(name, n)
	}
	if set != nil {
		set()
	}
	morePods, morePolicies := f.Settle()
	for _, k := range morePods {
		pods[k] = true
	}
	for _, k := range morePolicies {
		policies[k] = true
	}
	for name, c := range f.compiled {
		f.tell(f.views[name], c, s, spaces, pods, policies)
	}
	f.state = s
}

func keyOf(p *policy.Policy) cluster.Key {
	return cluster.Key{Namespace: p.Namespace, Name: p.Name}
}

func (f *follower) tell(v rollout.View, c *compile.Compiler, s *cluster.State, spaces map[string]*cluster.Namespace, pods, policies map[cluster.Key]bool) {
	for name, n := range spaces {
		if n == nil {
			c.DeleteNamespace(name)
		} else {
			c.SetNamespace(*n)
		}
	}
	for _, n := range f.state.Nodes() {
		c.DeleteNode(n.Name)
	}
	for _, n := range s.Nodes() {
		c.SetNode(n)
	}
	for k := range pods {
		if e := v.Pod(k); e != nil {
			c.SetPod(e, ruleset.Attachment{})
		} else {
			c.DeletePod(k)
		}
	}
	for k := range policies {
		v.Policy(k, func(k cluster.Key, p *policy.Policy) {
			if p != nil {
				c.SetPolicy(p)
			} else {
				c.DeletePolicy(k.Namespace, k.Name)
			}
		})
	}
	c.SetPodRanges(s.PodRanges())
	c.Flush()
}

// look begins to compile the views beside what is in force of the rollouts that are under way.
func (f *follower) look(layers []rollout.Layer) {
	for name := range f.views {
		if name != "in force" {
			delete(f.views, name)
			delete(f.compiled, name)
		}
	}
	for _, l := range layers {
		f.views["before "+l.Name], f.views["after "+l.Name] = f.Before(l.Name), f.After(l.Name)
	}
	for name, v := range f.views {
		if f.compiled[name] != nil {
			continue
		}
		c := compile.New(compile.Options{Node: f.node})
		pods, policies, spaces := map[cluster.Key]bool{}, map[cluster.Key]bool{}, map[string]*cluster.Namespace{}
		for e := range f.Pods {
			pods[e.Key] = true
		}
		for k := range f.Policies {
			policies[k] = true
		}
		for n := range f.Namespaces {
			spaces[n.Name] = &n
		}
		f.compiled[name] = c
		f.tell(v, c, f.state, spaces, pods, policies)
	}
}

// drawRollouts draws two rollouts that touch different policies, each under way, in force for everyone, or neither.
func drawRollouts(t *rapid.T, s *cluster.State) (finals []rollout.Part, layers []rollout.Layer) {
	var taken []rollout.Ref
	bottom := s
	for _, name := range []string{"a", "b"} {
		policies, removed := clustertest.Candidates(t, bottom)
		var c rollout.Change
		used := slices.Clone(taken)
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
		cohort := rollout.Cohort{Percent: rapid.SampledFrom([]int{1, 30, 60, 100}).Draw(t, "percent")}
		switch rapid.IntRange(0, 4).Draw(t, "cohort") {
		case 0:
			cohort = rollout.Cohort{}
		case 1:
			cohort.Nodes = []string{rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "node")}
		case 2:
			if e := s.Endpoints(); len(e) > 0 {
				sel, err := label.MatchLabels(e[rapid.IntRange(0, len(e)-1).Draw(t, "like")].Labels.Map())
				if err != nil {
					t.Fatal(err)
				}
				cohort.Pods = &sel
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "final") == 0 {
			finals = append(finals, rollout.Part{Name: name, Change: c, Final: true})
			bottom = rewrite(t, bottom, finals[len(finals)-1])
			continue
		}
		taken = append(taken, c.Touches()...)
		layers = append(layers, rollout.Layer{Name: name, Change: c, Cohort: cohort})
	}
	return finals, layers
}

// TestOverlayIsRewrite: whatever comes, changes and goes, on each node every view has in force what Rewrite of the whole
// state makes, for every connection with an end there, and by the same rule.
func TestOverlayIsRewrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		f := newFollower(rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node"), s)
		var finals []rollout.Part
		var layers []rollout.Layer
		for range 6 {
			var set func()
			if rapid.Bool().Draw(t, "other rollouts") {
				finals, layers = drawRollouts(t, s)
				set = func() {
					if err := f.SetRollouts(finals, layers); err != nil {
						t.Fatal(err)
					}
				}
			} else {
				s = clustertest.Mutate(t, s)
			}
			f.to(s, set)
			if set != nil {
				f.look(layers)
			}
			f.check(t, finals, layers)
		}
	})
}

func (f *follower) check(t *rapid.T, finals []rollout.Part, layers []rollout.Layer) {
	bottom := rewrite(t, f.state, finals...)
	parts := map[string][]rollout.Part{}
	add := func(view string, l rollout.Layer, everyone bool) {
		members := l.Cohort.Choose(bottom, l.Name, l.Change)
		parts[view] = append(parts[view], rollout.Part{Name: l.Name, Change: l.Change, Members: members, Everyone: everyone || l.Cohort.Everyone()})
		selected := map[cluster.Key]bool{}
		for _, e := range l.Change.Selected(bottom) {
			selected[e.Key] = true
		}
		for _, e := range f.state.Endpoints() {
			if f.Includes(l.Name, e.Key) != members[e.Key] || f.Selects(l.Name, e.Key) != selected[e.Key] {
				t.Fatalf("rollout %s: includes %s: %v, selects it: %v", l.Name, e.Key, f.Includes(l.Name, e.Key), f.Selects(l.Name, e.Key))
			}
		}
	}
	for _, l := range layers {
		for view := range f.views {
			switch view {
			case "before " + l.Name:
			case "after " + l.Name:
				add(view, l, true)
			default:
				add(view, l, false)
			}
		}
	}
	for _, view := range slices.Sorted(maps.Keys(f.compiled)) {
		c := f.compiled[view]
		want := rewrite(t, bottom, parts[view]...)
		whole := compile.New(compile.Options{Node: f.node})
		whole.Update(want, nil)
		for range 8 {
			tuple := want.Resolve(clustertest.Tuple(t, want)).Tuple()
			got := c.Decide(tuple)
			if d := whole.Decide(tuple); d != got {
				t.Fatalf("%s: %s: %+v, want %+v", view, tuple, got, d)
			}
			if ref := reference(want, tuple, f.node); ref != got.Verdict {
				t.Fatalf("%s: %s: %s, and the reference says %s", view, tuple, got.Verdict, ref)
			}
		}
	}
}

// reference is what the reference evaluator says of the sides of a connection that are on a node.
func reference(s *cluster.State, t flow.Tuple, node string) flow.Verdict {
	d := eval.Evaluate(s, s.Resolve(t))
	for _, side := range []struct {
		side *eval.Side
		pod  *cluster.Endpoint
	}{{d.Egress, d.Connection.From.Endpoint}, {d.Ingress, d.Connection.To.Endpoint}} {
		if side.side != nil && side.side.Verdict == flow.Deny && side.pod != nil && (node == "" || side.pod.Node == node) {
			return flow.Deny
		}
	}
	return flow.Allow
}

func TestOverlayRefusesRolloutsOfOnePolicy(t *testing.T) {
	o := rollout.NewOverlay("")
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "db", IsolatesIngress: true})
	if err != nil {
		t.Fatal(err)
	}
	change := rollout.Change{Policies: []*policy.Policy{p}}
	err = o.SetRollouts(nil, []rollout.Layer{{Name: "b", Change: change}, {Name: "a", Change: change}})
	if fmt.Sprint(err) != "rollout b: rollout a is under way with the same policies" {
		t.Errorf("the error is %v", err)
	}
	if err := o.SetRollouts(nil, []rollout.Layer{{Name: "no name", Change: change}}); err == nil {
		t.Error("a name that is no mark is taken")
	}
}
