//go:build linux

package runtime

import (
	"context"
	"sync"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// endings are pods that are ending, which takes as long as their commands need. Nobody waits for them but a pod of the
// same name.
type endings struct {
	mu      sync.Mutex
	running map[cluster.Key]*ending
}

type ending struct {
	done chan struct{}
	err  error // once done is closed
}

// begin ends a pod by f, unless that is under way.
func (e *endings) begin(k cluster.Key, f func() error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running[k] != nil {
		return
	}
	if e.running == nil {
		e.running = map[cluster.Key]*ending{}
	}
	this := &ending{done: make(chan struct{})}
	e.running[k] = this
	go func() {
		this.err = f()
		e.mu.Lock()
		delete(e.running, k)
		e.mu.Unlock()
		close(this.done)
	}()
}

// await returns when the pod has ended, if it is ending.
func (e *endings) await(ctx context.Context, k cluster.Key) error {
	e.mu.Lock()
	this := e.running[k]
	e.mu.Unlock()
	if this == nil {
		return nil
	}
	select {
	case <-this.done:
		return this.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
