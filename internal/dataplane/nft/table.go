//go:build linux

package nft

import (
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// The families of tables.
const (
	inet   byte = unix.NFPROTO_INET
	bridge byte = unix.NFPROTO_BRIDGE
)

// A ref names a map or a chain.
type ref struct {
	family byte
	name   string
}

// A kind is what a map's keys or values are.
type kind struct {
	fields []nftables.SetDatatype
	order  uint32 // hostByteOrder or bigByteOrder; nft prints by it
}

func (k kind) magic() uint32 {
	var m uint32
	for _, f := range k.fields {
		m = m<<nftables.SetConcatTypeBits | f.GetNFTMagic()
	}
	return m
}

func (k kind) length() uint32 {
	var n uint32
	for _, f := range k.fields {
		n += (f.Bytes + 3) &^ 3
	}
	if len(k.fields) == 1 {
		return k.fields[0].Bytes
	}
	return n
}

// A mapDef is a map, or a set if it has no values.
type mapDef struct {
	ref
	key, value kind
	interval   bool // keys are ranges: first and last, one behind the other
}

func (d mapDef) holdsVerdicts() bool {
	return len(d.value.fields) == 1 && d.value.fields[0] == nftables.TypeVerdict
}

// byteOrders is what nft needs for printing keys and values that are numbers.
func (d mapDef) byteOrders() []byte {
	b := append([]byte{udataKeyByteOrder, 4}, host32(d.key.order)...)
	if len(d.value.fields) > 0 {
		b = append(append(b, udataDataByteOrder, 4), host32(d.value.order)...)
	}
	return b
}

// shape is what makes a map work: byte orders, which only matter to who prints it, are left out.
func (d mapDef) shape() string {
	value := fmt.Sprintf("%d", d.value.magic())
	if d.holdsVerdicts() {
		value = "verdict"
	}
	return fmt.Sprintf("%d:%s interval=%t", d.key.magic(), value, d.interval)
}

// A hook is where a base chain sees packets.
type hook struct {
	number   uint32
	priority int32
}

// A chainDef is a chain with its rules. One without a hook is only entered from others.
type chainDef struct {
	ref
	hook  *hook
	rules []rule
}

// An expression is one step of a rule, encoded. Every step reads and writes register 1, unless it says otherwise.
type expression []byte

// A rule is a list of expressions. Each runs if the one before it matched; an expression that finds nothing to look at
// (a connection where there is none, a key that a map does not hold) ends the rule, and the next rule runs.
type rule struct {
	steps   []expression
	comment string
}

// encoded is the list of a rule's expressions.
func (r rule) encoded() attrs {
	var steps attrs
	for _, s := range r.steps {
		steps = steps.nest(unix.NFTA_LIST_ELEM, attrs(s))
	}
	return steps
}

// comment is what nft prints as a rule's comment: a type, a length and a string that ends in zero.
func comment(s string) []byte {
	return append(append([]byte{udataRuleComment, byte(len(s) + 1)}, s...), 0)
}

func (r rule) canonical() string {
	var userdata []byte
	if r.comment != "" {
		userdata = comment(r.comment)
	}
	return canonical(r.encoded(), userdata)
}

// A sink takes the parts of our tables. There are two: a batch, which is sent to the kernel, and an image, which is
// compared with what the kernel has.
type sink interface {
	addTable(family byte)
	dropTable(family byte)
	addChain(chainDef) // with its rules
	setRules(ref, []rule)
	dropChain(ref)
	addMap(mapDef)
	dropMap(mapDef)
	addCounter(ref)
	dropCounter(ref)
	put(d mapDef, key, value string) // the key is not there
	del(d mapDef, key string)        // the key is there
}
