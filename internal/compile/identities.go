package compile

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// class is all that policies can tell of an address. What has the same class has the same identity.
type class struct {
	id        ruleset.Identity
	selectors []selectorID // that match, in order
	names     nameKey
	unknown   bool // nobody knows which selectors over labels match
}

// classes gives identities to classes. The class that nothing matches has identity 0.
type classes struct {
	ids  *interner[string, ruleset.Identity]
	byID map[ruleset.Identity]*class
}

func newClasses(ids *interner[string, ruleset.Identity]) *classes {
	return &classes{ids: ids, byID: map[ruleset.Identity]*class{0: {}}}
}

// of returns the identity of the class with these selectors, which may come in any order and are copied.
func (x *classes) of(selectors []selectorID, names nameKey, unknown bool) ruleset.Identity {
	if len(selectors) == 0 && names == "" && !unknown {
		return 0
	}
	sorted := slices.Sorted(slices.Values(selectors))
	key := make([]byte, 0, 2*len(sorted)+len(names)+2)
	for _, s := range sorted {
		key = binary.AppendUvarint(key, uint64(s))
	}
	key = append(key, 0) // no selector has number 0
	if unknown {
		key = append(key, 1)
	}
	id := x.ids.id(string(key) + string(names)) // names are no pod's that is unknown
	if x.byID[id] == nil {
		x.byID[id] = &class{id, sorted, names, unknown}
	}
	return id
}

// bySelector returns, for each selector, the identities that it matches, and the unknown identities, all in order.
func (x *classes) bySelector() (matched map[selectorID][]ruleset.Identity, unknown []ruleset.Identity) {
	matched = map[selectorID][]ruleset.Identity{}
	for _, id := range sortedIDs(x.byID) {
		c := x.byID[id]
		for _, s := range c.selectors {
			matched[s] = append(matched[s], id)
		}
		if c.unknown {
			unknown = append(unknown, id)
		}
	}
	return matched, unknown
}

// addresses gives every prefix in which something differs from its surroundings its identity.
func (w *compilation) addresses() {
	all := map[netip.Prefix]ruleset.Identity{}
	// Where no policy asks for labels or names, an unknown pod is nobody special.
	special := len(w.selectors.pods) > 0 || len(w.names.used) > 0
	for _, p := range w.blocks.prefixes {
		blocks, inRange := w.blocks.at(p)
		all[p] = w.classes.of(blocks, "", inRange && special)
	}
	nodeSelectors := map[*cluster.Node][]selectorID{}
	for i := range w.state.Nodes() {
		n := &w.state.Nodes()[i]
		for _, a := range n.Addresses {
			if w.state.At(a).Node == n {
				p := netip.PrefixFrom(a, a.BitLen())
				blocks, _ := w.blocks.at(p)
				all[p] = w.classes.of(slices.Concat(w.nodeSelectors(n, nodeSelectors), blocks), "", false)
			}
		}
	}
	for _, o := range w.pods {
		p := netip.PrefixFrom(o.addr, o.addr.BitLen())
		names := w.names.of(o.pod)
		blocks, _ := w.blocks.at(p)
		selectors := w.sets.selectors[labelSet{o.pod.Namespace, o.pod.Labels, names}]
		all[p] = w.classes.of(slices.Concat(selectors, blocks), names, false)
	}
	w.out.Addresses = thin(all)
}

func (w *compilation) nodeSelectors(n *cluster.Node, known map[*cluster.Node][]selectorID) []selectorID {
	found, ok := known[n]
	if !ok {
		for _, id := range sortedIDs(w.selectors.nodes) {
			if w.selectors.nodes[id].Matches(n.Labels) {
				found = append(found, id)
			}
		}
		known[n] = found
	}
	return found
}

// thin leaves out the prefixes that longest match gives the same identity without them.
func thin(all map[netip.Prefix]ruleset.Identity) map[netip.Prefix]ruleset.Identity {
	prefixes := slices.SortedFunc(maps.Keys(all), func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	lengths := lengthsOf(maps.Keys(all))
	kept := map[netip.Prefix]ruleset.Identity{}
	for _, p := range prefixes { // what is around p has been settled
		var around ruleset.Identity
		for q := range lengths.around(p) {
			if id, ok := kept[q]; ok {
				around = id
				break
			}
		}
		if id := all[p]; id != around {
			kept[p] = id
		}
	}
	return kept
}

func sortedIDs[K ~uint32, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
