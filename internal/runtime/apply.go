//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/podspec"
)

// Change is what an Apply did. A pod whose command or ports changed is in none of the lists.
type Change struct {
	Started []cluster.Key // sorted
	Stopped []cluster.Key // sorted
	Status  engine.Status // of the policies
	InForce time.Time     // when the policies were in force; zero if they are not
}

// parallel is how many pods are started at a time.
const parallel = 4

// Apply makes what runs what is desired. A pod that is to go is unplugged before its policies change, and one that is
// to come has its policies in force before it is plugged in. After an error, everything that could be done is done, and
// the next Apply does the rest; if policies could not be put in force, no pod has been plugged in.
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
	errs := []error{n.extend(ctx)}
	change.Stopped = n.end(ctx, gone)
	change.Started, err = n.bringAll(ctx, state, d.Workloads)
	return change, errors.Join(append(errs, err)...)
}

// unplugOthers cuts off every pod that s does not have, or has in another way, and every shim that is no pod's.
func (n *Node) unplugOthers(s *cluster.State) (map[cluster.Key]*pod, error) {
	gone := map[cluster.Key]*pod{}
	dirs, err := n.shims()
	if err != nil {
		return nil, err
	}
	for k := range dirs {
		if e := s.Endpoint(k); e == nil {
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

// bringAll starts what does not run yet, and tells every pod what to run. It returns those that it started.
func (n *Node) bringAll(ctx context.Context, s *cluster.State, specs map[cluster.Key]podspec.Spec) ([]cluster.Key, error) {
	type result struct {
		pod     *pod
		started bool
		err     error
	}
	endpoints := s.Endpoints()
	results := make([]result, len(endpoints))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, e := range endpoints {
		p := n.pods[e.Key]
		group.Go(func() error {
			r := &results[i]
			if p == nil {
				r.err = n.ending.await(ctx, e.Key)
				if r.err == nil {
					p, r.err = n.start(ctx, e.Key, e.HostNetwork)
				}
				r.started = r.err == nil
			}
			r.pod = p
			if r.err == nil {
				r.err = n.bring(ctx, p, e, specs[e.Key])
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in results
	var started []cluster.Key
	var errs []error
	for i, r := range results {
		if r.pod != nil {
			n.pods[endpoints[i].Key] = r.pod
		}
		if r.started {
			started = append(started, endpoints[i].Key)
		}
		if r.err != nil {
			errs = append(errs, fmt.Errorf("pod %s: %w", endpoints[i].Key, r.err))
		}
	}
	return started, errors.Join(errs...)
}
