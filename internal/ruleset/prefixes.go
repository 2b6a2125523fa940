package ruleset

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// transitions returns all transitions that some address makes from a to b, in order.
func transitions(a, b *Ruleset) []transition {
	inA, inB := newPrefixTable(a), newPrefixTable(b)
	all := prefixesOf(a, b)
	found := map[transition]bool{}
	for i, p := range all {
		t := transition{inA.longest(p), inB.longest(p)}
		if !found[t] && hasRest(p, insideOf(p, all[i+1:])) {
			found[t] = true
		}
	}
	return sortedKeys(found, func(x, y transition) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
}

// prefixesOf returns the prefixes of both rulesets and those of all addresses of a family, each once, in order: a
// prefix comes directly before those inside it.
func prefixesOf(a, b *Ruleset) []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	for _, r := range []*Ruleset{a, b} {
		for p := range r.Addresses {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// insideOf returns the leading part of sorted that lies inside p.
func insideOf(p netip.Prefix, sorted []netip.Prefix) []netip.Prefix {
	return sorted[:sort.Search(len(sorted), func(i int) bool { return !p.Contains(sorted[i].Addr()) })]
}

// hasRest reports whether p has an address that none of inside contains; they are sorted, inside p and longer.
func hasRest(p netip.Prefix, inside []netip.Prefix) bool {
	if len(inside) == 0 {
		return true
	}
	for _, half := range halves(p) {
		part := insideOf(half, inside)
		inside = inside[len(part):]
		if covered := len(part) > 0 && part[0] == half; !covered && hasRest(half, part) {
			return true
		}
	}
	return false
}

func halves(p netip.Prefix) [2]netip.Prefix {
	low, bits := p.Addr(), p.Bits()
	high := low.AsSlice()
	high[bits/8] |= 0x80 >> (bits % 8)
	start, _ := netip.AddrFromSlice(high) // of the length of an address
	return [2]netip.Prefix{netip.PrefixFrom(low, bits+1), netip.PrefixFrom(start, bits+1)}
}

// prefixTable finds the longest prefix that contains a prefix, trying only the lengths that occur.
type prefixTable struct {
	addresses map[netip.Prefix]Identity
	bits      [2][]int // lengths that occur, the longest first; IPv4, IPv6
}

func newPrefixTable(r *Ruleset) *prefixTable {
	t := &prefixTable{addresses: r.Addresses}
	var seen [2][129]bool
	for p := range r.Addresses {
		seen[family(p.Addr())][p.Bits()] = true
	}
	for f := range seen {
		for bits := 128; bits >= 0; bits-- {
			if seen[f][bits] {
				t.bits[f] = append(t.bits[f], bits)
			}
		}
	}
	return t
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func (t *prefixTable) longest(p netip.Prefix) Identity {
	for _, bits := range t.bits[family(p.Addr())] {
		if bits > p.Bits() {
			continue
		}
		shorter, err := p.Addr().Prefix(bits)
		if err != nil {
			continue
		}
		if id, ok := t.addresses[shorter]; ok {
			return id
		}
	}
	return 0
}
