//go:build linux

package runtime

import (
	"context"
	"time"
)

// retryAfter is how long a failed Apply waits for the next one.
const retryAfter = time.Second

// Outcome is how one Apply went.
type Outcome struct {
	Change
	New  bool // something else than before was desired; if not, what runs was mended
	Note any  // of what is desired
	Err  error
	At   time.Time
}

// Keep makes what runs what is desired, and keeps it so, until ctx ends: whatever ends is started again. observe is
// called after each attempt, from this goroutine.
func (n *Node) Keep(ctx context.Context, desired <-chan Desired, observe func(Outcome)) {
	var last *Desired
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		isNew := false
		select {
		case <-ctx.Done():
			return
		case d := <-desired:
			last, isNew = &d, true
		case <-n.wake:
		case <-n.seen.changed:
			if err := n.Refresh(ctx); err == nil {
				continue
			}
		case <-retry.C:
		}
		if last == nil {
			continue
		}
		o := n.attempt(ctx, *last)
		if ctx.Err() != nil {
			return
		}
		o.New = isNew
		observe(o)
		retry.Reset(time.Hour)
		if o.Err != nil {
			retry.Reset(retryAfter)
		}
	}
}

func (n *Node) attempt(ctx context.Context, d Desired) Outcome {
	change, err := n.Apply(ctx, d)
	return Outcome{Change: change, Note: d.Note, Err: err, At: time.Now()}
}
