package classes

import (
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// A subjectPlan brings the default and pairs of one subject from what they are to what they have to be.
type subjectPlan struct {
	*plan
	id        uint32
	dir       int
	from, to  uint32 // sides; 0 is everything allowed
	temporary bool   // a stand-in that goes again
	isNew     bool   // nobody is judged by it yet, so that it may be written at once
	standIn   bool   // nothing of it is there yet, and what it had before has to be written first
	set       bool   // it has a default
	left      bool   // pairs are left that have to be deleted
	was, is   uint32 // the common rows of from and to
	frozen    bool   // it keeps its rows until it is judged no more
}

// subjects plans for every subject that changes.
func (p *plan) subjects() {
	c := p.c
	for _, id := range c.pending.classes {
		x := c.classes.At(id)
		if x.standIn == c.round && !x.wasThere {
			continue
		}
		for d := range flow.Directions {
			was, is := x.wasSides[d], x.sides[d]
			switch {
			case x.wasLocals > 0 && x.locals > 0 && was != is:
				p.whole(&subjectPlan{plan: p, id: id, dir: d, from: was, to: is})
			case x.wasLocals > 0 && x.locals == 0 && was != 0:
				p.gone(id, d, was)
			case x.wasLocals == 0 && is != 0:
				p.whole(&subjectPlan{plan: p, id: id, dir: d, to: is, isNew: true})
			}
		}
	}
	for i := range p.standIns {
		s := &p.standIns[i]
		if !s.judged && !s.judges {
			continue
		}
		for d := range flow.Directions {
			p.subjectStandIn(s, d)
		}
	}
	if len(c.pending.cells)+len(p.peers) > 0 {
		p.unchanged()
	}
}

func (p *plan) subjectStandIn(s *standIn, d int) {
	c := p.c
	x := &subjectPlan{plan: p, id: s.id, dir: d, temporary: s.id != s.to, standIn: true}
	if s.judged {
		x.from = c.sidesBefore(s.from)[d]
	}
	if s.judges {
		x.to = c.classes.At(s.to).sides[d]
	}
	switch {
	case !s.judged:
		x.isNew, x.standIn = true, false
	case !s.judges:
		x.to, x.temporary, x.frozen = x.from, true, true
	}
	if x.from == 0 && x.to == 0 {
		return
	}
	p.whole(x)
}

func (c *Classes) sidesBefore(id uint32) [2]uint32 {
	if x := c.classes.At(id); x.touched == c.round {
		return x.wasSides
	} else {
		return x.sides
	}
}

// unchanged plans for the subjects that keep their side: where the side's row for a peer changes, or a peer comes or
// goes. Only sides that list the peer can have something to change.
func (p *plan) unchanged() {
	c := p.c
	x := &subjectPlan{plan: p}
	for _, y := range c.pending.cells {
		if !p.isPeer(y.class) {
			p.eachUnchanged(x, y.side, func() { x.cell(y.class, p.before(x.from, y.class), p.after(x.to, y.class), false) })
		}
	}
	for _, q := range p.peers {
		var from, to []cell
		if q.from != Unassigned {
			from = p.cellsBefore(q.from)
		}
		if q.to != Unassigned {
			to = c.classes.At(q.to).cells
		}
		eachSide(from, to, func(side uint32) {
			if c.sides.At(side).even() {
				p.eachUnchanged(x, side, func() { x.specialPeer(q) })
			}
		})
		for _, side := range p.uneven() {
			p.eachUnchanged(x, side, func() { x.specialPeer(q) })
		}
	}
}

// eachUnchanged calls f with x set to each subject that has a side before and after.
func (p *plan) eachUnchanged(x *subjectPlan, side uint32, f func()) {
	c := p.c
	s := c.sides.At(side)
	d := int(s.dir) - 1
	for _, id := range s.subjects {
		if y := c.classes.At(id); y.touched == c.round && (y.wasLocals == 0 || y.wasSides[d] != side) {
			continue
		}
		*x = subjectPlan{plan: p, id: id, dir: d, from: side, to: side, was: s.common, is: s.common, set: true}
		f()
	}
}

// uneven returns the sides whose default is not the row of the classes that are not listed: few.
func (p *plan) uneven() []uint32 {
	if !p.unevenKnown {
		p.unevenKnown, p.unevens = true, p.unevens[:0]
		for i := range p.c.sides.Items {
			if s := &p.c.sides.Items[i]; len(s.subjects) > 0 && !s.even() {
				p.unevens = append(p.unevens, uint32(i))
			}
		}
	}
	return p.unevens
}

// isPeer reports whether an identity is one of peers.
func (p *plan) isPeer(id uint32) bool { return p.c.classes.At(id).peer == p.c.round }

// eachNew yields the classes that do not have the default of a side, and maybe others, with their rows.
func (p *plan) eachNew(side uint32, yield func(peer, row uint32)) {
	if s := p.c.sides.At(side); s.even() && s.built == p.c.round {
		for _, y := range s.fresh {
			yield(y.class, y.row)
		}
		return
	}
	p.eachPeer(side, func(peer uint32) { yield(peer, p.after(side, peer)) })
}

// eachPeer yields the classes that a side lists or listed, and maybe others.
func (p *plan) eachPeer(side uint32, yield func(peer uint32)) {
	c := p.c
	if side == 0 {
		return
	}
	s := c.sides.At(side)
	switch {
	case !s.even():
		for i := range c.classes.Items {
			yield(uint32(i))
		}
		return
	case s.built == c.round:
		for _, y := range s.fresh {
			yield(y.class)
		}
		return
	}
	t := c.follow(s)
	for _, id := range c.pending.changed {
		t.touch(id)
	}
	peers := slices.Clone(t.touched)
	t.end()
	for _, id := range peers {
		yield(id)
	}
}

// eachOf yields those of two sides, each once and in order.
func (p *plan) eachOf(a, b uint32, yield func(peer uint32)) {
	var peers []uint32
	p.eachPeer(a, func(peer uint32) { peers = append(peers, peer) })
	p.eachPeer(b, func(peer uint32) { peers = append(peers, peer) })
	slices.Sort(peers)
	for _, peer := range slices.Compact(peers) {
		yield(peer)
	}
}

// gone plans for a subject of which no address is judged any more.
func (p *plan) gone(id uint32, d int, side uint32) {
	common := p.common(side)
	p.eachPeer(side, func(peer uint32) {
		if row := p.before(side, peer); row != common && p.c.wasThere(peer) {
			p.late = append(p.late, cellOp{flow.Directions[d], false, id, peer, 0})
			p.use(row, -1)
		}
	})
	x := &subjectPlan{plan: p, id: id, dir: d, set: true}
	for _, s := range p.standIns { // which come before its own addresses have moved
		if row := p.before(side, s.from); row != p.common(side) {
			x.pair(&p.early, s.id, row)
			x.unpair(&p.late, s.id)
		}
	}
	p.lateAll = append(p.lateAll, cellOp{flow.Directions[d], true, id, 0, 0})
	p.use(p.common(side), -1)
}

// whole plans for a subject with all its peers.
func (p *plan) whole(x *subjectPlan) {
	c := p.c
	x.was, x.is = p.common(x.from), p.common(x.to)
	x.begin()
	ordinary := func(peer uint32) bool { return c.alive(peer) && !p.isPeer(peer) }
	if x.isNew {
		p.eachNew(x.to, func(peer, row uint32) {
			if row != x.is && ordinary(peer) {
				x.newCell(peer, row, false)
			}
		})
	} else {
		p.eachOf(x.from, x.to, func(peer uint32) {
			from, to := p.before(x.from, peer), p.after(x.to, peer)
			if (from != x.was || to != x.is) && ordinary(peer) {
				x.cell(peer, from, to, false)
			}
		})
	}
	x.special()
	x.end()
}

// special plans for the peers that are not ordinary.
func (x *subjectPlan) special() {
	for _, q := range x.peers {
		x.specialPeer(q)
	}
}

func (x *subjectPlan) specialPeer(q peer) {
	switch {
	case q.to == Unassigned:
		x.peerGone(q.id)
	case q.from == Unassigned:
		x.peerNew(q.id)
	default:
		x.cellOf(q)
	}
}

// begin gives a subject that is new its default.
func (x *subjectPlan) begin() {
	switch {
	case x.isNew:
		x.setDefault(&x.early, x.is)
	case x.standIn && x.from != 0:
		x.setDefault(&x.early, x.was)
	case x.from != 0:
		x.set = true
	}
}

func (x *subjectPlan) setDefault(list *[]cellOp, row uint32) {
	x.set = true
	x.mark(row)
	*list = append(*list, cellOp{flow.Directions[x.dir], true, x.id, 0, row})
}

// pair sets a pair; the subject has to have a default by then.
func (x *subjectPlan) pair(list *[]cellOp, peer, row uint32) {
	if !x.set {
		x.setDefault(&x.early, x.c.rows.Open)
	}
	x.mark(row)
	*list = append(*list, cellOp{flow.Directions[x.dir], false, x.id, peer, row})
}

func (x *subjectPlan) unpair(list *[]cellOp, peer uint32) {
	*list = append(*list, cellOp{flow.Directions[x.dir], false, x.id, peer, 0})
}

// end moves the default, after all pairs that need not to follow it.
func (x *subjectPlan) end() {
	from, to := x.was, x.is
	switch {
	case x.isNew:
		if !x.temporary {
			x.use(to, 1)
		}
	default:
		if !x.standIn && x.from != 0 {
			x.use(from, -1)
		}
		if !x.temporary && x.to != 0 {
			x.use(to, 1)
		}
		x.moveDefault(from, to)
	}
	if x.temporary {
		x.lateAll = append(x.lateAll, cellOp{flow.Directions[x.dir], true, x.id, 0, 0})
	}
}

func (x *subjectPlan) moveDefault(from, to uint32) {
	if x.from == 0 && !x.set { // no pair is there that would need one, and nothing allows more than none
		x.setDefault(&x.lessAll, to)
		return
	}
	mid := x.between(from, to)
	if mid != from {
		x.setDefault(&x.lessAll, mid)
	}
	switch {
	case x.to != 0 && to != mid:
		x.setDefault(&x.moreAll, to)
	case x.to == 0 && x.left && !x.temporary: // what is still paired goes first
		x.setDefault(&x.moreAll, to)
		x.lateAll = append(x.lateAll, cellOp{flow.Directions[x.dir], true, x.id, 0, 0})
	case x.to == 0 && x.temporary:
		x.setDefault(&x.moreAll, to)
	case x.to == 0:
		x.moreAll = append(x.moreAll, cellOp{flow.Directions[x.dir], true, x.id, 0, 0})
	}
}

// between is the row that a change from one row to another takes before anything else allows more.
func (p *plan) between(from, to uint32) uint32 {
	c := p.c
	switch {
	case from == to || !c.rows.Loses(from, to):
		return from
	case !p.meets || !c.rows.Loses(to, from):
		return to
	}
	id := c.rows.HoldMeet(from, to)
	p.temporary = append(p.temporary, id)
	return id
}

// cell plans for an ordinary peer: from a row to a row.
func (x *subjectPlan) cell(peer, from, to uint32, temporary bool) {
	if x.isNew {
		x.newCell(peer, to, temporary)
		return
	}
	if x.frozen {
		to = from
	}
	paired := x.from != 0 && from != x.was
	if x.standIn && paired {
		x.pair(&x.early, peer, from)
	}
	x.change(peer, from, to, paired, paired && !x.standIn, temporary)
}

// cellOf plans for a stand-in as a peer.
func (x *subjectPlan) cellOf(q peer) {
	from, to := x.before(x.from, q.from), x.after(x.to, q.to)
	if x.isNew {
		x.newCell(q.id, to, q.temporary)
		return
	}
	if x.frozen {
		to = from
	}
	paired := x.from != 0 && from != x.was
	if paired {
		x.pair(&x.early, q.id, from)
	}
	x.change(q.id, from, to, paired, false, q.temporary)
}

func (x *subjectPlan) newCell(peer, row uint32, temporary bool) {
	if row == x.is {
		return
	}
	x.pair(&x.early, peer, row)
	if temporary || x.temporary {
		x.unpair(&x.late, peer)
	} else {
		x.use(row, 1)
	}
}

// change plans a pair's way from a row to a row; paired: it is in the ruleset by then; counted: as one of its uses.
func (x *subjectPlan) change(peer, from, to uint32, paired, counted, temporary bool) {
	was, is := x.was, x.is
	follows := !paired && from == was && to == is // as the default goes
	if !follows && (from != to || was != is) {
		paired = x.steps(peer, from, to, was, is, paired)
	}
	if counted {
		x.use(from, -1)
	}
	switch {
	case !paired:
	case temporary || x.temporary || to == is:
		x.left = true
		x.unpair(&x.late, peer)
	default:
		x.use(to, 1)
	}
}

// steps returns whether the pair is in the ruleset after them.
func (x *subjectPlan) steps(peer, from, to, was, is uint32, paired bool) bool {
	mid, defaultMid := x.between(from, to), x.between(was, is)
	if mid != from || !paired && defaultMid != was {
		x.pair(&x.less, peer, mid)
		paired = true
	}
	if to != mid || !paired && is != defaultMid {
		x.pair(&x.more, peer, to)
		paired = true
	}
	return paired
}

// peerGone plans for an identity that no address has any more.
func (x *subjectPlan) peerGone(peer uint32) {
	if x.isNew || x.from == 0 {
		return
	}
	row, was := x.before(x.from, peer), x.was
	if row != was || !x.staged && was != x.is {
		if x.standIn || row == was { // it is there until its addresses have moved, which may be after the default has
			x.pair(&x.early, peer, row)
		} else {
			x.use(row, -1)
		}
		x.left = true
		x.unpair(&x.late, peer)
	}
}

// peerNew plans for an identity that no address has yet.
func (x *subjectPlan) peerNew(peer uint32) {
	if x.to == 0 || x.frozen {
		return
	}
	row := x.after(x.to, peer)
	follows := row == x.is
	// Without stand-ins its addresses come before the default has moved.
	if follows && (x.staged || x.isNew || row == x.was) {
		return
	}
	x.pair(&x.early, peer, row)
	if x.temporary || follows {
		x.left = true
		x.unpair(&x.late, peer)
	} else {
		x.use(row, 1)
	}
}
