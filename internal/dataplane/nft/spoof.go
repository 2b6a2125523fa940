//go:build linux

package nft

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// loadSource loads the packet's own source address.
func loadSource(v int) []expression {
	if v == 0 {
		return then(ipVersion(0), payload(expr.PayloadBaseNetworkHeader, 12, 4))
	}
	return then(ipVersion(1), payload(expr.PayloadBaseNetworkHeader, 8, 16))
}

// loadDestination loads the packet's own destination address.
func loadDestination(v int) []expression {
	if v == 0 {
		return then(ipVersion(0), payload(expr.PayloadBaseNetworkHeader, 16, 4))
	}
	return then(ipVersion(1), payload(expr.PayloadBaseNetworkHeader, 24, 16))
}

func loadICMPType() []expression { return payload(expr.PayloadBaseTransportHeader, 0, 1) }

// ipVersion matches IPv4 (0) or IPv6 (1) in the inet family.
func ipVersion(v int) []expression {
	return then(loadMeta(expr.MetaKeyNFPROTO), is([]byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}[v]))
}

// etherType matches IPv4 (0) or IPv6 (1) in the bridge family.
func etherType(v int) []expression {
	return then(loadMeta(expr.MetaKeyPROTOCOL), is([][]byte{{0x08, 0x00}, {0x86, 0xdd}}[v]...))
}

// fromBoundAddress accepts what comes from an address that is bound to the interface it came in by, and what IPv6
// needs before it has an address: neighbour discovery and multicast listener reports from a link-local address or
// from none. Version matches the two versions of IP.
func fromBoundAddress(version func(v int) []expression) []rule {
	var rules []rule
	for v := range 2 {
		rules = append(rules, does(loadBinding(version, v), in(versioned("bindings", v).name), accept()))
	}
	linkLocal := then(payload(expr.PayloadBaseNetworkHeader, 8, 16), hasPrefix(address(0xff, 0xc0), address(0xfe, 0x80)))
	unspecified := then(payload(expr.PayloadBaseNetworkHeader, 8, 16), is(address(0, 0)...))
	for _, source := range [][]expression{linkLocal, unspecified} {
		for _, kinds := range [][]expression{between(130, 137), is(143)} {
			rules = append(rules, does(version(1), loadMeta(expr.MetaKeyL4PROTO), is(byte(flow.ICMPv6)), loadICMPType(),
				kinds, source, accept()))
		}
	}
	return rules
}

// loadBinding loads the packet's source address and its interface.
func loadBinding(version func(v int) []expression, v int) []expression {
	length := []uint32{4, 16}[v]
	return then(version(v), payload(expr.PayloadBaseNetworkHeader, []uint32{12, 8}[v], length), loadInterfaceBehind(length))
}

// unbound matches if the source address is not bound to the interface.
func unbound(version func(v int) []expression, v int) []expression {
	return then(loadBinding(version, v), notIn(versioned("bindings", v).name))
}

// loadInterfaceBehind loads the name of the incoming interface behind an address of 4 or 16 bytes in register 1, which
// makes a key of both.
func loadInterfaceBehind(length uint32) []expression {
	register := uint32(unix.NFT_REG32_01)
	if length == 16 {
		register = unix.NFT_REG_2
	}
	return one(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register})
}

// address is an IPv6 address that starts with two bytes.
func address(first, second byte) []byte { return append([]byte{first, second}, make([]byte, 14)...) }

// bridgeChains are the chains of the bridge table: pods on one bridge could take each other's addresses, and nothing
// of that would pass where our other table looks.
func bridgeChains() []chainDef {
	arp := func(more ...[]expression) rule {
		return does(append([][]expression{loadMeta(expr.MetaKeyPROTOCOL), is(0x08, 0x06)}, more...)...)
	}
	// Ethernet and IPv4, with addresses of their lengths: only then the sender's address is where we look for it.
	plain := then(payload(expr.PayloadBaseNetworkHeader, 0, 4), is(0, 1, 8, 0), payload(expr.PayloadBaseNetworkHeader, 4, 2), is(6, 4))
	sender := payload(expr.PayloadBaseNetworkHeader, 14, 4)
	fromPod := append(fromBoundAddress(etherType),
		arp(plain, sender, loadInterfaceBehind(4), in("bindings4"), accept()), does(count(), drop()))
	return []chainDef{
		{ref{bridge, "antispoof"}, &hook{unix.NF_INET_PRE_ROUTING, raw}, []rule{
			does(loadMeta(expr.MetaKeyIIFNAME), in("interfaces"), goTo("from_pod")),
			does(etherType(0), payload(expr.PayloadBaseNetworkHeader, 12, 4), in("bound4"), count(), drop()),
			does(etherType(1), payload(expr.PayloadBaseNetworkHeader, 8, 16), in("bound6"), count(), drop()),
			arp(plain, sender, in("bound4"), count(), drop()),
		}},
		{ref{bridge, "from_pod"}, nil, fromPod},
	}
}
