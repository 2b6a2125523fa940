//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages are written here, and only their expressions are google/nftables': its connection has no place for the
// generation that a transaction is made for, wants an answer to every message (which overruns the receive buffer
// where rulesets are large), does not say in which byte order a map's values are (so that nft prints them turned
// around), cannot read a rule that looks at one direction of a connection, and reads no verdicts of maps.

// Names that golang.org/x/sys/unix does not have.
const (
	nfnlBatchGenID     = 1 // NFNL_BATCH_GENID
	setFlagConcat      = 0x80
	setDescConcat      = 2 // NFTA_SET_DESC_CONCAT
	setFieldLen        = 1 // NFTA_SET_FIELD_LEN
	udataKeyByteOrder  = 0 // NFTNL_UDATA_SET_KEYBYTEORDER
	udataDataByteOrder = 1 // NFTNL_UDATA_SET_DATABYTEORDER
	udataRuleComment   = 0 // NFTNL_UDATA_RULE_COMMENT
	hostByteOrder      = 1
	nfAccept           = 1 // NF_ACCEPT
	objHandle          = 6 // NFTA_OBJ_HANDLE
	bigByteOrder       = 2
)

// headerLen is the length of what stands before the attributes of every netfilter message.
const headerLen = 4

func nftMessage(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// message makes a request. Its kind includes the subsystem; the resource is a log group, for those that have one.
func message(kind uint16, family byte, resource uint16, flags netlink.HeaderFlags, body attrs) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}, body...),
	}
}

// batchEdge begins or ends a transaction of nftables.
func batchEdge(kind uint16, body attrs) netlink.Message {
	return message(kind, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0, body)
}

// attrs are encoded netlink attributes. Numbers are big-endian, as netfilter wants them.
type attrs []byte

func (a attrs) bytes(kind uint16, value []byte) attrs {
	a = binary.NativeEndian.AppendUint16(a, uint16(4+len(value)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, value...)
	return append(a, make([]byte, -len(value)&3)...)
}

func (a attrs) u8(kind uint16, v byte) attrs { return a.bytes(kind, []byte{v}) }
func (a attrs) u16(kind uint16, v uint16) attrs {
	return a.bytes(kind, binary.BigEndian.AppendUint16(nil, v))
}
func (a attrs) u32(kind uint16, v uint32) attrs {
	return a.bytes(kind, binary.BigEndian.AppendUint32(nil, v))
}
func (a attrs) str(kind uint16, s string) attrs      { return a.bytes(kind, append([]byte(s), 0)) }
func (a attrs) nest(kind uint16, inside attrs) attrs { return a.bytes(kind|unix.NLA_F_NESTED, inside) }

// parse splits attributes; of a kind that is there twice the last counts. What is cut short is left out.
func parse(b []byte) map[uint16][]byte {
	found := map[uint16][]byte{}
	for kind, value := range each(b) {
		found[kind] = value
	}
	return found
}

// each yields attributes in their order.
func each(b []byte) func(yield func(uint16, []byte) bool) {
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

// text reads a string attribute.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// describe says what a message was about, for errors.
func describe(m netlink.Message) string {
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
	body := parse(m.Data[headerLen:])
	name := text(body[unix.NFTA_CHAIN_TABLE]) // kind 1 is the table's name in every message, and
	if b := body[2]; noun != "table" && len(b) > 0 {
		name += " " + text(b) // kind 2 that of the map or counter, or, in a rule, of the chain,
	}
	if b := body[unix.NFTA_CHAIN_NAME]; noun == "chain" && len(b) > 0 {
		name = text(body[unix.NFTA_CHAIN_TABLE]) + " " + text(b) // but 3 in a chain
	}
	return verb + " " + noun + " " + name
}

func bigEndian32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func bigEndian64(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
