package reach

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// manyBlocks is how many parts of the outside are shown one by one. Of more, those that all policies treat alike
// are one box: an allow-list of a thousand ranges is one thing to look at.
const manyBlocks = 24

// region is the part of a prefix that is in no longer one: all its addresses have one identity.
type region struct {
	prefix netip.Prefix
	id     ruleset.Identity
}

// addOutside adds a box for each kind of address outside that policies can tell apart, and the world.
func (m *Map) addOutside() {
	var parts []Box
	world := Box{Name: "world", Kind: World}
	for f, regions := range m.regions() {
		byID := map[ruleset.Identity][]netip.Prefix{}
		for _, r := range regions {
			byID[r.id] = append(byID[r.id], r.prefix)
		}
		if len(regions) > 0 && regions[0].prefix.Bits() == 0 {
			world.faces[f] = face{true, regions[0].id}
			world.Prefixes = append(world.Prefixes, byID[regions[0].id]...)
			delete(byID, regions[0].id)
		}
		for id, prefixes := range byID {
			b := Box{Kind: Block, Prefixes: prefixes}
			b.faces[f] = face{true, id}
			parts = append(parts, b)
		}
	}
	if len(parts) > manyBlocks {
		parts = m.mergeAlike(parts)
	}
	slices.SortFunc(parts, func(a, b Box) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	m.outside = [2]map[ruleset.Identity]int{{}, {}}
	for _, b := range append(parts, world) {
		if b.Kind == Block {
			b.Name = prefixNames(b.Prefixes)
		}
		for f := range b.faces {
			if b.faces[f].there {
				m.outside[f][b.faces[f].id] = len(m.Boxes)
			}
		}
		for _, id := range b.alike {
			m.outside[id.family][id.id] = len(m.Boxes)
		}
		m.Boxes = append(m.Boxes, b)
	}
}

func prefixNames(all []netip.Prefix) string {
	var names []string
	for _, p := range all[:min(3, len(all))] {
		names = append(names, p.String())
	}
	text := strings.Join(names, ", ")
	if n := len(all) - len(names); n > 0 {
		text += " and " + plural(n, "more block")
	}
	return text
}

// regions returns the regions of each family that have an address which is nobody's, shortest prefix first.
func (m *Map) regions() [2][]region {
	prefixes := [2][]netip.Prefix{{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}
	var taken [2][]netip.Prefix
	for _, p := range blocksOf(m.State) {
		f := familyOf(p.Addr())
		prefixes[f] = append(prefixes[f], p)
	}
	for _, p := range m.State.PodRanges() {
		if p.IsValid() {
			taken[familyOf(p.Addr())] = append(taken[familyOf(p.Addr())], p.Masked())
		}
	}
	for a := range m.byAddress {
		taken[familyOf(a)] = append(taken[familyOf(a)], netip.PrefixFrom(a, a.BitLen()))
	}
	var out [2][]region
	for f := range prefixes {
		slices.SortFunc(prefixes[f], func(a, b netip.Prefix) int { return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Compare(b)) })
		prefixes[f] = slices.Compact(prefixes[f])
		inner := slices.Concat(prefixes[f], taken[f])
		slices.SortFunc(inner, netip.Prefix.Compare)
		for _, p := range prefixes[f] {
			if a, ok := free(p, inner); ok && !within(p, taken[f]) {
				out[f] = append(out[f], region{p, m.rules.IdentityOf(a)})
			}
		}
	}
	return out
}

// blocksOf returns the prefixes at which the answer of a policy's block may change.
func blocksOf(s *cluster.State) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range s.Policies() {
		for _, d := range flow.Directions {
			for _, r := range p.Rules(d) {
				for _, peer := range r.Peers {
					if peer.Kind == policy.PeerBlock {
						all = append(append(all, peer.Block), peer.Except...)
					}
				}
			}
		}
	}
	return all
}

func namesBlocks(s *cluster.State) bool { return len(blocksOf(s)) > 0 }

// within reports whether one of taken holds all of p: what is in there is no outside.
func within(p netip.Prefix, taken []netip.Prefix) bool {
	return slices.ContainsFunc(taken, func(t netip.Prefix) bool { return t.Bits() <= p.Bits() && t.Contains(p.Addr()) })
}

// free returns the first address of p that is in none of the longer prefixes of inner, which are sorted.
func free(p netip.Prefix, inner []netip.Prefix) (netip.Addr, bool) {
	a := p.Addr()
	for _, q := range inner {
		if q.Bits() > p.Bits() && p.Contains(q.Addr()) && q.Contains(a) {
			if a = lastOf(q).Next(); !a.IsValid() || !p.Contains(a) {
				return netip.Addr{}, false
			}
		}
	}
	return a, true
}

func lastOf(p netip.Prefix) netip.Addr {
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	return a
}

// identity is an identity that outside addresses of a family have.
type identity struct {
	family int
	id     ruleset.Identity
}

// mergeAlike makes one box of the parts for which every subject has the same rows.
func (m *Map) mergeAlike(parts []Box) []Box {
	var subjects []ruleset.Subject
	for s := range m.rules.Defaults {
		subjects = append(subjects, s)
	}
	slices.SortFunc(subjects, func(a, b ruleset.Subject) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Identity, b.Identity))
	})
	merged := map[string]*Box{}
	var order []string
	slices.SortFunc(parts, func(a, b Box) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	for _, b := range parts {
		f := 0
		if !b.faces[0].there {
			f = 1
		}
		key := m.column(subjects, b.faces[f].id)
		if merged[key] == nil {
			merged[key] = &Box{Kind: Block}
			order = append(order, key)
		}
		to := merged[key]
		to.Prefixes = append(to.Prefixes, b.Prefixes...)
		to.faces[f] = b.faces[f]
		to.alike = append(to.alike, identity{f, b.faces[f].id})
	}
	var out []Box
	for _, key := range order {
		out = append(out, *merged[key])
	}
	return out
}

// column is the text of the rows that each subject has for a peer.
func (m *Map) column(subjects []ruleset.Subject, peer ruleset.Identity) string {
	key := make([]byte, 0, 4*len(subjects))
	for _, s := range subjects {
		id := m.rules.RowOf(s, peer)
		key = append(key, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	return string(key)
}
