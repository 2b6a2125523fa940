package ruleset

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Diff returns the ordered difference that leads from old to new, with whether it tightens. RowIDs and RuleIDs must
// mean the same in both, as they do in two rulesets of one compiler.
func Diff(old, new *Ruleset) Delta {
	d := Delta{From: old.Generation, To: new.Generation, Ops: Difference(old, new)}
	d.Tightens = len(d.Ops) > 0 && tightens(old, new, d.Ops)
	return d
}

// Difference returns the Ops of Diff. Where nobody asks whether they tighten, that is most of the work saved.
//
// What an Op refers to is there before it, and nothing refers to what an Op deletes. Pairs are set before the
// default of a subject that is there already moves, and deleted after it; so a subject and a peer never have, at
// any point, a verdict that is neither the old one nor the new one, except that a subject which comes or goes may
// be denied in between.
func Difference(old, new *Ruleset) []Op {
	var ops []Op
	add := func(more []Op) { ops = append(ops, more...) }
	add(changed(old.Rules, new.Rules, cmp.Compare[RuleID], equal, func(id RuleID, r flow.Rule) Op {
		return Op{Kind: AddRule, Rule: id, Origin: r}
	}))
	add(changed(old.Rows, new.Rows, cmp.Compare[RowID], Row.Equal, func(id RowID, r Row) Op {
		return Op{Kind: AddRow, Row: id, Value: r}
	}))
	defaults := changed(old.Defaults, new.Defaults, compareSubjects, equal, func(s Subject, r RowID) Op {
		return Op{Kind: SetDefault, Subject: s, Row: r}
	})
	appears := func(o Op) bool { _, was := old.Defaults[o.Subject]; return !was }
	add(filter(defaults, appears))
	add(changed(old.Pairs, new.Pairs, comparePairs, equal, func(p Pair, r RowID) Op {
		return Op{Kind: SetPair, Subject: p.Subject, Peer: p.Peer, Row: r}
	}))
	add(filter(defaults, func(o Op) bool { return !appears(o) }))
	add(changed(old.Addresses, new.Addresses, netip.Prefix.Compare, equal, func(p netip.Prefix, id Identity) Op {
		return Op{Kind: SetAddress, Prefix: p, Identity: id}
	}))
	add(changed(old.Locals, new.Locals, netip.Addr.Compare, equal, func(a netip.Addr, at Attachment) Op {
		return Op{Kind: SetLocal, Prefix: localPrefix(a), Attachment: at}
	}))
	add(removals(old, new))
	return ops
}

func removals(old, new *Ruleset) []Op {
	var ops []Op
	for a := range gone(old.Locals, new.Locals, netip.Addr.Compare) {
		ops = append(ops, Op{Kind: DeleteLocal, Prefix: localPrefix(a)})
	}
	for p := range gone(old.Addresses, new.Addresses, netip.Prefix.Compare) {
		ops = append(ops, Op{Kind: DeleteAddress, Prefix: p})
	}
	for p := range gone(old.Pairs, new.Pairs, comparePairs) {
		ops = append(ops, Op{Kind: DeletePair, Subject: p.Subject, Peer: p.Peer})
	}
	for s := range gone(old.Defaults, new.Defaults, compareSubjects) {
		ops = append(ops, Op{Kind: DeleteDefault, Subject: s})
	}
	for id := range gone(old.Rows, new.Rows, cmp.Compare[RowID]) {
		ops = append(ops, Op{Kind: DeleteRow, Row: id})
	}
	for id := range gone(old.Rules, new.Rules, cmp.Compare[RuleID]) {
		ops = append(ops, Op{Kind: DeleteRule, Rule: id})
	}
	return ops
}

// changed makes an Op of each entry of new that old does not have with the same value, in the order of the keys.
func changed[K comparable, V any](old, new map[K]V, compare func(a, b K) int, same func(a, b V) bool, op func(K, V) Op) []Op {
	var keys []K
	for k, v := range new {
		if o, ok := old[k]; !ok || !same(o, v) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compare)
	ops := make([]Op, len(keys))
	for i, k := range keys {
		ops[i] = op(k, new[k])
	}
	return ops
}

// gone yields the keys of old that new does not have, in order.
func gone[K comparable, V any](old, new map[K]V, compare func(a, b K) int) iter.Seq[K] {
	var keys []K
	for k := range old {
		if _, ok := new[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compare)
	return slices.Values(keys)
}

func filter(ops []Op, keep func(Op) bool) []Op {
	var out []Op
	for _, o := range ops {
		if keep(o) {
			out = append(out, o)
		}
	}
	return out
}

func sortedKeys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	return slices.SortedFunc(maps.Keys(m), compare)
}

func equal[V comparable](a, b V) bool { return a == b }

func compareSubjects(a, b Subject) int {
	return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Direction, b.Direction))
}

func comparePairs(a, b Pair) int {
	return cmp.Or(compareSubjects(a.Subject, b.Subject), cmp.Compare(a.Peer, b.Peer))
}
