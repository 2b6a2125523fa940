package rollout_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// specOf is a rollout that is watched for ten seconds in each step.
func specOf(kinds ...rollout.StepKind) *rollout.Spec {
	s := &rollout.Spec{Name: "r", Digest: "one", Analysis: rollout.DefaultAnalysis()}
	for i, k := range kinds {
		step := rollout.Step{Kind: k, For: 10 * time.Second}
		if k == rollout.Enforce {
			step.Cohort.Percent = 10
			if i == len(kinds)-1 {
				step.Cohort.Percent = 100
			}
		}
		s.Steps = append(s.Steps, step)
	}
	return s
}

// good is what is measured when nothing is wrong.
func good() rollout.Health {
	return rollout.Health{InForce: true, Selected: 10, Cohort: 1, Workloads: []string{"a/web"}}
}

// drive is a rollout and its clock.
type drive struct {
	spec   *rollout.Spec
	status rollout.Status
	health rollout.Health
	now    time.Time
}

func begin(spec *rollout.Spec) *drive {
	d := &drive{spec: spec, health: good(), now: start}
	d.status = rollout.Status{}.Follow(spec, "", d.now)
	return d
}

// pass lets time pass, with a connection each second.
func (d *drive) pass(t time.Duration) {
	for range t / time.Second {
		d.now = d.now.Add(time.Second)
		d.status.Evidence.Saw("a/web")
		d.status = d.status.Tick(d.spec, d.health, d.now)
	}
}

func (d *drive) do(t *testing.T, c rollout.Command) {
	t.Helper()
	var err error
	if d.status, err = d.status.Do(d.spec, c, d.health, d.now); err != nil {
		t.Fatal(err)
	}
}

func (d *drive) want(t *testing.T, phase rollout.Phase, step int) {
	t.Helper()
	if d.status.Phase != phase || d.status.Step != step {
		t.Fatalf("%s in step %d (%s), want %s in step %d; %v", d.status.Phase, d.status.Step, d.status.Reason, phase, step, d.status.Events)
	}
}

func finding(kind rollout.FindingKind, enforced bool) rollout.Finding {
	return rollout.Finding{Kind: kind, Enforced: enforced, Source: "a/web", Destination: "a/db", Port: "5432/tcp", After: "a/db ingress"}
}

func TestHarmlessChangeGoesThroughAlone(t *testing.T) {
	d := begin(specOf(rollout.Audit, rollout.Enforce, rollout.Pause, rollout.Enforce))
	for step := range 4 {
		d.want(t, rollout.Progressing, step)
		d.pass(9 * time.Second)
		d.want(t, rollout.Progressing, step)
		d.pass(time.Second)
	}
	d.want(t, rollout.Complete, 4)
	d.pass(time.Hour)
	d.want(t, rollout.Complete, 4)
}

func TestWhatTheAnalysisAnswers(t *testing.T) {
	denied, allowed := finding(rollout.NewlyDenied, true), finding(rollout.NewlyAllowed, true)
	for what, c := range map[string]struct {
		step   rollout.StepKind
		change func(*drive)
		at     time.Duration // of the answer
		phase  rollout.Phase
		reason string
	}{
		"denied": {rollout.Enforce, func(d *drive) { d.status.Evidence.Add(denied) }, time.Second, rollout.RolledBack, "denied 1 connection: a/web -> a/db 5432/tcp, once by a/db ingress"},
		"both ways": {rollout.Enforce, func(d *drive) {
			d.status.Evidence.Add(denied)
			d.status.Evidence.Add(finding(rollout.NewlyDenied, false))
		}, time.Second, rollout.RolledBack, "denied 1 connection and would deny 1: a/web -> a/db 5432/tcp, 2 times by a/db ingress"},
		"would deny":      {rollout.Audit, func(d *drive) { d.status.Evidence.Add(finding(rollout.NewlyDenied, false)) }, 10 * time.Second, rollout.RolledBack, "would deny 1 connection"},
		"allowed":         {rollout.Enforce, func(d *drive) { d.status.Evidence.Add(allowed) }, time.Second, rollout.Paused, "newly allowed 1 connection"},
		"would allow":     {rollout.Audit, func(d *drive) { d.status.Evidence.Add(finding(rollout.NewlyAllowed, false)) }, 10 * time.Second, rollout.Paused, "would newly allow"},
		"denied in pause": {rollout.Pause, func(d *drive) { d.status.Evidence.Add(denied) }, time.Second, rollout.RolledBack, "denied"},
		"both":            {rollout.Enforce, func(d *drive) { d.status.Evidence.Add(allowed); d.status.Evidence.Add(denied) }, time.Second, rollout.RolledBack, "denied 1 connection"},
		"not ready":       {rollout.Enforce, func(d *drive) { d.health.NotReady = []string{"a/web-1"} }, time.Second, rollout.RolledBack, "not ready any more: a/web-1"},
		"restart":         {rollout.Enforce, func(d *drive) { d.health.Restarts = []string{"a/web-1"} }, time.Second, rollout.RolledBack, "restarted: a/web-1"},
		"not answered": {rollout.Enforce, func(d *drive) {
			d.status.Evidence.Cohort, d.status.Evidence.Rest = rollout.Outcomes{Ended: 10, Failed: 3}, rollout.Outcomes{Ended: 100, Failed: 5}
		}, time.Second, rollout.RolledBack, "30% of the cohort's connections failed, 5% of all others"},
		"reset": {rollout.Enforce, func(d *drive) { // what never was a connection cannot be reset
			d.status.Evidence.Cohort, d.status.Evidence.Rest = rollout.Outcomes{Ended: 22, Failed: 2, Reset: 5}, rollout.Outcomes{Ended: 100, Reset: 4}
		}, time.Second, rollout.RolledBack, "25% of the cohort's established connections were reset, 4% of all others"},
		"resets everywhere": {rollout.Enforce, func(d *drive) {
			d.status.Evidence.Cohort, d.status.Evidence.Rest = rollout.Outcomes{Ended: 10, Reset: 10}, rollout.Outcomes{Ended: 10, Reset: 8}
		}, 10 * time.Second, rollout.Progressing, ""},
		"few established": {rollout.Enforce, func(d *drive) {
			d.spec.Analysis.FailedConnects.Then = rollout.Pass
			d.status.Evidence.Cohort, d.status.Evidence.Rest = rollout.Outcomes{Ended: 100, Failed: 91, Reset: 9}, rollout.Outcomes{Ended: 100}
		}, 10 * time.Second, rollout.Progressing, ""},
		"loses a probe":    {rollout.Enforce, func(d *drive) { d.health.Lost = []string{"DNS of a/web"} }, 10 * time.Second, rollout.Paused, "would lose DNS of a/web"},
		"selects nothing":  {rollout.Audit, func(d *drive) { d.health.Selected = 0 }, 10 * time.Second, rollout.Paused, "selects no pod"},
		"empty cohort":     {rollout.Enforce, func(d *drive) { d.health.Cohort = 0 }, 10 * time.Second, rollout.Paused, "the cohort has no pod"},
		"unseen workload":  {rollout.Audit, func(d *drive) { d.health.Workloads = []string{"a/job", "a/web"} }, 10 * time.Second, rollout.Paused, "no connection was seen of a/job"},
		"too little":       {rollout.Enforce, func(d *drive) { d.spec.Analysis.Coverage.Connections = 100 }, 10 * time.Second, rollout.Paused, "only 10 connections seen, 100 wanted"},
		"kinds beyond":     {rollout.Enforce, func(d *drive) { d.status.Evidence.More = 1 }, time.Second, rollout.RolledBack, "1 connection of more kinds differ"},
		"few connects":     {rollout.Enforce, func(d *drive) { d.status.Evidence.Cohort = rollout.Outcomes{Ended: 5, Failed: 5} }, 10 * time.Second, rollout.Progressing, ""},
		"ignored":          {rollout.Enforce, func(d *drive) { d.spec.Analysis.NewlyDenied.Then = rollout.Pass; d.status.Evidence.Add(denied) }, 10 * time.Second, rollout.Progressing, ""},
		"tolerated":        {rollout.Enforce, func(d *drive) { d.spec.Analysis.NewlyDenied.Max = 1; d.status.Evidence.Add(denied) }, 10 * time.Second, rollout.Progressing, ""},
		"readiness, audit": {rollout.Audit, func(d *drive) { d.health.NotReady = []string{"a/web-1"} }, 10 * time.Second, rollout.Progressing, ""},
	} {
		t.Run(what, func(t *testing.T) {
			d := begin(specOf(c.step, rollout.Enforce))
			c.change(d)
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

func TestInconclusiveGoesOnWhenEnoughWasSeen(t *testing.T) {
	d := begin(specOf(rollout.Audit, rollout.Enforce))
	d.health.Workloads = []string{"a/job", "a/web"}
	d.pass(time.Minute)
	d.want(t, rollout.Paused, 0)
	d.status.Evidence.Saw("a/job")
	d.pass(time.Second)
	d.want(t, rollout.Progressing, 1)
}

func TestPromoteAcceptsWhatWasFound(t *testing.T) {
	d := begin(specOf(rollout.Enforce, rollout.Enforce))
	d.status.Evidence.Add(finding(rollout.NewlyAllowed, true))
	d.pass(4 * time.Second)
	d.want(t, rollout.Paused, 0)
	d.do(t, rollout.Promote) // the rest of the step is still watched
	d.want(t, rollout.Progressing, 0)
	d.pass(8 * time.Second)
	d.want(t, rollout.Progressing, 0)
	d.pass(time.Second)
	d.want(t, rollout.Progressing, 1)
	d.status.Evidence.Add(finding(rollout.NewlyAllowed, true)) // the same again
	d.pass(time.Second)
	d.want(t, rollout.Progressing, 1)
	other := finding(rollout.NewlyAllowed, true)
	other.Source = "b/stranger"
	d.status.Evidence.Add(other)
	d.pass(time.Second)
	d.want(t, rollout.Paused, 1)
}

func TestPromoteAcceptsLostProbes(t *testing.T) {
	d := begin(specOf(rollout.Audit, rollout.Audit, rollout.Enforce))
	d.health.Lost = []string{"DNS of a/db"}
	d.pass(20 * time.Second)
	d.want(t, rollout.Paused, 0)
	d.do(t, rollout.Promote)
	d.want(t, rollout.Progressing, 1)
	d.pass(10 * time.Second)
	d.want(t, rollout.Progressing, 2)
}

func TestWhatPeopleMayDo(t *testing.T) {
	paused := specOf(rollout.Enforce, rollout.Pause, rollout.Enforce)
	paused.Steps[1].For = 0
	for what, c := range map[string]struct {
		prepare func(*testing.T, *drive)
		do      rollout.Command
		phase   rollout.Phase // "": refused
		step    int
	}{
		"promote a step":      {func(*testing.T, *drive) {}, rollout.Promote, rollout.Paused, 1}, // the next one pauses
		"promote a pause":     {func(_ *testing.T, d *drive) { d.pass(10 * time.Second) }, rollout.Promote, rollout.Progressing, 2},
		"promote the last":    {func(_ *testing.T, d *drive) { d.status.Step = 2 }, rollout.Promote, rollout.Complete, 3},
		"resume":              {func(t *testing.T, d *drive) { d.do(t, rollout.Hold) }, rollout.Promote, rollout.Progressing, 0},
		"pause":               {func(*testing.T, *drive) {}, rollout.Hold, rollout.Paused, 0},
		"pause twice":         {func(t *testing.T, d *drive) { d.do(t, rollout.Hold) }, rollout.Hold, "", 0},
		"abort":               {func(*testing.T, *drive) {}, rollout.Abort, rollout.Aborted, 0},
		"abort a pause":       {func(t *testing.T, d *drive) { d.do(t, rollout.Hold) }, rollout.Abort, rollout.Aborted, 0},
		"abort twice":         {func(t *testing.T, d *drive) { d.do(t, rollout.Abort) }, rollout.Abort, "", 0},
		"undo at work":        {func(*testing.T, *drive) {}, rollout.Undo, "", 0},
		"undo":                {func(_ *testing.T, d *drive) { d.status.Phase = rollout.Complete }, rollout.Undo, rollout.Undone, 0},
		"abort a complete":    {func(_ *testing.T, d *drive) { d.status.Phase = rollout.Complete }, rollout.Abort, "", 0},
		"promote a complete":  {func(_ *testing.T, d *drive) { d.status.Phase = rollout.Complete }, rollout.Promote, "", 0},
		"retry a complete":    {func(_ *testing.T, d *drive) { d.status.Phase = rollout.Complete }, rollout.Retry, "", 0},
		"retry":               {func(t *testing.T, d *drive) { d.do(t, rollout.Abort) }, rollout.Retry, rollout.Progressing, 0},
		"retry a rolled back": {func(_ *testing.T, d *drive) { d.status.Phase = rollout.RolledBack }, rollout.Retry, rollout.Progressing, 0},
		"retry at work":       {func(*testing.T, *drive) {}, rollout.Retry, "", 0},
		"nothing known":       {func(*testing.T, *drive) {}, "dance", "", 0},
		"edited meanwhile":    {func(_ *testing.T, d *drive) { d.status.Digest = "two" }, rollout.Promote, "", 0},
		"abort while waiting": {func(_ *testing.T, d *drive) { d.status = rollout.Status{}.Follow(d.spec, "other", d.now) }, rollout.Abort, rollout.Aborted, 0},
	} {
		t.Run(what, func(t *testing.T) {
			d := begin(paused)
			c.prepare(t, d)
			got, err := d.status.Do(d.spec, c.do, d.health, d.now)
			if (err != nil) != (c.phase == "") {
				t.Fatalf("%s: %v", got.Phase, err)
			}
			if err != nil {
				if !reflect.DeepEqual(got, d.status) {
					t.Error("what was refused changed something")
				}
				return
			}
			d.status = got
			d.want(t, c.phase, c.step)
		})
	}
}

func TestPausedStaysButIsGuarded(t *testing.T) {
	d := begin(specOf(rollout.Enforce, rollout.Enforce))
	d.do(t, rollout.Hold)
	d.pass(time.Hour)
	d.want(t, rollout.Paused, 0)
	d.status.Evidence.Add(finding(rollout.NewlyDenied, true))
	d.pass(time.Second)
	d.want(t, rollout.RolledBack, 0)
}

func TestNobodyWatchesNothingMoves(t *testing.T) {
	d := begin(specOf(rollout.Enforce, rollout.Enforce))
	d.pass(5 * time.Second)
	d.now = d.now.Add(24 * time.Hour) // the driver was gone
	d.pass(4 * time.Second)
	d.want(t, rollout.Progressing, 0)
	d.pass(10 * time.Second)
	d.want(t, rollout.Progressing, 1)
	d.health.InForce = false // it does not come in force
	d.pass(time.Minute)
	d.want(t, rollout.Progressing, 1)
}

func TestEditedRolloutBeginsAnew(t *testing.T) {
	d := begin(specOf(rollout.Audit, rollout.Enforce))
	d.pass(15 * time.Second)
	d.want(t, rollout.Progressing, 1)
	edited := *d.spec
	edited.Digest = "two"
	if p := d.status.Part(&edited, nil); len(p.Members) > 0 || p.Everyone || p.Final {
		t.Errorf("something of the edited rollout is in force before it was followed: %+v", p)
	}
	if again := d.status.Follow(d.spec, "", d.now); !reflect.DeepEqual(again, d.status) {
		t.Error("the same again is something new")
	}
	d.status, d.spec = d.status.Follow(&edited, "", d.now), &edited
	d.want(t, rollout.Progressing, 0)
	if text := fmt.Sprint(d.status.Events); !strings.Contains(text, "superseded in step 2") {
		t.Errorf("its history is lost: %s", text)
	}
	d.do(t, rollout.Abort)
	if d.status = d.status.Follow(&edited, "", d.now); d.status.Phase != rollout.Aborted {
		t.Error("an aborted rollout begins again by itself")
	}
}

func TestRolloutWaitsForAnother(t *testing.T) {
	spec := specOf(rollout.Enforce)
	s := rollout.Status{}.Follow(spec, rollout.UnderWay("first"), start)
	if s.Phase != rollout.Waiting || !strings.Contains(s.Reason, "rollout first") {
		t.Fatalf("%s: %s", s.Phase, s.Reason)
	}
	if again := s.Follow(spec, rollout.UnderWay("first"), start.Add(time.Hour)); !reflect.DeepEqual(s, again) {
		t.Error("waiting on is an event")
	}
	if s = s.Tick(spec, good(), start.Add(time.Hour)); s.Phase != rollout.Waiting {
		t.Error("time alone ends the waiting")
	}
	if s = s.Follow(spec, "", start.Add(time.Hour)); s.Phase != rollout.Progressing {
		t.Errorf("it is %s when its turn has come", s.Phase)
	}
}

// model checks, over any history of time, evidence, commands, edits and deaths: what is in force is never more than the
// step says; a rollout that is over or unknown enforces nothing but Complete; a stored status goes on as the living one.
func TestNeverMoreThanTheStepSays(t *testing.T) {
	kinds := []rollout.StepKind{rollout.Enforce, rollout.Audit, rollout.Pause}
	rapid.Check(t, func(t *rapid.T) {
		state, change := podsOf(8)
		spec := specOf(rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 4).Draw(t, "steps")...)
		spec.Change = change
		d := begin(spec)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			failed := false
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				failed = d.spec.Steps[min(d.status.Step, len(d.spec.Steps)-1)].Kind != rollout.Audit && d.status.Active()
				d.status.Evidence.Add(finding(rollout.NewlyDenied, true))
				failed = failed && len(d.status.Accepted) == 0
			case 1:
				d.status.Evidence.Add(finding(rollout.NewlyAllowed, true))
			case 2:
				c := rapid.SampledFrom(rollout.Commands).Draw(t, "command")
				if next, err := d.status.Do(d.spec, c, d.health, d.now); err == nil {
					d.status = next
				}
			case 3:
				edited := *d.spec
				edited.Digest += "'"
				d.spec = &edited
				if p := d.status.Part(d.spec, state); len(p.Members) > 0 || p.Everyone || p.Final {
					t.Fatal("an edited rollout takes over what was in force of the former one")
				}
				d.status = d.status.Follow(d.spec, "", d.now)
			case 4: // killed
				d.status = restart(t, d.status)
				d.now = d.now.Add(time.Hour)
				before := d.status
				d.now = d.now.Add(time.Second)
				d.status = d.status.Tick(d.spec, d.health, d.now)
				if d.status.Step != before.Step && before.Watched < d.spec.Steps[before.Step].For {
					t.Fatalf("time without a driver moved it from step %d to %d", before.Step, d.status.Step)
				}
			default:
				d.pass(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second)
			}
			checkPart(t, d, state)
			if failed {
				if d.pass(time.Second); d.status.Active() && d.status.Phase != rollout.Complete {
					t.Fatalf("a denial leaves it %s", d.status.Phase)
				}
			}
		}
	})
}

func podsOf(n int) (*cluster.State, rollout.Change) {
	var t testing.T
	return pods(&t, n)
}

// restart is what a driver that was killed finds.
func restart(t *rapid.T, s rollout.Status) rollout.Status {
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var out rollout.Status
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func checkPart(t *rapid.T, d *drive, state *cluster.State) {
	p := d.status.Part(d.spec, state)
	most := 0
	for i := 0; i <= d.status.Step && i < len(d.spec.Steps) && d.status.Active(); i++ {
		switch s := d.spec.Steps[i]; s.Kind {
		case rollout.Enforce:
			most = len(s.Cohort.Choose(state, "r", d.spec.Change))
		case rollout.Audit:
			most = 0
		}
	}
	if len(p.Members) != most {
		t.Fatalf("%d pods are judged by the candidate in %s, step %d of %v; the step says %d", len(p.Members), d.status.Phase, d.status.Step, d.spec.Steps, most)
	}
	if p.Everyone && most != 8 || p.Final != (d.status.Phase == rollout.Complete) {
		t.Fatalf("in %s, step %d: %+v", d.status.Phase, d.status.Step, p)
	}
	if d.status.Phase == rollout.Complete && d.status.Step != len(d.spec.Steps) {
		t.Fatalf("complete in step %d", d.status.Step)
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	var e rollout.Evidence
	for i := range 300 {
		f := finding(rollout.NewlyDenied, false)
		f.Source = fmt.Sprintf("a/web-%03d", 299-i)
		if first := e.Add(f); first != (i < 200) {
			t.Fatalf("finding %d is new: %v", i, first)
		}
		if e.Add(f) {
			t.Fatal("the same finding is new again")
		}
	}
	if len(e.Findings) != 200 || e.More != 200 || e.Findings[0].Count != 2 {
		t.Errorf("%d findings and %d more", len(e.Findings), e.More)
	}
	if e.Findings[0].Source > e.Findings[1].Source {
		t.Error("findings are not sorted")
	}
}

func TestStepsInWords(t *testing.T) {
	for want, s := range map[string]rollout.Step{
		"audit for 1h":                        {Kind: rollout.Audit, For: time.Hour},
		"enforce 10% of the pods for 5m":      {Kind: rollout.Enforce, For: 5 * time.Minute, Cohort: rollout.Cohort{Percent: 10}},
		"enforce all pods on n1, n2 for 1m5s": {Kind: rollout.Enforce, For: 65 * time.Second, Cohort: rollout.Cohort{Percent: 100, Nodes: []string{"n1", "n2"}}},
		"pause until promoted":                {Kind: rollout.Pause},
		"pause for 30s":                       {Kind: rollout.Pause, For: 30 * time.Second},
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What nodes have seen is summed up; and what was seen before stays seen, whoever forgot it.
func TestEvidenceIsJoined(t *testing.T) {
	see := func(n int, of string, f rollout.Finding) (e rollout.Evidence) {
		for range n {
			e.Saw(of)
			e.Rest.Add(flow.Refused)
			e.Cohort.Add(flow.Reset)
		}
		f.Count, f.First, f.Last = n, start.Add(time.Duration(n)*time.Second), start.Add(time.Duration(n)*time.Minute)
		e.Add(f)
		return e
	}
	a, b := see(2, "a/web", finding(rollout.NewlyDenied, true)), see(3, "a/db", finding(rollout.NewlyDenied, true))
	other := see(1, "a/web", finding(rollout.NewlyAllowed, false))
	sum := rollout.Evidence{}
	for _, e := range []rollout.Evidence{a, b, other} {
		sum.Join(e)
	}
	if f := sum.Findings; len(f) != 2 || f[1].Count != 5 || !f[1].First.Equal(start.Add(2*time.Second)) || !f[1].Last.Equal(start.Add(3*time.Minute)) {
		t.Errorf("findings are %+v", f)
	}
	if sum.Connections != 6 || len(sum.Workloads) != 2 || sum.Rest.Failed != 6 || sum.Cohort.Reset != 6 || sum.Cohort.Failed+sum.Rest.Reset != 0 {
		t.Errorf("the sum is %+v", sum)
	}
	later := see(4, "a/web", finding(rollout.NewlyDenied, true))
	later.AtLeast(sum)
	if later.Findings[1].Count != 5 || len(later.Findings) != 2 || later.Connections != 6 || later.Cohort.Reset != 6 || len(later.Workloads) != 2 {
		t.Errorf("after a node was lost it is %+v", later)
	}
	if a.Findings[0].Count != 2 {
		t.Error("a part was changed")
	}
}

func TestWhatCannotBeUsedIsRefused(t *testing.T) {
	d := begin(specOf(rollout.Audit, rollout.Enforce))
	d.pass(3 * time.Second)
	refused := d.status.Refuse("bad", "an error", d.now)
	if refused.Phase != rollout.Invalid || refused.Active() || !refused.Over() || refused.Revision != d.status.Revision+1 {
		t.Fatalf("it is %+v", refused)
	}
	if again := refused.Refuse("bad", "an error", d.now.Add(time.Second)); !reflect.DeepEqual(again, refused) {
		t.Error("the same error is news")
	}
	if _, err := refused.Do(d.spec, rollout.Retry, d.health, d.now); err == nil {
		t.Error("what cannot be used begins again")
	}
	d.spec.Digest = "bad" // a newer program can read it
	if d.status = refused.Follow(d.spec, "", d.now); d.status.Phase != rollout.Progressing || d.status.Revision != refused.Revision+1 {
		t.Errorf("it is %+v", d.status)
	}
}

func TestSilentNodesPause(t *testing.T) {
	d := begin(specOf(rollout.Audit, rollout.Enforce))
	d.health.InForce, d.health.Silent = false, []string{"node n2"}
	d.pass(2 * time.Second)
	d.want(t, rollout.Paused, 0)
	if d.status.Reason != "nothing is known of node n2" {
		t.Errorf("the reason is %q", d.status.Reason)
	}
	d.health = good()
	d.pass(2 * time.Second)
	d.want(t, rollout.Progressing, 0)
	d.pass(10 * time.Second)
	d.want(t, rollout.Progressing, 1)
}
