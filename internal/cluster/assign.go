package cluster

import (
	"fmt"
	"net/netip"
	"slices"
)

// AssignAddresses gives every living pod with a network of its own one address of each family that it lacks, out of v4 and
// v6; an invalid prefix leaves out its family. The result depends on o only: pods are served in the order of their
// keys, lowest address first, and what a pod, a node or another pod has already is kept and not given out. The
// first address of a prefix is left to its gateway. Endpoints are copied before they are changed, and the prefixes
// become pod ranges.
func AssignAddresses(o *Objects, v4, v6 netip.Prefix) error {
	taken := takenAddresses(o)
	o.Endpoints = slices.Clone(o.Endpoints)
	slices.SortFunc(o.Endpoints, func(a, b *Endpoint) int { return a.Key.Compare(b.Key) })
	for _, prefix := range []netip.Prefix{v4, v6} {
		if !prefix.IsValid() {
			continue
		}
		prefix = prefix.Masked()
		pool := addressPool{prefix: prefix, next: prefix.Addr().Next(), taken: taken}
		for i, e := range o.Endpoints {
			if e.HostNetwork || e.Ended || hasFamily(e.Addresses, prefix.Addr().Is4()) {
				continue
			}
			a, err := pool.take()
			if err != nil {
				return fmt.Errorf("pod %s: %w", e.Key, err)
			}
			changed := *e
			changed.Addresses = append(slices.Clone(e.Addresses), a)
			o.Endpoints[i] = &changed
		}
		if !slices.Contains(o.PodRanges, prefix) {
			o.PodRanges = append(slices.Clone(o.PodRanges), prefix)
		}
	}
	return nil
}

func takenAddresses(o *Objects) map[netip.Addr]bool {
	taken := map[netip.Addr]bool{}
	for _, n := range o.Nodes {
		for _, a := range n.Addresses {
			taken[a] = true
		}
	}
	for _, e := range o.Endpoints {
		for _, a := range e.Addresses {
			taken[a] = true
		}
	}
	return taken
}

func hasFamily(addrs []netip.Addr, v4 bool) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == v4 })
}

// addressPool hands out the addresses of a prefix in order. next is the last one that was not given out.
type addressPool struct {
	prefix netip.Prefix
	next   netip.Addr
	taken  map[netip.Addr]bool
}

func (p *addressPool) take() (netip.Addr, error) {
	for a := p.next.Next(); a.IsValid() && p.prefix.Contains(a); a = a.Next() {
		p.next = a
		broadcast := a.Is4() && !p.prefix.Contains(a.Next())
		if !p.taken[a] && !broadcast {
			p.taken[a] = true
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address left in %s: use a larger range", p.prefix)
}
