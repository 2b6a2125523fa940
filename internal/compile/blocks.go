package compile

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/policy"
)

// blockIndex knows the prefixes at whose edges the answer of a block changes. Within one of them, without the
// longer ones inside it, all addresses get the same answer from every block.
type blockIndex struct {
	prefixes []netip.Prefix // distinct
	start    map[netip.Prefix][]selectorID
	except   map[netip.Prefix][]selectorID
	isRange  map[netip.Prefix]bool // pods get their addresses from it
	lengths  lengths
}

func newBlockIndex(blocks map[selectorID]policy.Peer, ranges []netip.Prefix) *blockIndex {
	x := &blockIndex{start: map[netip.Prefix][]selectorID{}, except: map[netip.Prefix][]selectorID{}, isRange: map[netip.Prefix]bool{}}
	for _, id := range sortedIDs(blocks) {
		b := blocks[id]
		x.start[b.Block] = append(x.start[b.Block], id)
		x.prefixes = append(x.prefixes, b.Block)
		for _, e := range b.Except {
			x.except[e] = append(x.except[e], id)
			x.prefixes = append(x.prefixes, e)
		}
	}
	for _, r := range ranges {
		if !r.IsValid() || r.Addr().Is4In6() { // contains no address
			continue
		}
		x.isRange[r.Masked()] = true
		x.prefixes = append(x.prefixes, r.Masked())
	}
	slices.SortFunc(x.prefixes, netip.Prefix.Compare)
	x.prefixes = slices.Compact(x.prefixes)
	x.lengths = lengthsOf(slices.Values(x.prefixes))
	return x
}

// at returns the blocks that hold the addresses of p which are in no longer prefix, and whether p is in a pod range.
func (x *blockIndex) at(p netip.Prefix) (blocks []selectorID, inRange bool) {
	var excepted []selectorID
	for around := range x.lengths.around(p) {
		blocks = append(blocks, x.start[around]...)
		excepted = append(excepted, x.except[around]...)
		inRange = inRange || x.isRange[around]
	}
	if len(excepted) > 0 {
		blocks = slices.DeleteFunc(blocks, func(b selectorID) bool { return slices.Contains(excepted, b) })
	}
	return blocks, inRange
}
