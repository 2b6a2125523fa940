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

// A step of a way is changes that are flushed together. One without changes stands for a restart: a new compiler is
// given all that the old one was, and nothing else.
type step []change

// ways are what may lie between two clusters: each gives the steps that lead from old to s. The changes to s and those
// that remove what only old has meet no object twice, so that their order means nothing.
var ways = []struct {
	name  string
	steps func(t *rapid.T, old, s *cluster.State) []step
}{
	{"in one batch", func(t *rapid.T, old, s *cluster.State) []step {
		return []step{between(old, s)}
	}},
	{"in any order", func(t *rapid.T, old, s *cluster.State) []step {
		return []step{rapid.Permutation(between(old, s)).Draw(t, "order")}
	}},
	{"reversed", func(t *rapid.T, old, s *cluster.State) []step {
		all := between(old, s)
		slices.Reverse(all)
		return apart(all)
	}},
	{"split", func(t *rapid.T, old, s *cluster.State) []step {
		return apart(rapid.Permutation(between(old, s)).Draw(t, "order"))
	}},
	{"squashed", func(t *rapid.T, old, s *cluster.State) []step {
		// What lies between is never flushed: to old, elsewhere, and to s.
		elsewhere := clustertest.Mutate(t, s)
		return []step{slices.Concat(between(s, old), between(old, elsewhere), between(elsewhere, s))}
	}},
	{"in some batches", func(t *rapid.T, old, s *cluster.State) []step {
		return batches(t, rapid.Permutation(between(old, s)).Draw(t, "order"))
	}},
	{"duplicated", func(t *rapid.T, old, s *cluster.State) []step {
		all := between(old, s)
		return append(batches(t, append(all, all...)), between(old, s))
	}},
	{"with spurious deletions", func(t *rapid.T, old, s *cluster.State) []step {
		stranger := clustertest.State(t)
		spurious := append(removals(stranger, s), removals(old, s)...)
		return batches(t, rapid.Permutation(append(between(old, s), spurious...)).Draw(t, "order"))
	}},
	{"with empty flushes", func(t *rapid.T, old, s *cluster.State) []step {
		nothing := step{func(*compile.Compiler) {}}
		var all []step
		for _, x := range apart(between(old, s)) {
			all = append(all, nothing, x, nothing)
		}
		return all
	}},
	{"there and back", func(t *rapid.T, old, s *cluster.State) []step {
		back := []step{between(old, s), between(s, old)}
		return append(append(back, apart(between(old, s))...), between(s, old), between(old, s))
	}},
	{"removed and made anew", func(t *rapid.T, old, s *cluster.State) []step {
		return []step{between(old, s), between(s, empty(t)), between(empty(t), s)}
	}},
	{"with restarts", func(t *rapid.T, old, s *cluster.State) []step {
		var all []step
		for _, x := range batches(t, between(old, s)) {
			all = append(all, x, nil)
		}
		return all
	}},
}

// between returns the changes that lead from old to s.
func between(old, s *cluster.State) []change { return append(additions(s), removals(old, s)...) }

// apart flushes every change by itself.
func apart(all []change) (steps []step) {
	for _, f := range all {
		steps = append(steps, step{f})
	}
	return steps
}

// batches flushes now and then.
func batches(t *rapid.T, all []change) (steps []step) {
	for len(all) > 0 {
		n := rapid.IntRange(1, len(all)).Draw(t, "batch")
		steps, all = append(steps, all[:n]), all[n:]
	}
	return steps
}

// A traveller goes a way, and holds the ruleset that its deltas led to.
type traveller struct {
	node string
	c    *compile.Compiler
	at   *ruleset.Ruleset
	done []change
}

func newTraveller(node string) *traveller {
	return &traveller{node: node, c: compile.New(compile.Options{Node: node}), at: ruleset.New()}
}

func (w *traveller) take(t *rapid.T, x step) {
	if x == nil {
		w.restart(t)
		return
	}
	for _, f := range x {
		f(w.c)
	}
	w.done = append(w.done, x...)
	w.flush(t)
}

func (w *traveller) flush(t *rapid.T) {
	if err := ruleset.Apply(w.at, w.c.Flush()); err != nil {
		t.Fatal(err)
	}
	if !w.at.Equal(w.c.Ruleset()) {
		t.Fatalf("the deltas make\n%sthe compiler has\n%s", w.at, w.c.Ruleset())
	}
}

func (w *traveller) restart(t *rapid.T) {
	before := w.at
	w.c, w.at = compile.New(compile.Options{Node: w.node}), ruleset.New()
	for _, f := range w.done {
		f(w.c)
	}
	w.flush(t)
	if err := ruleset.CheckEquivalent(before, w.at); err != nil {
		t.Fatalf("after a restart: %v\nbefore\n%safter\n%s", err, before, w.at)
	}
}

// The result depends on the objects only, whatever the way to them. What it is compared with is a compiler that was given
// the objects once, which other tests compare with the reference.
func TestTheWayDoesNotMatter(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newTraveller(rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node"))
				old := clustertest.State(t)
				s := clustertest.Mutate(t, clustertest.Mutate(t, old))
				w.take(t, between(empty(t), old))
				for _, x := range way.steps(t, old, s) {
					w.take(t, x)
				}
				checkArrived(t, w, s)
			})
		})
	}
}

func checkArrived(t *rapid.T, w *traveller, s *cluster.State) {
	if err := w.at.Check(); err != nil {
		t.Fatal(err)
	}
	full := compiled(t, s, w.node)
	if err := ruleset.CheckEquivalent(w.at, full); err != nil {
		t.Fatalf("%v\nincremental\n%sfull\n%s", err, w.at, full)
	}
	for range 10 {
		tuple := clustertest.Tuple(t, s)
		if got, want := w.c.Judge(tuple), w.at.Judge(tuple); got != want {
			t.Fatalf("%s: the compiler says %+v, its ruleset %+v", tuple, got, want)
		}
		if got, want := w.c.Decide(tuple), full.Decide(tuple); got != want {
			t.Fatalf("%s: the compiler says %+v, a new one %+v", tuple, got, want)
		}
	}
}

// Two pods that change in one batch, and everything that one of them may send the other: the connection between them is
// judged by two identities, which do not move at once.
func TestTwoPodsChangeAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := compile.New(compile.Options{Node: rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node")})
		s := clustertest.State(t)
		c.Update(s, nil)
		for range 2 {
			before := c.Ruleset()
			next, changed := clustertest.ChangePods(t, s, 2)
			d := c.Update(next, nil)
			checkPrefixes(t, before, c.Ruleset(), d, tuplesAmong(t, changed, s, next))
			s = next
		}
	})
}

// tuplesAmong returns connections between the addresses that pods have in some state, in both directions, and some more.
func tuplesAmong(t *rapid.T, keys []cluster.Key, states ...*cluster.State) (tuples []flow.Tuple) {
	for _, s := range states {
		for range 5 {
			tuples = append(tuples, clustertest.Tuple(t, s))
		}
	}
	kinds := slices.Clone(tuples)
	for _, s := range states {
		for _, a := range addressesOf(keys, states) {
			for _, b := range addressesOf(keys, states) {
				if a == b || a.Is4() != b.Is4() {
					continue
				}
				x := rapid.SampledFrom(kinds).Draw(t, "kind of connection")
				x.Source, x.Destination = a, b
				tuples = append(tuples, s.Resolve(x).Tuple())
			}
		}
	}
	return tuples
}

func addressesOf(keys []cluster.Key, states []*cluster.State) (all []netip.Addr) {
	for _, s := range states {
		for _, k := range keys {
			if e := s.Endpoint(k); e != nil {
				all = append(all, e.Addresses...)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
