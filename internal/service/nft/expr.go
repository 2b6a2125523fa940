//go:build linux

package nft

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/service"
)

// Registers of four bytes, for keys of several parts. The first four of them are the register that reg1 names.
const (
	reg1  = unix.NFT_REG_1
	word0 = unix.NFT_REG32_00
)

// statusDNAT is the connection's status bit that says that its destination was translated (IPS_DST_NAT).
const statusDNAT = 1 << 5

// A rule is what it does and why. Its text, reason and hash of all that it does, is the kernel rule's comment, by
// which it is recognised again.
type rule struct {
	exprs []expr.Any
	from  *choices // what the rule's own map holds, if it has one
	why   string
}

// choices is the map of one rule: the numbers from 0 to what they choose.
type choices struct {
	data     nftables.SetDatatype
	elements []nftables.SetElement
}

// ownMap is the name that a rule's own map has before the kernel gives it one.
const ownMap = "__map%d"

func does(why string, parts ...[]expr.Any) rule {
	return rule{exprs: slices.Concat(parts...), why: why}
}

// comment is "reason #hash".
func (r rule) comment() string {
	h := fnv.New64a()
	for _, e := range r.exprs {
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		fmt.Fprintf(h, "%d %x %v\n", len(b), b, err)
	}
	if r.from != nil {
		for _, e := range r.from.elements {
			fmt.Fprintf(h, "%x %x %v\n", e.Key, e.Val, e.VerdictData)
		}
	}
	return fmt.Sprintf("%s #%016x", r.why, h.Sum64())
}

func one(e ...expr.Any) []expr.Any { return e }

func equals(register uint32, data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

// ofFamily matches packets of one family.
func ofFamily(f service.Family) []expr.Any {
	protocol := byte(unix.NFPROTO_IPV4)
	if f == service.IPv6 {
		protocol = unix.NFPROTO_IPV6
	}
	return one(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, equals(reg1, protocol))
}

// loadAddress loads the source or destination address into the words from register on; it needs ofFamily before it.
func loadAddress(f service.Family, source bool, register uint32) expr.Any {
	offset, length := uint32(16), uint32(4)
	if f == service.IPv6 {
		offset, length = 24, 16
	}
	if source {
		offset -= length
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// words is how many registers an address fills.
func words(f service.Family) uint32 {
	if f == service.IPv6 {
		return 4
	}
	return 1
}

// loadPort loads protocol and destination port into two words.
func loadPort(register uint32) []expr.Any {
	return one(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

func in(set string) expr.Any { return &expr.Lookup{SourceRegister: word0, SetName: set} }

// follow carries out the verdict that a map has for what was loaded; without one the next rule runs.
func follow(set string) expr.Any {
	return &expr.Lookup{SourceRegister: word0, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT, SetName: set}
}

func verdict(k expr.VerdictKind, chain string) []expr.Any {
	return one(&expr.Verdict{Kind: k, Chain: chain})
}

func jump(chain string) []expr.Any { return verdict(expr.VerdictJump, chain) }
func goTo(chain string) []expr.Any { return verdict(expr.VerdictGoto, chain) }
func back() []expr.Any             { return verdict(expr.VerdictReturn, "") }
func drop() []expr.Any             { return verdict(expr.VerdictDrop, "") }

// hasBits matches if one of the bits of what is loaded from the connection is set.
func hasBits(k expr.CtKey, bits uint32) []expr.Any {
	zero := make([]byte, 4)
	return one(&expr.Ct{Key: k, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: host32(bits), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: zero})
}

// toPrefix matches if the destination is in p; it needs ofFamily before it.
func toPrefix(p netip.Prefix) []expr.Any {
	length := p.Addr().BitLen() / 8
	mask := make([]byte, length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return one(loadAddress(service.FamilyOf(p.Addr()), false, reg1),
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(length), Mask: mask, Xor: make([]byte, length)},
		equals(reg1, p.Masked().Addr().AsSlice()...))
}

// toNode matches if the destination is an address of this machine.
func toNode() []expr.Any {
	return one(&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true}, equals(reg1, host32(unix.RTN_LOCAL)...))
}

// pick loads a random number below n.
func pick(n int) expr.Any {
	return &expr.Numgen{Register: reg1, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}
}

// translate sends the connection to the address and port that are loaded.
func translate(f service.Family) expr.Any {
	family := uint32(unix.NFPROTO_IPV4)
	if f == service.IPv6 {
		family = unix.NFPROTO_IPV6
	}
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: word0, RegProtoMin: word0 + words(f), Specified: true}
}

// fixed sends the connection to b.
func fixed(b netip.AddrPort) []expr.Any {
	f := service.FamilyOf(b.Addr())
	return one(&expr.Immediate{Register: word0, Data: b.Addr().AsSlice()},
		&expr.Immediate{Register: word0 + words(f), Data: binary.BigEndian.AppendUint16(nil, b.Port())}, translate(f))
}

// remember notes the client in a set, or that it was here again.
func remember(f service.Family, set string, t time.Duration) []expr.Any {
	return append(ofFamily(f), loadAddress(f, true, word0),
		&expr.Dynset{SrcRegKey: word0, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: t})
}

func host32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// Keys as the kernel has them: each part filled up to a whole number of words.

func portKey(protocol byte, port uint16) string {
	return string([]byte{protocol, 0, 0, 0}) + string(binary.BigEndian.AppendUint16(nil, port)) + "\x00\x00"
}

func addressKey(a netip.Addr) string { return string(a.AsSlice()) }

// target is an address and port as a value of a map.
func target(b netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(b.Addr().AsSlice(), b.Port()), 0, 0)
}
