package lab

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
)

// The reference itself is the slow twin of the oracle, which asks it less often.
func TestOracleSaysWhatTheReferenceSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		o := newOracle(s)
		for range 40 {
			tuple := clustertest.Tuple(t, s)
			if !tuple.Source.IsValid() || tuple.Translated {
				continue
			}
			want := eval.Evaluate(s, s.Resolve(tuple)).Flow()
			if got := o.decide(tuple); got != want {
				t.Fatalf("%s: %+v, want %+v", tuple, got, want)
			}
		}
	})
}
