// Package engine is the one loop: desired state in, compiled, put in force, read back, reported. It is
// level-triggered: what it does depends on the newest state and on what is in force, never on the path there.
package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Input is the desired state, whole.
type Input struct {
	State       *cluster.State
	Attachments map[cluster.Key]ruleset.Attachment // where this node's pods are plugged in
}

// Source delivers desired states. Run calls put with each newer one until ctx ends or it fails for good; put
// does not block for long, and a state that a newer one overtakes may never be seen by the engine.
type Source interface {
	Run(ctx context.Context, put func(Input)) error
}

// Status is what is in force, and how the last attempt to change it went.
type Status struct {
	Generation uint64        // in force
	Revision   uint64        // of the cluster state that Generation was compiled from
	Since      time.Time     // when Generation came in force
	Compile    time.Duration // of the last attempt
	Apply      time.Duration // of the last attempt
	Ops        int           // of the last attempt's Delta
	Repairs    int           // how often somebody else's change was undone
	Err        error         // why the last attempt failed; nil when what is desired is in force
}

// Engine keeps one dataplane in step with a source. Its methods may be called from any goroutine.
type Engine struct {
	mu      sync.Mutex // held while the dataplane is written; guards what follows
	dp      dataplane.Dataplane
	desired bool     // a state has come; before that there is nothing to put in force, and nothing to repair
	inForce bool     // what is in force is what the compiler has, as far as we know
	waiting []func() // of the edits that are not in force yet

	view     sync.RWMutex // never held while the kernel is written, so that readers do not wait for it; guards what follows
	compiler *compile.Compiler
	snapshot *ruleset.Ruleset // of the compiler; nil if nobody has asked since it changed
	history  history
	status   Status
}

// New returns an engine that has put nothing in force yet. The caller keeps dp and closes it.
func New(dp dataplane.Dataplane, opts compile.Options) *Engine {
	return &Engine{compiler: compile.New(opts), dp: dp, history: newHistory()}
}

// Sync brings in.State in force. After an error what was in force before still is, and the next Sync starts over.
func (e *Engine) Sync(ctx context.Context, in Input) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	start := time.Now()
	var delta ruleset.Delta
	e.desired = true
	e.show(func() {
		delta = e.compiler.Update(in.State, in.Attachments)
		e.note(delta, start)
	})
	if err := e.put(ctx, delta); err != nil {
		return err
	}
	e.show(func() { e.status.Revision = in.State.Revision() })
	return nil
}

// note takes over what the compiler just did. It is called by show.
func (e *Engine) note(delta ruleset.Delta, start time.Time) {
	if len(delta.Ops) > 0 {
		e.snapshot = nil
	}
	e.history.add(delta)
	e.status.Compile, e.status.Ops = time.Since(start), len(delta.Ops)
}

// show changes what readers see.
func (e *Engine) show(change func()) {
	e.view.Lock()
	defer e.view.Unlock()
	change()
}

// put applies delta where it fits, else the whole ruleset.
func (e *Engine) put(ctx context.Context, delta ruleset.Delta) error {
	start, repaired := time.Now(), 0
	err := error(dataplane.ErrDrift)
	if e.inForce {
		err = e.dp.Apply(ctx, delta)
		if errors.Is(err, dataplane.ErrDrift) {
			repaired = 1
		}
	}
	if errors.Is(err, dataplane.ErrDrift) {
		err = e.dp.Replace(ctx, e.Ruleset())
	}
	e.inForce = err == nil
	e.show(func() {
		e.status.Apply, e.status.Err = time.Since(start), err
		e.status.Repairs += repaired
		if g := e.compiler.Generation(); err == nil && (g != e.status.Generation || e.status.Since.IsZero()) {
			e.status.Generation, e.status.Since = g, time.Now()
		}
	})
	if err != nil {
		return fmt.Errorf("put generation %d in force: %w", e.compiler.Generation(), err)
	}
	return nil
}

// Repair reads back what is in force and, where it is not what was put there, puts it there again. It returns what
// differed, "" if nothing did.
func (e *Engine) Repair(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	differs, err := e.differs(ctx)
	if err != nil || differs == "" {
		return "", err
	}
	e.inForce = false
	e.show(func() { e.status.Repairs++ })
	return differs, e.put(ctx, ruleset.Delta{})
}

func (e *Engine) differs(ctx context.Context) (string, error) {
	if !e.desired {
		return "", nil
	}
	if !e.inForce {
		return "the last change did not come in force", nil
	}
	real, err := e.dp.Realized(ctx)
	if errors.Is(err, dataplane.ErrDrift) {
		return err.Error(), nil
	}
	if err != nil {
		return "", fmt.Errorf("read back what is in force: %w", err)
	}
	if delta := ruleset.Diff(real, e.Ruleset().Stripped()); len(delta.Ops) > 0 {
		return fmt.Sprintf("%d elements differ from generation %d", len(delta.Ops), e.compiler.Generation()), nil
	}
	return "", nil
}

// Status returns what is in force.
func (e *Engine) Status() Status {
	e.view.RLock()
	defer e.view.RUnlock()
	return e.status
}

// Ruleset returns what is desired, which the caller must not change and which stays as it is. The first call after a
// change makes a copy, in time proportional to the whole; for one verdict ask Decide.
func (e *Engine) Ruleset() *ruleset.Ruleset {
	e.view.Lock()
	defer e.view.Unlock()
	if e.snapshot == nil {
		e.snapshot = e.compiler.Ruleset()
	}
	return e.snapshot
}

// Decide judges a connection by what is desired.
func (e *Engine) Decide(t flow.Tuple) flow.Decision {
	e.view.RLock()
	defer e.view.RUnlock()
	return e.compiler.Decide(t)
}

// At says whose address a is.
func (e *Engine) At(a netip.Addr) cluster.Party {
	e.view.RLock()
	defer e.view.RUnlock()
	return e.compiler.At(a)
}

// Look calls f with the compiler while what is desired stays as it is, and with it all else that an Edit's Apply changes. f
// may only ask it, as others do meanwhile, and must not call the engine.
func (e *Engine) Look(f func(*compile.Compiler)) {
	e.view.RLock()
	defer e.view.RUnlock()
	f(e.compiler)
}

// Attribute names the rule that a denied packet fell to; false if the row is older than what is remembered.
func (e *Engine) Attribute(d dataplane.Denial) (flow.Rule, bool) {
	e.view.RLock()
	defer e.view.RUnlock()
	return e.history.rule(d.Row, d.Tuple.Protocol, d.Tuple.Port)
}

// Denies names the rule by which a row denies, for counting what rows drop. Where one row denies by several rules, it is
// the one for protocols without ports, or else the first. False if the row is older than what is remembered.
func (e *Engine) Denies(row ruleset.RowID) (flow.Rule, bool) {
	e.view.RLock()
	defer e.view.RUnlock()
	return e.history.denial(row)
}
