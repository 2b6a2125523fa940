package controller

import (
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// lost finds out which probes a candidate takes away. That takes two compilers that know the whole cluster, so it is looked
// at every now and then, and once more before a step ends.
type lost struct {
	judge *judge.Judge
	state *cluster.State
	shape string
	at    time.Time
	found []string
}

const (
	lookEvery = 10 * time.Second
	endsSoon  = 2 * time.Second
)

// find returns the probes that are lost, of a rollout that is under way.
func (l *lost) find(r record.Record, reach *reach) []string {
	if l.state == reach.state && l.shape == reach.shape {
		return l.found
	}
	step := r.Spec.Steps[min(r.Status.Step, len(r.Spec.Steps)-1)]
	seen := r.Status.Seen
	if l.judge != nil && l.shape == reach.shape && seen.Sub(l.at) < lookEvery && r.Status.Watched+endsSoon < step.For {
		return l.found
	}
	if l.judge == nil {
		l.judge = judge.New(r.Name, compile.Options{})
	}
	if err := l.judge.Update(reach.bottom, r.Spec.Change, reach.beside); err != nil {
		return l.found // two rollouts of one policy, of which one is rolled back
	}
	l.state, l.shape, l.at = reach.state, reach.shape, seen
	l.found = l.judge.Lost(reach.bottom, r.Spec.Change)
	return l.found
}
