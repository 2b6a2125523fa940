package engine

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence-project/ringfence/internal/dataplane"
)

// resync is how often what is in force is read back when nothing happens. Drift is normally seen at once, by its
// event; this is for what no event tells.
const resync = time.Minute

// retry is how long a failed attempt waits for the next one.
const retry = time.Second

// Event is what Run reports: exactly one of the fields is set.
type Event struct {
	Synced   *Status         // a state came in force, or failed to (Status.Err)
	Repaired string          // somebody changed what was in force, and it was put right
	Seen     dataplane.Event // a denial, or events lost
}

// Run keeps the dataplane in step with src until ctx ends or a part fails for good, and reports to observe, which
// is called from one goroutine at a time and must be quick.
func (e *Engine) Run(ctx context.Context, src Source, observe func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	inputs, seen, failed := make(chan Input, 1), make(chan dataplane.Event, 1024), make(chan error, 2)
	go func() { failed <- src.Run(ctx, func(in Input) { overtake(inputs, in) }) }()
	go func() { failed <- e.dp.Watch(ctx, func(ev dataplane.Event) { offer(ctx, seen, ev) }) }()
	err, ended := e.loop(ctx, inputs, seen, failed, observe)
	cancel()
	for ; ended < 2; ended++ {
		err = errors.Join(err, ignoreCanceled(<-failed))
	}
	return err
}

func (e *Engine) loop(ctx context.Context, inputs <-chan Input, seen <-chan dataplane.Event, failed <-chan error,
	observe func(Event)) (error, int) {
	var newest *Input
	again := time.NewTimer(resync)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, 0
		case err := <-failed:
			return ignoreCanceled(err), 1
		case in := <-inputs:
			newest = &in
			again.Reset(e.sync(ctx, in, observe))
		case ev := <-seen:
			if ev.Drift != nil {
				again.Reset(0)
			} else {
				observe(Event{Seen: ev})
			}
		case <-again.C:
			if e.Status().Err != nil && newest != nil {
				again.Reset(e.sync(ctx, *newest, observe))
				continue
			}
			again.Reset(e.repair(ctx, observe))
		}
	}
}

func (e *Engine) sync(ctx context.Context, in Input, observe func(Event)) time.Duration {
	err := e.Sync(ctx, in)
	status := e.Status()
	observe(Event{Synced: &status})
	if err != nil {
		return retry
	}
	return resync
}

func (e *Engine) repair(ctx context.Context, observe func(Event)) time.Duration {
	what, err := e.Repair(ctx)
	if what != "" {
		observe(Event{Repaired: what})
	}
	if err != nil {
		return retry
	}
	return resync
}

// overtake puts in into a channel of one place, in the stead of what waits there.
func overtake(inputs chan Input, in Input) {
	for {
		select {
		case inputs <- in:
			return
		default:
		}
		select {
		case <-inputs:
		default:
		}
	}
}

// offer hands ev over; events wait while the loop writes the kernel, and a full channel makes the watcher wait.
func offer(ctx context.Context, seen chan<- dataplane.Event, ev dataplane.Event) {
	select {
	case seen <- ev:
	case <-ctx.Done():
	}
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
