//go:build linux

package runtime

import (
	"context"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

// Change is what an Apply did.
type Change struct {
	Stopped []cluster.Key // sorted
	Lost    []string      // shims that had ended and are started again: "node" and pods, sorted
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
	if !n.shim.Alive() {
		change.Lost = append(change.Lost, "node")
	}
	if err := n.ensureNode(ctx); err != nil {
		return change, err
	}
	gone, err := n.unplugOthers(state)
	if err != nil {
		return change, err
	}
	change.Lost = append(change.Lost, lost(state, gone)...)
	err = n.enforce(ctx, state)
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

// enforce puts the policies of s in force.
func (n *Node) enforce(ctx context.Context, s *cluster.State) error {
	judged := s
	if n.options.Rewrite != nil {
		var err error
		if judged, err = n.options.Rewrite(s); err != nil {
			return err
		}
	}
	if err := n.engine.Sync(ctx, engine.Input{State: judged, Attachments: n.attachments(s)}); err != nil {
		return err
	}
	if n.options.Enforced != nil {
		n.options.Enforced(judged)
	}
	return nil
}

// unplugOthers cuts off every pod that s does not have, or has in another way. It returns these, and every shim that is
// no pod's with a nil pod.
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
	var veths []string
	for k, p := range n.pods {
		plugged := p.port.Veth != ""
		if e := s.Endpoint(k); e == nil || e.HostNetwork != p.host || !p.shim.Alive() || plugged && p.port.Veth != n.port(k).Veth {
			gone[k] = p
			if plugged {
				veths = append(veths, p.port.Veth)
			}
		}
	}
	if err := podnet.Unplug(n.ns, veths...); err != nil {
		return nil, err
	}
	for k, p := range gone {
		if p == nil {
			continue
		}
		p.release()
		delete(n.pods, k)
		n.seen.forget(k)
	}
	return gone, nil
}

// lost tells the pods that are to run and whose shims have ended.
func lost(s *cluster.State, gone map[cluster.Key]*pod) []string {
	var all []string
	for k, p := range gone {
		if p != nil && s.Endpoint(k) != nil && !p.shim.Alive() {
			all = append(all, "pod "+k.String())
		}
	}
	slices.Sort(all)
	return all
}

// end ends pods that are unplugged, without waiting, and returns those that are not to come again.
func (n *Node) end(ctx context.Context, gone map[cluster.Key]*pod) []cluster.Key {
	var stopped []cluster.Key
	for k, p := range gone {
		again := n.state.Endpoint(k) != nil
		n.ending.begin(k, func() error { return n.remove(context.WithoutCancel(ctx), k, n.podDir(k), again) })
		if !again && p != nil { // else it is ending already, or ended some time ago
			stopped = append(stopped, k)
		}
	}
	slices.SortFunc(stopped, cluster.Key.Compare)
	return stopped
}
