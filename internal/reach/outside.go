package reach

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/words"
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
		text += " and " + words.Counted(n, "more block")
	}
	return text
}

// regions returns the regions of each family that have an address outside which is nobody's, shortest prefix first.
func (m *Map) regions() [2][]region {
	var out [2][]region
	for _, s := range Samples(m.State) {
		if f := familyOf(s.Addr); !m.State.At(s.Addr).Unknown {
			out[f] = append(out[f], region{s.Prefix, m.rules.IdentityOf(s.Addr)})
		}
	}
	for f := range out {
		slices.SortStableFunc(out[f], func(a, b region) int { return cmp.Compare(a.prefix.Bits(), b.prefix.Bits()) })
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

// byAddress orders prefixes by their first address, longer ones after those that they are in.
func byAddress(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// free returns the first address of p that is in none of the longer prefixes of inner, which are sorted by address.
func free(p netip.Prefix, inner []netip.Prefix) (netip.Addr, bool) {
	a := p.Addr()
	from, _ := slices.BinarySearchFunc(inner, p, byAddress)
	for _, q := range inner[from:] {
		if a.Less(q.Addr()) {
			break // a gap, or the end of p
		}
		if q.Bits() > p.Bits() && q.Contains(a) {
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
	merged := map[string]int{}
	var out []Box
	slices.SortFunc(parts, func(a, b Box) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	for _, b := range parts {
		f := 0
		if !b.faces[0].there {
			f = 1
		}
		key := m.links.column(b.faces[f].id)
		at, ok := merged[key]
		if !ok {
			at = len(out)
			merged[key] = at
			out = append(out, Box{Kind: Block})
		}
		to := &out[at]
		to.Prefixes = append(to.Prefixes, b.Prefixes...)
		to.faces[f] = b.faces[f]
		to.alike = append(to.alike, identity{f, b.faces[f].id})
	}
	return out
}

// column is the text of the rows that subjects have for a peer and for nobody else: their defaults are the same for all.
func (t *links) column(peer ruleset.Identity) string {
	var key []byte
	for d := range t.to {
		cells := slices.Clone(t.to[d].of(uint32(peer)))
		slices.SortFunc(cells, func(a, b link) int { return cmp.Compare(a.identity, b.identity) })
		key = binary.LittleEndian.AppendUint32(key, uint32(len(cells)))
		for _, l := range cells {
			key = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(key, l.identity), l.row)
		}
	}
	return string(key)
}
