package agent

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/flowlog/watch"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// flowLimits bound what flows cost a node: the memory of an agent is the node's.
var flowLimits = flowlog.Limits{Records: 20_000, Bytes: 12 << 20, Open: 16_384, Pairs: 2_000}

// newFlows returns an empty log of flows with the names that the engine knows.
func newFlows(node string, e *engine.Engine) *flowlog.Log {
	return flowlog.New(flowlog.Names{
		Node: node,
		Resolve: func(t flow.Tuple) cluster.Connection {
			return cluster.Connection{From: e.At(t.Source), To: e.At(t.Destination), Protocol: t.Protocol, Port: t.Port, Translated: t.Translated}
		},
		Decide: e.Decide,
		Attribute: func(row ruleset.RowID, t flow.Tuple) (flow.Rule, bool) {
			return e.Attribute(dataplane.Denial{Row: row, Tuple: t})
		},
	}, flowLimits)
}

// keepFlows tells the log of connections, and whoever may open the socket of the log, until ctx ends. It is no reason to end
// an agent if that does not work.
func (a *Agent) keepFlows(ctx context.Context, log *flowlog.Log) error {
	err := a.serveFlows(ctx, log)
	if err != nil && ctx.Err() == nil {
		a.log.Warn("flows are not kept", "error", err)
	}
	return nil
}

func (a *Agent) serveFlows(ctx context.Context, log *flowlog.Log) error {
	w, err := watch.New(a.net.ns, log, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	l, err := socket.Listen(a.options.Flows)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx) })
	group.Go(func() error { return socket.Serve(ctx, l, log) })
	return group.Wait()
}

// seen tells the log of flows what the kernel said of denials.
func (a *Agent) seen(ev dataplane.Event) {
	a.mu.Lock()
	log := a.flows
	a.mu.Unlock()
	if log == nil {
		return
	}
	if d := ev.Denial; d != nil {
		log.Denied(flowlog.Denial{Time: d.Time, Row: d.Row, Tuple: d.Tuple})
	}
	if ev.Lost > 0 {
		log.Lose(ev.Lost)
	}
}
