package ruleset

import (
	"fmt"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Apply carries out d on r, which must be of generation d.From. It stops with an error at the first Op that would
// leave r referring to something that is not there; r is spoiled then, so a caller that wants all or nothing
// applies to a Clone.
func Apply(r *Ruleset, d Delta) error { return NewApplier(r).Apply(d) }

// An Applier carries out one Delta after the other on a ruleset that nobody else changes meanwhile. It counts who refers
// to what, so that deletions are checked without a search: once, when the first Delta that deletes something needs it.
type Applier struct {
	*Ruleset                 // what it is carried out on
	rows     map[RowID]int   // uses by Defaults and Pairs; like the others nil until it is needed
	pairs    map[Subject]int // Pairs of each subject
	rules    map[RuleID]int  // Rows that name it
}

// NewApplier returns an applier to r.
func NewApplier(r *Ruleset) *Applier { return &Applier{Ruleset: r} }

// Apply is as the function of that name. After an error the Applier is spoiled as well as the ruleset.
func (a *Applier) Apply(d Delta) error {
	r := a.Ruleset
	if r.Generation != d.From {
		return fmt.Errorf("delta starts at generation %d, the ruleset is of generation %d", d.From, r.Generation)
	}
	for i, op := range d.Ops {
		if op.deletesReferent() && a.rows == nil {
			a.count()
		}
		if err := a.apply(op); err != nil {
			return fmt.Errorf("op %d, %s: %w", i, op, err)
		}
	}
	r.Generation = d.To
	return nil
}

func (o Op) deletesReferent() bool {
	return o.Kind == DeleteRow || o.Kind == DeleteRule || o.Kind == DeleteDefault
}

func (a *Applier) count() {
	a.rows, a.pairs, a.rules = map[RowID]int{}, map[Subject]int{}, map[RuleID]int{}
	for _, row := range a.Defaults {
		use(a.rows, row, 1)
	}
	for p, row := range a.Pairs {
		use(a.rows, row, 1)
		use(a.pairs, p.Subject, 1)
	}
	for _, row := range a.Rows {
		a.useRules(row, 1)
	}
}

// use adds to a count, if they are kept.
func use[K comparable](counts map[K]int, k K, by int) {
	if counts == nil {
		return
	}
	if counts[k] += by; counts[k] == 0 {
		delete(counts, k)
	}
}

func (a *Applier) useRules(row Row, by int) {
	if a.rules != nil {
		for rule := range row.rules() {
			use(a.rules, rule, by)
		}
	}
}

func (a *Applier) apply(op Op) error {
	switch op.Kind {
	case AddRow, DeleteRow:
		return a.row(op)
	case AddRule, DeleteRule:
		return a.rule(op)
	case SetDefault, DeleteDefault:
		return a.subject(op)
	case SetPair, DeletePair:
		return a.pair(op)
	case SetAddress, DeleteAddress:
		return a.address(op)
	case SetLocal, DeleteLocal:
		return a.local(op)
	}
	return fmt.Errorf("unknown operation")
}

func (a *Applier) row(op Op) error {
	old, there := a.Rows[op.Row]
	switch {
	case op.Kind == DeleteRow && a.rows[op.Row] > 0:
		return fmt.Errorf("row %d is in use %d times: remove these uses first", op.Row, a.rows[op.Row])
	case op.Kind == DeleteRow:
		if there {
			a.useRules(old, -1)
		}
		delete(a.Rows, op.Row)
		return nil
	case there && !old.Equal(op.Value):
		return fmt.Errorf("row %d is there and a row never changes: use a new number", op.Row)
	case there:
		return nil
	}
	if err := a.checkRow(op.Row, op.Value); err != nil {
		return err
	}
	a.Rows[op.Row] = op.Value
	a.useRules(op.Value, 1)
	return nil
}

func (a *Applier) rule(op Op) error {
	old, there := a.Rules[op.Rule]
	switch {
	case op.Rule == 0:
		return fmt.Errorf("rule 0 is no policy: it cannot be defined")
	case op.Kind == DeleteRule && a.rules[op.Rule] > 0:
		return fmt.Errorf("rule %d is named by %d rows: delete them first", op.Rule, a.rules[op.Rule])
	case op.Kind == DeleteRule:
		delete(a.Rules, op.Rule)
		return nil
	case there && old != op.Origin:
		return fmt.Errorf("rule %d is there and a rule never changes: use a new number", op.Rule)
	}
	a.Rules[op.Rule] = op.Origin
	return nil
}

func (a *Applier) subject(op Op) error {
	old, there := a.Defaults[op.Subject]
	if op.Kind == SetDefault {
		if err := a.checkDefault(op.Subject, op.Row); err != nil {
			return err
		}
		a.Defaults[op.Subject] = op.Row
		use(a.rows, op.Row, 1)
	} else {
		if n := a.pairs[op.Subject]; n > 0 {
			return fmt.Errorf("subject %s has %d pairs: delete them first", op.Subject, n)
		}
		delete(a.Defaults, op.Subject)
	}
	if there {
		use(a.rows, old, -1)
	}
	return nil
}

func (a *Applier) pair(op Op) error {
	p := Pair{op.Subject, op.Peer}
	old, there := a.Pairs[p]
	if op.Kind == SetPair {
		if err := a.checkPair(p, op.Row); err != nil {
			return err
		}
		a.Pairs[p] = op.Row
		use(a.rows, op.Row, 1)
		use(a.pairs, op.Subject, 1)
	} else {
		delete(a.Pairs, p)
	}
	if there {
		use(a.rows, old, -1)
		use(a.pairs, op.Subject, -1)
	}
	return nil
}

func (a *Applier) address(op Op) error {
	if op.Kind == DeleteAddress {
		delete(a.Addresses, op.Prefix)
		return nil
	}
	if err := checkAddress(op.Prefix, op.Identity); err != nil {
		return err
	}
	a.Addresses[op.Prefix] = op.Identity
	return nil
}

func (a *Applier) local(op Op) error {
	if op.Kind == DeleteLocal {
		delete(a.Locals, op.Prefix.Addr())
		return nil
	}
	if err := checkLocal(op.Prefix); err != nil {
		return err
	}
	a.Locals[op.Prefix.Addr()] = op.Attachment
	return nil
}

func localPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// String is for instance "set pair ingress 5 from 3 row 2".
func (o Op) String() string {
	switch o.Kind {
	case AddRow:
		return fmt.Sprintf("add row %d: %s", o.Row, o.Value)
	case DeleteRow:
		return fmt.Sprintf("delete row %d", o.Row)
	case AddRule:
		return fmt.Sprintf("add rule %d: %s", o.Rule, o.Origin)
	case DeleteRule:
		return fmt.Sprintf("delete rule %d", o.Rule)
	case SetDefault:
		return fmt.Sprintf("set default %s row %d", o.Subject, o.Row)
	case DeleteDefault:
		return fmt.Sprintf("delete default %s", o.Subject)
	case SetPair:
		return fmt.Sprintf("set pair %s row %d", Pair{o.Subject, o.Peer}, o.Row)
	case DeletePair:
		return fmt.Sprintf("delete pair %s", Pair{o.Subject, o.Peer})
	case SetAddress:
		return fmt.Sprintf("set address %s identity %d", o.Prefix, o.Identity)
	case DeleteAddress:
		return fmt.Sprintf("delete address %s", o.Prefix)
	case SetLocal:
		return fmt.Sprintf("set local %s%s", o.Prefix.Addr(), o.Attachment.text())
	case DeleteLocal:
		return fmt.Sprintf("delete local %s", o.Prefix.Addr())
	}
	return "unknown operation"
}

// String is "ingress 5".
func (s Subject) String() string { return fmt.Sprintf("%s %d", s.Direction, s.Identity) }

// String is "ingress 5 from 3" or "egress 5 to 3".
func (p Pair) String() string {
	return fmt.Sprintf("%s %s %d", p.Subject, preposition(p.Direction), p.Peer)
}

func preposition(d flow.Direction) string {
	if d == flow.Egress {
		return "to"
	}
	return "from"
}
