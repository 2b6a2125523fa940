//go:build linux

package netfilter

import (
	"bytes"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Batch collects the messages of one transaction. Elements for one map are put together into as few messages as
// may be.
type Batch struct {
	Table    string // the name of all tables that it changes
	messages []netlink.Message
	maps     uint32

	pending struct {
		kind     uint16
		def      Map
		elements Attrs
	}
}

// maxElements is where a list of elements is cut: the length of an attribute has 16 bits.
const maxElements = 48 << 10

func (b *Batch) add(kind uint16, family byte, flags netlink.HeaderFlags, body Attrs) {
	b.flush()
	b.messages = append(b.messages, Message(nftMessage(kind), family, 0, flags, body))
}

// in starts a message's body with the table's name, which is attribute 1 in all of them.
func (b *Batch) in() Attrs { return Attrs(nil).Text(unix.NFTA_CHAIN_TABLE, b.Table) }

// AddTable implements Sink.
func (b *Batch) AddTable(family byte) {
	// Without flags: never owned by this process, and not dormant if somebody put it to sleep.
	b.add(unix.NFT_MSG_NEWTABLE, family, netlink.Create, b.in().U32(unix.NFTA_TABLE_FLAGS, 0))
}

// DropTable implements Sink.
func (b *Batch) DropTable(family byte) { b.add(unix.NFT_MSG_DELTABLE, family, 0, b.in()) }

// AddChain implements Sink.
func (b *Batch) AddChain(c Chain) {
	body := b.in().Text(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook != nil {
		body = body.Nest(unix.NFTA_CHAIN_HOOK, Attrs(nil).
			U32(unix.NFTA_HOOK_HOOKNUM, c.Hook.Number).U32(unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))).
			U32(unix.NFTA_CHAIN_POLICY, nfAccept).Text(unix.NFTA_CHAIN_TYPE, "filter")
	}
	b.add(unix.NFT_MSG_NEWCHAIN, c.Family, netlink.Create, body)
	b.addRules(c.Ref, c.Rules)
}

// SetRules implements Sink.
func (b *Batch) SetRules(r Ref, rules []Rule) {
	b.FlushRules(r)
	b.addRules(r, rules)
}

// FlushRules deletes the rules of a chain.
func (b *Batch) FlushRules(r Ref) {
	b.add(unix.NFT_MSG_DELRULE, r.Family, 0, b.in().Text(unix.NFTA_RULE_CHAIN, r.Name))
}

// FlushTable deletes the rules of all chains.
func (b *Batch) FlushTable(family byte) { b.add(unix.NFT_MSG_DELRULE, family, 0, b.in()) }

func (b *Batch) addRules(r Ref, rules []Rule) {
	for _, rule := range rules {
		body := b.in().Text(unix.NFTA_RULE_CHAIN, r.Name).Nest(unix.NFTA_RULE_EXPRESSIONS, rule.encoded())
		if rule.Comment != "" {
			body = body.Bytes(unix.NFTA_RULE_USERDATA, comment(rule.Comment))
		}
		b.add(unix.NFT_MSG_NEWRULE, r.Family, netlink.Create|unix.NLM_F_APPEND, body)
	}
}

// DropChain implements Sink.
func (b *Batch) DropChain(r Ref) {
	b.add(unix.NFT_MSG_DELCHAIN, r.Family, 0, b.in().Text(unix.NFTA_CHAIN_NAME, r.Name))
}

// AddMap implements Sink.
func (b *Batch) AddMap(d Map) {
	b.maps++ // the kernel wants a number for each set of a transaction; we refer to them by name
	var flags uint32
	if d.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	body := b.in().Text(unix.NFTA_SET_NAME, d.Name).U32(unix.NFTA_SET_ID, b.maps).
		U32(unix.NFTA_SET_KEY_TYPE, d.Key.magic()).U32(unix.NFTA_SET_KEY_LEN, d.Key.length())
	switch {
	case d.holdsVerdicts():
		flags |= unix.NFT_SET_MAP
		body = body.U32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
	case len(d.Value.Fields) > 0:
		flags |= unix.NFT_SET_MAP
		body = body.U32(unix.NFTA_SET_DATA_TYPE, d.Value.magic()).U32(unix.NFTA_SET_DATA_LEN, d.Value.length())
	}
	if len(d.Key.Fields) > 1 {
		flags |= setFlagConcat
		var fields Attrs
		for _, f := range d.Key.Fields {
			fields = fields.Nest(unix.NFTA_LIST_ELEM, Attrs(nil).U32(setFieldLen, f.Bytes))
		}
		body = body.Nest(unix.NFTA_SET_DESC, Attrs(nil).Nest(setDescConcat, fields))
	}
	body = body.U32(unix.NFTA_SET_FLAGS, flags).Bytes(unix.NFTA_SET_USERDATA, d.byteOrders())
	b.add(unix.NFT_MSG_NEWSET, d.Family, netlink.Create, body)
}

// FlushMap deletes all elements of a map, which is there.
func (b *Batch) FlushMap(d Map) {
	b.add(unix.NFT_MSG_DELSETELEM, d.Family, 0, b.in().Text(unix.NFTA_SET_ELEM_LIST_SET, d.Name))
}

// DropMap implements Sink.
func (b *Batch) DropMap(d Map) {
	b.add(unix.NFT_MSG_DELSET, d.Family, 0, b.in().Text(unix.NFTA_SET_NAME, d.Name))
}

// AddCounter implements Sink.
func (b *Batch) AddCounter(r Ref) {
	zero := make([]byte, 8)
	b.add(unix.NFT_MSG_NEWOBJ, r.Family, netlink.Create, b.in().Text(unix.NFTA_OBJ_NAME, r.Name).
		U32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER).
		Nest(unix.NFTA_OBJ_DATA, Attrs(nil).Bytes(unix.NFTA_COUNTER_BYTES, zero).Bytes(unix.NFTA_COUNTER_PACKETS, zero)))
}

// DropCounter implements Sink.
func (b *Batch) DropCounter(r Ref) {
	b.add(unix.NFT_MSG_DELOBJ, r.Family, 0, b.in().Text(unix.NFTA_OBJ_NAME, r.Name).
		U32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
}

// Put implements Sink.
func (b *Batch) Put(d Map, key, value string) { b.element(unix.NFT_MSG_NEWSETELEM, d, key, value) }

// Del implements Sink.
func (b *Batch) Del(d Map, key string) { b.element(unix.NFT_MSG_DELSETELEM, d, key, "") }

func (b *Batch) element(kind uint16, d Map, key, value string) {
	p := &b.pending
	if p.kind != kind || p.def.Ref != d.Ref || len(p.elements) > maxElements {
		b.flush()
		p.kind, p.def = kind, d
	}
	if !d.Interval {
		p.elements = p.elements.Nest(unix.NFTA_LIST_ELEM, element([]byte(key), data(d, value), false))
		return
	}
	// A range is two elements: its first key, and the first key behind it, unless there is none.
	first, last := []byte(key[:len(key)/2]), []byte(key[len(key)/2:])
	p.elements = p.elements.Nest(unix.NFTA_LIST_ELEM, element(first, data(d, value), false))
	if end, ok := successor(last); ok {
		p.elements = p.elements.Nest(unix.NFTA_LIST_ELEM, element(end, nil, true))
	}
}

func element(key []byte, data Attrs, end bool) Attrs {
	var e Attrs
	if end {
		e = e.U32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	e = e.Nest(unix.NFTA_SET_ELEM_KEY, Attrs(nil).Bytes(unix.NFTA_DATA_VALUE, key))
	if data != nil {
		e = e.Nest(unix.NFTA_SET_ELEM_DATA, data)
	}
	return e
}

// data encodes a map's value: bytes as they are, and a verdict that is written as nft writes it.
func data(d Map, value string) Attrs {
	switch {
	case value == "":
		return nil
	case !d.holdsVerdicts():
		return Attrs(nil).Bytes(unix.NFTA_DATA_VALUE, []byte(value))
	}
	verb, chain, _ := strings.Cut(value, " ")
	code := expr.VerdictJump
	if verb == "goto" {
		code = expr.VerdictGoto
	}
	return Attrs(nil).Nest(unix.NFTA_DATA_VERDICT,
		Attrs(nil).U32(unix.NFTA_VERDICT_CODE, uint32(code)).Text(unix.NFTA_VERDICT_CHAIN, chain))
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
func (b *Batch) flush() {
	p := b.pending
	b.pending.kind, b.pending.def, b.pending.elements = 0, Map{}, nil
	if len(p.elements) == 0 {
		return
	}
	var flags netlink.HeaderFlags
	if p.kind == unix.NFT_MSG_NEWSETELEM {
		flags = netlink.Create
	}
	b.add(p.kind, p.def.Family, flags, b.in().Text(unix.NFTA_SET_ELEM_LIST_SET, p.def.Name).
		Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, p.elements))
}

// Messages returns what Commit takes.
func (b *Batch) Messages() []netlink.Message {
	b.flush()
	return b.messages
}
