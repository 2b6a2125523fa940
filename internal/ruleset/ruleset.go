// Package ruleset is the compiled form of a cluster's policies: identity × identity → row. It is what every
// dataplane puts in force, and it can be judged, compared, dumped and parsed without one.
//
// Selectors, tiers and precedence are resolved already: an address has an identity, a pair of identities has a row,
// a row gives every protocol and port its verdict. A Delta is the ordered difference of two rulesets.
package ruleset

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Identity stands for all addresses that no policy can tell apart. 0 is matched by no selector at all. Identities
// are local to the compiler that gave them out and are below RowBase.
type Identity uint32

// RowID names a Row. 0 is no row. A RowID keeps its meaning for the life of its compiler: a row never changes, a
// changed one is a new one. So a log line that names a row can be explained later.
type RowID uint32

// RowBase is added to a RowID where rows and identities share one number space, as they do in the kernel.
const RowBase = 1 << 31

// RuleID names an entry of Ruleset.Rules. 0 is "no policy applies". It keeps its meaning like a RowID does.
type RuleID uint32

// Cell is a verdict and the rule it comes from.
type Cell struct {
	Verdict flow.Verdict
	Rule    RuleID
}

// Segment is one range of ports with its verdict; both ends are in the range.
type Segment struct {
	First, Last uint16
	Cell
}

// Row is a total function from protocol and port to a verdict. It is canonical: the segments of each protocol cover
// 0 to 65535 in order and without gaps, and neighbours differ. The zero value denies everything.
type Row struct {
	TCP, UDP, SCTP []Segment
	Other          Cell // every protocol without ports
}

// Segments returns the segments of a protocol with ports, nil for others.
func (r *Row) Segments(p flow.Protocol) []Segment {
	switch p {
	case flow.TCP:
		return r.TCP
	case flow.UDP:
		return r.UDP
	case flow.SCTP:
		return r.SCTP
	}
	return nil
}

// Subject is a kind of pod, in one direction, that policies speak of.
type Subject struct {
	Direction flow.Direction
	Identity  Identity
}

// Pair is a subject and the identity at the other end.
type Pair struct {
	Subject
	Peer Identity
}

// Attachment is where a pod of this node is plugged in.
type Attachment struct {
	Interface string // the interface of the node that the route to the pod points to: its veth, or the bridge
	Port      string // the bridge's port, if Interface is a bridge; else empty
}

// Ruleset is a whole compiled state. The zero value has no pods of its own and so allows everything.
type Ruleset struct {
	Generation uint64 // grows with each ruleset that one compiler gives out
	// Locals are the addresses of the pods that this ruleset judges: all pods, or those of one node. A pod's
	// address may be sent from its Attachment only; without an Attachment this is not checked.
	Locals map[netip.Addr]Attachment
	// Addresses gives the identity of every address, by longest match. An address in no prefix has identity 0.
	Addresses map[netip.Prefix]Identity
	// Defaults holds the row of each subject that some policy speaks of, for peers that Pairs does not name. A
	// subject that is not here is allowed everything.
	Defaults map[Subject]RowID
	// Pairs are the exceptions to Defaults; each Subject in it is also in Defaults.
	Pairs map[Pair]RowID
	Rows  map[RowID]Row
	Rules map[RuleID]flow.Rule
}

// New returns an empty ruleset with all its maps.
func New() *Ruleset {
	return &Ruleset{Locals: map[netip.Addr]Attachment{}, Addresses: map[netip.Prefix]Identity{},
		Defaults: map[Subject]RowID{}, Pairs: map[Pair]RowID{}, Rows: map[RowID]Row{}, Rules: map[RuleID]flow.Rule{}}
}
