package eval_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
)

// Evaluate itself is the slow twin of the oracle, which asks it less often.
func TestOracleSaysWhatTheReferenceSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		o := eval.NewOracle(s)
		for range 40 {
			c := s.Resolve(clustertest.Tuple(t, s))
			want := eval.Evaluate(s, c).Flow()
			if got := o.Decide(c).Flow(); got != want {
				t.Fatalf("%v: %+v, want %+v", c, got, want)
			}
		}
	})
}
