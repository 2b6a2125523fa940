//go:build linux

package nft

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var (
	address4  = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIPAddr}, Order: netfilter.BigOrder}
	address6  = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIP6Addr}, Order: netfilter.BigOrder}
	classID   = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeClassID}, Order: netfilter.HostOrder}
	port      = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeInetService}, Order: netfilter.BigOrder}
	protocol  = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeInetProto}, Order: netfilter.BigOrder}
	name      = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIFName}, Order: netfilter.HostOrder}
	verdicts  = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeVerdict}}
	prefix4   = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeMark}}
	prefix6   = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeMark}}
	binding4  = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIFName}}
	binding6  = netfilter.Type{Fields: []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeIFName}}
	prefixes  = [2]netfilter.Type{prefix4, prefix6}
	addresses = [2]netfilter.Type{address4, address6}
	bindings  = [2]netfilter.Type{binding4, binding6}
)

// named is a chain, map or counter of our main table.
func named(name string) netfilter.Ref { return netfilter.Ref{Family: netfilter.Inet, Name: name} }

// The maps of which there is one for each subject or row.
func peersMap(s ruleset.Subject) netfilter.Map {
	return netfilter.Map{Ref: named(fmt.Sprintf("peers_%s_%d", short(s.Direction), s.Identity)), Key: classID, Value: classID}
}

// Those with intervals have the edition in their names that they were made in (see editionSet): the kernel shows their new content
// a moment later than everything else of a transaction, so each is filled before anything looks at it, and a new content is a new map.
func portsSet(id ruleset.RowID, p flow.Protocol, made uint32) netfilter.Map {
	return netfilter.Map{Ref: named(fmt.Sprintf("ports_%d_%s_%d", id, p, made)), Key: port, Interval: true}
}

// The maps of which there is one for each address family; 0 is IPv4 and 1 is IPv6.
func localMap(v int) netfilter.Map {
	return netfilter.Map{Ref: versioned("local", v), Key: addresses[v], Value: classID}
}

func identityMap(v int) netfilter.Map {
	return netfilter.Map{Ref: versioned("identities", v), Key: addresses[v], Value: classID}
}

func blockMap(v int, made uint32) netfilter.Map {
	return netfilter.Map{Ref: madeIn("blocks", v, made), Key: addresses[v], Value: classID, Interval: true}
}

// prefixMap is not for packets: it remembers the prefixes that the ranges of blockMap were made of, for reading back.
func prefixMap(v int) netfilter.Map {
	return netfilter.Map{Ref: versioned("prefixes", v), Key: prefixes[v], Value: classID}
}

func boundSet(family byte, v int) netfilter.Map {
	return netfilter.Map{Ref: netfilter.Ref{Family: family, Name: versioned("bound", v).Name}, Key: addresses[v]}
}

func bindingSet(family byte, v int) netfilter.Map {
	return netfilter.Map{Ref: netfilter.Ref{Family: family, Name: versioned("bindings", v).Name}, Key: bindings[v]}
}

func madeIn(s string, v int, made uint32) netfilter.Ref {
	return named(fmt.Sprintf("%s_%d", versioned(s, v).Name, made))
}

func versioned(s string, v int) netfilter.Ref { return named(s + string("46"[v])) }

func subjectsMap(d flow.Direction) netfilter.Map {
	return netfilter.Map{Ref: named("subjects_" + short(d)), Key: classID, Value: verdicts}
}

var rowsMap = netfilter.Map{Ref: named("rows"), Key: classID, Value: verdicts}

// interfaceSet holds the interfaces of the node that pods are plugged into, or, in the bridge table, the ports.
func interfaceSet(family byte) netfilter.Map {
	return netfilter.Map{Ref: netfilter.Ref{Family: family, Name: "interfaces"}, Key: name}
}

// closedSet holds the addresses of Options.Closed. EnsureClosed adds to it.
func closedSet(v int, made uint32) netfilter.Map {
	return netfilter.Map{Ref: madeIn("closed", v, made), Key: addresses[v], Interval: true}
}

// editionSet holds one number, which chain allowed has in a rule too. A packet goes by the rules that it found when it came in,
// but by the data of each moment: if a transaction commits while it is judged, it may find an identity from before it and no
// more find what that is allowed, or come to a chain that has no rules for it yet. So such a transaction changes the number, in
// both places, and who comes to the end with the rules from before it finds another number, and is dropped: what it was
// judged by was never in force.
var editionSet = netfilter.Map{Ref: named("edition"), Key: classID}

// closedCounter counts what is dropped because one of its ends is an unknown pod.
var closedCounter = named("closed")

// ProbeInterface is the interface whose packets are counted and dropped, see Probes.
const ProbeInterface = "rf-probe"

// probeCounter counts the packets that came in by ProbeInterface and reached the judge.
var probeCounter = named("probe")

// portedSet is constant: the protocols that have ports which policies can name.
var portedSet = netfilter.Map{Ref: named("ported"), Key: protocol}

func short(d flow.Direction) string {
	if d == flow.Egress {
		return "out"
	}
	return "in"
}

func subjectChain(s ruleset.Subject) string {
	return fmt.Sprintf("%s_%d", short(s.Direction), s.Identity)
}
func rowChain(id ruleset.RowID) string { return fmt.Sprintf("row_%d", id) }

// rowCounter counts what a row drops. It has a name so that all of them can be read without their rules.
func rowCounter(id ruleset.RowID) netfilter.Ref { return named(rowChain(id)) }

// allowsAll says that a row drops nothing, and so has no counter.
func allowsAll(row ruleset.Row) bool {
	return row.Equal(ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow}))
}

// fixedMaps are the maps of a table that are always there under the same names.
func fixedMaps(family byte) []netfilter.Map {
	var defs []netfilter.Map
	if family == netfilter.Inet {
		for v := range 2 {
			defs = append(defs, localMap(v), identityMap(v), prefixMap(v))
		}
		defs = append(defs, subjectsMap(flow.Ingress), subjectsMap(flow.Egress), rowsMap, portedSet, editionSet)
	}
	for v := range 2 {
		defs = append(defs, boundSet(family, v), bindingSet(family, v))
	}
	return append(defs, interfaceSet(family))
}

// early is just before where filters usually are. It is after any translation of the destination, and looking at
// connections we do not care which translations are done.
const early = -5

// raw comes before connection tracking, so that a packet with a false address makes no entry.
const raw = -300

// notLocal is in the scratch for addresses that are not our pods': no identity is as large, and it is no row's number.
const notLocal = ruleset.RowBase - 1

// fixedChains are the chains of our table whose rules never change. closed is when closedSet was made.
func fixedChains(o Options, closed uint32) []netfilter.Chain {
	return []netfilter.Chain{
		{Ref: named("state")}, // see stateRules
		// What is right passes by one look-up: this and the first rules of forward are all that most packets meet.
		{Ref: named("antispoof"), Hook: &netfilter.Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: raw}, Rules: append(fromBoundAddress(ipVersion),
			does(loadMeta(expr.MetaKeyIIFNAME), in("interfaces"), goTo("from_pod")),
			// Nobody else may claim a pod's address. Packets of the node itself do not pass here.
			does(loadSource(0), in("bound4"), count(), drop()),
			does(loadSource(1), in("bound6"), count(), drop()))},
		{Ref: named("from_pod"), Rules: append(beforeAddress(ipVersion), does(count(), drop()))},
		// Nothing but chance or an attack makes packets that fit no connection (the reply to an echo that nobody sent,
		// TCP null, xmas and lone RST): all expressions on connections miss on them, so they must not go further.
		dropChain("invalid", [2]string{"unknown_source", "unknown_destination"}, loadSource, loadDestination),
		// An ICMP error is judged as part of the connection that it speaks of, and carries its label. Where that is
		// missing, the connection was not judged since the last tightening, and its own next packet will be.
		dropChain("stale", [2]string{"unknown_client", "unknown_server"}, connectionEnd(original), connectionEnd(reply)),
		unknownChain("unknown_client", closed, connectionEnd(original), notLoopback(), untracked(goTo("unknown_source"))),
		unknownChain("unknown_server", closed, connectionEnd(reply), forwarded(), untracked(goTo("unknown_destination"))),
		unknownChain(unknownSource, closed, loadSource, notLoopback()), unknownChain("unknown_destination", closed, loadDestination, forwarded()),
		{Ref: named("unknown"), Rules: refuse(closedCounter, 0, 0, o)},
		{Ref: named("judge"), Rules: judgeRules()}, rowChooser(),
		{Ref: named("local_source"), Rules: localFrom(loadSource)},
		{Ref: named("local_destination"), Rules: localFrom(loadDestination)},
	}
}

// identityChains leave the identity of one end in the scratch. blocks say when the blockMap that they look at was made.
func identityChains(blocks [2]uint32) []netfilter.Chain {
	return []netfilter.Chain{
		peerChain("client", original, "source", blocks), peerChain("server", reply, "destination", blocks),
		{Ref: named("source"), Rules: identityFrom(loadSource, blocks)}, {Ref: named("destination"), Rules: identityFrom(loadDestination, blocks)},
	}
}

// chains are all that there are whatever the ruleset says.
func (s *state) chains(o Options) []netfilter.Chain {
	return slices.Concat(fixedChains(o, s.closed), identityChains(s.blocks), judging(s.epoch, s.edition))
}

// dropChain drops what has a local address at one of its ends, or an unknown pod's, for which it asks two other chains.
func dropChain(name string, unknown [2]string, ends ...func(v int) []netfilter.Expression) netfilter.Chain {
	return netfilter.Chain{Ref: named(name), Rules: append(localFrom(ends...),
		does(loadScratch(), isNot(host32(notLocal)...), count(), drop()), does(jump(unknown[0])), does(jump(unknown[1])),
		does(scratch(0), accept()))}
}

// unknownSource is the chain by which closedSet is found.
const unknownSource = "unknown_source"

// unknownChain refuses what has an unknown pod at one end. It is asked about addresses that are not our pods' only.
func unknownChain(name string, closed uint32, load func(v int) []netfilter.Expression, where []netfilter.Expression, before ...netfilter.Rule) netfilter.Chain {
	rules := before
	for v := range 2 {
		rules = append(rules, does(where, load(v), in(closedSet(v, closed).Name), goTo("unknown")))
	}
	return netfilter.Chain{Ref: named(name), Rules: rules}
}

// askUnknown asks such a chain if the scratch says that an address is not our pods'.
func askUnknown(chain string) netfilter.Rule {
	return does(loadScratch(), is(host32(notLocal)...), jump(chain))
}

// notLoopback matches what did not come from the node itself, whose own addresses may be in the range of its pods.
func notLoopback() []netfilter.Expression {
	return then(loadMeta(expr.MetaKeyIIFNAME), isNot([]byte(interfaceName("lo"))...))
}

// forwarded matches what does not end at the node itself.
func forwarded() []netfilter.Expression { return then(loadMeta(expr.MetaKeyOIF), isNot(host32(0)...)) }

// atHome is a rule for packets to a pod's address that leave by the pod's interface.
func atHome(v int, then ...[]netfilter.Expression) netfilter.Rule {
	return does(append([][]netfilter.Expression{loadDestination(v), loadInterfaceAt(expr.MetaKeyOIFNAME, v), in(bindingSet(netfilter.Inet, v).Name)}, then...)...)
}

// moved matches packets to a pod's address that leave by another interface than the pod's: the address is given to
// another pod by now, that nobody knows yet.
func moved(v int) netfilter.Rule {
	bound, bindings := boundSet(netfilter.Inet, v), bindingSet(netfilter.Inet, v)
	return does(loadDestination(v), in(bound.Name), loadDestination(v), loadInterfaceAt(expr.MetaKeyOIFNAME, v), notIn(bindings.Name),
		goTo("unknown"))
}

// untracked is a rule for packets that somebody exempted from connection tracking. They are judged like the others, but
// each on its own addresses and ports; what is looked up of their connection is a miss. They have no judge of their own
// because the kernel walks every way to every row when a rule changes: that would be twice as many.
func untracked(verdict []netfilter.Expression) netfilter.Rule {
	return does(inState(expr.CtStateBitUNTRACKED), verdict)
}

// peerChain leaves the identity of one end of the connection in the scratch.
func peerChain(name string, direction int, otherwise string, blocks [2]uint32) netfilter.Chain {
	return netfilter.Chain{Ref: named(name), Rules: append(
		[]netfilter.Rule{untracked(goTo(otherwise))},
		identityFrom(connectionEnd(direction), blocks)...)}
}

// localFrom fills the scratch with the identity of one of our pods, or notLocal.
//
// The first rule is not to be left out, here and in identityFrom: a miss leaves the scratch as it was, and that is what the sender
// put there, as a packet starts with the priority that its TOS says. After it a miss may well leave what an earlier rule found:
// all of them look at addresses of this one end.
func localFrom(loads ...func(v int) []netfilter.Expression) []netfilter.Rule {
	rules := []netfilter.Rule{does(scratch(notLocal))}
	for _, load := range loads {
		for v := range 2 {
			rules = append(rules, does(load(v), mapped(localMap(v).Name), setScratch()))
		}
	}
	return rules
}

// identityFrom fills the scratch with the identity of an address: that of the longest block, and over it that of the address
// itself, or 0.
func identityFrom(load func(v int) []netfilter.Expression, blocks [2]uint32) []netfilter.Rule {
	rules := []netfilter.Rule{does(scratch(0))}
	for v := range 2 {
		rules = append(rules, does(load(v), mapped(blockMap(v, blocks[v]).Name), setScratch()),
			does(load(v), mapped(identityMap(v).Name), setScratch()))
	}
	return rules
}

// connectionEnd loads the address of the client (the source of the original direction) or of the server (the source of
// the replies): right before and after any translation, and the same for packets of both directions.
func connectionEnd(direction int) func(v int) []netfilter.Expression {
	return func(v int) []netfilter.Expression { return loadCt([]uint32{ctSrcIP, ctSrcIP6}[v], direction) }
}

// judging is the part of the table that names the epoch: a new epoch rewrites it, so that it is kept small. It is rules
// and not data, as a packet sees the rules of one moment: what is judged by rows from before a change must not get the
// label from after it.
//
// Packets are judged where they are forwarded. What the node itself sends does not pass there, so it reaches every
// pod, and nobody can pretend to be the node: behind source translation one would have to tell its packets by the
// lack of an incoming interface, which packets from one port of a bridge to another lack there too.
func judging(epoch int, edition uint32) []netfilter.Chain {
	return []netfilter.Chain{
		{Ref: named("forward"), Hook: &netfilter.Hook{Number: unix.NF_INET_FORWARD, Priority: early}, Rules: []netfilter.Rule{
			atHome(0, hasLabel(epoch), accept()), atHome(1, hasLabel(epoch), accept()),
			moved(0), moved(1),
			does(hasLabel(epoch), accept()),
			does(goTo("judge")),
		}},
		// What a pod sends to its node is not forwarded.
		{Ref: named("input"), Hook: &netfilter.Hook{Number: unix.NF_INET_LOCAL_IN, Priority: early}, Rules: []netfilter.Rule{
			does(hasLabel(epoch), accept()),
			does(inDirection(reply), accept()), // the client is the node
			does(goTo("judge")),
		}},
		allowedChain(epoch, edition),
	}
}

// allowedChain is where all that is allowed ends up.
func allowedChain(epoch int, edition uint32) netfilter.Chain {
	return netfilter.Chain{Ref: named("allowed"), Rules: []netfilter.Rule{
		does(scratch(edition), loadScratch(), in(editionSet.Name), setLabel(epoch), scratch(0), accept()),
		does(count(), drop()),
	}}
}

func judgeRules() []netfilter.Rule {
	icmpError := func(p flow.Protocol) netfilter.Rule {
		return does(inState(expr.CtStateBitRELATED), loadMeta(expr.MetaKeyL4PROTO), is(byte(p)), goTo("stale"))
	}
	rules := []netfilter.Rule{
		does(loadMeta(expr.MetaKeyIIFNAME), is([]byte(interfaceName(ProbeInterface))...), countAt(probeCounter.Name), drop()),
		// Neighbour discovery is never tracked and has to live. It is never forwarded either, which its hop limit
		// proves, so that no other packet can dress up as it.
		does(ipVersion(1), loadMeta(expr.MetaKeyL4PROTO), is(byte(flow.ICMPv6)), loadICMPType(), between(133, 137),
			payload(expr.PayloadBaseNetworkHeader, 7, 1), is(255), accept()),
		does(inState(expr.CtStateBitINVALID), goTo("invalid")),
		icmpError(flow.ICMP), icmpError(flow.ICMPv6),
	}
	rules = append(rules, localFrom(connectionEnd(original))...)
	rules = append(rules, untracked(jump("local_source")), askUnknown("unknown_client"), does(loadScratch(), follow("subjects_out")), askRow())
	rules = append(rules, localFrom(connectionEnd(reply))...)
	return append(rules, untracked(jump("local_destination")), askUnknown("unknown_server"), does(loadScratch(), follow("subjects_in")), askRow(),
		does(goTo("allowed")))
}

// subjectRules leave in the scratch the row of a subject and the peer at the other end: that of the pair, or the default.
// Row numbers are above all identities, so an identity that has no row of its own is told by that bit.
//
// They do not go on to the row themselves. The kernel walks all ways through the table when a rule or a verdict changes,
// without remembering where it was: with a way from every subject to every row that takes 15 ms on a large node.
func subjectRules(s ruleset.Subject, def ruleset.RowID) []netfilter.Rule {
	peer := "client"
	if s.Direction == flow.Egress {
		peer = "server"
	}
	return []netfilter.Rule{
		does(jump(peer)),
		does(loadScratch(), mapped(peersMap(s).Name), setScratch()),
		does(loadScratch(), hasPrefix(host32(ruleset.RowBase), host32(0)), scratch(ruleset.RowBase+uint32(def))),
	}
}

// askRow has the row in the scratch decide, if a subject left one there.
func askRow() netfilter.Rule {
	return does(loadScratch(), hasBits(host32(ruleset.RowBase)), jump("row"))
}

// rowChooser finds the chain of the row in the scratch. A packet that is under way while a transaction commits may know
// a row that is there no more: what it would say is not known, so the packet is dropped.
func rowChooser() netfilter.Chain {
	return netfilter.Chain{Ref: named("row"), Rules: []netfilter.Rule{does(loadScratch(), follow(rowsMap.Name)), does(count(), drop())}}
}

// rowRules return to the judge what the row allows and drop the rest. born is the generation to name in the log.
func rowRules(id ruleset.RowID, row ruleset.Row, born uint64, made uint32, o Options) []netfilter.Rule {
	if allowsAll(row) {
		return []netfilter.Rule{does(back())}
	}
	var tracked, untracked []netfilter.Rule
	for _, p := range flow.PortProtocols {
		ranges := allowed(row.Segments(p))
		if len(ranges) == 0 {
			continue
		}
		is := then(loadMeta(expr.MetaKeyL4PROTO), is(byte(p)))
		if ranges[0] == allPorts {
			tracked = append(tracked, does(is, back()))
			continue
		}
		set := in(portsSet(id, p, made).Name)
		tracked = append(tracked, does(is, loadCt(ctProtoSrc, reply), set, back()))
		untracked = append(untracked, does(inState(expr.CtStateBitUNTRACKED), is,
			payload(expr.PayloadBaseTransportHeader, 2, 2), set, back()))
	}
	if row.Other.Verdict == flow.Allow {
		tracked = append(tracked, does(loadMeta(expr.MetaKeyL4PROTO), notIn(portedSet.Name), back()))
	}
	return append(append(tracked, untracked...), refuse(rowCounter(id), id, born, o)...)
}

// refuse counts, logs and drops. The log says which way the packet went, as only then a reader knows which end is the
// server; a packet without a connection counts as going there.
func refuse(counter netfilter.Ref, id ruleset.RowID, born uint64, o Options) []netfilter.Rule {
	if o.LogGroup == 0 {
		return []netfilter.Rule{does(countAt(counter.Name), drop())}
	}
	log := func(direction byte) []netfilter.Expression {
		var limit []netfilter.Expression
		if o.LogRate > 0 {
			limit = limited(o.LogRate)
		}
		return then(limit, logged(logPrefix(born, id, direction), o.LogGroup))
	}
	return []netfilter.Rule{
		does(countAt(counter.Name)),
		does(inDirection(reply), log('r')),
		does(inDirection(reply), drop()),
		does(log('o')),
		does(drop()),
	}
}

// stateRules keep, where operators can see it, which generation is in force.
func stateRules(generation uint64) []netfilter.Rule {
	return []netfilter.Rule{{Steps: count(), Comment: fmt.Sprintf("generation %d", generation)}}
}

// A portRange is what portsSet holds: first and last port, big-endian.
type portRange [4]byte

var allPorts = portRange{0, 0, 0xff, 0xff}

func allowed(segments []ruleset.Segment) []portRange {
	var ranges []portRange
	for _, s := range segments {
		if s.Verdict == flow.Allow {
			ranges = append(ranges, portRange{byte(s.First >> 8), byte(s.First), byte(s.Last >> 8), byte(s.Last)})
		}
	}
	return ranges
}
