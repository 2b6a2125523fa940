//go:build linux

package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// An addressRange is a part of the address space in which all addresses have one identity. Both ends are in it.
type addressRange struct {
	first, last netip.Addr
	identity    ruleset.Identity
}

func (r addressRange) key() string { return string(r.first.AsSlice()) + string(r.last.AsSlice()) }

// flatten turns prefixes, of which the longest counts, into disjoint ranges in order, because a map of the kernel
// holds no ranges that overlap. Prefixes of the other version of IP and single addresses are left out: the latter have
// a map of their own, which is asked after the ranges.
func flatten(addresses map[netip.Prefix]ruleset.Identity, v int) []addressRange {
	var prefixes []netip.Prefix
	for p := range addresses {
		if version(p.Addr()) == v && !p.IsSingleIP() {
			prefixes = append(prefixes, p)
		}
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	f := flattener{identity: addresses}
	for _, p := range prefixes {
		for len(f.open) > 0 && !f.top().Contains(p.Addr()) {
			f.close()
		}
		if len(f.open) > 0 && f.at.Less(p.Addr()) {
			f.emit(p.Addr().Prev())
		}
		f.open, f.at = append(f.open, p), p.Addr()
	}
	for len(f.open) > 0 {
		f.close()
	}
	return f.ranges
}

// A flattener walks up the address space: open are the prefixes around the place where it is, outermost first, and
// everything below at is done.
type flattener struct {
	identity map[netip.Prefix]ruleset.Identity
	open     []netip.Prefix
	at       netip.Addr // not valid behind the last address of all
	ranges   []addressRange
}

func (f *flattener) top() netip.Prefix { return f.open[len(f.open)-1] }

// emit ends the current range at last.
func (f *flattener) emit(last netip.Addr) {
	if f.at.IsValid() && f.at.Compare(last) <= 0 {
		f.ranges = append(f.ranges, addressRange{f.at, last, f.identity[f.top()]})
	}
}

// close leaves the innermost prefix.
func (f *flattener) close() {
	last := lastAddress(f.top())
	f.emit(last)
	f.at, f.open = last.Next(), f.open[:len(f.open)-1]
}

func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// setBlocks has packets look at a new blockMap, unless what is in it is the same.
func (e *editor) setBlocks(v int) {
	old, made, ranges := e.ranges[v], e.blocks[v], flatten(e.rules.Addresses, v)
	if slices.Equal(old, ranges) {
		return
	}
	e.ranges[v] = ranges
	e.undo = append(e.undo, func() { e.ranges[v], e.blocks[v] = old, made })
	if !e.fresh {
		e.blocks[v] = e.edition
		e.first.AddMap(blockMap(v, e.edition))
		e.setChains(identityChains(e.blocks))
		e.to.DropMap(blockMap(v, made))
	}
	for _, r := range ranges {
		e.first.Put(blockMap(v, e.blocks[v]), r.key(), number(uint32(r.identity)))
	}
}
