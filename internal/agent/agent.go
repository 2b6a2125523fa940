// Package agent is what runs on each node of a Kubernetes cluster: it keeps the node's kernel in step with the API's
// policies, and says whether it is.
//
// Nothing that matters is in this process. The kernel enforces without it; it starts from what the API says and what the
// kernel has, whatever was before; and what the API does not say yet is closed (see nft.Options.Closed).
package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/cni"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/rollout/follow"
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
	Version string // the agent's, for its report
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// PodCIDRs are the prefixes that this node's pods get their addresses from. None means: what the node's object says.
	PodCIDRs []netip.Prefix
	// AllowUnknown lets pods that the agent does not know yet send and be reached.
	AllowUnknown bool
	Records      string // folder of cni.Records; "" is cni.DefaultRecords
	// Memory is a folder in which ClusterNetworkPolicies and rollouts are kept for the next agent; see kube.Options. "" keeps none.
	Memory string
	Listen string // where metrics and health are served, on a loopback address; "" is nowhere
	// Flows is the socket on which flows are told, to whoever may open it; see flowlog/socket. "" keeps none.
	Flows string
	Log   *slog.Logger
}

// Agent is a running agent.
type Agent struct {
	options Options
	log     *slog.Logger
	net     nodeNet
	source  *kube.Source
	feed    *feed
	metrics *metrics
	denials *denials

	tracking tracking

	mu      sync.Mutex
	own     map[string]Condition // the agent's own conditions, by type
	engine  *engine.Engine       // nil until the first lists are complete
	flows   *flowlog.Log         // nil before that, and while none are kept
	proven  map[string]bool      // families of which a probe was seen to pass the table, by name
	told    map[string]bool
	inForce bool
	news    chan struct{} // of one place: what is reported may have changed
	first   chan struct{} // closed with the first time that all is in force
	// recalled is closed once it is known what the agent before this one reported, as far as the API tells.
	recalled chan struct{}
}

// Run enforces in the process's own network namespace, which is to be the node's, until ctx ends. What is in force stays
// in force, then and after every error.
func Run(ctx context.Context, o Options) error {
	places, err := newKernel(nodeNet{}, cmp.Or(o.Records, cni.DefaultRecords))
	if err != nil {
		return err
	}
	defer places.close()
	return newAgent(o, nodeNet{}, places).run(ctx)
}

func newAgent(o Options, n nodeNet, l locator) *Agent {
	source := kube.New(kube.Options{Client: o.Client, Dynamic: o.Dynamic, Ranges: o.PodCIDRs, Memory: o.Memory})
	a := &Agent{options: o, log: o.Log, net: n, tracking: newTracking(), source: source,
		own: map[string]Condition{}, proven: map[string]bool{}, told: map[string]bool{}, news: make(chan struct{}, 1), first: make(chan struct{}),
		recalled: make(chan struct{})}
	a.feed = newFeed(source, l, follow.Options{Node: o.Node, News: a.wakeReporter,
		Conflict: func(why string) { a.setCondition(Conflicting, why) }})
	a.denials = newDenials(o, a.feed)
	a.metrics = newMetrics(a)
	a.feed.times = a.metrics.observe
	return a
}

func (a *Agent) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if a.options.Listen != "" {
		group.Go(func() error { return a.serve(ctx) })
	}
	group.Go(func() error { return a.source.Run(ctx) })
	group.Go(func() error { return a.tellConditions(ctx) })
	group.Go(func() error { return a.watchTracking(ctx) })
	group.Go(func() error { return a.denials.send(ctx) })
	group.Go(func() error { return a.recall(ctx) })
	group.Go(func() error { return a.report(ctx) })
	group.Go(func() error { return a.enforce(ctx) })
	return group.Wait()
}

// again is how long what the machine lacks waits before it is looked for anew.
const again = 10 * time.Second

// enforce drives the kernel until ctx ends or something fails for good. Then the process ends, and whoever started it
// starts it anew: what is in force stays so meanwhile.
func (a *Agent) enforce(ctx context.Context) error {
	if err := a.closeEarly(ctx); err != nil {
		return nil // ctx ended
	}
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
	select {
	case <-ctx.Done():
		return nil
	case <-a.recalled:
	}
	e := engine.New(dp, compile.Options{Node: a.options.Node})
	a.mu.Lock()
	a.engine = e
	a.mu.Unlock()
	a.feed.before = func() { dp.SetClosed(a.closed()) }
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.keepProbing(ctx, dp) })
	group.Go(func() error { return a.denials.count(ctx, dp, e) })
	group.Go(func() error { return a.keepFlows(ctx, e) })
	group.Go(func() error { return e.RunFeed(ctx, a.feed, a.observe) })
	return errors.Join(group.Wait(), dp.Close())
}

// closeEarly closes what is known to be pods' addresses, before the API has said anything, and notes whether somebody did
// before.
func (a *Agent) closeEarly(ctx context.Context) error {
	if a.options.AllowUnknown {
		return nil
	}
	for {
		was, err := ensureClosed(ctx, a.net, a.options.PodCIDRs)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			a.setCondition(NotEnforcing, "")
			if !was {
				a.setCondition(StartGap, "no table was in force when the agent started, so pods that were there had no policy until now: "+
					"install the CNI plugin, or load the closed table at boot")
			}
			return nil
		}
		if errors.Is(err, nft.ErrOther) {
			return nil // of an older version, perhaps: it is replaced once it is known what by
		}
		a.setCondition(NotEnforcing, err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// closed are the prefixes in which unknown pods are closed: the node's ranges, and the addresses that were given out
// beside them.
func (a *Agent) closed() []netip.Prefix {
	if a.options.AllowUnknown {
		return nil
	}
	ranges := a.options.PodCIDRs
	if len(ranges) == 0 {
		ranges = a.source.NodeRanges(a.options.Node)
	}
	if len(ranges) == 0 {
		ranges = a.feed.routedRanges()
	}
	if len(ranges) == 0 {
		a.setCondition(NoPodRange, "neither the Node object's podCIDRs nor routes say where this node's pods get their addresses from: "+
			"say --pod-cidrs, else a pod is open until the agent knows it")
	} else {
		a.setCondition(NoPodRange, "")
	}
	all := slices.Clone(ranges)
	for _, x := range a.feed.locator.addresses() {
		if !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(x) }) {
			all = append(all, netip.PrefixFrom(x, x.BitLen()))
		}
	}
	return all
}

// open opens the dataplane. A machine that cannot do what is needed is a condition: an agent that ended would say less.
func (a *Agent) open(ctx context.Context) (*nft.Dataplane, error) {
	for {
		dp, err := nft.New(nft.Options{NetNS: a.net.fd(), LogGroup: LogGroup, LogRate: logRate, Closed: a.closed()})
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

// observe is told what the engine does.
func (a *Agent) observe(ev engine.Event) {
	switch {
	case ev.Synced != nil:
		a.synced(*ev.Synced)
	case ev.Repaired != "":
		a.log.Warn("somebody changed the kernel's tables; they were put right", "what", ev.Repaired)
	case ev.Seen.Lost > 0:
		a.seen(ev.Seen)
		a.metrics.lost.Add(float64(ev.Seen.Lost))
	case ev.Seen.Denial != nil:
		a.seen(ev.Seen)
		a.denials.see(*ev.Seen.Denial, a.running())
	}
}

func (a *Agent) synced(s engine.Status) {
	defer a.wakeReporter()
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
		close(a.first)
	}
	if first {
		a.log.Info("the first ruleset is in force", "generation", s.Generation, "compile", s.Compile, "apply", s.Apply)
	} else if s.Ops > 0 {
		a.log.Debug("in force", "generation", s.Generation, "operations", s.Ops, "compile", s.Compile, "apply", s.Apply)
	}
}

// awaitInForce waits for the first ruleset to be in force; false if ctx ended before.
func (a *Agent) awaitInForce(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-a.first:
		return true
	}
}
