package query

import (
	"fmt"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Connect returns the connections that from, to and port stand for between two parties: one for each family that
// both have addresses of, and one without addresses where neither family fits and a pod has none yet.
func Connect(from, to cluster.Party, port Port) ([]cluster.Connection, error) {
	ports, err := port.At(to)
	if err != nil {
		return nil, err
	}
	var all []cluster.Connection
	for _, c := range ports {
		pairs := addressPairs(from, to)
		if pairs == nil {
			return nil, fmt.Errorf("%s and %s have no address family in common", from, to)
		}
		for _, p := range pairs {
			from.Addr, to.Addr = p[0], p[1]
			all = append(all, cluster.Connection{From: from, To: to, Protocol: inFamily(c.Protocol, to.Addr), Port: c.Number})
		}
	}
	return all, nil
}

// inFamily turns "icmp" into the protocol of that name in the address's family.
func inFamily(p flow.Protocol, a netip.Addr) flow.Protocol {
	if p == flow.ICMP && a.Is6() {
		return flow.ICMPv6
	}
	return p
}

// addressPairs pairs the addresses of two parties by family, the first address of each, IPv4 first. A pod without
// an address can talk to everybody: it only matches no block.
func addressPairs(from, to cluster.Party) [][2]netip.Addr {
	a, b := addresses(from), addresses(to)
	var pairs [][2]netip.Addr
	for _, is4 := range []bool{true, false} {
		x, y := firstOf(a, is4), firstOf(b, is4)
		if x.IsValid() && y.IsValid() {
			pairs = append(pairs, [2]netip.Addr{x, y})
		}
	}
	if pairs == nil && (len(a) == 0 || len(b) == 0) {
		pairs = append(pairs, [2]netip.Addr{first(a), first(b)})
	}
	return pairs
}

func addresses(p cluster.Party) []netip.Addr {
	switch {
	case p.Addr.IsValid():
		return []netip.Addr{p.Addr}
	case p.Endpoint != nil:
		return p.Endpoint.Addresses
	case p.Node != nil:
		return p.Node.Addresses
	}
	return nil
}

func firstOf(all []netip.Addr, is4 bool) netip.Addr {
	for _, a := range all {
		if a.Is4() == is4 {
			return a
		}
	}
	return netip.Addr{}
}

func first(all []netip.Addr) netip.Addr {
	if len(all) == 0 {
		return netip.Addr{}
	}
	return all[0]
}
