package agent

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/conntrack"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/flowlog/watch"
	"github.com/ringfence-project/ringfence/internal/rollout/follow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// flowLimits bound what flows cost a node: the memory of an agent is the node's.
var flowLimits = flowlog.Limits{Records: 20_000, Bytes: 12 << 20, Open: 16_384, Pairs: 2_000}

// noFlows bound a log that nobody reads: rollouts are judged by what it hears.
var noFlows = flowlog.Limits{Records: 1, Bytes: 1, Open: flowLimits.Open, Pairs: 1}

// newFlows returns an empty log of flows with the names that the engine knows, and what rollouts say of them.
func newFlows(node string, e *engine.Engine, r *follow.Follower, limits flowlog.Limits) *flowlog.Log {
	return flowlog.New(flowlog.Names{
		Node: node,
		Resolve: func(t flow.Tuple) cluster.Connection {
			return cluster.Connection{From: unmarked(e.At(t.Source)), To: unmarked(e.At(t.Destination)), Protocol: t.Protocol, Port: t.Port,
				Translated: t.Translated}
		},
		Decide: e.Decide,
		Attribute: func(row ruleset.RowID, t flow.Tuple) (flow.Rule, bool) {
			return e.Attribute(dataplane.Denial{Row: row, Tuple: t})
		},
		Beside: func(t flow.Tuple, fared flow.Verdict, earlier bool, at time.Time) *flowlog.Beside {
			d := r.Judge(e.Look, t, fared, earlier, at)
			if d == nil {
				return nil
			}
			return &flowlog.Beside{Rollout: d.Rollout, Candidate: d.Candidate, Verdict: d.Verdict, Rule: d.Rule}
		},
	}, limits)
}

// unmarked is a party as people know it.
func unmarked(p cluster.Party) cluster.Party {
	if e := p.Endpoint; e != nil {
		if labels := e.Labels.Unmarked(); labels != e.Labels {
			plain := *e
			plain.Labels = labels
			p.Endpoint = &plain
		}
	}
	return p
}

// keepFlows sees connections until ctx ends: always where flows are told to whoever may open the socket, else while a
// rollout is judged by them. It is no reason to end an agent if that does not work.
func (a *Agent) keepFlows(ctx context.Context, e *engine.Engine) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.judgeLiving(ctx, e) })
	if a.options.Flows == "" {
		group.Go(func() error { return a.seeForRollouts(ctx, e) })
		return group.Wait()
	}
	log := newFlows(a.options.Node, e, a.feed.rolls, flowLimits)
	a.keep(log)
	group.Go(func() error { return a.serveFlows(ctx, log) })
	group.Go(func() error { return a.see(ctx, log) })
	return group.Wait()
}

// keep has denials told to a log; nil is none.
func (a *Agent) keep(log *flowlog.Log) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flows = log
}

func (a *Agent) serveFlows(ctx context.Context, log *flowlog.Log) error {
	l, err := socket.Listen(a.options.Flows)
	if err == nil {
		err = socket.Serve(ctx, l, log)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("flows are not told", "error", err)
	}
	return nil
}

// seeForRollouts sees connections while a rollout is under way.
func (a *Agent) seeForRollouts(ctx context.Context, e *engine.Engine) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.feed.rolls.UnderWay():
		}
		round, stop := context.WithCancel(ctx)
		over := a.feed.rolls.Over()
		go func() {
			defer stop()
			select {
			case <-over:
			case <-round.Done():
			}
		}()
		log := newFlows(a.options.Node, e, a.feed.rolls, noFlows)
		a.keep(log)
		_ = a.see(round, log) // ends with round
		a.keep(nil)
		stop()
	}
}

// see tells a log of connections until ctx ends.
func (a *Agent) see(ctx context.Context, log *flowlog.Log) error {
	for {
		err := a.seeOnce(ctx, log)
		a.feed.rolls.Watches(false)
		if ctx.Err() != nil {
			return nil
		}
		a.setCondition(NotSeeing, fmt.Sprint("connections are not seen, so that no flows are kept and no rollout goes on: ", err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}

func (a *Agent) seeOnce(ctx context.Context, log *flowlog.Log) error {
	w, err := watch.New(a.net.ns, log, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	a.setCondition(NotSeeing, "")
	a.feed.rolls.Watches(true)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(ctx) })
	group.Go(func() error { log.Outcomes(ctx, a.feed.rolls.Ended); return nil })
	return group.Wait()
}

// judgeLiving judges the connections that are there by the rollouts that begin, until ctx ends.
func (a *Agent) judgeLiving(ctx context.Context, e *engine.Engine) error {
	r := a.feed.rolls
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.Begins():
		}
		for {
			had, err := r.JudgeLiving(e.Look, func() ([]flow.Tuple, error) { return a.living(ctx) })
			if !had {
				break
			}
			if err == nil {
				a.setCondition(NotListing, "")
				continue
			}
			a.setCondition(NotListing, "connections are not listed, so that no rollout begins: "+err.Error())
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(again):
			}
		}
	}
}

// living are the connections that there are.
func (a *Agent) living(ctx context.Context) ([]flow.Tuple, error) {
	var all []flow.Tuple
	err := conntrack.List(ctx, a.net.ns, func(c conntrack.Conn) {
		if !c.Over() {
			all = append(all, c.Tuple())
		}
	})
	return all, err
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
