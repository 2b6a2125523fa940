// Package agent is what runs on each node of a Kubernetes cluster: it keeps the node's kernel in step with the API's
// policies, and says whether it is.
//
// Nothing that matters is in this process. The kernel enforces without it; it starts from what the API says and what the
// kernel has, whatever was before; and what the API does not say yet is closed (see nft.Options.Closed).
package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// Denials are reported in this NFLOG group, so many a second for each row; what is more is counted.
const (
	LogGroup = 1974
	logRate  = 10
)

// Options say what to run.
type Options struct {
	Node    string // the name of the node's object
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// PodCIDRs are the prefixes that this node's pods get their addresses from. None means: what the node's object says.
	PodCIDRs []netip.Prefix
	// AllowUnknown lets pods that the agent does not know yet send and be reached.
	AllowUnknown bool
	Listen       string // where metrics and health are served, on a loopback address; "" is nowhere
	Log          *slog.Logger
}

// Agent is a running agent.
type Agent struct {
	options Options
	log     *slog.Logger
	ns      *netns.NS
	source  *kube.Source
	feed    *feed
	metrics *metrics

	mu      sync.Mutex
	own     map[string]Condition // the agent's own conditions, by type
	dp      *nft.Dataplane       // nil until it is open
	engine  *engine.Engine
	probed  bool // a probe was seen to pass the table
	told    map[string]bool
	inForce bool
}

// Run enforces until ctx ends. What is in force stays in force, then and after every error.
func Run(ctx context.Context, o Options) error {
	ns, err := netns.Current()
	if err != nil {
		return err
	}
	defer ns.Close()
	places, err := newRoutes(ns)
	if err != nil {
		return err
	}
	defer places.close()
	return run(ctx, o, ns, places)
}

func run(ctx context.Context, o Options, ns *netns.NS, l locator) error {
	source := kube.New(kube.Options{Client: o.Client, Dynamic: o.Dynamic})
	a := &Agent{options: o, log: o.Log, ns: ns, source: source, feed: newFeed(o.Node, source, l),
		own: map[string]Condition{}, told: map[string]bool{}}
	a.metrics = newMetrics(a)
	a.feed.times = a.metrics.observe
	group, ctx := errgroup.WithContext(ctx)
	if o.Listen != "" {
		group.Go(func() error { return a.serve(ctx) })
	}
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return a.tellConditions(ctx) })
	group.Go(func() error { return a.enforce(ctx) })
	return group.Wait()
}

// again is how long what the machine lacks waits before it is looked for anew.
const again = 10 * time.Second

// enforce drives the kernel until ctx ends or something fails for good. Then the process ends, and whoever started it
// starts it anew: what is in force stays so meanwhile.
func (a *Agent) enforce(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.source.Synced():
	}
	a.log.Info("the API's first lists are complete")
	dp, err := a.open(ctx)
	if err != nil {
		return nil // ctx ended
	}
	e := engine.New(dp, compile.Options{Node: a.options.Node})
	a.mu.Lock()
	a.dp, a.engine = dp, e
	a.mu.Unlock()
	return errors.Join(e.RunFeed(ctx, a.feed, a.observe), dp.Close())
}

// closed are the prefixes in which unknown pods are closed.
func (a *Agent) closed() []netip.Prefix {
	switch {
	case a.options.AllowUnknown:
		return nil
	case len(a.options.PodCIDRs) > 0:
		return a.options.PodCIDRs
	}
	return a.source.NodeRanges(a.options.Node)
}

// open opens the dataplane. A machine that cannot do what is needed is a condition: an agent that ended would say less.
func (a *Agent) open(ctx context.Context) (*nft.Dataplane, error) {
	for {
		dp, err := nft.New(nft.Options{NetNS: a.ns.FD(), LogGroup: LogGroup, LogRate: logRate, Closed: a.closed()})
		if err == nil {
			return dp, nil
		}
		a.setCondition(NotEnforcing, err.Error())
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(again):
		}
	}
}

// LoadClosed puts in force, in the process's own network namespace, that addresses in cidrs can neither send nor be
// reached, and reports whether a table was there already, which then stays as it is.
func LoadClosed(ctx context.Context, cidrs []netip.Prefix) (was bool, err error) {
	dp, err := nft.New(nft.Options{Closed: cidrs})
	if err != nil {
		return false, err
	}
	was, err = dp.LoadClosed(ctx)
	return was, errors.Join(err, dp.Close())
}

// observe is told what the engine does.
func (a *Agent) observe(ev engine.Event) {
	switch {
	case ev.Synced != nil:
		a.synced(*ev.Synced)
	case ev.Repaired != "":
		a.log.Warn("somebody changed the kernel's tables; they were put right", "what", ev.Repaired)
	case ev.Seen.Lost > 0:
		a.metrics.lost.Add(float64(ev.Seen.Lost))
	case ev.Seen.Denial != nil:
		a.denied(*ev.Seen.Denial)
	}
}

// denied is told of each denial that the kernel logs.
func (a *Agent) denied(d dataplane.Denial) {
	rule, _ := a.engine.Attribute(d)
	a.log.Debug("denied", "connection", d.Tuple.String(), "by", rule.String())
}

func (a *Agent) synced(s engine.Status) {
	a.metrics.applied(s)
	if s.Err != nil {
		a.setCondition(NotEnforcing, s.Err.Error())
		return
	}
	a.setCondition(NotEnforcing, "")
	a.mu.Lock()
	first := !a.inForce
	a.inForce = true
	a.mu.Unlock()
	if first {
		a.log.Info("the first ruleset is in force", "generation", s.Generation, "compile", s.Compile, "apply", s.Apply)
	} else if s.Ops > 0 {
		a.log.Debug("in force", "generation", s.Generation, "operations", s.Ops, "compile", s.Compile, "apply", s.Apply)
	}
}
