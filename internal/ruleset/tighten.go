package ruleset

import (
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// tightens reports whether something that old allowed may be denied by new; ops lead from the one to the other. Each
// side of a connection is looked at alone, so that a side counts also if old denied the connection at the other end:
// true is sometimes too careful, false is always right.
//
// An address that becomes local counts as allowed everything before. It is tempting to say that a newborn pod has no
// connections, but its address may have: anybody could send to it, and the packets that went astray have left
// accepted entries in connection tracking, which would take their sender past the newborn's ingress rules.
func tightens(old, new *Ruleset, ops []Op) bool {
	all := transitions(old, new)
	moved := slices.DeleteFunc(slices.Clone(all), func(t transition) bool { return t.a == t.b })
	touched := touchedSubjects(ops)
	c := rowComparer{old, new, map[[2]RowID]bool{}}
	for s := range localTransitions(old, new) {
		for _, d := range flow.Directions {
			was, is := Subject{d, s.a}, Subject{d, s.b}
			if _, judged := new.Defaults[is]; !judged {
				continue
			}
			peers := all
			if s.judged && was == is && !touched[is] {
				peers = moved
			}
			if c.loses(was, is, s.judged, peers) {
				return true
			}
		}
	}
	return false
}

func touchedSubjects(ops []Op) map[Subject]bool {
	touched := map[Subject]bool{}
	for _, o := range ops {
		switch o.Kind {
		case SetDefault, DeleteDefault, SetPair, DeletePair:
			touched[o.Subject] = true
		}
	}
	return touched
}

// rowComparer remembers which rows deny what another one allows.
type rowComparer struct {
	old, new *Ruleset
	known    map[[2]RowID]bool
}

// loses reports whether one of peers loses something with a subject that was one and is another.
func (c rowComparer) loses(was, is Subject, judged bool, peers []transition) bool {
	for _, p := range peers {
		before, after := RowID(0), c.new.RowOf(is, p.b)
		if judged {
			before = c.old.RowOf(was, p.a)
		}
		if before == after {
			continue
		}
		key := [2]RowID{before, after}
		lost, ok := c.known[key]
		if !ok {
			lost = rowLoses(c.old.openRow(before), c.new.openRow(after))
			c.known[key] = lost
		}
		if lost {
			return true
		}
	}
	return false
}

// rowLoses reports whether some protocol and port is allowed by a and denied by b.
func rowLoses(a, b Row) bool {
	lost := a.Other.Verdict == flow.Allow && b.Other.Verdict != flow.Allow
	for _, p := range flow.PortProtocols {
		for _, port := range edges(&a, &b, p) {
			lost = lost || a.Lookup(p, port).Verdict == flow.Allow && b.Lookup(p, port).Verdict != flow.Allow
		}
	}
	return lost
}
