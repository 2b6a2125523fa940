package compile_test

import (
	"cmp"
	"flag"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var (
	checks = flag.Int("checks", 0, "how many (state, change, connection) TestMillions compares; 0: RINGFENCE_CHECKS, else 200,000")
	seed   = flag.Int("seed", 0, "where TestMillions begins, to repeat a failure; 0: anywhere")
)

// A story is a cluster that changes, and connections to ask about at every point. All of it follows from one number.
type story struct {
	node   string
	states []*cluster.State
	tuples []flow.Tuple
}

var stories = rapid.Custom(func(t *rapid.T) story {
	x := story{node: rapid.SampledFrom([]string{"", "n1"}).Draw(t, "node"), states: []*cluster.State{clustertest.State(t)}}
	for i := range 4 {
		x.states = append(x.states, clustertest.Mutate(t, x.states[i]))
		x.tuples = append(x.tuples, clustertest.Tuple(t, x.states[i]), clustertest.Tuple(t, x.states[i+1]))
	}
	return x
})

// TestMillions compares, after each change, an incremental compiler and the ruleset that its deltas make with the
// reference, which starts from nothing. It begins somewhere else each time and says where: a number of stories later a
// failure is found again with -seed.
//
//	go test ./internal/compile -run TestMillions -v -timeout 2h -checks 10000000 -seed 1
func TestMillions(t *testing.T) {
	first := *seed
	if first == 0 {
		first = int(time.Now().UnixNano() & (1<<40 - 1))
	}
	wanted := checksWanted(t)
	t.Logf("-checks %d -seed %d", wanted, first)
	done, changes := 0, 0
	for n := first; done < wanted; n++ {
		x := stories.Example(n)
		done += x.check(t, n)
		changes += len(x.states) - 1
		if t.Failed() {
			t.Fatalf("the first difference is in the story -seed %d, after %d checks", n, done)
		}
	}
	t.Logf("%d comparisons after %d changes of %d clusters, no difference", done, changes, changes/4)
}

func checksWanted(t *testing.T) int {
	if *checks != 0 {
		return *checks
	}
	n, err := strconv.Atoi(cmp.Or(os.Getenv("RINGFENCE_CHECKS"), "200000"))
	if err != nil {
		t.Fatalf("RINGFENCE_CHECKS: %v", err)
	}
	return n
}

// check follows a story and returns how many connections it compared.
func (x *story) check(t *testing.T, number int) (compared int) {
	r := rand.New(rand.NewPCG(uint64(number), 0))
	c, at := compile.New(compile.Options{Node: x.node}), ruleset.New()
	for i, s := range x.states {
		if err := ruleset.Apply(at, c.Update(s, nil)); err != nil {
			t.Fatalf("-seed %d: state %d: %v", number, i, err)
		}
		if i == 0 {
			continue // no change yet
		}
		for range 150 {
			tuple := s.Resolve(x.draw(r)).Tuple()
			want := reference(s, tuple, x.node)
			if got := c.Decide(tuple); got != want {
				t.Errorf("-seed %d: state %d: %s: compiled %+v, reference %+v", number, i, tuple, got, want)
			}
			if got := at.Decide(tuple); got != want {
				t.Errorf("-seed %d: state %d: %s: the deltas make %+v, reference %+v", number, i, tuple, got, want)
			}
			compared++
		}
	}
	return compared
}

// draw returns a connection of parts of those of the story, in whose state they need not have been.
func (x *story) draw(r *rand.Rand) flow.Tuple {
	pick := func() flow.Tuple { return x.tuples[r.IntN(len(x.tuples))] }
	tuple, from, to := pick(), pick(), pick()
	if r.IntN(2) == 0 {
		from.Source = from.Destination
	}
	if from.Source.Is4() == to.Destination.Is4() {
		tuple.Source, tuple.Destination = from.Source, to.Destination
	}
	return tuple
}

// reference is what the reference says of the sides that a node judges.
func reference(s *cluster.State, tuple flow.Tuple, node string) flow.Decision {
	d := eval.Evaluate(s, s.Resolve(tuple))
	if node == "" {
		return d.Flow()
	}
	d.Verdict = flow.Allow
	for _, side := range []**eval.Side{&d.Egress, &d.Ingress} {
		if *side != nil && (*side).Subject.Node != node {
			*side = nil
		}
	}
	return d.Flow()
}
