package driver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// tick is how often time passes for rollouts when nothing is found.
const tick = time.Second

// saveEvery is how often evidence of known kinds is written.
const saveEvery = 5 * time.Second

// Run lets time pass until ctx ends.
func (d *Driver) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			d.mu.Lock()
			_ = d.save(time.Now())
			d.mu.Unlock()
			return
		case <-ticker.C:
		case <-d.wake:
		}
		d.judgeLiving(ctx)
		d.pass(time.Now())
	}
}

// judgeLiving judges all connections that are there for the rollouts that have just begun.
func (d *Driver) judgeLiving(ctx context.Context) {
	d.mu.Lock()
	var begun []*driven
	for _, r := range d.sorted() {
		if r.judge != nil && !r.living && d.applied {
			begun = append(begun, r)
		}
	}
	d.mu.Unlock()
	if len(begun) == 0 {
		return
	}
	all, err := d.options.Living(ctx)
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.tell("list connections: " + err.Error())
		return
	}
	for _, r := range begun {
		if r.judge == nil { // edited meanwhile
			continue
		}
		for _, t := range all {
			d.saw(r, t, flow.Allow, true, now)
		}
		r.living = true
		r.status.Seen = now
	}
	if d.save(now) != nil {
		for _, r := range begun {
			r.living = false
		}
		return
	}
	d.applied = false
	d.options.Again()
}

// tell tells an error once.
func (d *Driver) tell(text string) {
	if text != "" && text != d.complain {
		d.options.Say("rollouts: %s; it is tried again", text)
	}
	d.complain = text
}

// pass lets the time be now for all rollouts.
func (d *Driver) pass(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.sorted() {
		switch {
		case r.spec == nil:
		case r.status.Phase == rollout.Waiting:
			if d.follow(r, now); r.status.Phase != rollout.Waiting {
				_ = d.save(now)
				d.applied = false
				d.options.Again()
			}
		case r.judge != nil && r.living:
			before := r.status
			next := before.Tick(r.spec, d.health(r), now)
			if next.Phase != before.Phase || next.Step != before.Step {
				_ = d.move(r, next, now) // told by save; it is tried again
			} else {
				r.status, d.unsaved = next, true
			}
		}
	}
	if d.unsaved && now.Sub(d.saved) >= saveEvery {
		_ = d.save(now)
	}
}

// queries are what is to be asked for a rollout now.
func (d *Driver) queries(r *driven) []rollout.Query {
	if r.spec == nil || !r.status.Active() {
		return nil
	}
	return r.spec.Analysis.Queries
}

// health measures the pods of a rollout.
func (d *Driver) health(r *driven) rollout.Health {
	r.measured = d.options.Measured(fmt.Sprintf("%s %d %d", r.status.Rollout, r.status.Revision, r.status.Step), d.queries(r))
	h := rollout.Health{InForce: d.applied && r.living, Selected: len(r.selected), Lost: r.lost, Measured: r.measured}
	if d.base != nil {
		h.Workloads = r.spec.Workloads(d.base)
	}
	if r.before == nil || r.step != r.status.Step {
		r.before, r.step = map[cluster.Key]Pod{}, r.status.Step
	}
	for k := range r.selected {
		if !r.part.Includes(k) {
			continue
		}
		h.Cohort++
		pod, known := d.options.Pod(k)
		was, seen := r.before[k]
		switch {
		case !seen && known && d.applied:
			r.before[k] = pod
		case seen && was.Ready && (!known || !pod.Ready):
			h.NotReady = append(h.NotReady, k.String())
		case seen && pod.Restarts > was.Restarts:
			h.Restarts = append(h.Restarts, k.String())
		}
	}
	slices.Sort(h.NotReady)
	slices.Sort(h.Restarts)
	return h
}
