// Package judge judges connections by the two policy sets that a rollout leads from and to, compiled beside what is in
// force, and makes evidence of those on which they differ. It is for whoever sees connections: the driver of one machine,
// and the agent of each node of a cluster.
package judge

import (
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// Judge judges by one rollout: by Before, which is what is in force without its candidate, and by After, with the
// candidate for everyone. All other rollouts are in both as they are in force. It is for one caller at a time; only Saw may
// run at once with itself, if each call has evidence of its own.
type Judge struct {
	Rollout string
	Before  *compile.Compiler
	After   *compile.Compiler
	// Audit: in the rollout's step nobody is judged by the candidate.
	Audit bool
	// Selected reports whether the rollout's change selects a pod.
	Selected func(cluster.Key) bool
	// Judged reports whether the change selects a pod, and it is judged by the candidate.
	Judged func(cluster.Key) bool
}

// New returns a judge of a rollout, whose two sets are empty. Who makes it says what it selects before it judges.
func New(rollout string, o compile.Options) *Judge {
	nobody := func(cluster.Key) bool { return false }
	return &Judge{Rollout: rollout, Before: compile.New(o), After: compile.New(o), Selected: nobody, Judged: nobody}
}

// Update makes both sets those of a state. bottom has what is in force for everyone, and beside are the parts of the other
// rollouts, those that are Final left out. The cost is that of looking at every object of the state.
func (j *Judge) Update(bottom *cluster.State, change rollout.Change, beside []rollout.Part) error {
	all := append(slices.Clone(beside), rollout.Part{Name: j.Rollout, Change: change, Everyone: true})
	for _, x := range []struct {
		parts    []rollout.Part
		compiler *compile.Compiler
	}{{beside, j.Before}, {all, j.After}} {
		s, err := rollout.Rewrite(bottom, x.parts...)
		if err != nil {
			return err
		}
		x.compiler.Update(s, nil)
	}
	return nil
}

// Lost are the probes of pods which the change takes away: what After denies and Before allows, in the order of Probes.
func (j *Judge) Lost(bottom *cluster.State, change rollout.Change) []string {
	var lost []string
	for _, p := range rollout.Probes(bottom, change) {
		if j.Before.Decide(p.Tuple).Verdict == flow.Allow && j.After.Decide(p.Tuple).Verdict != flow.Allow &&
			!slices.Contains(lost, p.String()) {
			lost = append(lost, p.String())
		}
	}
	return lost
}

// Difference is what the other side of a rollout says of a connection that fared otherwise.
type Difference struct {
	Rollout string
	// Candidate: it is what the candidate says, which is not in force for the pod; else it is what the policies before say.
	Candidate bool
	flow.Decision
}

// Connection is one that was seen.
type Connection struct {
	cluster.Connection
	Fared   flow.Verdict
	InForce flow.Verdict // what is in force now says of it
	Live    bool         // it was there before the rollout began
	At      time.Time
}

// Saw judges a connection, and adds to the evidence what follows. It returns the difference, nil if there is none, and
// whether it is the first of its kind.
//
// A verdict that what is in force now would not give comes from before a change, and whose labels are not known cannot be
// judged: these are uncertain. A verdict that neither set gives is none of these: of a cohort's client and another pod's
// server each is judged by its own set.
func (j *Judge) Saw(e *rollout.Evidence, c Connection) (diff *Difference, first bool) {
	from, to := c.From.Endpoint, c.To.Endpoint
	if (from == nil || !j.Selected(from.Key)) && (to == nil || !j.Selected(to.Key)) {
		return nil, false
	}
	if c.From.Unknown || c.To.Unknown || c.InForce != c.Fared {
		e.Uncertain++
		return nil, false
	}
	for _, end := range []*cluster.Endpoint{from, to} {
		if end != nil && (j.Judged(end.Key) || j.Audit) && j.Selected(end.Key) {
			e.Saw(rollout.Workload(end))
		}
	}
	t := c.Tuple()
	before, after := j.Before.Decide(t), j.After.Decide(t)
	diff = &Difference{Rollout: j.Rollout}
	f := rollout.Finding{Live: c.Live, Source: partyText(c.From), Destination: partyText(c.To), Port: portText(t),
		Before: ruleText(before), After: ruleText(after), Example: c.From.String() + " -> " + c.To.String(), First: c.At, Last: c.At}
	switch {
	case before.Verdict != c.Fared:
		diff.Decision, f.Enforced = before, true
	case after.Verdict != c.Fared:
		diff.Decision, diff.Candidate = after, true
	default:
		return nil, false
	}
	f.Kind = rollout.NewlyAllowed
	if before.Verdict == flow.Allow {
		f.Kind = rollout.NewlyDenied
	}
	return diff, e.Add(f)
}

// partyText is the workload of a pod, and anything else by its own name.
func partyText(p cluster.Party) string {
	if p.Endpoint != nil {
		return rollout.Workload(p.Endpoint)
	}
	return p.String()
}

func portText(t flow.Tuple) string {
	if !t.Protocol.HasPorts() {
		return t.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", t.Port, t.Protocol)
}

func ruleText(d flow.Decision) string {
	if place := d.Rule.Place(); place != "" {
		return fmt.Sprintf("%s (%s)", d.Rule, place)
	}
	return d.Rule.String()
}

// Ended adds to the evidence how a TCP connection between two pods ended. The zero Key is no pod.
func (j *Judge) Ended(e *rollout.Evidence, from, to cluster.Key, how flow.Outcome) {
	if j.Judged(from) || j.Judged(to) {
		e.Cohort.Add(how)
	} else {
		e.Rest.Add(how)
	}
}
