package ruleset

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Clone returns a copy whose maps are its own. Rows are shared: they never change.
func (r *Ruleset) Clone() *Ruleset {
	return &Ruleset{Generation: r.Generation, Locals: maps.Clone(r.Locals), Addresses: maps.Clone(r.Addresses),
		Defaults: maps.Clone(r.Defaults), Pairs: maps.Clone(r.Pairs), Rows: maps.Clone(r.Rows), Rules: maps.Clone(r.Rules)}
}

// Stripped returns what packets can tell of r, which is what a dataplane can read back: no rules, and cells
// without them. RowIDs stay, so two of them may now name equal rows.
func (r *Ruleset) Stripped() *Ruleset {
	s := r.Clone()
	s.Rules = map[RuleID]flow.Rule{}
	for id, row := range s.Rows {
		s.Rows[id] = row.Stripped()
	}
	return s
}

// Equal reports whether both are the same to the last number, generations aside.
func (r *Ruleset) Equal(o *Ruleset) bool {
	return maps.Equal(r.Locals, o.Locals) && maps.Equal(r.Addresses, o.Addresses) && maps.Equal(r.Defaults, o.Defaults) &&
		maps.Equal(r.Pairs, o.Pairs) && maps.EqualFunc(r.Rows, o.Rows, Row.Equal) && maps.Equal(r.Rules, o.Rules)
}

// Check returns an error if r refers to something that it does not hold, or holds something that is not valid.
func (r *Ruleset) Check() error {
	for a := range r.Locals {
		if err := checkLocal(netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	for p, id := range r.Addresses {
		if err := checkAddress(p, id); err != nil {
			return err
		}
	}
	for id, row := range r.Rows {
		if err := r.checkRow(id, row); err != nil {
			return err
		}
	}
	for s, row := range r.Defaults {
		if err := r.checkDefault(s, row); err != nil {
			return err
		}
	}
	for p, row := range r.Pairs {
		if err := r.checkPair(p, row); err != nil {
			return err
		}
	}
	if _, ok := r.Rules[0]; ok {
		return fmt.Errorf("rule 0 is no policy: it cannot be defined")
	}
	return nil
}

func checkLocal(p netip.Prefix) error {
	if !p.IsValid() || !p.IsSingleIP() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
		return fmt.Errorf("local address %s: want one plain address", p)
	}
	return nil
}

func checkAddress(p netip.Prefix, id Identity) error {
	if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
		return fmt.Errorf("address %s: want a masked prefix", p)
	}
	if id >= RowBase {
		return fmt.Errorf("address %s: identity %d is not below %d", p, id, uint32(RowBase))
	}
	return nil
}

func (r *Ruleset) checkRow(id RowID, row Row) error {
	if id == 0 || id >= RowBase {
		return fmt.Errorf("row %d: want a number from 1 to %d", id, uint32(RowBase-1))
	}
	if err := row.Check(); err != nil {
		return fmt.Errorf("row %d: %w", id, err)
	}
	for rule := range row.rules() {
		if _, ok := r.Rules[rule]; !ok {
			return fmt.Errorf("row %d: rule %d does not exist: add it first", id, rule)
		}
	}
	return nil
}

func (r *Ruleset) checkDefault(s Subject, row RowID) error {
	if s.Direction != flow.Egress && s.Direction != flow.Ingress {
		return fmt.Errorf("subject %s: no direction", s)
	}
	if s.Identity >= RowBase {
		return fmt.Errorf("subject %s: the identity is not below %d", s, uint32(RowBase))
	}
	if _, ok := r.Rows[row]; !ok {
		return fmt.Errorf("subject %s: row %d does not exist: add it first", s, row)
	}
	return nil
}

func (r *Ruleset) checkPair(p Pair, row RowID) error {
	if _, ok := r.Defaults[p.Subject]; !ok {
		return fmt.Errorf("pair %s: the subject has no default: set it first", p)
	}
	if p.Peer >= RowBase {
		return fmt.Errorf("pair %s: the peer's identity is not below %d", p, uint32(RowBase))
	}
	if _, ok := r.Rows[row]; !ok {
		return fmt.Errorf("pair %s: row %d does not exist: add it first", p, row)
	}
	return nil
}

// rules returns the rules that r's cells name, without 0.
func (r *Row) rules() map[RuleID]bool {
	found := map[RuleID]bool{r.Other.Rule: true}
	for _, p := range flow.PortProtocols {
		for _, s := range r.Segments(p) {
			found[s.Rule] = true
		}
	}
	delete(found, 0)
	return found
}
