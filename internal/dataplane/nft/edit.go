//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A state is what our tables say, as far as the next change needs to know it.
type state struct {
	rules   *ruleset.Ruleset // stripped
	applier *ruleset.Applier // to rules; nil if it is not known to be right
	epoch   int
	edition uint32 // see editionSet
	// born is the generation that each row's log names.
	born map[ruleset.RowID]uint64
	// closed, blocks and ports are the editions that closedSet, blockMap and portsSet were made in, for each version of IP or row.
	closed uint32
	blocks [2]uint32
	ports  map[ruleset.RowID]uint32
	// locals are the identities in localMap, and ranges the content of blockMap for each version of IP.
	locals map[netip.Addr]ruleset.Identity
	ranges [2][]addressRange
	// users counts the addresses that are bound to each interface, and to each port of a bridge.
	users map[netfilter.Ref]int
	// inet and bridge say which tables there are.
	inet, bridge bool
}

// newState is that of no table. One that is made then is of an edition.
func newState(edition uint32) *state {
	return &state{rules: ruleset.New(), epoch: firstEpoch, edition: edition, born: map[ruleset.RowID]uint64{},
		closed: edition, blocks: [2]uint32{edition, edition}, ports: map[ruleset.RowID]uint32{},
		locals: map[netip.Addr]ruleset.Identity{}, users: map[netfilter.Ref]int{}}
}

// An editor turns the difference of two rulesets into changes of our tables. It reads and keeps up to date everything
// in the state but the ruleset, which is the new one already.
type editor struct {
	*state
	first netfilter.Sink // what is in force before all else is: maps with intervals that nothing looks at yet
	to    netfilter.Sink
	opts  Options
	fresh bool // the table is being made
	undo  []func()
}

// edit carries out ops, which lead from before (as far as ops speak of it) to the state's ruleset.
func (e *editor) edit(before *ruleset.Ruleset, ops []ruleset.Op) error {
	if !e.inet {
		e.createInet()
	}
	dirty := [2]bool{}
	for _, op := range ops {
		if err := e.op(before, op, &dirty); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	for v := range 2 {
		if dirty[v] {
			e.setBlocks(v)
		}
	}
	if dirty != [2]bool{} {
		e.setIdentitiesOfLocals()
	}
	e.dropUnusedBridge()
	e.to.SetRules(named("state"), stateRules(e.rules.Generation))
	return nil
}

func (e *editor) op(before *ruleset.Ruleset, op ruleset.Op, dirty *[2]bool) error {
	switch op.Kind {
	case ruleset.AddRow:
		e.addRow(op.Row, op.Value)
	case ruleset.DeleteRow:
		e.deleteRow(op.Row, before.Rows[op.Row])
	case ruleset.SetDefault, ruleset.DeleteDefault:
		_, was := before.Defaults[op.Subject]
		e.setDefault(op, was)
	case ruleset.SetPair, ruleset.DeletePair:
		_, was := before.Pairs[ruleset.Pair{Subject: op.Subject, Peer: op.Peer}]
		e.replace(peersMap(op.Subject), number(uint32(op.Peer)), was, op.Kind == ruleset.SetPair,
			number(ruleset.RowBase+uint32(op.Row)))
	case ruleset.SetAddress, ruleset.DeleteAddress:
		_, was := before.Addresses[op.Prefix]
		e.setAddress(op, was, dirty)
	case ruleset.SetLocal, ruleset.DeleteLocal:
		return e.setLocal(op, before.Locals[op.Prefix.Addr()])
	}
	return nil
}

// replace sets a key, which may be there with another value, or deletes it.
func (e *editor) replace(d netfilter.Map, key string, was, is bool, value string) {
	if was {
		e.to.Del(d, key)
	}
	if is {
		e.to.Put(d, key, value)
	}
}

// createInet makes the table with all that is always in it.
func (e *editor) createInet() {
	e.fresh = true
	e.first.AddTable(netfilter.Inet)
	for v := range 2 {
		e.first.AddMap(closedSet(v, e.closed))
		e.first.AddMap(blockMap(v, e.blocks[v]))
	}
	for _, p := range disjoint(e.opts.Closed) {
		v := version(p.Addr())
		e.first.Put(closedSet(v, e.closed), addressRange{first: p.Addr(), last: lastAddress(p)}.key(), "")
	}
	e.to.AddTable(netfilter.Inet)
	for _, d := range fixedMaps(netfilter.Inet) {
		e.to.AddMap(d)
	}
	for _, p := range flow.PortProtocols {
		e.to.Put(portedSet, string([]byte{byte(p)}), "")
	}
	e.to.AddCounter(closedCounter)
	e.to.AddCounter(probeCounter)
	e.to.Put(editionSet, number(e.edition), "")
	e.addChains(e.chains(e.opts))
	e.set(&e.inet, true)
}

// addChains makes chains whose rules may lead to each other.
func (e *editor) addChains(chains []netfilter.Chain) {
	for _, c := range chains {
		e.to.AddChain(netfilter.Chain{Ref: c.Ref, Hook: c.Hook})
	}
	e.setChains(chains)
}

// nextEpoch makes judge forget what it accepted.
func (e *editor) nextEpoch(epoch int) {
	e.nextEdition()
	e.setChains(judging(epoch, e.edition))
	old := e.epoch
	e.epoch = epoch
	e.undo = append(e.undo, func() { e.epoch = old })
}

// nextEdition has no packet accepted that began to be judged before the transaction. Chain allowed, where they end, has to be
// written again.
func (e *editor) nextEdition() {
	old := e.edition
	e.to.Del(editionSet, number(old))
	e.edition++
	e.to.Put(editionSet, number(e.edition), "")
	e.undo = append(e.undo, func() { e.edition = old })
}

func (e *editor) setChains(chains []netfilter.Chain) {
	for _, c := range chains {
		e.to.SetRules(c.Ref, c.Rules)
	}
}

func (e *editor) set(what *bool, to bool) {
	old := *what
	*what = to
	e.undo = append(e.undo, func() { *what = old })
}

func (e *editor) addRow(id ruleset.RowID, row ruleset.Row) {
	born, ok := e.born[id]
	if !ok {
		born = e.rules.Generation
		e.born[id] = born
		e.undo = append(e.undo, func() { delete(e.born, id) })
	}
	made, ok := e.ports[id]
	if !ok {
		made = e.edition
		e.ports[id] = made
		e.undo = append(e.undo, func() { delete(e.ports, id) })
	}
	for _, p := range flow.PortProtocols {
		if ranges := allowed(row.Segments(p)); len(ranges) > 0 && ranges[0] != allPorts {
			e.first.AddMap(portsSet(id, p, made))
			for _, r := range ranges {
				e.first.Put(portsSet(id, p, made), string(r[:]), "")
			}
		}
	}
	if !allowsAll(row) {
		e.to.AddCounter(rowCounter(id))
	}
	e.to.AddChain(netfilter.Chain{Ref: named(rowChain(id)), Rules: rowRules(id, row, born, made, e.opts)})
	e.to.Put(rowsMap, number(ruleset.RowBase+uint32(id)), "goto "+rowChain(id))
}

func (e *editor) deleteRow(id ruleset.RowID, row ruleset.Row) {
	e.to.Del(rowsMap, number(ruleset.RowBase+uint32(id)))
	e.to.DropChain(named(rowChain(id)))
	if !allowsAll(row) {
		e.to.DropCounter(rowCounter(id))
	}
	for _, p := range flow.PortProtocols {
		if ranges := allowed(row.Segments(p)); len(ranges) > 0 && ranges[0] != allPorts {
			e.to.DropMap(portsSet(id, p, e.ports[id]))
		}
	}
	born, made := e.born[id], e.ports[id]
	delete(e.born, id)
	delete(e.ports, id)
	e.undo = append(e.undo, func() { e.born[id], e.ports[id] = born, made })
}

func (e *editor) setDefault(op ruleset.Op, was bool) {
	s, chain := op.Subject, named(subjectChain(op.Subject))
	key := number(uint32(s.Identity))
	switch {
	case op.Kind == ruleset.DeleteDefault:
		e.to.Del(subjectsMap(s.Direction), key)
		e.to.DropChain(chain)
		e.to.DropMap(peersMap(s))
	case was:
		e.to.SetRules(chain, subjectRules(s, op.Row))
	default:
		e.to.AddMap(peersMap(s))
		e.to.AddChain(netfilter.Chain{Ref: chain, Rules: subjectRules(s, op.Row)})
		e.to.Put(subjectsMap(s.Direction), key, "jump "+chain.Name)
	}
}

func (e *editor) setAddress(op ruleset.Op, was bool, dirty *[2]bool) {
	v, set, value := version(op.Prefix.Addr()), op.Kind == ruleset.SetAddress, number(uint32(op.Identity))
	if !op.Prefix.IsSingleIP() {
		dirty[v] = true
		e.replace(prefixMap(v), prefixKey(op.Prefix), was, set, value)
		return
	}
	a := op.Prefix.Addr()
	e.replace(identityMap(v), string(a.AsSlice()), was, set, value)
	if _, local := e.locals[a]; local {
		e.setIdentityOfLocal(a)
	}
}

func prefixKey(p netip.Prefix) string { return string(p.Addr().AsSlice()) + number(uint32(p.Bits())) }

func version(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// setIdentitiesOfLocals follows a change of blocks, in which pods can be that have no identity of their own.
func (e *editor) setIdentitiesOfLocals() {
	for a := range maps.Keys(e.locals) {
		e.setIdentityOfLocal(a)
	}
}

// setIdentityOfLocal makes a pod's entry in localMap what the ruleset says; a is a local address.
func (e *editor) setIdentityOfLocal(a netip.Addr) {
	old, was := e.locals[a]
	id := e.rules.IdentityOf(a)
	if was && old == id {
		return
	}
	e.replace(localMap(version(a)), string(a.AsSlice()), was, true, number(uint32(id)))
	e.locals[a] = id
	e.undo = append(e.undo, func() {
		if was {
			e.locals[a] = old
		} else {
			delete(e.locals, a)
		}
	})
}

func (e *editor) setLocal(op ruleset.Op, old ruleset.Attachment) error {
	a := op.Prefix.Addr()
	if op.Kind == ruleset.SetLocal {
		if err := checkAttachment(op.Attachment); err != nil {
			return err
		}
		e.setIdentityOfLocal(a)
		e.attach(a, old, op.Attachment)
		return nil
	}
	id := e.locals[a]
	e.to.Del(localMap(version(a)), string(a.AsSlice()))
	delete(e.locals, a)
	e.undo = append(e.undo, func() { e.locals[a] = id })
	e.attach(a, old, ruleset.Attachment{})
	return nil
}

func checkAttachment(at ruleset.Attachment) error {
	for _, n := range []string{at.Interface, at.Port} {
		if len(n) >= interfaceNameSize {
			return fmt.Errorf("interface name %q is longer than %d bytes", n, interfaceNameSize-1)
		}
	}
	if at.Interface == "" && at.Port != "" {
		return fmt.Errorf("port %q has no bridge: give the attachment's interface", at.Port)
	}
	return nil
}

// attach moves an address from one place to another; an empty name is no place.
func (e *editor) attach(a netip.Addr, from, to ruleset.Attachment) {
	if from == to {
		return
	}
	e.bind(netfilter.Inet, a, from.Interface, to.Interface)
	e.use(named(own(from)), -1)
	e.use(named(own(to)), 1)
	if to.Port != "" && !e.bridge {
		e.createBridge()
	}
	if e.bridge {
		e.bind(netfilter.Bridge, a, from.Port, to.Port)
		e.use(netfilter.Ref{Family: netfilter.Bridge, Name: from.Port}, -1)
		e.use(netfilter.Ref{Family: netfilter.Bridge, Name: to.Port}, 1)
	}
}

// own is the interface that nothing but the pod sends through: a bridge has other ports too.
func own(at ruleset.Attachment) string {
	if at.Port != "" {
		return ""
	}
	return at.Interface
}

// bind moves an address from one interface to another in one of the tables.
func (e *editor) bind(family byte, a netip.Addr, from, to string) {
	if from == to {
		return
	}
	v, key := version(a), string(a.AsSlice())
	if from != "" {
		e.to.Del(bindingSet(family, v), key+interfaceName(from))
	}
	if from == "" || to == "" {
		e.replace(boundSet(family, v), key, from != "", to != "", "")
	}
	if to != "" {
		e.to.Put(bindingSet(family, v), key+interfaceName(to), "")
	}
}

// use counts the addresses that are plugged into an interface, which is in the set of interfaces while there are any.
func (e *editor) use(r netfilter.Ref, by int) {
	if r.Name == "" {
		return
	}
	old := e.users[r]
	e.users[r] += by
	e.undo = append(e.undo, func() { e.users[r] = old })
	switch set, key := interfaceSet(r.Family), interfaceName(r.Name); {
	case old == 0:
		e.to.Put(set, key, "")
	case e.users[r] == 0:
		e.to.Del(set, key)
		delete(e.users, r)
	}
}

// dropUnusedBridge deletes the bridge table if no pod is plugged into a bridge any more.
func (e *editor) dropUnusedBridge() {
	if !e.bridge {
		return
	}
	for r, n := range e.users {
		if r.Family == netfilter.Bridge && n > 0 {
			return
		}
	}
	e.to.DropTable(netfilter.Bridge)
	e.set(&e.bridge, false)
}

func (e *editor) createBridge() {
	e.to.AddTable(netfilter.Bridge)
	for _, d := range fixedMaps(netfilter.Bridge) {
		e.to.AddMap(d)
	}
	e.addChains(bridgeChains())
	e.set(&e.bridge, true)
}

const interfaceNameSize = 16

func interfaceName(s string) string {
	b := make([]byte, interfaceNameSize)
	copy(b, s)
	return string(b)
}

func number(v uint32) string { return string(binary.NativeEndian.AppendUint32(nil, v)) }

// readNumber is the inverse of number; 0 if somebody made a map of another type.
func readNumber(s string) uint32 {
	if len(s) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32([]byte(s))
}

// pick returns the part of r that ops speak of.
func pick(r *ruleset.Ruleset, ops []ruleset.Op) *ruleset.Ruleset {
	part := ruleset.New()
	restore(part, r, ops)
	return part
}

// restore makes the part of r that ops speak of what it is in from.
func restore(r, from *ruleset.Ruleset, ops []ruleset.Op) {
	r.Generation = from.Generation
	for _, op := range ops {
		switch op.Kind {
		case ruleset.AddRow, ruleset.DeleteRow:
			carry(r.Rows, from.Rows, op.Row)
		case ruleset.SetDefault, ruleset.DeleteDefault:
			carry(r.Defaults, from.Defaults, op.Subject)
		case ruleset.SetPair, ruleset.DeletePair:
			carry(r.Pairs, from.Pairs, ruleset.Pair{Subject: op.Subject, Peer: op.Peer})
		case ruleset.SetAddress, ruleset.DeleteAddress:
			carry(r.Addresses, from.Addresses, op.Prefix)
		case ruleset.SetLocal, ruleset.DeleteLocal:
			carry(r.Locals, from.Locals, op.Prefix.Addr())
		}
	}
}

// carry makes to have for k what from has.
func carry[K comparable, V any](to, from map[K]V, k K) {
	if v, ok := from[k]; ok {
		to[k] = v
	} else {
		delete(to, k)
	}
}
