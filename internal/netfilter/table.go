//go:build linux

package netfilter

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// The families of tables.
const (
	Inet   byte = unix.NFPROTO_INET
	Bridge byte = unix.NFPROTO_BRIDGE
)

// A Ref names a map, a chain or a counter.
type Ref struct {
	Family byte
	Name   string
}

// Byte orders of Types, by which nft prints (NFTNL_UDATA's BYTEORDER_HOST_ENDIAN and BYTEORDER_BIG_ENDIAN).
const (
	HostOrder = 1
	BigOrder  = 2
)

// A Type is what a map's keys or values are.
type Type struct {
	Fields []nftables.SetDatatype
	Order  uint32 // HostOrder or BigOrder; 0 for keys of several fields
}

func (k Type) magic() uint32 {
	var m uint32
	for _, f := range k.Fields {
		m = m<<nftables.SetConcatTypeBits | f.GetNFTMagic()
	}
	return m
}

func (k Type) length() uint32 {
	var n uint32
	for _, f := range k.Fields {
		n += (f.Bytes + 3) &^ 3
	}
	if len(k.Fields) == 1 {
		return k.Fields[0].Bytes
	}
	return n
}

// A Map is a map, or a set if it has no values.
type Map struct {
	Ref
	Key, Value Type
	Interval   bool // keys are ranges: first and last, one behind the other
}

func (d Map) holdsVerdicts() bool {
	return len(d.Value.Fields) == 1 && d.Value.Fields[0] == nftables.TypeVerdict
}

// byteOrders is what nft needs for printing keys and values that are numbers.
func (d Map) byteOrders() []byte {
	b := append([]byte{udataKeyByteOrder, 4}, host32(d.Key.Order)...)
	if len(d.Value.Fields) > 0 {
		b = append(append(b, udataDataByteOrder, 4), host32(d.Value.Order)...)
	}
	return b
}

// shape is what makes a map work: byte orders, which only matter to who prints it, are left out.
func (d Map) shape() string {
	value := fmt.Sprintf("%d", d.Value.magic())
	if d.holdsVerdicts() {
		value = "verdict"
	}
	return fmt.Sprintf("%d:%s interval=%t", d.Key.magic(), value, d.Interval)
}

// A Hook is where a base chain sees packets.
type Hook struct {
	Number   uint32
	Priority int32
}

// A Chain is a chain with its rules. One without a hook is only entered from others.
type Chain struct {
	Ref
	Hook  *Hook
	Rules []Rule
}

// An Expression is one step of a rule, encoded. Every step reads and writes register 1, unless it says otherwise.
type Expression []byte

// A Rule is a list of expressions. Each runs if the one before it matched; an expression that finds nothing to look at
// (a connection where there is none, a key that a map does not hold) ends the rule, and the next rule runs.
type Rule struct {
	Steps   []Expression
	Comment string
}

// encoded is the list of a rule's expressions.
func (r Rule) encoded() Attrs {
	var steps Attrs
	for _, s := range r.Steps {
		steps = steps.Nest(unix.NFTA_LIST_ELEM, Attrs(s))
	}
	return steps
}

// comment is what nft prints as a rule's comment: a type, a length and a string that ends in zero.
func comment(s string) []byte {
	return append(append([]byte{udataRuleComment, byte(len(s) + 1)}, s...), 0)
}

// Canonical is a text that two rules share if they do the same; see canonical.
func (r Rule) Canonical() string {
	var userdata []byte
	if r.Comment != "" {
		userdata = comment(r.Comment)
	}
	return canonical(r.encoded(), userdata)
}

// A Sink takes the parts of tables. There are two: a Batch, which is sent to the kernel, and an Image, which is
// compared with what the kernel has.
type Sink interface {
	AddTable(family byte)
	DropTable(family byte)
	AddChain(Chain) // with its rules
	SetRules(Ref, []Rule)
	DropChain(Ref)
	AddMap(Map)
	DropMap(Map)
	AddCounter(Ref)
	DropCounter(Ref)
	Put(d Map, key, value string) // the key is not there
	Del(d Map, key string)        // the key is there
}

func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
