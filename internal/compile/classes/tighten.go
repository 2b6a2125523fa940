package classes

import "github.com/ringfence-project/ringfence/internal/flow"

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
		if p.c.rows.Loses(x.was, p.after(x.side, x.class)) {
			return true
		}
	}
	return false
}

// sidesTighten looks at the subjects that get another side.
func (p *plan) sidesTighten() bool {
	c := p.c
	for _, id := range c.pending.classes {
		x := c.classes.At(id)
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
	lost := p.c.rows.Loses(p.before(from, Nobody), p.after(to, Nobody))
	if !lost {
		p.eachOf(from, to, func(peer uint32) {
			lost = lost || p.c.alive(peer) && p.c.wasThere(peer) && p.c.rows.Loses(p.before(from, peer), p.after(to, peer))
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
		k := move{m.From, m.To, m.Judged, m.Judges}
		if m.From == m.To && m.Judged == m.Judges {
			continue
		}
		if !known[k] {
			if len(p.members) > 1 {
				known[k] = true
			}
			if p.peerLoses(m.From, m.To) || m.Judges && p.subjectLoses(m) {
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
	eachSide(p.cellsBefore(from), c.classes.At(to).cells, func(side uint32) {
		lost = lost || c.ready(side) && c.rows.Loses(p.before(side, from), p.after(side, to))
	})
	if lost {
		return true
	}
	for _, id := range c.pending.classes {
		x := c.classes.At(id)
		for d := range flow.Directions {
			if x.wasLocals > 0 && x.locals > 0 && x.sides[d] != 0 && x.wasSides[d] != x.sides[d] &&
				c.rows.Loses(p.before(x.wasSides[d], from), p.after(x.sides[d], to)) {
				return true
			}
		}
	}
	return false
}

// subjectLoses reports whether an address that is judged loses something.
func (p *plan) subjectLoses(m Member) bool {
	c := p.c
	for d := range flow.Directions {
		from, to := uint32(0), c.classes.At(m.To).sides[d]
		if m.Judged {
			from = c.sidesBefore(m.From)[d]
		}
		if to == 0 {
			continue
		}
		if p.sideLoses(from, to) {
			return true
		}
		for _, o := range p.members { // which move at the same time
			if c.rows.Loses(p.before(from, o.From), p.after(to, o.To)) {
				return true
			}
		}
	}
	return false
}
