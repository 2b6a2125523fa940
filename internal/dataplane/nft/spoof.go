//go:build linux

package nft

import (
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
)

// loadSource loads the packet's own source address.
func loadSource(v int) []netfilter.Expression {
	if v == 0 {
		return then(ipVersion(0), payload(expr.PayloadBaseNetworkHeader, 12, 4))
	}
	return then(ipVersion(1), payload(expr.PayloadBaseNetworkHeader, 8, 16))
}

// loadDestination loads the packet's own destination address.
func loadDestination(v int) []netfilter.Expression {
	if v == 0 {
		return then(ipVersion(0), payload(expr.PayloadBaseNetworkHeader, 16, 4))
	}
	return then(ipVersion(1), payload(expr.PayloadBaseNetworkHeader, 24, 16))
}

func loadICMPType() []netfilter.Expression { return payload(expr.PayloadBaseTransportHeader, 0, 1) }

// ipVersion matches IPv4 (0) or IPv6 (1) in the inet family.
func ipVersion(v int) []netfilter.Expression {
	return then(loadMeta(expr.MetaKeyNFPROTO), is([]byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}[v]))
}

// loadEtherType loads the type from the frame itself, as it was sent: the kernel takes a VLAN tag off before it says what
// protocol a packet has, passes what had one by the hooks of IP, and hands it to the pod all the same if the tag was 0.
func loadEtherType() []netfilter.Expression { return payload(expr.PayloadBaseLLHeader, 12, 2) }

// etherType matches IPv4 (0) or IPv6 (1), without a VLAN tag, in the bridge family.
func etherType(v int) []netfilter.Expression {
	return then(loadEtherType(), is([][]byte{{0x08, 0x00}, {0x86, 0xdd}}[v]...))
}

// fromBoundAddress accepts what comes from an address that is bound to the interface it came in by. Version matches the
// two versions of IP.
func fromBoundAddress(version func(v int) []netfilter.Expression) []netfilter.Rule {
	var rules []netfilter.Rule
	for v := range 2 {
		rules = append(rules, does(loadBinding(version, v), in(versioned("bindings", v).Name), accept()))
	}
	return rules
}

// beforeAddress accepts what IPv6 needs before it has an address: neighbour discovery and multicast listener reports
// from a link-local address or from none.
func beforeAddress(version func(v int) []netfilter.Expression) []netfilter.Rule {
	var rules []netfilter.Rule
	linkLocal := then(payload(expr.PayloadBaseNetworkHeader, 8, 16), hasPrefix(address(0xff, 0xc0), address(0xfe, 0x80)))
	unspecified := then(payload(expr.PayloadBaseNetworkHeader, 8, 16), is(address(0, 0)...))
	for _, source := range [][]netfilter.Expression{linkLocal, unspecified} {
		for _, kinds := range [][]netfilter.Expression{between(130, 137), is(143)} {
			rules = append(rules, does(version(1), loadMeta(expr.MetaKeyL4PROTO), is(byte(flow.ICMPv6)), loadICMPType(),
				kinds, source, accept()))
		}
	}
	return rules
}

// loadBinding loads the packet's source address and its interface.
func loadBinding(version func(v int) []netfilter.Expression, v int) []netfilter.Expression {
	length := []uint32{4, 16}[v]
	return then(version(v), payload(expr.PayloadBaseNetworkHeader, []uint32{12, 8}[v], length), loadInterfaceBehind(length))
}

// loadInterfaceBehind loads the name of the incoming interface behind an address of 4 or 16 bytes in register 1, which
// makes a key of both.
func loadInterfaceBehind(length uint32) []netfilter.Expression {
	if length == 4 {
		return loadInterfaceAt(expr.MetaKeyIIFNAME, 0)
	}
	return loadInterfaceAt(expr.MetaKeyIIFNAME, 1)
}

// loadInterfaceAt loads the name of an interface behind an address of a version of IP.
func loadInterfaceAt(which expr.MetaKey, v int) []netfilter.Expression {
	return one(&expr.Meta{Key: which, Register: []uint32{unix.NFT_REG32_01, unix.NFT_REG_2}[v]})
}

// address is an IPv6 address that starts with two bytes.
func address(first, second byte) []byte { return append([]byte{first, second}, make([]byte, 14)...) }

// falseNeighbors drop what would have other pods on the bridge send their packets to this one: advertisements of
// addresses that are not its own, though they come from one that is, and what only routers send. A link-local address may
// be anybody's, as nothing but neighbour discovery comes from there.
func falseNeighbors() []netfilter.Rule {
	kind := then(etherType(1), loadMeta(expr.MetaKeyL4PROTO), is(byte(flow.ICMPv6)), loadICMPType())
	target := payload(expr.PayloadBaseTransportHeader, 8, 16)
	return []netfilter.Rule{
		does(kind, is(134), count(), drop()),
		does(kind, is(137), count(), drop()),
		does(kind, is(136), target, notLinkLocal(), target, loadInterfaceBehind(16), notIn("bindings6"),
			count(), drop()),
	}
}

func notLinkLocal() []netfilter.Expression {
	step := hasPrefix(address(0xff, 0xc0), address(0xfe, 0x80))
	return then(step[:len(step)-1], isNot(address(0xfe, 0x80)...))
}

// nfBridgePostRouting is NF_BR_POST_ROUTING.
const nfBridgePostRouting = 4

// movedPort drops packets to a pod's address that leave by another port than the pod's.
func movedPort(v int) netfilter.Rule {
	to := then(etherType(v), payload(expr.PayloadBaseNetworkHeader, []uint32{16, 24}[v], []uint32{4, 16}[v]))
	return does(to, in(versioned("bound", v).Name), to, loadInterfaceAt(expr.MetaKeyOIFNAME, v), notIn(versioned("bindings", v).Name),
		count(), drop())
}

// bridgeChains are the chains of the bridge table: pods on one bridge could take each other's addresses, and nothing
// of that would pass where our other table looks.
func bridgeChains() []netfilter.Chain {
	arp := func(more ...[]netfilter.Expression) netfilter.Rule {
		return does(append([][]netfilter.Expression{loadEtherType(), is(0x08, 0x06)}, more...)...)
	}
	// Ethernet and IPv4, with addresses of their lengths: only then the sender's address is where we look for it.
	plain := then(payload(expr.PayloadBaseNetworkHeader, 0, 4), is(0, 1, 8, 0), payload(expr.PayloadBaseNetworkHeader, 4, 2), is(6, 4))
	sender := payload(expr.PayloadBaseNetworkHeader, 14, 4)
	fromPod := slices.Concat(falseNeighbors(), fromBoundAddress(etherType), beforeAddress(etherType))
	fromPod = append(fromPod,
		arp(plain, sender, loadInterfaceBehind(4), in("bindings4"), accept()), does(count(), drop()))
	return []netfilter.Chain{
		{Ref: netfilter.Ref{Family: netfilter.Bridge, Name: "antispoof"}, Hook: &netfilter.Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: raw}, Rules: []netfilter.Rule{
			does(loadMeta(expr.MetaKeyIIFNAME), in("interfaces"), goTo("from_pod")),
			does(etherType(0), payload(expr.PayloadBaseNetworkHeader, 12, 4), in("bound4"), count(), drop()),
			does(etherType(1), payload(expr.PayloadBaseNetworkHeader, 8, 16), in("bound6"), count(), drop()),
			arp(plain, sender, in("bound4"), count(), drop()),
		}},
		{Ref: netfilter.Ref{Family: netfilter.Bridge, Name: "from_pod"}, Rules: fromPod},
		// See moved: packets for an address leave by its pod's port, those of the node too, as where a frame comes from cannot
		// be told here.
		{Ref: netfilter.Ref{Family: netfilter.Bridge, Name: "moved"}, Hook: &netfilter.Hook{Number: nfBridgePostRouting, Priority: early}, Rules: []netfilter.Rule{
			movedPort(0), movedPort(1),
		}},
	}
}
