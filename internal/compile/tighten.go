package compile

import (
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// findTightening finds out whether something that was allowed may be denied. Each side of a connection is looked at
// alone: true is sometimes too careful, false is always right.
//
// An address that becomes ours counts as allowed everything before. It is tempting to say that a newborn pod has no
// connections, but its address may have: anybody could send to it, and the packets that went astray have left accepted
// entries in connection tracking, which would take their sender past the newborn's ingress rules.
func (p *plan) findTightening() {
	p.tightens = p.rowsTighten() || p.sidesTighten() || p.membersTighten()
}

func (p *plan) rowsTighten() bool {
	for _, x := range p.c.pending.cells {
		if p.c.loses(x.was, p.after(x.side, x.class)) {
			return true
		}
	}
	return false
}

// sidesTighten looks at the subjects that get another side.
func (p *plan) sidesTighten() bool {
	c := p.c
	for _, id := range c.pending.classes {
		x := c.classes.at(id)
		for d := range flow.Directions {
			if x.wasLocals > 0 && x.locals > 0 && x.wasSides[d] != x.sides[d] && p.sideLoses(x.wasSides[d], x.sides[d]) {
				return true
			}
		}
	}
	return false
}

// sideLoses reports whether some peer loses something when one side takes the place of another.
func (p *plan) sideLoses(from, to uint32) bool {
	if to == 0 || from == to {
		return false
	}
	lost := p.c.loses(p.before(from, nobody), p.after(to, nobody))
	if !lost {
		p.eachOf(from, to, func(peer uint32) {
			lost = lost || p.c.alive(peer) && p.c.wasThere(peer) && p.c.loses(p.before(from, peer), p.after(to, peer))
		})
	}
	return lost
}

// membersTighten looks at the addresses that get another identity or begin to be judged.
func (p *plan) membersTighten() bool {
	type move struct {
		from, to       uint32
		judged, judges bool
	}
	known := map[move]bool{}
	for _, m := range p.members {
		k := move{m.from, m.to, m.judged, m.judges}
		if m.from == m.to && m.judged == m.judges {
			continue
		}
		if !known[k] {
			if len(p.members) > 1 {
				known[k] = true
			}
			if p.peerLoses(m.from, m.to) || m.judges && p.subjectLoses(m) {
				return true
			}
		}
	}
	return false
}

// peerLoses reports whether an address loses something with one of our subjects by going from one class to another.
func (p *plan) peerLoses(from, to uint32) bool {
	c := p.c
	if from == to {
		return false
	}
	key := [2]uint32{from, to}
	if lost, ok := c.moves[key]; ok {
		return lost
	}
	if len(c.moves) > 1<<14 {
		clear(c.moves)
	}
	lost := p.losesAnywhere(from, to)
	c.moves[key] = lost
	return lost
}

func (p *plan) losesAnywhere(from, to uint32) bool {
	c := p.c
	lost := false
	eachSide(p.cellsBefore(from), c.classes.at(to).cells, func(side uint32) {
		lost = lost || c.ready(side) && c.loses(p.before(side, from), p.after(side, to))
	})
	if lost {
		return true
	}
	for _, id := range c.pending.classes {
		x := c.classes.at(id)
		for d := range flow.Directions {
			if x.wasLocals > 0 && x.locals > 0 && x.sides[d] != 0 && x.wasSides[d] != x.sides[d] &&
				c.loses(p.before(x.wasSides[d], from), p.after(x.sides[d], to)) {
				return true
			}
		}
	}
	return false
}

// subjectLoses reports whether an address that is judged loses something.
func (p *plan) subjectLoses(m member) bool {
	c := p.c
	for d := range flow.Directions {
		from, to := uint32(0), c.classes.at(m.to).sides[d]
		if m.judged {
			from = c.sidesBefore(m.from)[d]
		}
		if to == 0 {
			continue
		}
		if p.sideLoses(from, to) {
			return true
		}
		for _, o := range p.members { // which move at the same time
			if c.loses(p.before(from, o.from), p.after(to, o.to)) {
				return true
			}
		}
	}
	return false
}

// loses reports whether some protocol and port is allowed by one row and denied by another.
func (c *Compiler) loses(from, to uint32) bool {
	if from == to || !c.rows.at(from).allows || !c.rows.at(to).denies {
		return false
	}
	key := [2]uint32{from, to}
	lost, ok := c.loss[key]
	if !ok {
		if len(c.loss) > 1<<14 {
			clear(c.loss)
		}
		lost = rowLoses(&c.rows.at(from).value, &c.rows.at(to).value)
		c.loss[key] = lost
	}
	return lost
}

func rowLoses(a, b *ruleset.Row) bool {
	if a.Other.Verdict == flow.Allow && b.Other.Verdict != flow.Allow {
		return true
	}
	for _, p := range flow.PortProtocols {
		x, y := a.Segments(p), b.Segments(p)
		for len(x) > 0 && len(y) > 0 {
			if x[0].Verdict == flow.Allow && y[0].Verdict != flow.Allow {
				return true
			}
			last := min(x[0].Last, y[0].Last)
			if x[0].Last == last {
				x = x[1:]
			}
			if y[0].Last == last {
				y = y[1:]
			}
		}
	}
	return false
}
