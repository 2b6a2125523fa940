//go:build linux

package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// retryAfter is how long a failed attempt waits for the next one.
const retryAfter = time.Second

// patience is how long an Outcome waits for pods that are being started.
const patience = 2 * time.Second

// Outcome is how one Apply went, or what became of pods later.
type Outcome struct {
	Change
	Started []cluster.Key // sorted
	New     bool          // something else than before was desired; if not, what runs was mended
	Note    any           // of what is desired
	Err     error
	At      time.Time
}

// Keep makes what runs what is desired, and keeps it so, until ctx ends: whatever ends is started again. observe is
// called from this goroutine, for each thing that is desired once its pods run or take too long or something else is
// desired, and when something was mended or goes wrong.
func (n *Node) Keep(ctx context.Context, desired <-chan Desired, observe func(Outcome)) {
	k := keeping{node: n, observe: observe, retry: time.NewTimer(time.Hour), late: time.NewTimer(time.Hour)}
	defer k.retry.Stop()
	defer k.late.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-desired:
			k.last = &d
			k.apply(ctx, true)
		case <-n.wake:
			k.apply(ctx, false)
		case <-n.seen.changed:
			if err := n.Refresh(ctx); err != nil {
				k.apply(ctx, false)
			}
		case <-k.retry.C:
			k.apply(ctx, false)
		case <-n.Settled():
			k.flush(ctx, n.Progress())
		case <-k.late.C:
			k.flush(ctx, n.Progress())
		}
	}
}

// keeping is the state of Keep.
type keeping struct {
	node        *Node
	observe     func(Outcome)
	last        *Desired
	pending     *Outcome // of the last Apply, whose pods are being started
	retry, late *time.Timer
}

func (k *keeping) apply(ctx context.Context, isNew bool) {
	if k.last == nil {
		return
	}
	k.flush(ctx, k.node.Progress())
	change, err := k.node.Apply(ctx, *k.last)
	k.pending = &Outcome{Change: change, New: isNew, Note: k.last.Note, Err: err}
	k.retry.Reset(time.Hour)
	k.late.Reset(patience)
	if err != nil {
		k.flush(ctx, k.node.Progress())
	}
}

// flush reports the last Apply with what is known of the pods, or what became of them later.
func (k *keeping) flush(ctx context.Context, p Progress) {
	if ctx.Err() != nil || k.last == nil || k.pending == nil && len(p.Started) == 0 && p.Err == nil {
		return
	}
	o := k.pending
	k.pending = nil
	if o == nil {
		o = &Outcome{Note: k.last.Note, Change: Change{Status: k.node.engine.Status()}}
	}
	o.Started, o.Err, o.At = p.Started, errors.Join(o.Err, p.Err), time.Now()
	if o.Err != nil {
		k.retry.Reset(retryAfter)
	}
	k.observe(*o)
}
