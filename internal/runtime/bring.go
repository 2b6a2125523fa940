//go:build linux

package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// parallel is how many pods are started at a time.
const parallel = 4

// bringing is the work that makes pods run as desired. It goes on beside further Applies, because a pod may take its
// time to end and to come again, and policies must not wait for that. Each pod has one goroutine at most. It is
// guarded by Node.mu.
type bringing struct {
	slots   chan struct{}
	busy    map[cluster.Key]bool
	started map[cluster.Key]bool // since the last Take
	errs    map[cluster.Key]error
	settled chan struct{} // of one place
}

func newBringing() bringing {
	return bringing{slots: make(chan struct{}, parallel), busy: map[cluster.Key]bool{}, started: map[cluster.Key]bool{},
		errs: map[cluster.Key]error{}, settled: make(chan struct{}, 1)}
}

// Progress is what became of the pods.
type Progress struct {
	Started []cluster.Key // since the last call; sorted
	Err     error         // what went wrong with pods that are not as desired
}

// Settled says that pods are not worked on any more: look at Progress.
func (n *Node) Settled() <-chan struct{} { return n.bringing.settled }

// Progress says what became of the pods.
func (n *Node) Progress() Progress {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := &n.bringing
	p := Progress{Started: slices.SortedFunc(maps.Keys(b.started), cluster.Key.Compare)}
	clear(b.started)
	var errs []error
	for _, k := range slices.SortedFunc(maps.Keys(b.errs), cluster.Key.Compare) {
		errs = append(errs, fmt.Errorf("pod %s: %w", k, b.errs[k]))
	}
	p.Err = errors.Join(errs...)
	return p
}

// bringAll starts the work on every pod that is not as desired. n.mu is held.
func (n *Node) bringAll() {
	b := &n.bringing
	clear(b.errs)
	select {
	case <-b.settled: // that was before
	default:
	}
	for _, e := range n.state.Endpoints() {
		if !b.busy[e.Key] && n.differs(e.Key) {
			b.busy[e.Key] = true
			n.working.Go(func() { n.work(e.Key) })
		}
	}
	n.tellSettled()
}

func (n *Node) tellSettled() {
	if len(n.bringing.busy) > 0 {
		return
	}
	select {
	case n.bringing.settled <- struct{}{}:
	default:
	}
}

// work makes a pod as desired, also if that changes meanwhile.
func (n *Node) work(k cluster.Key) {
	for {
		err := n.bring(n.ctx, k)
		n.mu.Lock()
		if err == nil && n.ctx.Err() == nil && n.differs(k) {
			n.mu.Unlock()
			continue
		}
		delete(n.bringing.busy, k)
		if err != nil {
			n.bringing.errs[k] = err
		}
		n.tellSettled()
		n.mu.Unlock()
		return
	}
}

// differs reports whether a pod that is desired is not as desired. n.mu is held.
func (n *Node) differs(k cluster.Key) bool {
	e := n.state.Endpoint(k)
	if e == nil {
		return false
	}
	p := n.pods[k]
	if p == nil || !p.host && p.port.Veth != n.port(k).Veth {
		return true
	}
	_, told, err := n.wanted(e)
	return err != nil || !bytes.Equal(told, p.told)
}

// wanted is what a pod is to be told, also as JSON.
func (n *Node) wanted(e *cluster.Endpoint) (*shim.Pod, []byte, error) {
	w := &shim.Pod{Key: e.Key, Addresses: e.Addresses, Ports: e.Ports, Workload: n.last.Workloads[e.Key],
		WorkDir: n.WorkDir(e.Key), Log: n.Log(e.Key)}
	told, err := json.Marshal(w)
	return w, told, err
}

// bring takes a pod to where it was desired to be when it began.
func (n *Node) bring(ctx context.Context, k cluster.Key) error {
	n.mu.Lock()
	e, p := n.state.Endpoint(k), n.pods[k]
	n.mu.Unlock()
	if e == nil {
		return nil
	}
	if p == nil {
		var err error
		if p, err = n.startWhenFree(ctx, k, e.HostNetwork); err != nil {
			return err
		}
	}
	w, told, err := n.plug(p)
	if w == nil || err != nil {
		return err
	}
	if err := n.tell(ctx, p, w); err != nil {
		if n.isCurrent(p) {
			return err
		}
		return nil // it was taken away meanwhile
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p.told = told
	return nil
}

func (n *Node) isCurrent(p *pod) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[p.key] == p
}

// startWhenFree starts a pod's shim as soon as the pod that had its name before has ended.
func (n *Node) startWhenFree(ctx context.Context, k cluster.Key, host bool) (*pod, error) {
	if err := n.ending.await(ctx, k); err != nil {
		return nil, err
	}
	select {
	case n.bringing.slots <- struct{}{}:
		defer func() { <-n.bringing.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return n.start(ctx, k, host)
}

// plug plugs a pod in, unless it is or shares the node's network, and returns what it is to be told. A pod that is not
// desired any more, or in another way, is ended, and nothing is returned. All this is one step, as Apply may unplug it.
func (n *Node) plug(p *pod) (*shim.Pod, []byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, current := n.state.Endpoint(p.key), n.pods[p.key]
	switch {
	case current == p && e != nil:
	case current == nil && e != nil && e.HostNetwork == p.host: // it was started just now
		n.pods[p.key] = p
		n.bringing.started[p.key] = true
	case current == nil:
		p.release()
		n.ending.begin(p.key, func() error {
			return n.remove(context.WithoutCancel(n.ctx), p.key, n.podDir(p.key), e != nil)
		})
		return nil, nil, nil
	default:
		return nil, nil, nil
	}
	if port := n.port; !p.host && p.port.Veth != port(p.key).Veth {
		if err := n.net.Plug(n.ns, p.ns, port(p.key)); err != nil {
			return nil, nil, err
		}
		p.port = port(p.key)
	}
	return n.wanted(e)
}

// tell tells a pod that is plugged in what to run.
func (n *Node) tell(ctx context.Context, p *pod, w *shim.Pod) error {
	if !p.host {
		ns, err := p.shim.NetNS() // p's own is closed when p is taken away
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := podnet.AwaitUp(ctx, ns, w.Addresses, podnet.PodInterface); err != nil {
			return err
		}
	}
	if err := n.writeResolv(p.key); err != nil {
		return err
	}
	_, err := p.shim.Do(ctx, shim.Request{Op: shim.OpUpdate, Pod: w})
	return err
}
