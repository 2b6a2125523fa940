//go:build linux

package runtime

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

// Change is what an Apply did.
type Change struct {
	Stopped []cluster.Key // sorted
	Status  engine.Status // of the policies
	InForce time.Time     // when the policies were in force; zero if they are not
}

// Apply puts policies in force and sets about to make what runs what is desired; Settled says when that is done. A pod
// that is to go is unplugged before its policies change, and one that is to come has its policies in force before it is
// plugged in. After an error nothing new has been plugged in, and the next Apply starts over.
func (n *Node) Apply(ctx context.Context, d Desired) (Change, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var change Change
	state, err := n.place(d.Objects)
	if err != nil {
		return change, err
	}
	if err := n.ensureNode(ctx); err != nil {
		return change, err
	}
	gone, err := n.unplugOthers(state)
	if err != nil {
		return change, err
	}
	err = n.engine.Sync(ctx, engine.Input{State: state, Attachments: n.attachments(state)})
	change.Status = n.engine.Status()
	if err != nil {
		return change, err
	}
	n.state, n.last, change.InForce = state, d, time.Now()
	err = n.extend(ctx)
	change.Stopped = n.end(ctx, gone)
	n.bringAll()
	return change, err
}

// unplugOthers cuts off every pod that s does not have, or has in another way, and every shim that is no pod's.
func (n *Node) unplugOthers(s *cluster.State) (map[cluster.Key]*pod, error) {
	gone := map[cluster.Key]*pod{}
	dirs, err := n.shims()
	if err != nil {
		return nil, err
	}
	for k := range dirs {
		starting := n.bringing.busy[k] && n.pods[k] == nil // then the one who starts it looks whether it is wanted
		if s.Endpoint(k) == nil && !starting {
			gone[k] = n.pods[k] // nil if its shim is dead
		}
	}
	for k, p := range n.pods {
		if e := s.Endpoint(k); e == nil || e.HostNetwork != p.host || !p.shim.Alive() {
			gone[k] = p
		}
	}
	for k, p := range gone {
		if p == nil {
			continue
		}
		if p.port.Veth != "" {
			if err := podnet.Unplug(n.ns, p.port.Veth); err != nil {
				return nil, fmt.Errorf("pod %s: %w", k, err)
			}
		}
		p.release()
		delete(n.pods, k)
		n.seen.forget(k)
	}
	return gone, nil
}

// end ends pods that are unplugged, without waiting, and returns those that are not to come again.
func (n *Node) end(ctx context.Context, gone map[cluster.Key]*pod) []cluster.Key {
	var stopped []cluster.Key
	for k := range gone {
		again := n.state.Endpoint(k) != nil
		n.ending.begin(k, func() error { return n.remove(context.WithoutCancel(ctx), k, n.podDir(k), again) })
		if !again {
			stopped = append(stopped, k)
		}
	}
	slices.SortFunc(stopped, cluster.Key.Compare)
	return stopped
}
