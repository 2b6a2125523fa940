package generation_test

import (
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/generation"
)

// What a person returned from is not the last good generation because it is in force again: that takes its time.
func TestWhatWasReturnedFromIsNotGoodAtOnce(t *testing.T) {
	s, _ := open(t, generation.Limits{})
	r := generation.NewRecorder(s, "files")
	before := generation.Return{Number: 1, ID: generation.Of(policies(1))}
	complete := generation.Arrival{Policies: policies(2), Rollouts: []string{"lockdown@1"}}
	for _, step := range []struct {
		arrival generation.Arrival
		mark    generation.Mark
		why     string
	}{
		{generation.Arrival{Policies: policies(1)}, generation.Unproven, "files"},
		{complete, generation.Good, "rollout lockdown complete"},
		{generation.Arrival{Policies: policies(1), Returned: &before}, generation.Unproven, "returned to " + before.String()},
		{complete, generation.Unproven, "resumed"},
	} {
		e, err := r.Note(ctx, step.arrival, start)
		if err != nil || e.Mark != step.mark || e.Why != step.why {
			t.Fatalf("%q, marked %q (%v), want %q, marked %q", e.Why, e.Mark, err, step.why, step.mark)
		}
	}
	if h := history(t, s); h[1].Mark != generation.Bad {
		t.Errorf("what was returned from is marked %q", h[1].Mark)
	}
	for _, after := range []time.Duration{generation.GoodAfter - 1, generation.GoodAfter} {
		if last, ok := history(t, s).LastGood(); ok {
			t.Errorf("before %v, %+v is good", after, last)
		}
		if err := r.Prove(ctx, start.Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	if last, ok := history(t, s).LastGood(); !ok || last.Number != 4 {
		t.Errorf("the last good one is %+v", last)
	}
}
