//go:build linux

package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/service"
)

// stale recognises UDP flows whose backend is none any more, from what is in force and what was: a flow to a Service
// that goes anywhere but to one of its backends.
type stale struct {
	services  map[netip.AddrPort][]netip.AddrPort // backends by address and port
	nodePorts map[nodePort][]netip.AddrPort
	ranges    []netip.Prefix
	local     map[netip.Addr]bool // the node's own addresses
}

type nodePort struct {
	family service.Family
	port   uint16
}

// newStale knows the frontends of t, and those that have and want tell apart: they are gone and have no backend.
func newStale(t *service.Table, have *realized, want *image) *stale {
	s := &stale{services: map[netip.AddrPort][]netip.AddrPort{}, nodePorts: map[nodePort][]netip.AddrPort{}, ranges: t.Ranges}
	for _, f := range t.Frontends {
		if f.Protocol == flow.UDP {
			s.services[netip.AddrPortFrom(f.Address, f.Port)] = f.Backends
			if f.NodePort != 0 {
				s.nodePorts[nodePort{service.FamilyOf(f.Address), f.NodePort}] = f.Backends
			}
		}
	}
	for _, family := range families {
		for key := range removed(have, want, named("services", family)) {
			at := int(words(family)) * 4
			address, _ := netip.AddrFromSlice([]byte(key[:at]))
			if port, ok := udpPort(key[at:]); ok && s.services[netip.AddrPortFrom(address, port)] == nil {
				s.services[netip.AddrPortFrom(address, port)] = nil
			}
		}
		for key := range removed(have, want, named("nodeports", family)) {
			if port, ok := udpPort(key); ok && s.nodePorts[nodePort{family, port}] == nil {
				s.nodePorts[nodePort{family, port}] = nil
			}
		}
	}
	return s
}

func removed(have *realized, want *image, name string) map[string]bool {
	gone := map[string]bool{}
	if s := have.sets[name]; s != nil {
		for key := range s.elements {
			if _, still := want.sets[name].elements[key]; !still {
				gone[key] = true
			}
		}
	}
	return gone
}

func udpPort(key string) (uint16, bool) {
	return uint16(key[4])<<8 | uint16(key[5]), key[0] == byte(flow.UDP)
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s *stale) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != byte(flow.UDP) {
		return false
	}
	to, ok1 := addrPort(f.Forward.DstIP, f.Forward.DstPort)
	server, ok2 := addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
	if !ok1 || !ok2 {
		return false
	}
	if backends, ok := s.services[to]; ok {
		return !slices.Contains(backends, server)
	}
	if backends, ok := s.nodePorts[nodePort{service.FamilyOf(to.Addr()), to.Port()}]; ok && s.local[to.Addr()] {
		return len(backends) > 0 && !slices.Contains(backends, server) || len(backends) == 0 && to != server
	}
	inRange := slices.ContainsFunc(s.ranges, func(p netip.Prefix) bool { return p.Contains(to.Addr()) })
	return inRange && to != server
}

func addrPort(ip net.IP, port uint16) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port), ok
}

// forget deletes the flows that s recognises, and says how many there were.
func forget(ns *netns.NS, s *stale) (int, error) {
	if len(s.services)+len(s.nodePorts)+len(s.ranges) == 0 {
		return 0, nil
	}
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open conntrack: %w", err)
	}
	defer h.Close()
	if s.local, err = localAddresses(h); err != nil {
		return 0, err
	}
	total := 0
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		n, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
		total += int(n)
		if err != nil {
			return total, fmt.Errorf("delete UDP flows to backends that are gone: %w", err)
		}
	}
	return total, nil
}

func localAddresses(h *netlink.Handle) (map[netip.Addr]bool, error) {
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, a := range addrs {
		if x, ok := netip.AddrFromSlice(a.IP); ok {
			local[x.Unmap()] = true
		}
	}
	return local, nil
}
