package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Two rulesets are compared by what they say of addresses, as their numbers for identities and rows need not
// agree. All addresses that have the same identity in the one and the same in the other are treated alike by both:
// such a transition stands for them.

// transition is the identity that some addresses have in one ruleset and in another.
type transition struct{ a, b Identity }

// localTransition is the transition of an address that new judges, and whether old judged it.
type localTransition struct {
	transition
	judged bool
}

func localTransitions(old, new *Ruleset) map[localTransition]bool {
	inOld, inNew := newPrefixTable(old), newPrefixTable(new)
	found := map[localTransition]bool{}
	for a := range new.Locals {
		p := localPrefix(a)
		_, judged := old.Locals[a]
		found[localTransition{transition{inOld.longest(p), inNew.longest(p)}, judged}] = true
	}
	return found
}

// openRow returns the row with the given number; 0 is everything allowed by no policy.
func (r *Ruleset) openRow(id RowID) Row {
	if id == 0 {
		return Uniform(Cell{Verdict: flow.Allow})
	}
	return r.Rows[id]
}

// edges returns the ports at which a cell of a or b may start: between them both are constant.
func edges(a, b *Row, p flow.Protocol) []uint16 {
	ports := []uint16{0}
	for _, r := range []*Row{a, b} {
		for _, s := range r.Segments(p) {
			ports = append(ports, s.First)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// CheckEquivalent returns nil if a and b judge the same addresses and give every connection the same verdict by
// the same rule, whatever numbers they use for identities, rows and rules; else an error that says where they differ.
func CheckEquivalent(a, b *Ruleset) error {
	for _, x := range []struct{ one, other *Ruleset }{{a, b}, {b, a}} {
		for _, addr := range sortedKeys(x.one.Locals, netip.Addr.Compare) {
			if at, ok := x.other.Locals[addr]; !ok || at != x.one.Locals[addr] {
				return fmt.Errorf("local address %s is not the same in both", addr)
			}
		}
	}
	peers := transitions(a, b)
	known := map[[2]RowID]bool{}
	for s := range localTransitions(a, b) {
		for _, d := range flow.Directions {
			sa, sb := Subject{d, s.a}, Subject{d, s.b}
			for _, p := range peers {
				key := [2]RowID{a.RowOf(sa, p.a), b.RowOf(sb, p.b)}
				if known[key] {
					continue
				}
				if err := sameMeaning(a, b, key); err != nil {
					return fmt.Errorf("%s and %s: %w", Pair{sa, p.a}, Pair{sb, p.b}, err)
				}
				known[key] = true
			}
		}
	}
	return nil
}

// sameMeaning compares row rows[0] of a with row rows[1] of b.
func sameMeaning(a, b *Ruleset, rows [2]RowID) error {
	x, y := a.openRow(rows[0]), b.openRow(rows[1])
	same := func(c, d Cell) bool { return c.Verdict == d.Verdict && a.Rules[c.Rule] == b.Rules[d.Rule] }
	if !same(x.Other, y.Other) {
		return fmt.Errorf("row %d (%s) and row %d (%s) differ without ports", rows[0], x, rows[1], y)
	}
	for _, p := range flow.PortProtocols {
		for _, port := range edges(&x, &y, p) {
			if !same(x.Lookup(p, port), y.Lookup(p, port)) {
				return fmt.Errorf("row %d (%s) and row %d (%s) differ at %d/%s", rows[0], x, rows[1], y, port, p)
			}
		}
	}
	return nil
}
