package rollout_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/rollout"
)

func TestWhatQueriesAnswer(t *testing.T) {
	one, two := 1.0, 2.0
	answered := func(v ...float64) []rollout.Measurement { return []rollout.Measurement{{Query: "q", Values: v}} }
	for what, c := range map[string]struct {
		step     rollout.StepKind
		then     rollout.Answer
		measured []rollout.Measurement
		at       time.Duration // of the answer
		phase    rollout.Phase
		reason   string
	}{
		"within":           {rollout.Enforce, rollout.Fail, answered(1, 1.5, 2), 10 * time.Second, rollout.Progressing, ""},
		"more":             {rollout.Enforce, rollout.Fail, answered(1.5, 2.5), time.Second, rollout.RolledBack, "query q: 2.5 is more than 2"},
		"less":             {rollout.Enforce, rollout.Inconclusive, answered(0.5), time.Second, rollout.Paused, "query q: 0.5 is less than 1"},
		"infinite":         {rollout.Enforce, rollout.Fail, answered(math.Inf(1)), time.Second, rollout.RolledBack, "query q: +Inf is more than 2"},
		"ignored":          {rollout.Enforce, rollout.Pass, answered(9), 10 * time.Second, rollout.Progressing, ""},
		"none ignored":     {rollout.Enforce, rollout.Pass, nil, 10 * time.Second, rollout.Progressing, ""},
		"not asked":        {rollout.Enforce, rollout.Fail, nil, 10 * time.Second, rollout.Paused, "query q has no answer: it was not asked yet"},
		"of another query": {rollout.Enforce, rollout.Fail, []rollout.Measurement{{Query: "p", Values: []float64{1}}}, 10 * time.Second, rollout.Paused, "not asked yet"},
		"empty":            {rollout.Enforce, rollout.Fail, answered(), 10 * time.Second, rollout.Paused, "query q has no answer: the answer is empty"},
		"no number":        {rollout.Enforce, rollout.Fail, answered(1, math.NaN()), 10 * time.Second, rollout.Paused, "not a number"},
		"one is beyond":    {rollout.Enforce, rollout.Fail, answered(math.NaN(), 3), time.Second, rollout.RolledBack, "3 is more than 2"},
		"unreachable":      {rollout.Enforce, rollout.Fail, []rollout.Measurement{{Query: "q", Problem: "connection refused"}}, 10 * time.Second, rollout.Paused, "connection refused"},
		"beyond in pause":  {rollout.Pause, rollout.Fail, answered(3), time.Second, rollout.RolledBack, "3 is more than 2"},
		"none in pause":    {rollout.Pause, rollout.Fail, nil, 10 * time.Second, rollout.Progressing, ""},
		"beyond before":    {rollout.Audit, rollout.Fail, answered(3), 10 * time.Second, rollout.Paused, "query q: 3 is more than 2, before anything is enforced"},
		"none before":      {rollout.Audit, rollout.Fail, nil, 10 * time.Second, rollout.Paused, "no answer"},
	} {
		t.Run(what, func(t *testing.T) {
			d := begin(specOf(c.step, rollout.Enforce))
			d.spec.Analysis.Queries = []rollout.Query{{Name: "q", Min: &one, Max: &two, Then: c.then}}
			d.health.Measured = c.measured
			d.pass(c.at - time.Second)
			if c.at > time.Second {
				d.want(t, rollout.Progressing, 0)
			}
			d.pass(time.Second)
			if d.status.Phase != c.phase || !strings.Contains(d.status.Reason, c.reason) {
				t.Errorf("%s: %q, want %s: %q", d.status.Phase, d.status.Reason, c.phase, c.reason)
			}
		})
	}
}

// TestUnansweredGoesOn: once there is an answer, or a person does without; who did does not accept a bad one by that.
func TestUnansweredGoesOn(t *testing.T) {
	most := 2.0
	fresh := func() *drive {
		d := begin(specOf(rollout.Enforce, rollout.Enforce, rollout.Enforce))
		d.spec.Analysis.Queries = []rollout.Query{{Name: "q", Max: &most}}
		d.pass(12 * time.Second)
		d.want(t, rollout.Paused, 0)
		return d
	}
	d := fresh()
	d.health.Measured = []rollout.Measurement{{Query: "q", Values: []float64{1}}}
	d.pass(time.Second)
	d.want(t, rollout.Progressing, 1)
	d = fresh()
	d.do(t, rollout.Promote)
	d.pass(10 * time.Second)
	d.want(t, rollout.Progressing, 2)
	d.health.Measured = []rollout.Measurement{{Query: "q", Values: []float64{3}}}
	d.pass(time.Second)
	d.want(t, rollout.RolledBack, 2)
}

// TestPromoteAcceptsQueries: what is beyond its limit, also with nothing known but the status.
func TestPromoteAcceptsQueries(t *testing.T) {
	most := 2.0
	d := begin(specOf(rollout.Enforce, rollout.Enforce))
	d.spec.Analysis.Queries = []rollout.Query{{Name: "q", Max: &most, Then: rollout.Inconclusive}, {Name: "qq", Max: &most, Then: rollout.Inconclusive}}
	answers := func(q, qq float64) []rollout.Measurement {
		return []rollout.Measurement{{Query: "q", Values: []float64{q}}, {Query: "qq", Values: []float64{qq}}}
	}
	d.health.Measured = answers(1, 3)
	d.pass(time.Second)
	d.want(t, rollout.Paused, 0)
	known := d.health
	d.health.Measured = nil // a person's program asks no servers
	d.do(t, rollout.Promote)
	d.health = known
	d.pass(3 * time.Second)
	d.want(t, rollout.Progressing, 0)
	d.health.Measured = answers(3, 3)
	d.pass(time.Second)
	d.want(t, rollout.Paused, 0)
	if want := "query q: 3 is more than 2"; d.status.Reason != want {
		t.Errorf("paused: %s, want %s", d.status.Reason, want)
	}
}

func TestQueriesInWords(t *testing.T) {
	least, most := 1.0, 2.0
	q := rollout.Query{Name: "q", Min: &least, Max: &most}
	for want, all := range map[string][]rollout.Measurement{
		"q: 1.5, 2 (at least 1, at most 2)":             {{Query: "p"}, {Query: "q", Values: []float64{1.5, 2}}},
		"q: 0 is less than 1":                           {{Query: "q", Values: []float64{0}}},
		"q: no answer: it was not asked yet":            nil,
		"q: no answer: the server did not answer":       {{Query: "q", Problem: "the server did not answer"}},
		"q: 1, 1, 1 and 2 more (at least 1, at most 2)": {{Query: "q", Values: []float64{1, 1, 1, 1, 1}}},
	} {
		if got := q.Tell(all); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
