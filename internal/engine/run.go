package engine

import (
	"context"
	"errors"
	"sync"
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
	newest := newest{came: make(chan struct{}, 1)}
	try := func(ctx context.Context) (bool, error) {
		in := newest.get()
		if in == nil {
			return false, nil
		}
		return true, e.Sync(ctx, *in)
	}
	return e.run(ctx, func(ctx context.Context) error { return src.Run(ctx, newest.put) }, newest.came, try, observe)
}

// run follows a source: when something came, try brings it in force. It reports whether there was anything to try.
func (e *Engine) run(ctx context.Context, source func(context.Context) error, came <-chan struct{},
	try func(context.Context) (bool, error), observe func(Event)) error {
	ctx, cancel := context.WithCancel(ctx)
	seen, failed := make(chan dataplane.Event, 1024), make(chan error, 2)
	go func() { failed <- source(ctx) }()
	go func() { failed <- e.dp.Watch(ctx, func(ev dataplane.Event) { offer(ctx, seen, ev) }) }()
	err, ended := e.loop(ctx, came, try, seen, failed, observe)
	cancel()
	for ; ended < 2; ended++ {
		err = errors.Join(err, ignoreCanceled(<-failed))
	}
	return err
}

func (e *Engine) loop(ctx context.Context, came <-chan struct{}, try func(context.Context) (bool, error),
	seen <-chan dataplane.Event, failed <-chan error, observe func(Event)) (error, int) {
	again := time.NewTimer(resync)
	defer again.Stop()
	attempt := func() {
		tried, err := try(ctx)
		if !tried {
			return
		}
		status := e.Status()
		observe(Event{Synced: &status})
		if err != nil {
			again.Reset(retry)
		} else {
			again.Reset(resync)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil, 0
		case err := <-failed:
			return ignoreCanceled(err), 1
		case <-came:
			attempt()
		case ev := <-seen:
			if ev.Drift != nil {
				again.Reset(0)
			} else {
				observe(Event{Seen: ev})
			}
		case <-again.C:
			again.Reset(resync)
			if e.Status().Err != nil {
				attempt()
			} else {
				again.Reset(e.repair(ctx, observe))
			}
		}
	}
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

// newest holds the last state that came.
type newest struct {
	came chan struct{} // of one place
	mu   sync.Mutex
	in   *Input
}

func (n *newest) put(in Input) {
	n.mu.Lock()
	n.in = &in
	n.mu.Unlock()
	select {
	case n.came <- struct{}{}:
	default:
	}
}

func (n *newest) get() *Input {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.in
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
