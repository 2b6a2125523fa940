package driver

import (
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
)

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
		if err := d.updateJudge(r, bottom, all); err != nil {
			return nil, r, err
		}
	}
	return out, nil, nil
}

func (d *Driver) updateJudge(r *driven, bottom *cluster.State, all []*driven) error {
	if !r.status.Active() || r.spec == nil {
		r.judge, r.lost = nil, nil
		return nil
	}
	if r.judge == nil {
		r.judge = judge.New(r.spec.Name, compile.Options{})
		r.judge.Selected = func(k cluster.Key) bool { return r.selected[k] }
		r.judge.Judged = func(k cluster.Key) bool { return r.selected[k] && r.part.Includes(k) }
	}
	var beside []rollout.Part
	for _, o := range all {
		if o != r && !o.part.Final {
			beside = append(beside, o.part)
		}
	}
	if err := r.judge.Update(bottom, r.spec.Change, beside); err != nil {
		return err
	}
	r.lost = r.judge.Lost(bottom, r.spec.Change)
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

// Saw judges a connection that was seen, and how it fared. It returns the first rollout's difference, nil if there is
// none. live: it was there before.
func (d *Driver) Saw(t flow.Tuple, fared flow.Verdict, live bool, at time.Time) *judge.Difference {
	d.mu.Lock()
	defer d.mu.Unlock()
	var first *judge.Difference
	for _, r := range d.sorted() {
		if r.judge == nil || d.base == nil {
			continue
		}
		if diff := d.saw(r, t, fared, live, at); diff != nil && first == nil {
			first = diff
		}
	}
	return first
}

func (d *Driver) saw(r *driven, t flow.Tuple, fared flow.Verdict, live bool, at time.Time) *judge.Difference {
	c := judge.Connection{Connection: d.base.Resolve(t), Fared: fared, Live: live, At: at}
	c.InForce = d.options.Decide(c.Tuple()).Verdict
	r.judge.Audit = r.spec.Steps[min(r.status.Step, len(r.spec.Steps)-1)].Kind == rollout.Audit
	before := r.status.Evidence.Connections
	diff, first := r.judge.Saw(&r.status.Evidence, c)
	d.unsaved = d.unsaved || diff != nil || r.status.Evidence.Connections != before
	if first {
		d.saved = time.Time{} // a new kind is kept at once
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	return diff
}

// Ended notes how a TCP connection between two pods ended. The zero Key is no pod.
func (d *Driver) Ended(from, to cluster.Key, how flow.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.all {
		if r.judge != nil {
			r.judge.Ended(&r.status.Evidence, from, to, how)
		}
	}
}
