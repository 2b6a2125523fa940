package compile

import (
	"iter"
	"net/netip"
)

// lengths are the lengths that the prefixes of a set have, so that a longest match tries no others: a handful, of
// 33 and 129.
type lengths struct{ v4, v6 [129]bool }

// around yields the prefixes of these lengths that contain p, itself among them, the longest first.
func (l *lengths) around(p netip.Prefix) iter.Seq[netip.Prefix] {
	used := &l.v6
	if p.Addr().Is4() {
		used = &l.v4
	}
	return func(yield func(netip.Prefix) bool) {
		for bits := p.Bits(); bits >= 0; bits-- {
			if !used[bits] {
				continue
			}
			q, err := p.Addr().Prefix(bits)
			if err == nil && !yield(q) {
				return
			}
		}
	}
}
