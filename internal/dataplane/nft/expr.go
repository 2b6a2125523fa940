//go:build linux

package nft

import (
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netfilter"
)

// does joins parts into a rule.
func does(parts ...[]netfilter.Expression) netfilter.Rule {
	return netfilter.Rule{Steps: slices.Concat(parts...)}
}

func one(e expr.Any) []netfilter.Expression {
	b, err := expr.Marshal(unix.NFPROTO_INET, e)
	if err != nil {
		// Only lengths that do not fit an attribute can fail, and ours are short constants; the kernel refuses an
		// empty expression, so that even then no half rule is put in force.
		return []netfilter.Expression{nil}
	}
	return []netfilter.Expression{b}
}

func then(parts ...[]netfilter.Expression) []netfilter.Expression { return slices.Concat(parts...) }

func loadMeta(k expr.MetaKey) []netfilter.Expression { return one(&expr.Meta{Key: k, Register: 1}) }

func payload(base expr.PayloadBase, offset, length uint32) []netfilter.Expression {
	return one(&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length})
}

func is(data ...byte) []netfilter.Expression {
	return one(&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data})
}

func isNot(data ...byte) []netfilter.Expression {
	return one(&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data})
}

func between(first, last byte) []netfilter.Expression {
	return then(one(&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{first}}),
		one(&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{last}}))
}

// hasBits matches if one of the bits of mask is set in what was loaded.
func hasBits(mask []byte) []netfilter.Expression {
	zero := make([]byte, len(mask))
	return then(one(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: zero}),
		isNot(zero...))
}

// hasPrefix matches if what was loaded has the given bits under mask.
func hasPrefix(mask, bits []byte) []netfilter.Expression {
	zero := make([]byte, len(mask))
	return then(one(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: zero}),
		is(bits...))
}

// in matches if what was loaded is in the set.
func in(set string) []netfilter.Expression { return one(&expr.Lookup{SourceRegister: 1, SetName: set}) }

func notIn(set string) []netfilter.Expression {
	return one(&expr.Lookup{SourceRegister: 1, SetName: set, Invert: true})
}

// mapped replaces what was loaded by its value in a map; a key that is not there ends the rule.
func mapped(set string) []netfilter.Expression {
	return one(&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: set})
}

// follow carries out the verdict that a map holds for what was loaded.
func follow(set string) []netfilter.Expression {
	return one(&expr.Lookup{SourceRegister: 1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: set})
}

func verdict(k expr.VerdictKind, chain string) []netfilter.Expression {
	return one(&expr.Verdict{Kind: k, Chain: chain})
}

func accept() []netfilter.Expression            { return verdict(expr.VerdictAccept, "") }
func drop() []netfilter.Expression              { return verdict(expr.VerdictDrop, "") }
func back() []netfilter.Expression              { return verdict(expr.VerdictReturn, "") }
func jump(chain string) []netfilter.Expression  { return verdict(expr.VerdictJump, chain) }
func goTo(chain string) []netfilter.Expression  { return verdict(expr.VerdictGoto, chain) }
func count() []netfilter.Expression             { return one(&expr.Counter{}) }
func immediate(b []byte) []netfilter.Expression { return one(&expr.Immediate{Register: 1, Data: b}) }
func setScratch() []netfilter.Expression {
	return one(&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: 1})
}
func loadScratch() []netfilter.Expression { return loadMeta(expr.MetaKeyPRIORITY) }
func scratch(value uint32) []netfilter.Expression {
	return then(immediate(host32(value)), setScratch())
}

// countAt counts with the counter of that name, which google/nftables does not end in zero as the kernel does.
func countAt(name string) []netfilter.Expression {
	return one(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name + "\x00"})
}

func host32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// limited ends the rule for packets beyond n a second.
func limited(n uint) []netfilter.Expression {
	return one(&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(n), Unit: expr.LimitTimeSecond, Burst: uint32(n)})
}

func logged(prefix string, group uint16) []netfilter.Expression {
	return one(&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: group, Data: []byte(prefix)})
}

// What a connection can be asked for; google/nftables does not know the keys that name an address family.
const (
	ctState     = unix.NFT_CT_STATE
	ctDirection = unix.NFT_CT_DIRECTION
	ctProtoSrc  = unix.NFT_CT_PROTO_SRC
	ctLabels    = unix.NFT_CT_LABELS
	ctSrcIP     = 19 // NFT_CT_SRC_IP
	ctSrcIP6    = 21 // NFT_CT_SRC_IP6

	noDirection = -1
	original    = 0
	reply       = 1
)

// loadCt loads something of the packet's connection, of one direction or of none. On a packet without a connection it
// ends the rule, except for the state.
//
// It is written out because google/nftables sends no direction with the keys that name an address family, which the
// kernel refuses, and sends it as four bytes with the others, of which the kernel reads the first: "reply" would have
// to be said as 1<<24, or it silently becomes "original".
func loadCt(key uint32, direction int) []netfilter.Expression {
	body := netfilter.Attrs(nil).U32(unix.NFTA_CT_KEY, key).U32(unix.NFTA_CT_DREG, unix.NFT_REG_1)
	if direction != noDirection {
		body = body.U8(unix.NFTA_CT_DIRECTION, byte(direction))
	}
	return []netfilter.Expression{netfilter.Expression(netfilter.Attrs(nil).Text(unix.NFTA_EXPR_NAME, "ct").Nest(unix.NFTA_EXPR_DATA, body))}
}

func inState(bits uint32) []netfilter.Expression {
	return then(loadCt(ctState, noDirection), hasBits(host32(bits)))
}

func inDirection(d byte) []netfilter.Expression { return then(loadCt(ctDirection, noDirection), is(d)) }

// labelBit is a set of connection labels with one member.
func labelBit(bit int) []byte {
	b := make([]byte, labelBytes)
	b[bit/8] = 1 << (bit % 8)
	return b
}

func hasLabel(bit int) []netfilter.Expression {
	return then(loadCt(ctLabels, noDirection), hasBits(labelBit(bit)))
}

// setLabel adds a label to the packet's connection; it does nothing to a packet without one.
func setLabel(bit int) []netfilter.Expression {
	body := netfilter.Attrs(nil).U32(unix.NFTA_CT_KEY, ctLabels).U32(unix.NFTA_CT_SREG, unix.NFT_REG_1)
	return then(immediate(labelBit(bit)),
		[]netfilter.Expression{netfilter.Expression(netfilter.Attrs(nil).Text(unix.NFTA_EXPR_NAME, "ct").Nest(unix.NFTA_EXPR_DATA, body))})
}
