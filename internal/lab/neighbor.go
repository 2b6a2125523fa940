//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// maxLearned is how many neighbours of one family the lab lets the kernel learn by itself. The kernel keeps about
// 1000 in all namespaces of the machine together, and raising that would change the host.
const maxLearned = 200

// introduce tells everybody the link-layer addresses of those it shares a link with, where there are too many to be
// learned: on a bridge each pod meets each other, on routed links only the node.
func introduce(ctx context.Context, p *plan, node *netns.NS, hosts []*station) error {
	learned := 2 * len(hosts)
	if p.topology == Bridge {
		learned = len(hosts) * len(hosts)
	}
	if learned <= maxLearned {
		return nil
	}
	err := inParallel(ctx, len(hosts), func(next <-chan int) error {
		for i := range next {
			if err := introduceTo(p, hosts, i); err != nil {
				return fmt.Errorf("wire %s: %w", hosts[i].name(), err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return withHandle(node, func(h *netlink.Handle) error {
		for i, s := range hosts {
			index := firstVethIndex + i
			if s.bridged(p) {
				index = bridgeIndex
			}
			if err := addNeighbors(h, index, s.addresses, hostMAC(firstVethIndex+i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// introduceTo tells host i its gateway, and on a bridge the other pods.
func introduceTo(p *plan, hosts []*station, i int) error {
	return withHandle(hosts[i].ns, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		index := eth0.Attrs().Index
		if !hosts[i].bridged(p) {
			return addNeighbors(h, index, linkGateways[:], nodeMAC(firstVethIndex+i))
		}
		gateways := p.gateways()
		if err := addNeighbors(h, index, gateways[:], nodeMAC(bridgeIndex)); err != nil {
			return err
		}
		for j, other := range hosts {
			if j == i || !other.bridged(p) {
				continue
			}
			if err := addNeighbors(h, index, other.addresses, hostMAC(firstVethIndex+j)); err != nil {
				return err
			}
		}
		return nil
	})
}

func addNeighbors(h *netlink.Handle, index int, addresses []netip.Addr, mac net.HardwareAddr) error {
	for _, a := range addresses {
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		n := netlink.Neigh{LinkIndex: index, Family: family, State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
		if err := h.NeighSet(&n); err != nil {
			return fmt.Errorf("add neighbour %s: %w", a, err)
		}
	}
	return nil
}

// bridged reports whether s is plugged into the bridge.
func (s *station) bridged(p *plan) bool { return p.topology == Bridge && s.endpoint != nil }
