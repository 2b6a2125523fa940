package compile_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func compiled(t interface{ Fatalf(string, ...any) }, s *cluster.State, node string) *ruleset.Ruleset {
	c := compile.New(compile.Options{Node: node})
	c.Update(s, nil)
	if err := c.Ruleset().Check(); err != nil {
		t.Fatalf("%v in\n%s", err, c.Ruleset())
	}
	return c.Ruleset()
}

// The compiler and the reference share nothing but the meaning of the values, and agree on verdict, side and rule.
func TestEqualsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		r := compiled(t, s, "")
		for range 20 {
			tuple := clustertest.Tuple(t, s)
			want := eval.Evaluate(s, s.Resolve(tuple)).Flow()
			if got := r.Decide(tuple); got != want {
				t.Fatalf("%s: compiled %+v, reference %+v\n%s", tuple, got, want, r)
			}
		}
	})
}

// A node judges the sides of its own pods only, and those as the reference does.
func TestNodeEqualsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		r := compiled(t, s, "n1")
		for range 20 {
			tuple := clustertest.Tuple(t, s)
			want := reference(s, tuple, "n1")
			if got := r.Decide(tuple); got != want {
				t.Fatalf("%s: compiled %+v, reference %+v\n%s", tuple, got, want, r)
			}
		}
	})
}

func TestUpdateGivesTheDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node")
		c := compile.New(compile.Options{Node: node})
		s, at := clustertest.State(t), ruleset.New()
		for range 4 {
			before := c.Ruleset()
			d := c.Update(s, nil)
			if err := ruleset.Apply(at, d); err != nil {
				t.Fatalf("apply: %v", err)
			}
			if !at.Equal(c.Ruleset()) || at.Generation != c.Ruleset().Generation {
				t.Fatalf("after the delta\n%sbut the compiler has\n%s", at, c.Ruleset())
			}
			if err := ruleset.CheckEquivalent(at, compiled(t, s, node)); err != nil {
				t.Fatalf("the result depends on the way to it: %v", err)
			}
			if again := c.Update(s, nil); len(again.Ops) != 0 || again.Tightens || again.From != at.Generation || again.To != at.Generation {
				t.Fatalf("an unchanged state gives %+v", again)
			}
			next := clustertest.Mutate(t, s)
			checkTightens(t, before, c.Ruleset(), d.Tightens, s, next)
			checkNumbers(t, before, c.Ruleset())
			s = next
		}
	})
}

// checkTightens looks for a connection that a delta takes away without saying that it tightens.
func checkTightens(t *rapid.T, before, after *ruleset.Ruleset, tightens bool, states ...*cluster.State) {
	for _, s := range states {
		for range 5 {
			tuple := clustertest.Tuple(t, s)
			lost := before.Judge(tuple).Verdict == flow.Allow && after.Judge(tuple).Verdict != flow.Allow
			if lost && !tightens {
				t.Fatalf("%s is lost, and the delta does not say that it tightens", tuple)
			}
		}
	}
}

// checkNumbers checks that what two successive rulesets both hold has the same meaning in both.
func checkNumbers(t *rapid.T, before, after *ruleset.Ruleset) {
	for id, row := range before.Rows {
		if now, ok := after.Rows[id]; ok && !now.Equal(row) {
			t.Fatalf("row %d was %s and is %s", id, row, now)
		}
	}
	for id, rule := range before.Rules {
		if now, ok := after.Rules[id]; ok && now != rule {
			t.Fatalf("rule %d was %s and is %s", id, rule, now)
		}
	}
}
