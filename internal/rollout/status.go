package rollout

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/words"
)

// Phase is where a rollout stands. The zero value is nowhere: nobody is judged by the candidate.
type Phase string

// The phases.
const (
	Waiting     Phase = "Waiting"     // for instance, another rollout that is under way touches the same policies
	Progressing Phase = "Progressing" // through its steps
	Paused      Phase = "Paused"      // what is in force stays so; see Status.By
	RolledBack  Phase = "RolledBack"  // by the analysis; what was before is in force
	Aborted     Phase = "Aborted"     // by a person; what was before is in force
	Undone      Phase = "Undone"      // by a person, after it was complete; what was before is in force
	Complete    Phase = "Complete"    // everyone is judged by the candidate
	Invalid     Phase = "Invalid"     // what was written has an error; nothing of it is in force
)

// Cause is who or what paused a rollout.
type Cause string

// The causes.
const (
	ByStep     Cause = "step"     // the step says so: until promoted
	ByAnalysis Cause = "analysis" // inconclusive; it goes on by itself when that changes
	ByPerson   Cause = "person"
)

// Status is how far a rollout has come. It is a value: what changes it returns another one.
type Status struct {
	Rollout string `json:"rollout"`
	Digest  string `json:"digest"` // of the Spec that it is about
	// Revision is raised whenever the rollout begins, by an edit or anew: what was seen of another one does not count.
	Revision int    `json:"revision"`
	Phase    Phase  `json:"phase"`
	By       Cause  `json:"by,omitempty"`     // of Paused
	Reason   string `json:"reason,omitempty"` // why it is Waiting, Paused or RolledBack
	Step     int    `json:"step"`             // index of the current step; behind the last one when Complete
	// Watched is how long the step has been watched. Time without a driver, or before what the step says is in force, is
	// not counted.
	Watched  time.Duration `json:"watched"`
	Seen     time.Time     `json:"seen"`     // the last Tick
	Began    time.Time     `json:"began"`    // the first step
	Entered  time.Time     `json:"entered"`  // the current step
	Since    time.Time     `json:"since"`    // the phase and step
	Evidence Evidence      `json:"evidence"` // of this step; of a rollout that is over, of its last one
	Accepted []string      `json:"accepted,omitempty"`
	Events   []Event       `json:"events,omitempty"` // the newest last
}

// Event is something that happened to a rollout.
type Event struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

const (
	// maxEvents bounds the history.
	maxEvents = 100
	// maxGap is the longest time between two Ticks that counts as watched: what is longer, nobody watched.
	maxGap = 5 * time.Second
)

// Active reports whether the rollout is on its way.
func (s Status) Active() bool { return s.Phase == Progressing || s.Phase == Paused }

// Over reports whether nothing happens any more until a person wants it.
func (s Status) Over() bool { return s.Phase != Waiting && !s.Active() }

// clone returns a copy that shares nothing that is changed in place.
func (s Status) clone() Status {
	s.Evidence = s.Evidence.clone()
	s.Accepted, s.Events = slices.Clone(s.Accepted), slices.Clone(s.Events)
	return s
}

func (s *Status) note(now time.Time, format string, args ...any) {
	s.Events = append(s.Events, Event{now, fmt.Sprintf(format, args...)})
	if n := len(s.Events); n > maxEvents {
		s.Events = slices.Clone(s.Events[n-maxEvents:])
	}
}

// enter goes to a phase.
func (s *Status) enter(now time.Time, p Phase, by Cause, reason string) {
	s.Phase, s.By, s.Reason, s.Since = p, by, reason, now
	text := string(p)
	if reason != "" {
		text += ": " + reason
	}
	s.note(now, "%s", text)
}

// begin goes to a step, or to the end behind the last one.
func (s *Status) begin(spec *Spec, step int, now time.Time) {
	s.Step, s.Watched, s.Seen, s.Entered, s.Since = step, 0, now, now, now
	if step >= len(spec.Steps) {
		s.enter(now, Complete, "", "")
		return
	}
	next := spec.Steps[step]
	if next.Kind != Pause { // who is to promote wants to see what was seen before
		s.Evidence = Evidence{}
	}
	s.Phase, s.By, s.Reason = Progressing, "", ""
	s.note(now, "step %d of %d: %s", step+1, len(spec.Steps), next)
	if next.Kind == Pause && next.For == 0 {
		s.enter(now, Paused, ByStep, "until promoted")
	}
}

// UnderWay says that a rollout waits for another one.
func UnderWay(name string) string {
	return fmt.Sprintf("rollout %s is under way with the same policies", name)
}

// Follow brings a status in step with what the manifest says: nothing if it says the same as before; else the new
// rollout takes over from its first step, and what was in force of the former one is no more. The zero Status begins a
// rollout. waitsFor says why it cannot begin yet, "" if it can; see UnderWay.
func (s Status) Follow(spec *Spec, waitsFor string, now time.Time) Status {
	s = s.clone()
	same := s.Digest == spec.Digest && s.Phase != "" && s.Phase != Invalid
	if same && s.Phase != Waiting {
		return s
	}
	if !same && s.Active() {
		s.note(now, "superseded in step %d: the rollout was edited", s.Step+1)
	}
	if waitsFor != "" && same && s.Reason == waitsFor {
		return s
	}
	s = Status{Rollout: spec.Name, Digest: spec.Digest, Revision: s.Revision + 1, Began: now, Events: s.Events}
	if waitsFor != "" {
		s.enter(now, Waiting, "", waitsFor)
		return s
	}
	s.begin(spec, 0, now)
	return s
}

// Refuse notes that what was written cannot be used: nothing of it is in force, nor of what was written before.
func (s Status) Refuse(digest, why string, now time.Time) Status {
	if s.Phase == Invalid && s.Digest == digest && s.Reason == why {
		return s
	}
	s = s.clone()
	if s.Active() {
		s.note(now, "superseded in step %d: the rollout was edited", s.Step+1)
	}
	s = Status{Rollout: s.Rollout, Digest: digest, Revision: s.Revision + 1, Began: now, Events: s.Events}
	s.enter(now, Invalid, "", why)
	return s
}

// Fail rolls a rollout that is under way back, as what it says cannot be put in force.
func (s Status) Fail(why string, now time.Time) Status {
	if !s.Active() {
		return s
	}
	s = s.clone()
	s.enter(now, RolledBack, "", why)
	return s
}

// Tick lets time pass: it judges what was seen, and goes on, pauses or rolls back. spec is the one that the status is
// about; with another one nothing happens.
func (s Status) Tick(spec *Spec, h Health, now time.Time) Status {
	if !s.Active() || s.Digest != spec.Digest || s.Step >= len(spec.Steps) {
		return s
	}
	s = s.clone()
	step := spec.Steps[s.Step]
	if gap := now.Sub(s.Seen); gap > 0 && gap <= maxGap && h.InForce && s.Phase == Progressing {
		s.Watched += gap
	}
	s.Seen = now
	done := s.Watched >= step.For
	v := spec.Analysis.Judge(step.Kind, s.Evidence, h, s.Accepted, done && h.InForce)
	switch {
	case v.Answer == Fail:
		s.enter(now, RolledBack, "", v.String())
	case s.Phase == Paused && (s.By != ByAnalysis || v.Answer == Inconclusive):
		if s.By == ByAnalysis {
			s.Reason = v.String() // more of the same is no event
		}
	case v.Answer == Inconclusive:
		s.enter(now, Paused, ByAnalysis, v.String())
	case done && h.InForce:
		s.note(now, "step %d passed: %s of %s seen", s.Step+1, connections(s.Evidence.Connections), words.Counted(len(s.Evidence.Workloads), "workload"))
		s.begin(spec, s.Step+1, now)
	case s.Phase == Paused: // its reason is gone before its time was over
		s.enter(now, Progressing, "", "")
	}
	return s
}

// Command is what a person wants of a rollout.
type Command string

// The commands.
const (
	Promote Command = "promote" // accept what was found, and go on: with the next step, or with one that was interrupted
	Hold    Command = "pause"   // stay as it is
	Abort   Command = "abort"   // put what was before in force, and end
	Undo    Command = "undo"    // the same, after it was complete
	Retry   Command = "retry"   // begin again, after it ended without being complete
)

// Commands are all of them.
var Commands = []Command{Promote, Hold, Abort, Undo, Retry}

// Do does what a person wants. The error says why that makes no sense now; then nothing has changed.
func (s Status) Do(spec *Spec, c Command, h Health, now time.Time) (Status, error) {
	if s.Digest != spec.Digest {
		return s, errors.New("the rollout was just edited")
	}
	before, s := s, s.clone()
	switch {
	case c == Promote && s.Active():
		s.promote(spec, h, now)
	case c == Hold && s.Phase == Progressing, c == Hold && s.Phase == Paused && s.By == ByAnalysis:
		s.enter(now, Paused, ByPerson, "by a person")
	case c == Hold && s.Phase == Paused:
		return before, errors.New("it is paused already")
	case c == Abort && (s.Active() || s.Phase == Waiting):
		s.enter(now, Aborted, "", "by a person")
	case c == Undo && s.Phase == Complete:
		s.enter(now, Undone, "", "by a person")
	case c == Undo && s.Active():
		return before, errors.New(`it is not complete yet; "abort" ends it`)
	case c == Retry && (s.Phase == RolledBack || s.Phase == Aborted || s.Phase == Undone):
		s.note(now, "begins again: by a person")
		s.Accepted, s.Began = nil, now
		s.Revision++
		s.begin(spec, 0, now)
	default:
		return before, fmt.Errorf("it is %s: there is nothing to %s", s.Phase, c)
	}
	return s, nil
}

// promote accepts all that was found, and goes on: with the same step if that was interrupted, else with the next one.
func (s *Status) promote(spec *Spec, h Health, now time.Time) {
	s.note(now, "promoted by a person")
	if s.By != ByPerson {
		for _, f := range s.Evidence.Findings {
			s.Accepted = append(s.Accepted, f.Key())
		}
		for _, l := range h.Lost {
			s.Accepted = append(s.Accepted, probeKey(l))
		}
		s.Accepted = append(s.Accepted, spec.Analysis.queryKeys(s.Reason)...)
		slices.Sort(s.Accepted)
		s.Accepted = slices.Compact(s.Accepted)
	}
	if s.By == ByPerson || s.By == ByAnalysis && s.Watched < spec.Steps[s.Step].For {
		s.Seen = now
		s.enter(now, Progressing, "", "")
		return
	}
	s.begin(spec, s.Step+1, now)
}

// Part says for whom the candidate is in force: by the last Enforce step that was reached, unless an audit came after it.
func (s Status) Part(spec *Spec, state *cluster.State) Part {
	p := Part{Name: spec.Name, Change: spec.Change}
	if s.Digest != spec.Digest {
		return p
	}
	p.Final = s.Phase == Complete
	if c := s.Cohort(spec); c.Percent > 0 {
		p.Members = c.Choose(state, spec.Name, spec.Change)
		p.Everyone = c.Everyone()
	}
	return p
}

// Cohort is who is judged by the candidate while the rollout is under way; the zero value is nobody.
func (s Status) Cohort(spec *Spec) Cohort {
	if s.Digest != spec.Digest || !s.Active() {
		return Cohort{}
	}
	for i := min(s.Step, len(spec.Steps)-1); i >= 0; i-- {
		switch spec.Steps[i].Kind {
		case Enforce:
			return spec.Steps[i].Cohort
		case Audit:
			return Cohort{}
		}
	}
	return Cohort{}
}

// Seeing is the step that evidence is of: the current one, or the last one before pauses, which go on with what was seen.
func (s Status) Seeing(spec *Spec) int {
	i := min(s.Step, len(spec.Steps)-1)
	for i > 0 && spec.Steps[i].Kind == Pause {
		i--
	}
	return i
}

// Everyone reports whether c chooses all pods, also those to come.
func (c Cohort) Everyone() bool {
	return c.Percent == 100 && c.Pods == nil && c.Namespaces == nil && len(c.Nodes) == 0
}
