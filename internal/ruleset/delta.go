package ruleset

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// OpKind is what an Op does. The zero value is nothing and is refused.
type OpKind uint8

// The operations. Set creates or replaces (replacing with the same is no error); Delete of what is not there is
// no error either.
const (
	AddRow OpKind = 1 + iota // Row, Value; a row that is there never changes
	DeleteRow
	AddRule // Rule, Origin; attribution only, no packet depends on it
	DeleteRule
	SetDefault // Subject, Row
	DeleteDefault
	SetPair // Subject, Peer, Row
	DeletePair
	SetAddress // Prefix, Identity
	DeleteAddress
	SetLocal // Prefix (one address), Attachment
	DeleteLocal
)

// Op is one step of a Delta. Which fields count is said at each OpKind.
type Op struct {
	Kind       OpKind
	Subject    Subject
	Peer       Identity
	Row        RowID
	Value      Row
	Rule       RuleID
	Origin     flow.Rule
	Prefix     netip.Prefix
	Identity   Identity
	Attachment Attachment
}

// Delta leads from one ruleset to another. Its Ops come in an order that is safe at every point: what nothing
// points to yet, then what points to it, then what nothing points to any more.
type Delta struct {
	From, To uint64 // generations
	// Tightens: something that was allowed may be denied now, so established connections have to be judged again.
	Tightens bool
	Ops      []Op
}
