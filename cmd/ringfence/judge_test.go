package main

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
)

// TestJudgeAgreesWithReference: verdict, side and rule are those of the reference, for pods with and without addresses.
func TestJudgeAgreesWithReference(t *testing.T) {
	compiled, asked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		j := newJudge(s)
		j.left = 5
		for range 20 {
			c := clustertest.Connection(t, s)
			if got, want := j.decide(c), eval.Evaluate(s, c).Flow(); got != want {
				t.Fatalf("%s to %s, %v/%d, translated %t: %+v, the reference says %+v", c.From, c.To, c.Protocol, c.Port, c.Translated, got, want)
			}
			if j.left < 0 && j.resolved(c) {
				compiled++
			} else {
				asked++
			}
		}
	})
	if compiled == 0 || asked == 0 {
		t.Errorf("%d connections were looked up and %d asked of the reference; want some of each", compiled, asked)
	}
}
