//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// awaitLinks returns when all links carry packets and all addresses are in use. The kernel does both some time after it
// was told to: until then it drops what is sent over a veth, and a neighbour that was asked for is asked again a second
// later; and it looks for a host's own new IPv6 address on the link.
func awaitLinks(ctx context.Context, p *plan, node *station, hosts []*station) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("interfaces do not come up"))
	defer cancel()
	names, own := map[string]bool{}, slices.Clone(node.addresses)
	for _, s := range hosts {
		names[s.veth] = true
	}
	if p.topology == Bridge && len(p.pods) > 0 { // a bridge without ports has no carrier
		gateways := p.gateways()
		names[bridgeName], own = true, append(own, gateways[:]...)
	}
	if err := awaitUp(ctx, node.ns, names, own); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return inParallel(ctx, len(hosts), func(next <-chan int) error {
		for i := range next {
			if err := awaitUp(ctx, hosts[i].ns, map[string]bool{"eth0": true}, hosts[i].addresses); err != nil {
				return fmt.Errorf("%s: %w", hosts[i].name(), err)
			}
		}
		return nil
	})
}

// awaitUp returns when the named interfaces of ns are operational and packets to the addresses stay in it. It asks again
// and again: that takes milliseconds, and what a subscription says can be lost.
func awaitUp(ctx context.Context, ns *netns.NS, names map[string]bool, addresses []netip.Addr) error {
	return withHandle(ns, func(h *netlink.Handle) error {
		again := time.NewTicker(2 * time.Millisecond)
		defer again.Stop()
		for {
			up, err := allUp(h, names)
			if err == nil && up {
				up, err = allLocal(h, addresses)
			}
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) || err == nil && up {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-again.C:
			}
		}
	})
}

func allUp(h *netlink.Handle, names map[string]bool) (bool, error) {
	links, err := h.LinkList()
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	up := 0
	for _, l := range links {
		if names[l.Attrs().Name] && l.Attrs().OperState == netlink.OperUp {
			up++
		}
	}
	return up == len(names), nil
}

func allLocal(h *netlink.Handle, addresses []netip.Addr) (bool, error) {
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("list local routes: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok && r.Type == unix.RTN_LOCAL {
			local[a.Unmap()] = true
		}
	}
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return !local[a] }), nil
}
