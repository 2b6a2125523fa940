package reach

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Sample is some addresses that nobody has, of the world outside or in a range of pods, which no policy of some states can
// tell apart.
type Sample struct {
	Prefix netip.Prefix // the addresses are in it, and in no smaller prefix of another Sample
	Addr   netip.Addr   // one of them
}

// Samples returns samples of all addresses that nobody has in any of the states, by family and address. Whatever a state
// says of a Sample's Addr, it says of the others too.
func Samples(states ...*cluster.State) []Sample {
	var edges, taken [2][]netip.Prefix
	add := func(to *[2][]netip.Prefix, p netip.Prefix) {
		if p.IsValid() {
			f := familyOf(p.Addr())
			to[f] = append(to[f], p.Masked())
		}
	}
	for f, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		edges[f] = []netip.Prefix{netip.PrefixFrom(all, 0)}
	}
	for _, s := range states {
		for _, p := range slices.Concat(blocksOf(s), s.PodRanges()) {
			add(&edges, p)
		}
		for _, e := range s.Endpoints() {
			for _, a := range e.Addresses {
				add(&taken, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		for _, n := range s.Nodes() {
			for _, a := range n.Addresses {
				add(&taken, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	var out []Sample
	for f := range edges {
		out = append(out, samplesOf(edges[f], taken[f])...)
	}
	return out
}

func samplesOf(edges, taken []netip.Prefix) []Sample {
	slices.SortFunc(edges, byAddress)
	edges = slices.Compact(edges)
	inner := slices.Concat(edges, taken)
	slices.SortFunc(inner, byAddress)
	var out []Sample
	for _, p := range edges {
		if a, ok := free(p, inner); ok {
			out = append(out, Sample{p, a})
		}
	}
	return out
}

// addUnknown adds a box for each kind of unknown pod that policies can tell apart, which is by their addresses only. As a
// rule there is one.
func (m *Map) addUnknown() {
	m.unknown = [2]map[ruleset.Identity]int{{}, {}}
	var samples [2][]Sample
	kinds := [2]map[ruleset.Identity]bool{{}, {}}
	for _, p := range Samples(m.State) {
		if m.State.At(p.Addr).Unknown {
			f := familyOf(p.Addr)
			samples[f] = append(samples[f], p)
			kinds[f][m.rules.IdentityOf(p.Addr)] = true
		}
	}
	one := len(kinds[0]) <= 1 && len(kinds[1]) <= 1
	first := len(m.Boxes)
	for f := range samples {
		for _, p := range samples[f] {
			id := m.rules.IdentityOf(p.Addr)
			i, there := m.unknown[f][id]
			if !there {
				if i = len(m.Boxes); one {
					i = first
				}
				m.unknown[f][id] = i
			}
			if i == len(m.Boxes) {
				m.Boxes = append(m.Boxes, Box{Kind: Unknown})
			}
			b := &m.Boxes[i]
			b.faces[f] = face{true, id}
			b.Prefixes = append(b.Prefixes, p.Prefix)
			if b.Name = "unknown pods"; !one {
				b.Name += " in " + prefixNames(b.Prefixes)
			}
		}
	}
}
