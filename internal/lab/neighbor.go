//go:build linux

package lab

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

// maxLearned is how many neighbours of one family the lab lets the kernel learn by itself. The kernel keeps about
// 1000 in all namespaces of the machine together, and raising that would change the host.
const maxLearned = 200

// introduce tells everybody on a bridge the link-layer addresses of all others, where there are too many to be learned.
// On routed links everybody is told when it is plugged in.
func introduce(ctx context.Context, p *plan, node *netns.NS, hosts []*station) error {
	if p.topology == Routed || len(hosts)*len(hosts) <= maxLearned {
		return nil
	}
	err := inParallel(ctx, len(hosts), func(next <-chan int) error {
		for i := range next {
			if !hosts[i].bridged(p) {
				continue
			}
			if err := introduceTo(p, hosts, i); err != nil {
				return fmt.Errorf("wire %s: %w", hosts[i].name(), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return withInterface(node, podnet.BridgeName, func(h *netlink.Handle, bridge int) error {
		for i, s := range hosts {
			if !s.bridged(p) {
				continue
			}
			if err := podnet.AddNeighbors(h, bridge, s.addresses, s.port(p, i).MAC()); err != nil {
				return err
			}
		}
		return nil
	})
}

// introduceTo tells host i its gateway and the other pods.
func introduceTo(p *plan, hosts []*station, i int) error {
	return withInterface(hosts[i].ns, podnet.PodInterface, func(h *netlink.Handle, index int) error {
		gateways := p.gateways()
		if err := podnet.AddNeighbors(h, index, gateways[:], podnet.BridgeMAC); err != nil {
			return err
		}
		for j, other := range hosts {
			if j == i || !other.bridged(p) {
				continue
			}
			if err := podnet.AddNeighbors(h, index, other.addresses, other.port(p, j).MAC()); err != nil {
				return err
			}
		}
		return nil
	})
}

func withInterface(ns *netns.NS, name string, f func(h *netlink.Handle, index int) error) error {
	return podnet.WithHandle(ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		return f(h, l.Attrs().Index)
	})
}

// bridged reports whether s is plugged into the bridge.
func (s *station) bridged(p *plan) bool { return p.topology == Bridge && s.endpoint != nil }
