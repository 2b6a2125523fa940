package driver

import (
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// judges are the two policy sets that a rollout leads from and to, compiled beside what is in force: without the
// candidate, and with it for everyone. All other rollouts are in both as they are in force.
type judges struct {
	before, after *compile.Compiler
}

// Rewrite returns the state with the policies that are in force for each pod, of one with the policies of the files. It
// has the judges up to date when it returns, so that no pod is seen that they do not know.
func (d *Driver) Rewrite(base *cluster.State) (*cluster.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		out, failed, err := d.rewrite(base)
		if err == nil {
			d.base, d.inForce, d.applied = base, out, false
			return out, nil
		}
		if failed == nil {
			return nil, err
		}
		next := failed.status // what cannot be said is not in force
		next.Phase, next.Reason = rollout.RolledBack, err.Error()
		d.set(failed, next)
		failed.own, failed.former = nil, nil
	}
}

// rewrite returns with an error the rollout that has it.
func (d *Driver) rewrite(base *cluster.State) (out *cluster.State, failed *driven, err error) {
	bottom, err := rollout.Rewrite(base, d.finals()...)
	if err != nil {
		return nil, nil, err
	}
	out, d.bottom = bottom, bottom
	all := d.sorted()
	for _, r := range all {
		r.part = rollout.Part{Name: r.status.Rollout}
		if r.spec == nil {
			continue
		}
		r.selected = map[cluster.Key]bool{}
		for _, e := range r.spec.Selected(bottom) {
			r.selected[e.Key] = true
		}
		r.part = r.status.Part(r.spec, bottom)
		if r.status.Active() && !r.living {
			r.part = rollout.Part{Name: r.spec.Name, Change: r.spec.Change}
		}
		if r.part.Final {
			continue // it is at the bottom
		}
		if out, err = rollout.Rewrite(out, r.part); err != nil {
			return nil, r, err
		}
	}
	for _, r := range all {
		if err := d.updateJudges(r, bottom, all); err != nil {
			return nil, r, err
		}
	}
	return out, nil, nil
}

func (d *Driver) updateJudges(r *driven, bottom *cluster.State, all []*driven) error {
	if !r.status.Active() || r.spec == nil {
		r.judges, r.lost = nil, nil
		return nil
	}
	if r.judges == nil {
		r.judges = &judges{compile.New(compile.Options{}), compile.New(compile.Options{})}
	}
	var before, after []rollout.Part
	for _, o := range all {
		switch {
		case o == r:
			after = append(after, rollout.Part{Name: r.spec.Name, Change: r.spec.Change, Everyone: true})
		case !o.part.Final:
			before, after = append(before, o.part), append(after, o.part)
		}
	}
	for _, j := range []struct {
		parts    []rollout.Part
		compiler *compile.Compiler
	}{{before, r.judges.before}, {after, r.judges.after}} {
		s, err := rollout.Rewrite(bottom, j.parts...)
		if err != nil {
			return err
		}
		j.compiler.Update(s, nil)
	}
	r.lost = nil
	for _, p := range rollout.Probes(bottom, r.spec.Change) {
		if r.judges.before.Decide(p.Tuple).Verdict == flow.Allow && r.judges.after.Decide(p.Tuple).Verdict != flow.Allow &&
			!slices.Contains(r.lost, p.String()) {
			r.lost = append(r.lost, p.String())
		}
	}
	return nil
}

// Enforced notes that a state that Rewrite returned is in force.
func (d *Driver) Enforced(s *cluster.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied = s == d.inForce
}

// InForce is the newest state that Rewrite returned; nil before there is one.
func (d *Driver) InForce() *cluster.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inForce
}

// ForEveryone returns the policies of the newest state that Rewrite returned which are in force for everyone: those of the
// files, and of the rollouts that are complete, whose names are returned too, in order. Until there is one, it returns none.
func (d *Driver) ForEveryone() (policies []*policy.Policy, complete []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bottom == nil {
		return nil, nil
	}
	for _, p := range d.finals() {
		if !slices.Contains(complete, p.Name) {
			complete = append(complete, p.Name)
		}
	}
	return d.bottom.Policies(), complete
}

// Difference is what the other side of a rollout says of a connection that fared otherwise.
type Difference struct {
	Rollout string
	// Candidate: it is what the candidate says, which is not in force for the pod; else it is what the policies before say.
	Candidate bool
	flow.Decision
}

// Saw judges a connection that was seen, and how it fared. It returns the first rollout's difference, nil if there is
// none. live: it was there before.
func (d *Driver) Saw(t flow.Tuple, fared flow.Verdict, live bool, at time.Time) *Difference {
	d.mu.Lock()
	defer d.mu.Unlock()
	var first *Difference
	for _, r := range d.sorted() {
		if r.judges == nil || d.base == nil {
			continue
		}
		if diff := d.saw(r, t, fared, live, at); diff != nil && first == nil {
			first = diff
		}
	}
	return first
}

func (d *Driver) saw(r *driven, t flow.Tuple, fared flow.Verdict, live bool, at time.Time) *Difference {
	c := d.base.Resolve(t)
	t = c.Tuple()
	from, to := c.From.Endpoint, c.To.Endpoint
	if (from == nil || !r.selected[from.Key]) && (to == nil || !r.selected[to.Key]) {
		return nil
	}
	e := &r.status.Evidence
	// A verdict that what is in force now would not give comes from before a change; and whose labels are not known
	// cannot be judged.
	if c.From.Unknown || c.To.Unknown || d.options.Decide(t).Verdict != fared {
		e.Uncertain++
		return nil
	}
	audit := r.spec.Steps[min(r.status.Step, len(r.spec.Steps)-1)].Kind == rollout.Audit
	for _, end := range []*cluster.Endpoint{from, to} {
		if end != nil && r.selected[end.Key] && (audit || r.judged(end.Key)) {
			e.Saw(rollout.Workload(end))
		}
	}
	d.unsaved = true
	before, after := r.judges.before.Decide(t), r.judges.after.Decide(t)
	diff := &Difference{Rollout: r.spec.Name}
	f := rollout.Finding{Live: live, Source: partyText(c.From), Destination: partyText(c.To), Port: portText(t),
		Before: ruleText(before), After: ruleText(after), Example: c.From.String() + " -> " + c.To.String(), First: at, Last: at}
	switch {
	case before.Verdict != fared:
		diff.Decision, f.Enforced = before, true
	case after.Verdict != fared:
		diff.Decision, diff.Candidate = after, true
	default:
		return nil
	}
	f.Kind = rollout.NewlyAllowed
	if before.Verdict == flow.Allow {
		f.Kind = rollout.NewlyDenied
	}
	if e.Add(f) {
		d.saved = time.Time{} // a new kind is kept at once
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	return diff
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

// Ended notes how a TCP connection between two pods ended; failed: nobody answered. The zero Key is no pod.
func (d *Driver) Ended(from, to cluster.Key, failed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.all {
		if r.judges == nil {
			continue
		}
		if r.selected[from] && r.judged(from) || r.selected[to] && r.judged(to) {
			r.status.Evidence.Cohort.Add(failed)
		} else {
			r.status.Evidence.Rest.Add(failed)
		}
	}
}
