package lab

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// strangers are the addresses, the best first, of the host that no policy means. They are of ranges that were made
// for documentation.
var strangers = [2][]netip.Addr{
	{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("198.51.100.210")},
	{netip.MustParseAddr("2001:db8:0:f::10"), netip.MustParseAddr("3fff::10")},
}

// maxOutside bounds the addresses of the outside host, by family.
const maxOutside = 16

// placeOutside gives the outside host a stranger's address of each family, and addresses in and beside each block
// that policies name, so that every block is seen from both sides of its edge; and those of wanted that it can have.
func (p *plan) placeOutside(o *cluster.Objects, wanted []netip.Addr) {
	blocks := eval.Blocks(o.Policies)
	for family := range strangers {
		avoid := slices.Clone(o.PodRanges)
		for _, n := range o.Nodes {
			for _, a := range n.Addresses {
				avoid = append(avoid, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		for _, h := range p.pods {
			for _, a := range h.addresses {
				avoid = append(avoid, netip.PrefixFrom(a, a.BitLen()))
			}
		}
		chosen := []netip.Addr{stranger(family, blocks, avoid)}
		for _, b := range blocks {
			if b.Block.Addr().Is4() == (family == 0) {
				chosen = append(chosen, representatives(b, avoid)...)
			}
		}
		chosen = dedupe(chosen)
		if len(chosen) > maxOutside {
			p.notices = append(p.notices, fmt.Sprintf("policies' blocks would take %d outside addresses: the first %d are probed", len(chosen), maxOutside))
			chosen = chosen[:maxOutside]
		}
		for _, a := range wanted {
			if familyOf(a) == family && isHostAddress(a) && !contains(avoid, a) {
				chosen = append(chosen, a)
			}
		}
		p.outside.addresses = append(p.outside.addresses, dedupe(chosen)...)
	}
	p.outside.veth = outsideVeth
}

func dedupe(addrs []netip.Addr) []netip.Addr {
	var kept []netip.Addr
	for _, a := range addrs {
		if a.IsValid() && !slices.Contains(kept, a) {
			kept = append(kept, a)
		}
	}
	return kept
}

func stranger(family int, blocks []policy.Peer, avoid []netip.Prefix) netip.Addr {
	free := slices.DeleteFunc(slices.Clone(strangers[family]), func(a netip.Addr) bool { return contains(avoid, a) })
	for _, a := range free {
		if !slices.ContainsFunc(blocks, func(b policy.Peer) bool { return b.Contains(a) }) {
			return a
		}
	}
	if len(free) == 0 {
		return netip.Addr{}
	}
	return free[0] // some block holds all of them, most likely the whole world
}

// representatives are the last address that b contains, the first one after it, and the first of each exception.
func representatives(b policy.Peer, avoid []netip.Prefix) []netip.Addr {
	notExcepted := slices.Concat(avoid, b.Except)
	addrs := []netip.Addr{pick(b.Block, notExcepted, last(b.Block), netip.Addr.Prev)}
	if after := last(b.Block).Next(); after.IsValid() && isHostAddress(after) && !contains(avoid, after) {
		addrs = append(addrs, after)
	}
	for _, e := range b.Except {
		addrs = append(addrs, pick(e, avoid, e.Addr(), netip.Addr.Next))
	}
	return addrs
}

// notHosts are the ranges in which no host that others reach has its address.
var notHosts = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/8"), netip.MustParsePrefix("fe00::/7"),
}

// isHostAddress reports whether a is an address that one host can have and others reach.
func isHostAddress(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !contains(notHosts, a)
}

// pick walks from an end of the block to the first address that a host can have and that is not to be avoided; the
// zero Addr if none is near. Prefixes that are to be avoided are jumped over whole.
func pick(block netip.Prefix, avoid []netip.Prefix, from netip.Addr, step func(netip.Addr) netip.Addr) netip.Addr {
	avoid = slices.Concat(avoid, notHosts)
	a := from
	for range 1024 {
		if !a.IsValid() || !block.Contains(a) {
			return netip.Addr{}
		}
		at := slices.IndexFunc(avoid, func(p netip.Prefix) bool { return p.Contains(a) })
		if at < 0 {
			return a
		}
		edge := avoid[at].Masked().Addr()
		if step(edge).Compare(edge) > 0 {
			edge = last(avoid[at])
		}
		a = step(edge)
	}
	return netip.Addr{}
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
