package compile_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A change leads a compiler from any cluster towards another one.
type change func(*compile.Compiler)

// additions returns those that make s of an empty cluster.
func additions(s *cluster.State) (all []change) {
	for _, e := range s.Endpoints() {
		all = append(all, func(c *compile.Compiler) { c.SetPod(e, ruleset.Attachment{}) })
	}
	for _, n := range s.Namespaces() {
		all = append(all, func(c *compile.Compiler) { c.SetNamespace(n) })
	}
	for _, n := range s.Nodes() {
		all = append(all, func(c *compile.Compiler) { c.SetNode(n) })
	}
	for _, p := range s.Policies() {
		all = append(all, func(c *compile.Compiler) { c.SetPolicy(p) })
	}
	return append(all, func(c *compile.Compiler) { c.SetPodRanges(s.PodRanges()) })
}

// removals returns the deletion of what old has and s has not, which on a compiler without it are spurious.
func removals(old, s *cluster.State) (all []change) {
	for _, e := range old.Endpoints() {
		if s.Endpoint(e.Key) == nil {
			all = append(all, func(c *compile.Compiler) { c.DeletePod(e.Key) })
		}
	}
	for _, n := range old.Namespaces() {
		declared := false
		for _, m := range s.Namespaces() {
			declared = declared || m.Name == n.Name
		}
		if !declared {
			all = append(all, func(c *compile.Compiler) { c.DeleteNamespace(n.Name) })
		}
	}
	for _, n := range old.Nodes() {
		if !slices.ContainsFunc(s.Nodes(), func(m cluster.Node) bool { return m.Name == n.Name }) {
			all = append(all, func(c *compile.Compiler) { c.DeleteNode(n.Name) })
		}
	}
	for _, p := range old.Policies() {
		there := false
		for _, q := range s.Policies() {
			there = there || p.Namespace == q.Namespace && p.Name == q.Name
		}
		if !there {
			all = append(all, func(c *compile.Compiler) { c.DeletePolicy(p.Namespace, p.Name) })
		}
	}
	return all
}

// At every point of a delta, whatever changes at once, a connection is allowed only if the state before or the one
// after allows it, and denied only if one of them denies it.
func TestEveryPrefixIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node")
		c := compile.New(compile.Options{Node: node})
		s := clustertest.State(t)
		c.Update(s, nil)
		for range 3 {
			before := c.Ruleset()
			next := s
			for range rapid.IntRange(1, 4).Draw(t, "mutations") {
				next = clustertest.Mutate(t, next)
			}
			d := c.Update(next, nil)
			var tuples []flow.Tuple
			for range 15 {
				tuples = append(tuples, clustertest.Tuple(t, s), clustertest.Tuple(t, next))
			}
			checkPrefixes(t, before, c.Ruleset(), d, tuples)
			s = next
		}
	})
}

func checkPrefixes(t *rapid.T, before, after *ruleset.Ruleset, d ruleset.Delta, tuples []flow.Tuple) {
	at := before.Clone()
	for i, op := range d.Ops {
		if err := ruleset.Apply(at, ruleset.Delta{From: at.Generation, To: at.Generation, Ops: []ruleset.Op{op}}); err != nil {
			t.Fatalf("op %d, %s: %v", i, op, err)
		}
		for _, tuple := range tuples {
			is := at.Judge(tuple).Verdict
			if is != before.Judge(tuple).Verdict && is != after.Judge(tuple).Verdict {
				t.Fatalf("after op %d of\n%s%s is %s, which it is neither before nor after\nbefore\n%safter\n%s", i, opsText(d), tuple, is, before, after)
			}
		}
	}
	if !at.Equal(after) {
		t.Fatalf("the delta makes\n%sthe compiler has\n%s", at, after)
	}
}

func opsText(d ruleset.Delta) string {
	text := ""
	for _, op := range d.Ops {
		text += op.String() + "\n"
	}
	return text
}

// Where a pod is plugged in may change alone.
func TestAttachmentsChange(t *testing.T) {
	s := state(t, []*cluster.Endpoint{pod("one", "10.0.0.1", "")})
	key := s.Endpoints()[0].Key
	c := compile.New(compile.Options{})
	for _, step := range []struct{ at, want string }{
		{"veth1", "set local 10.0.0.1 on veth1\n"}, {"veth2", "set local 10.0.0.1 on veth2\n"}, {"veth2", ""}, {"", "set local 10.0.0.1\n"},
	} {
		d := c.Update(s, map[cluster.Key]ruleset.Attachment{key: {Interface: step.at}})
		if got := opsText(d); got != step.want {
			t.Errorf("on %q: %q, want %q", step.at, got, step.want)
		}
		if at := c.Ruleset().Locals[s.Endpoints()[0].Addresses[0]]; at.Interface != step.at {
			t.Errorf("on %q: the ruleset has %q", step.at, at.Interface)
		}
	}
}

// When all is gone, nothing is left.
func TestEverythingGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		c := compile.New(compile.Options{})
		c.Update(s, nil)
		for _, f := range removals(s, empty(t)) {
			f(c)
		}
		c.SetPodRanges(nil)
		c.Flush()
		if r := c.Ruleset(); !r.Equal(ruleset.New()) {
			t.Fatalf("there is left\n%s", r)
		}
	})
}

func empty(t *rapid.T) *cluster.State {
	s, err := cluster.NewState(cluster.Objects{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJudgeDoesNotAllocate(t *testing.T) {
	s := state(t, []*cluster.Endpoint{pod("one", "10.0.0.1", "app=a"), pod("two", "10.0.0.2", "app=b")})
	c := compile.New(compile.Options{})
	c.Update(s, nil)
	for _, to := range []string{"10.0.0.2", "192.0.2.1", "10.0.0.9"} {
		tuple := flow.Tuple{Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr(to), Protocol: flow.TCP, Port: 80}
		if n := testing.AllocsPerRun(100, func() { c.Judge(tuple) }); n != 0 {
			t.Errorf("to %s: %v allocations", to, n)
		}
	}
}
