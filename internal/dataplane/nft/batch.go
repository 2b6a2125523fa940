//go:build linux

package nft

import (
	"bytes"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A batch collects the messages of one transaction. Elements for one map are put together into as few messages as
// may be.
type batch struct {
	table    string
	messages []netlink.Message
	maps     uint32

	pending struct {
		kind     uint16
		def      mapDef
		elements attrs
	}
}

// maxElements is where a list of elements is cut: the length of an attribute has 16 bits.
const maxElements = 48 << 10

func (b *batch) add(kind uint16, family byte, flags netlink.HeaderFlags, body attrs) {
	b.flush()
	b.messages = append(b.messages, message(nftMessage(kind), family, 0, flags, body))
}

// in starts a message's body with our table's name, which is attribute 1 in all of them.
func (b *batch) in() attrs { return attrs(nil).str(unix.NFTA_CHAIN_TABLE, b.table) }

func (b *batch) addTable(family byte) {
	// Without flags: never owned by this process, and not dormant if somebody put it to sleep.
	b.add(unix.NFT_MSG_NEWTABLE, family, netlink.Create, b.in().u32(unix.NFTA_TABLE_FLAGS, 0))
}

func (b *batch) dropTable(family byte) { b.add(unix.NFT_MSG_DELTABLE, family, 0, b.in()) }

func (b *batch) addChain(c chainDef) {
	body := b.in().str(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook != nil {
		body = body.nest(unix.NFTA_CHAIN_HOOK, attrs(nil).
			u32(unix.NFTA_HOOK_HOOKNUM, c.hook.number).u32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))).
			u32(unix.NFTA_CHAIN_POLICY, nfAccept).str(unix.NFTA_CHAIN_TYPE, "filter")
	}
	b.add(unix.NFT_MSG_NEWCHAIN, c.family, netlink.Create, body)
	b.addRules(c.ref, c.rules)
}

func (b *batch) setRules(r ref, rules []rule) {
	b.flushRules(r)
	b.addRules(r, rules)
}

func (b *batch) flushRules(r ref) {
	b.add(unix.NFT_MSG_DELRULE, r.family, 0, b.in().str(unix.NFTA_RULE_CHAIN, r.name))
}

// flushTable deletes the rules of all chains.
func (b *batch) flushTable(family byte) { b.add(unix.NFT_MSG_DELRULE, family, 0, b.in()) }

func (b *batch) addRules(r ref, rules []rule) {
	for _, rule := range rules {
		body := b.in().str(unix.NFTA_RULE_CHAIN, r.name).nest(unix.NFTA_RULE_EXPRESSIONS, rule.encoded())
		if rule.comment != "" {
			body = body.bytes(unix.NFTA_RULE_USERDATA, comment(rule.comment))
		}
		b.add(unix.NFT_MSG_NEWRULE, r.family, netlink.Create|unix.NLM_F_APPEND, body)
	}
}

func (b *batch) dropChain(r ref) {
	b.add(unix.NFT_MSG_DELCHAIN, r.family, 0, b.in().str(unix.NFTA_CHAIN_NAME, r.name))
}

func (b *batch) addMap(d mapDef) {
	b.maps++ // the kernel wants a number for each set of a transaction; we refer to them by name
	var flags uint32
	if d.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	body := b.in().str(unix.NFTA_SET_NAME, d.name).u32(unix.NFTA_SET_ID, b.maps).
		u32(unix.NFTA_SET_KEY_TYPE, d.key.magic()).u32(unix.NFTA_SET_KEY_LEN, d.key.length())
	switch {
	case d.holdsVerdicts():
		flags |= unix.NFT_SET_MAP
		body = body.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
	case len(d.value.fields) > 0:
		flags |= unix.NFT_SET_MAP
		body = body.u32(unix.NFTA_SET_DATA_TYPE, d.value.magic()).u32(unix.NFTA_SET_DATA_LEN, d.value.length())
	}
	if len(d.key.fields) > 1 {
		flags |= setFlagConcat
		var fields attrs
		for _, f := range d.key.fields {
			fields = fields.nest(unix.NFTA_LIST_ELEM, attrs(nil).u32(setFieldLen, f.Bytes))
		}
		body = body.nest(unix.NFTA_SET_DESC, attrs(nil).nest(setDescConcat, fields))
	}
	body = body.u32(unix.NFTA_SET_FLAGS, flags).bytes(unix.NFTA_SET_USERDATA, d.byteOrders())
	b.add(unix.NFT_MSG_NEWSET, d.family, netlink.Create, body)
}

func (b *batch) dropMap(d mapDef) {
	b.add(unix.NFT_MSG_DELSET, d.family, 0, b.in().str(unix.NFTA_SET_NAME, d.name))
}

func (b *batch) addCounter(r ref) {
	zero := make([]byte, 8)
	b.add(unix.NFT_MSG_NEWOBJ, r.family, netlink.Create, b.in().str(unix.NFTA_OBJ_NAME, r.name).
		u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER).
		nest(unix.NFTA_OBJ_DATA, attrs(nil).bytes(unix.NFTA_COUNTER_BYTES, zero).bytes(unix.NFTA_COUNTER_PACKETS, zero)))
}

func (b *batch) dropCounter(r ref) {
	b.add(unix.NFT_MSG_DELOBJ, r.family, 0, b.in().str(unix.NFTA_OBJ_NAME, r.name).
		u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
}

func (b *batch) put(d mapDef, key, value string) { b.element(unix.NFT_MSG_NEWSETELEM, d, key, value) }
func (b *batch) del(d mapDef, key string)        { b.element(unix.NFT_MSG_DELSETELEM, d, key, "") }

func (b *batch) element(kind uint16, d mapDef, key, value string) {
	p := &b.pending
	if p.kind != kind || p.def.ref != d.ref || len(p.elements) > maxElements {
		b.flush()
		p.kind, p.def = kind, d
	}
	if !d.interval {
		p.elements = p.elements.nest(unix.NFTA_LIST_ELEM, element([]byte(key), data(d, value), false))
		return
	}
	// A range is two elements: its first key, and the first key behind it, unless there is none.
	first, last := []byte(key[:len(key)/2]), []byte(key[len(key)/2:])
	p.elements = p.elements.nest(unix.NFTA_LIST_ELEM, element(first, data(d, value), false))
	if end, ok := successor(last); ok {
		p.elements = p.elements.nest(unix.NFTA_LIST_ELEM, element(end, nil, true))
	}
}

func element(key []byte, data attrs, end bool) attrs {
	var e attrs
	if end {
		e = e.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	e = e.nest(unix.NFTA_SET_ELEM_KEY, attrs(nil).bytes(unix.NFTA_DATA_VALUE, key))
	if data != nil {
		e = e.nest(unix.NFTA_SET_ELEM_DATA, data)
	}
	return e
}

// data encodes a map's value: bytes as they are, and a verdict that is written as nft writes it.
func data(d mapDef, value string) attrs {
	switch {
	case value == "":
		return nil
	case !d.holdsVerdicts():
		return attrs(nil).bytes(unix.NFTA_DATA_VALUE, []byte(value))
	}
	verb, chain, _ := strings.Cut(value, " ")
	code := expr.VerdictJump
	if verb == "goto" {
		code = expr.VerdictGoto
	}
	return attrs(nil).nest(unix.NFTA_DATA_VERDICT,
		attrs(nil).u32(unix.NFTA_VERDICT_CODE, uint32(code)).str(unix.NFTA_VERDICT_CHAIN, chain))
}

// successor adds one to a big-endian number; it fails on the last one.
func successor(key []byte) ([]byte, bool) {
	next := bytes.Clone(key)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

// flush ends the list of elements that is being collected.
func (b *batch) flush() {
	p := b.pending
	b.pending.kind, b.pending.def, b.pending.elements = 0, mapDef{}, nil
	if len(p.elements) == 0 {
		return
	}
	var flags netlink.HeaderFlags
	if p.kind == unix.NFT_MSG_NEWSETELEM {
		flags = netlink.Create
	}
	b.add(p.kind, p.def.family, flags, b.in().str(unix.NFTA_SET_ELEM_LIST_SET, p.def.name).
		nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, p.elements))
}

// done returns the messages.
func (b *batch) done() []netlink.Message {
	b.flush()
	return b.messages
}
