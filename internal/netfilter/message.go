//go:build linux

// Package netfilter speaks netlink with the kernel's netfilter: tables of nftables as data, transactions that change
// them, pictures of what is there, and the sockets that other parts of netfilter are asked and listened to through. It
// knows what tables are made of, and nothing of what they are for.
//
// The messages are written here, and of google/nftables only the expressions are used: its connection has no place for
// the generation that a transaction is made for, wants an answer to every message (which overruns the receive buffer
// where tables are large), does not say in which byte order a map's values are (so that nft prints them turned around),
// cannot read a rule that looks at one direction of a connection, and reads no verdicts of maps.
package netfilter

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Names that golang.org/x/sys/unix does not have.
const (
	nfnlBatchGenID     = 1 // NFNL_BATCH_GENID
	setFlagConcat      = 0x80
	setDescConcat      = 2 // NFTA_SET_DESC_CONCAT
	setFieldLen        = 1 // NFTA_SET_FIELD_LEN
	udataKeyByteOrder  = 0 // NFTNL_UDATA_SET_KEYBYTEORDER
	udataDataByteOrder = 1 // NFTNL_UDATA_SET_DATABYTEORDER
	udataRuleComment   = 0 // NFTNL_UDATA_RULE_COMMENT
	nfAccept           = 1 // NF_ACCEPT
	objHandle          = 6 // NFTA_OBJ_HANDLE
)

// HeaderLen is the length of what stands before the attributes of every netfilter message.
const HeaderLen = 4

// nftMessage is the kind of a message to nftables.
func nftMessage(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// Message makes a request. Its kind includes the subsystem; the resource is a log group, for those that have one.
func Message(kind uint16, family byte, resource uint16, flags netlink.HeaderFlags, body Attrs) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}, body...),
	}
}

// batchEdge begins or ends a transaction of nftables.
func batchEdge(kind uint16, body Attrs) netlink.Message {
	return Message(kind, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, body)
}

// Attrs are encoded netlink attributes. Numbers are big-endian, as netfilter wants them.
type Attrs []byte

// Bytes adds an attribute as it is.
func (a Attrs) Bytes(kind uint16, value []byte) Attrs {
	a = binary.NativeEndian.AppendUint16(a, uint16(4+len(value)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, value...)
	return append(a, make([]byte, -len(value)&3)...)
}

// U8 adds a byte.
func (a Attrs) U8(kind uint16, v byte) Attrs { return a.Bytes(kind, []byte{v}) }

// U16 adds a number of two bytes.
func (a Attrs) U16(kind uint16, v uint16) Attrs {
	return a.Bytes(kind, binary.BigEndian.AppendUint16(nil, v))
}

// U32 adds a number of four bytes.
func (a Attrs) U32(kind uint16, v uint32) Attrs {
	return a.Bytes(kind, binary.BigEndian.AppendUint32(nil, v))
}

// Text adds a string that ends in zero.
func (a Attrs) Text(kind uint16, s string) Attrs { return a.Bytes(kind, append([]byte(s), 0)) }

// Nest adds attributes as one.
func (a Attrs) Nest(kind uint16, inside Attrs) Attrs { return a.Bytes(kind|unix.NLA_F_NESTED, inside) }

// Parse splits attributes; of a kind that is there twice the last counts. What is cut short is left out.
func Parse(b []byte) map[uint16][]byte {
	found := map[uint16][]byte{}
	for kind, value := range Each(b) {
		found[kind] = value
	}
	return found
}

// Each yields attributes in their order.
func Each(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n]) {
				return
			}
			b = b[min(len(b), (n+3)&^3):]
		}
	}
}

// Text reads a string attribute.
func Text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// Describe says what a message was about, for errors.
func Describe(m netlink.Message) string {
	verb, noun := "change", ""
	switch kind := uint16(m.Header.Type) & 0xff; kind {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		noun = "table"
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		noun = "chain"
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		noun = "rules of chain"
	case unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET:
		noun = "map"
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		noun = "elements of map"
	case unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_DELOBJ:
		noun = "counter"
	default:
		return fmt.Sprintf("message of kind %d", kind)
	}
	switch uint16(m.Header.Type) & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWSETELEM,
		unix.NFT_MSG_NEWOBJ:
		verb = "add"
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM,
		unix.NFT_MSG_DELOBJ:
		verb = "delete"
	}
	body := Parse(m.Data[HeaderLen:])
	name := Text(body[unix.NFTA_CHAIN_TABLE]) // kind 1 is the table's name in every message, and
	if b := body[2]; noun != "table" && len(b) > 0 {
		name += " " + Text(b) // kind 2 that of the map or counter, or, in a rule, of the chain,
	}
	if b := body[unix.NFTA_CHAIN_NAME]; noun == "chain" && len(b) > 0 {
		name = Text(body[unix.NFTA_CHAIN_TABLE]) + " " + Text(b) // but 3 in a chain
	}
	return verb + " " + noun + " " + name
}

// Uint32 reads a number attribute; 0 if it is not one.
func Uint32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// Uint64 reads a number attribute; 0 if it is not one.
func Uint64(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
