//go:build linux

// Package lab is a cluster on one machine: a network namespace for each pod, the real dataplane between them, and
// probes with real packets whose fate is compared with the reference evaluator.
//
// A lab leaves nothing behind, however its process ends: its namespaces have no names, only this process's open
// files and sockets keep them. It makes and changes nothing in the host's own network.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// Spec is what a lab is made of.
type Spec struct {
	// Objects are the cluster. Pods without addresses get some, and all of them run on the first node.
	Objects  cluster.Objects
	Topology Topology
	// Ports are listened on by everybody, beside what pods declare and policies name.
	Ports []cluster.Port
	// Outside are further addresses of the host outside, beside those that policies make worth probing.
	Outside []netip.Addr
	// Dataplane makes what enforces on the node, whose namespace it is given and must not close. Without one,
	// nothing is enforced.
	Dataplane func(node *netns.NS) (dataplane.Dataplane, error)
}

// Lab is a running lab.
type Lab struct {
	plan     *plan
	node     *station
	outside  *station
	pods     []*station
	servers  *echo.Servers
	denials  *denials
	enforcer *enforcer // nil without a dataplane
	patience time.Duration
	timings  Timings
}

// station is a host with its namespace.
type station struct {
	host
	ns *netns.NS
}

func (s *station) name() string {
	switch {
	case s.endpoint != nil:
		return s.endpoint.Key.String()
	case s.veth == outsideVeth:
		return "the host outside"
	}
	return "the node"
}

// Boot makes the lab: it puts the policies in force before it plugs in the first pod. The caller closes it. An error
// that wraps os.ErrPermission or dataplane.ErrNotSupported says what the machine does not allow or have.
func Boot(ctx context.Context, spec Spec) (*Lab, error) {
	start := time.Now()
	p, err := newPlan(spec.Objects, spec.Topology, spec.Ports, spec.Outside...)
	if err != nil {
		return nil, fmt.Errorf("plan lab: %w", err)
	}
	l := &Lab{plan: p, patience: patience, servers: &echo.Servers{}, node: &station{host: p.node}, outside: &station{host: p.outside}}
	for _, h := range p.pods {
		l.pods = append(l.pods, &station{host: h})
	}
	for _, step := range []func() error{
		func() (err error) { l.denials, err = newDenials(); return err },
		func() (err error) { l.node.ns, err = newNodeNS(p); return err },
		func() error { return l.enforce(ctx, spec) },
		func() error { return l.plugIn(ctx) },
		func() error { return listen(l.servers, l.stations()) },
	} {
		err := ctx.Err()
		if err == nil {
			err = step()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("boot lab: %w", err), l.Close())
		}
	}
	l.timings.Boot = time.Since(start)
	return l, nil
}

func (l *Lab) plugIn(ctx context.Context) error {
	start := time.Now()
	defer func() { l.timings.Wire = time.Since(start) }()
	return wire(ctx, l.plan, l.node, append(slices.Clone(l.pods), l.outside))
}

// stations are all hosts.
func (l *Lab) stations() []*station { return append(slices.Clone(l.pods), l.node, l.outside) }

// State is the cluster as the lab runs it, with the addresses that it gave out.
func (l *Lab) State() *cluster.State { return l.plan.state }

// Node is the namespace of the lab's node, which stays the lab's.
func (l *Lab) Node() *netns.NS { return l.node.ns }

// Close ends the lab. The kernel takes its namespaces away a moment later.
func (l *Lab) Close() error {
	var errs []error
	if l.enforcer != nil {
		errs = append(errs, l.enforcer.close())
	}
	l.servers.Close()
	if l.denials != nil {
		l.denials.close()
	}
	for _, s := range l.stations() {
		if s.ns != nil {
			errs = append(errs, s.ns.Close())
		}
	}
	return errors.Join(errs...)
}
