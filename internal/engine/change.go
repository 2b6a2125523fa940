package engine

import (
	"context"
	"time"

	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Edit is a change of some objects, in the stead of a whole state.
type Edit struct {
	Apply func(*compile.Compiler) // makes the change; nil makes none
	Done  func()                  // is called once the change is in force; may be nil
}

// Feed delivers changes of objects.
type Feed interface {
	// Run follows the objects until ctx ends or it fails for good.
	Run(ctx context.Context) error
	// Changed has a value when Take may have something to return.
	Changed() <-chan struct{}
	// Take returns, as one, all changes since the last call; what is given to the compiler stays as it is. The first
	// Edit has to bring everything there is: after it the engine replaces what it finds in force. Before there is
	// something to put in force, Take returns false.
	Take() (Edit, bool)
}

// Change brings an edit in force. The work is that of what the edit affects. After an error what was in force before
// still is, and the next Change, which may have no edit, starts over.
func (e *Engine) Change(ctx context.Context, edit Edit) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	start := time.Now()
	var delta ruleset.Delta
	e.desired = true
	if edit.Done != nil {
		e.waiting = append(e.waiting, edit.Done)
	}
	e.show(func() {
		if edit.Apply != nil {
			edit.Apply(e.compiler)
		}
		delta = e.compiler.Flush()
		e.note(delta, start)
	})
	if e.inForce && len(delta.Ops) == 0 {
		e.show(func() { e.status.Err = nil })
	} else if err := e.put(ctx, delta); err != nil {
		return err
	}
	for _, done := range e.waiting {
		done()
	}
	e.waiting = nil
	return nil
}

// RunFeed is Run with changes in the stead of states.
func (e *Engine) RunFeed(ctx context.Context, feed Feed, observe func(Event)) error {
	try := func(ctx context.Context) (bool, error) {
		edit, ok := feed.Take()
		if !ok && !e.started() {
			return false, nil
		}
		return true, e.Change(ctx, edit)
	}
	return e.run(ctx, feed.Run, feed.Changed(), try, observe)
}

func (e *Engine) started() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.desired
}
