//go:build linux

package lab

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
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
	if err := l.sync(ctx); err != nil {
		return err
	}
	e.watching.Go(func() { l.denials.fail(dp.Watch(watchCtx, l.denials.put)) })
	return nil
}

// sync brings the lab's state in force.
func (l *Lab) sync(ctx context.Context) error {
	e := l.enforcer.engine
	if err := e.Sync(ctx, engine.Input{State: l.plan.state, Attachments: l.plan.attachments()}); err != nil {
		return err
	}
	status := e.Status()
	l.timings.Compile, l.timings.Apply = status.Compile, status.Apply
	return nil
}

// SetPolicies puts other policies in force; everything else stays as it is. It must not run beside Probe. Addresses
// and ports that only the new policies name are not probed: a lab is laid out when it boots.
func (l *Lab) SetPolicies(ctx context.Context, policies []*policy.Policy) error {
	o := l.plan.state.Objects()
	o.Policies = slices.Clone(policies)
	o.Revision++
	state, err := cluster.NewState(o)
	if err != nil {
		return err
	}
	l.plan.state = state
	if l.enforcer == nil {
		return nil
	}
	return l.sync(ctx)
}

// attribute names the rule that a denied packet fell to; false if it fell to none.
func (e *enforcer) attribute(d dataplane.Denial) (flow.Rule, bool) { return e.engine.Attribute(d) }

func (e *enforcer) close() error {
	e.stop()
	e.watching.Wait()
	return e.dp.Close()
}
