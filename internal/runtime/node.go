//go:build linux

// Package runtime runs a cluster on this machine: each pod in namespaces of its own, connected by a node that is a
// namespace too, with policies in force between them. The host's own network is not touched.
//
// What it runs is held by shims and by the kernel, and outlives the process. Open finds it again; Apply makes it what is
// desired, from whatever is there: it compares, it does not remember.
package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/podspec"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// endTimeout is how long something that was asked to end may take, beside what it was given itself.
const endTimeout = 10 * time.Second

// Options are choices for Open. The zero value is good.
type Options struct {
	Bridge bool // pods on one bridge instead of routed veths
	// Executable runs the shims; see shim.Start.
	Executable string
	// LogGroup is where denials are reported; see nft.Options. 0 reports none.
	LogGroup uint16
	LogRate  uint
	// Resolv is what a pod's /etc/resolv.conf says; nil leaves it empty.
	Resolv func(cluster.Key) string
	// Rewrite, if it is set, returns the state that policies are judged by, in the stead of one with all pods placed; it
	// must have the same pods. Enforced is called when that is in force.
	Rewrite  func(*cluster.State) (*cluster.State, error)
	Enforced func(*cluster.State)
	// Extend puts in force what goes beyond policy, such as Services and names. It is called with policies in force and
	// before new pods are plugged in, and again whenever the readiness of a pod changes.
	Extend func(ctx context.Context, v View) error
}

// Desired is what is to run.
type Desired struct {
	Objects   cluster.Objects // addresses and nodes of pods are not looked at: all run here
	Workloads map[cluster.Key]podspec.Spec
	Extra     any // for Options.Extend
	Note      any // comes back in the Outcome
}

// View is what is in force, for Options.Extend.
type View struct {
	State *cluster.State
	Ready func(cluster.Key) bool
	Extra any // of Desired
	Node  *netns.NS
	Net   podnet.Net
	// Tell hands data to the Servant in the node's shim.
	Tell func(ctx context.Context, data json.RawMessage) error
}

// Node is this machine as a node. Its methods may be called from any goroutine.
type Node struct {
	Instance
	options Options
	net     podnet.Net
	lock    *os.File
	leases  *leases
	wake    chan struct{} // of one place: something ended that should be running

	mu     sync.Mutex // one change at a time; it guards what follows
	shim   *shim.Client
	ns     *netns.NS
	dp     *nft.Dataplane
	engine *engine.Engine
	pods   map[cluster.Key]*pod
	state  *cluster.State // in force, before Options.Rewrite
	last   Desired

	bringing bringing

	ctx     context.Context // of the work on pods, until Close
	cancel  context.CancelFunc
	working sync.WaitGroup
	seen    readiness
	ending  endings
}

// Open takes the instance over: it finds what runs, or starts the node. Nobody else may have it open.
func Open(ctx context.Context, i Instance, o Options) (*Node, error) {
	lock, err := i.lock()
	if err != nil {
		return nil, err
	}
	n := &Node{Instance: i, options: o, lock: lock, wake: make(chan struct{}, 1), pods: map[cluster.Key]*pod{},
		net:      podnet.Net{Bridge: o.Bridge, Ranges: PodRanges, Address: NodeAddresses},
		bringing: newBringing(),
		seen:     readiness{pods: map[cluster.Key]shim.Status{}, changed: make(chan struct{}, 1)}}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, step := range []func() error{
		n.checkShape,
		func() (err error) { n.leases, err = openLeases(filepath.Join(i.State, "addresses.json")); return err },
		func() error { return n.ensureNode(ctx) },
		n.openDataplane,
		func() error { return n.adopt(ctx) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// checkShape refuses to go on with another network than the one that is there.
func (n *Node) checkShape() error {
	path := filepath.Join(n.Run, "net.json")
	type shape struct {
		Bridge bool           `json:"bridge"`
		Ranges []netip.Prefix `json:"ranges"`
	}
	var was shape
	err := readJSON(path, &was)
	if err == nil && was.Bridge != n.net.Bridge {
		return fmt.Errorf("instance %s runs with another topology: \"ringfence down\" ends it", n.Name)
	}
	return writeJSON(path, shape{n.net.Bridge, n.net.Ranges[:]})
}

// ensureNode finds the node's shim, or starts one: in the node's namespace if we still have that.
func (n *Node) ensureNode(ctx context.Context) error {
	if n.shim != nil && n.shim.Alive() {
		return nil
	}
	c, err := shim.Find(n.nodeDir())
	if errors.Is(err, os.ErrProcessDone) {
		c, err = shim.Start{Kind: shim.NodeKind, Dir: n.nodeDir(), NetNS: n.ns, Executable: n.options.Executable}.Start(ctx)
	}
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.shim = c
	go func() {
		if c.AwaitEnd(n.ctx) == nil {
			n.poke()
		}
	}()
	if n.ns != nil {
		return nil
	}
	if n.ns, err = c.NetNS(); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := n.net.SetUp(n.ns); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

func (n *Node) openDataplane() (err error) {
	n.dp, err = nft.New(nft.Options{NetNS: n.ns.FD(), LogGroup: n.options.LogGroup, LogRate: n.options.LogRate})
	if err != nil {
		return fmt.Errorf("open dataplane: %w", err)
	}
	n.engine = engine.New(n.dp, compile.Options{})
	return nil
}

// Engine keeps the dataplane in step; it is for status and for the attribution of denials.
func (n *Node) Engine() *engine.Engine { return n.engine }

// Watch reports denials and repairs what others change in the kernel, until ctx ends.
func (n *Node) Watch(ctx context.Context, observe func(engine.Event)) error {
	return n.engine.Run(ctx, idle{}, observe)
}

// idle is the source of an engine whose states come by Apply.
type idle struct{}

func (idle) Run(ctx context.Context, _ func(engine.Input)) error {
	<-ctx.Done()
	return nil
}

// poke wakes whoever waits for Woken.
func (n *Node) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Refresh brings what depends on readiness up to date.
func (n *Node) Refresh(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.extend(ctx)
}

func (n *Node) extend(ctx context.Context) error {
	if n.options.Extend == nil || n.state == nil {
		return nil
	}
	return n.options.Extend(ctx, View{State: n.state, Ready: n.seen.ready, Extra: n.last.Extra, Node: n.ns, Net: n.net,
		Tell: func(ctx context.Context, data json.RawMessage) error {
			_, err := n.shim.Do(ctx, shim.Request{Op: shim.OpUpdate, Node: data})
			return err
		}})
}

// Close lets go of everything. What runs goes on, and what is in force stays so.
func (n *Node) Close() error {
	n.cancel()
	n.working.Wait()
	var errs []error
	for _, p := range n.pods {
		p.release()
	}
	if n.dp != nil {
		errs = append(errs, n.dp.Close())
	}
	if n.ns != nil {
		errs = append(errs, n.ns.Close())
	}
	return errors.Join(append(errs, n.lock.Close())...)
}
