//go:build linux

package lab

import (
	"context"
	"fmt"
	"sync"

	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// enforcer is the node's dataplane with its engine.
type enforcer struct {
	dp       dataplane.Dataplane
	engine   *engine.Engine
	stop     context.CancelFunc
	watching sync.WaitGroup
}

// enforce puts the policies in force on the node, which has no pods yet, and watches what they deny.
func (l *Lab) enforce(ctx context.Context, spec Spec) error {
	if spec.Dataplane == nil {
		return nil
	}
	dp, err := spec.Dataplane(l.node.ns)
	if err != nil {
		return fmt.Errorf("open dataplane: %w", err)
	}
	watchCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	e := &enforcer{dp: dp, engine: engine.New(dp, compile.Options{}), stop: stop}
	l.enforcer = e
	in := engine.Input{State: l.plan.state, Attachments: l.plan.attachments()}
	if err := e.engine.Sync(ctx, in); err != nil {
		return err
	}
	e.watching.Go(func() { l.denials.fail(dp.Watch(watchCtx, l.denials.put)) })
	status := e.engine.Status()
	l.timings.Compile, l.timings.Apply = status.Compile, status.Apply
	return nil
}

// attribute names the rule that a denied packet fell to; false if it fell to none.
func (e *enforcer) attribute(d dataplane.Denial) (flow.Rule, bool) { return e.engine.Attribute(d) }

func (e *enforcer) close() error {
	e.stop()
	e.watching.Wait()
	return e.dp.Close()
}

// Engine is what keeps the lab's dataplane in step, for tests that change policies; nil without a dataplane.
func (l *Lab) Engine() *engine.Engine {
	if l.enforcer == nil {
		return nil
	}
	return l.enforcer.engine
}
