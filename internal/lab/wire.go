//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

// trackingSysctls are of connection tracking, which may not be there yet. Probes' connections are forgotten soon:
// a large lab makes more of them in half a minute than the table holds.
var trackingSysctls = []string{
	"netfilter/nf_conntrack_tcp_timeout_close=2", "netfilter/nf_conntrack_tcp_timeout_time_wait=2",
	"netfilter/nf_conntrack_udp_timeout=5", "netfilter/nf_conntrack_udp_timeout_stream=5",
	"netfilter/nf_conntrack_icmp_timeout=5", "netfilter/nf_conntrack_icmpv6_timeout=5",
}

// net is the plan's network. The node has an address of each family.
func (p *plan) net() podnet.Net {
	return podnet.Net{Bridge: p.topology == Bridge, Ranges: p.ranges, Address: [2]netip.Addr(p.node.addresses)}
}

// port is where the host with the given number is plugged in.
func (s *station) port(p *plan, number int) podnet.Port {
	return podnet.Port{Veth: s.veth, Number: number, Addresses: s.addresses, Routed: !s.bridged(p)}
}

// newNodeNS makes the node: a router with its own addresses, and the bridge if there is one.
func newNodeNS(p *plan) (*netns.NS, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	err = p.net().SetUp(ns)
	if err == nil {
		err = ns.Do(func() error { return podnet.Sysctl(trackingSysctls...) })
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// wire makes the namespaces of hosts and plugs them into the node.
func wire(ctx context.Context, p *plan, node *station, hosts []*station) error {
	err := inParallel(ctx, len(hosts), func(next <-chan int) error {
		for i := range next {
			s := hosts[i]
			var err error
			if s.ns, err = netns.New(); err == nil {
				err = p.net().Plug(node.ns, s.ns, s.port(p, i))
			}
			if err != nil {
				return fmt.Errorf("wire %s: %w", s.name(), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := introduce(ctx, p, node.ns, hosts); err != nil {
		return err
	}
	return awaitLinks(ctx, p, node, hosts)
}

// awaitLinks returns when all links carry packets and all addresses are in use.
func awaitLinks(ctx context.Context, p *plan, node *station, hosts []*station) error {
	own := slices.Clone(node.addresses)
	var veths []string
	for _, s := range hosts {
		veths = append(veths, s.veth)
	}
	if p.topology == Bridge && len(p.pods) > 0 { // a bridge without ports has no carrier
		gateways := p.gateways()
		veths, own = append(veths, podnet.BridgeName), append(own, gateways[:]...)
	}
	if err := podnet.AwaitUp(ctx, node.ns, own, veths...); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return inParallel(ctx, len(hosts), func(next <-chan int) error {
		for i := range next {
			if err := podnet.AwaitUp(ctx, hosts[i].ns, hosts[i].addresses, podnet.PodInterface); err != nil {
				return fmt.Errorf("%s: %w", hosts[i].name(), err)
			}
		}
		return nil
	})
}

// inParallel runs several of worker, which share the numbers below n among them.
func inParallel(ctx context.Context, n int, worker func(next <-chan int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	group.Go(func() error {
		defer close(next)
		for i := range n {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range 4 {
		group.Go(func() error { return worker(next) })
	}
	return group.Wait()
}
