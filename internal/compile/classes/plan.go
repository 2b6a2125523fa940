package classes

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/rows"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// The difference between two rulesets has to be safe at every point, as a dataplane may be seen in between. A
// connection is judged at two sides by the identities of both its ends, so three things can go wrong:
//
//   - Two addresses move to other identities. Between the two moves their connection is judged by one old and one
//     new identity, for which the rows may say what neither before nor after is true.
//   - A side allows more before the other allows less.
//   - An address moves while the rows of its old or new identity change.
//
// So addresses that move take a stand-in first, an identity of which the rows say what they say of the old one. When all
// have moved, the rows change, those of the stand-ins with the others: first all that allow less (a row that
// allows both less and more takes the meet of both, what both allow), then all that allow more. Then every row says of a
// stand-in what it says of the new identity, and the addresses move there. A new identity is its own stand-in for some of those
// that move to it. Most changes are simple (one pod comes, or pods elsewhere do), and need none of this.
type plan struct {
	c           *Classes
	members     []Member
	standIns    []standIn
	unevenKnown bool
	staged      bool // addresses move by stand-ins
	meets       bool // rows that allow both less and more take a step in between
	first       bool // nothing was judged before
	peers       []peer
	unevens     []uint32 // sides, once they are known
	tightens    bool
	early       []cellOp // before any address moves
	less        []cellOp
	lessAll     []cellOp // defaults, after the pairs
	more        []cellOp
	moreAll     []cellOp
	late        []cellOp // what nothing points to any more
	lateAll     []cellOp
	marked      []uint32 // rows
	temporary   []uint32 // rows that nothing holds but the plan
	ops         []ruleset.Op
}

// A Member is an address or prefix that changes: its class, whether it is in the ruleset, whether it is judged.
type Member struct {
	Prefix         netip.Prefix
	Host           bool   // an address that somebody has, or had
	From, To       uint32 // before and after
	Was, Is        bool   // in the ruleset
	Judged, Judges bool
	WasAt, At      ruleset.Attachment // of one that is judged

	standIn int32
	when    moment
}

// A moment is when an address moves. Where nobody of those that are judged can tell its new identity from its old one
// it may do so by itself, before everything else or after it.
type moment uint8

const (
	together moment = iota
	atFirst
	atLast
)

// standIn is an identity for the addresses that move from one to another.
type standIn struct {
	from, to       uint32
	judged, judges bool
	id             uint32
}

// peer is an identity that did not have its meaning before or has none after, or a stand-in.
type peer struct {
	id        uint32
	from, to  uint32 // whose rows it has first and last; Unassigned for none
	temporary bool   // a stand-in that goes again
}

// cellOp is an Op on defaults and pairs. Row 0 deletes.
type cellOp struct {
	dir       flow.Direction
	isDefault bool
	subject   uint32
	peer      uint32
	row       uint32
}

func (c *Classes) makePlan(members []Member, first bool) ruleset.Delta {
	p := &c.scratch.plan
	p.reset(c)
	p.members, p.first = members, first
	for i := range members {
		members[i].standIn = -1
	}
	visible, directions := p.visible()
	// What moves lose is remembered only while rows stay as they are.
	if visible || len(c.pending.changed) > 0 || len(c.pending.subjects) > 0 {
		clear(c.moves)
		defer clear(c.moves)
	}
	if !visible && !p.first && len(p.members) > 1 {
		p.findNeutral()
	}
	moving, simple := p.moving()
	p.staged = !p.first && moving && (visible || !simple)
	p.meets = p.staged || directions == 3
	p.stage()
	p.findPeers()
	p.findTightening()
	p.subjects()
	return p.delta()
}

func (p *plan) reset(c *Classes) {
	*p = plan{c: c, standIns: p.standIns[:0], peers: p.peers[:0], unevens: p.unevens, early: p.early[:0],
		less: p.less[:0], lessAll: p.lessAll[:0], more: p.more[:0], moreAll: p.moreAll[:0], late: p.late[:0],
		lateAll: p.lateAll[:0], marked: p.marked[:0], temporary: p.temporary[:0]}
}

// visible reports whether rows change between identities that had addresses before, and in which directions.
func (p *plan) visible() (any bool, directions int) {
	c := p.c
	for _, x := range c.pending.cells {
		if p.after(x.side, x.class) != x.was {
			directions |= int(c.sides.At(x.side).dir)
		}
	}
	for _, id := range c.pending.classes {
		x := c.classes.At(id)
		for d, dir := range flow.Directions {
			if x.wasLocals > 0 && x.locals > 0 && directions&int(dir) == 0 && p.differ(x.wasSides[d], x.sides[d]) {
				directions |= int(dir)
			}
		}
	}
	return directions != 0, directions
}

// differ reports whether two sides, before and after, have different rows for some peer.
func (p *plan) differ(from, to uint32) bool {
	if from == to {
		return false
	}
	differ := p.before(from, Nobody) != p.after(to, Nobody)
	if !differ {
		p.eachOf(from, to, func(peer uint32) {
			differ = differ || p.c.alive(peer) && p.c.wasThere(peer) && p.before(from, peer) != p.after(to, peer)
		})
	}
	return differ
}

// moving reports whether addresses change their identity or whether they are judged, and whether they may do so one
// after the other: of two that may have a connection which is judged here, only one.
func (p *plan) moving() (any, simple bool) {
	var count, ours [2]int
	simple = true
	for _, m := range p.members {
		if m.From == m.To && m.Judged == m.Judges || m.when != together {
			continue
		}
		any = true
		f := 0
		if m.Prefix.Addr().Is6() {
			f = 1
		}
		count[f]++
		if m.Judged || m.Judges {
			ours[f]++
		}
		// Between the two Ops of an address that begins or ceases to be judged it is of another identity.
		if m.From != m.To && m.Judged != m.Judges && (m.Judges && p.c.isSubject(m.From) || m.Judged && p.c.isSubject(m.To)) {
			simple = false
		}
	}
	for f := range count {
		simple = simple && (ours[f] == 0 || count[f] == 1)
	}
	return any, simple
}

// findNeutral finds the addresses that may move by themselves, as they do when new selectors split an identity or old
// ones let two join. No row changes, so what the subjects say that are there before and after is enough to know; where
// some cease to be judged nobody moves before them, and where some begin to be judged nobody after. Subjects themselves
// never move alone, as their new identity has the rows of after, also for those that have not moved yet.
func (p *plan) findNeutral() {
	c := p.c
	come, gone := false, false
	for _, id := range c.pending.classes {
		x := c.classes.At(id)
		if x.wasLocals > 0 && x.locals > 0 && x.wasSides != x.sides {
			return
		}
		none := [2]uint32{}
		come = come || x.wasLocals == 0 && x.locals > 0 && x.sides != none
		gone = gone || x.wasLocals > 0 && x.locals == 0 && x.wasSides != none
	}
	when := atFirst
	switch {
	case gone && come:
		return
	case gone:
		when = atLast
	}
	neutral := map[[2]uint32]bool{}
	for i := range p.members {
		m := &p.members[i]
		if m.From == m.To || m.Judged != m.Judges || m.Judged && (c.isSubject(m.From) || c.isSubject(m.To)) || !p.detached(m) {
			continue
		}
		k := [2]uint32{m.From, m.To}
		same, known := neutral[k]
		if !known {
			same = p.tellNobody(m.From, m.To)
			neutral[k] = same
		}
		if same {
			m.when = when
		}
	}
}

// detached reports whether an address or prefix may move although others that change do not move at the same time: none
// of them has its identity from it, nor it from them.
func (p *plan) detached(m *Member) bool {
	if m.Host {
		return m.Is
	}
	for i := range p.members {
		o := &p.members[i]
		if o == m {
			continue
		}
		inside := (!o.Was || !o.Is) && m.Prefix.Contains(o.Prefix.Addr()) && o.Prefix.Bits() >= m.Prefix.Bits()
		around := !o.Host && o.Prefix.Contains(m.Prefix.Addr()) && o.Prefix.Bits() <= m.Prefix.Bits()
		if inside || around {
			return false
		}
	}
	return true
}

// tellNobody reports whether all sides that stay have the same row for one class before and another one after.
func (p *plan) tellNobody(from, to uint32) bool {
	same := true
	eachSide(p.cellsBefore(from), p.c.classes.At(to).cells, func(side uint32) {
		same = same && (!p.c.ready(side) || p.before(side, from) == p.after(side, to))
	})
	return same
}

func (c *Classes) isSubject(id uint32) bool {
	x := c.classes.At(id)
	none := [2]uint32{}
	return x.sides != none || x.touched == c.round && x.wasSides != none
}

// stage gives the members that move their stand-ins.
func (p *plan) stage() {
	if !p.staged {
		return
	}
	type key struct {
		from, to       uint32
		judged, judges bool
	}
	found := map[key]int32{}
	for i := range p.members {
		m := &p.members[i]
		if m.From == m.To && m.Judged == m.Judges || m.when != together {
			continue
		}
		k := key{m.From, m.To, m.Judged, m.Judges}
		s, ok := found[k]
		if !ok {
			s = int32(len(p.standIns))
			found[k] = s
			p.standIns = append(p.standIns, standIn{m.From, m.To, m.Judged, m.Judges, Unassigned})
		}
		m.standIn = s
	}
	p.nameStandIns()
}

// nameStandIns lets each new identity be the stand-in of some that move to it: of those that will be judged, if there are
// any, as these take the most to write. The others get numbers of their own. One to which an address moves first of all
// has to have its own rows from the start.
func (p *plan) nameStandIns() {
	own, taken := map[uint32]int{}, map[uint32]bool{}
	for _, m := range p.members {
		taken[m.To] = taken[m.To] || m.when == atFirst
	}
	for i, s := range p.standIns {
		if best, ok := own[s.to]; !p.c.wasThere(s.to) && !taken[s.to] && (!ok || s.judges && !p.standIns[best].judges) {
			own[s.to] = i
		}
	}
	for i := range p.standIns {
		s := &p.standIns[i]
		if best, ok := own[s.to]; ok && best == i {
			s.id = s.to
		} else {
			s.id = p.c.classes.Take()
			p.c.classes.Drop(s.id)
		}
		p.c.classes.At(s.id).standIn = p.c.round
	}
}

// findPeers lists the identities whose rows do not go from something to something.
func (p *plan) findPeers() {
	c := p.c
	for _, s := range p.standIns {
		p.peers = append(p.peers, peer{s.id, s.from, s.to, s.id != s.to})
	}
	for _, id := range c.pending.classes {
		x := c.classes.At(id)
		if id == Nobody {
			continue
		}
		switch {
		case x.wasThere && x.refs == 0:
			p.peers = append(p.peers, peer{id, id, Unassigned, false})
		case !x.wasThere && x.refs > 0 && x.standIn != c.round:
			p.peers = append(p.peers, peer{id, Unassigned, id, false})
		}
	}
	for _, q := range p.peers {
		c.classes.At(q.id).peer = c.round
	}
}

// before is the row of a side for a class at the last flush.
func (p *plan) before(side, class uint32) uint32 {
	if side == 0 {
		return p.c.rows.Open
	}
	return p.c.rowIn(p.cellsBefore(class), side)
}

func (p *plan) after(side, class uint32) uint32 {
	if side == 0 {
		return p.c.rows.Open
	}
	return p.c.rowIn(p.c.classes.At(class).cells, side)
}

// cellsBefore are the cells of a class at the last flush; sides that were not there then may be among them.
func (p *plan) cellsBefore(class uint32) []cell {
	x := p.c.classes.At(class)
	if x.resigned == p.c.round {
		return x.was
	}
	return x.cells
}

func (p *plan) common(side uint32) uint32 {
	if side == 0 {
		return p.c.rows.Open
	}
	return p.c.sides.At(side).common
}

// delta puts everything together.
func (p *plan) delta() ruleset.Delta {
	c := p.c
	cells := [][]cellOp{p.early, p.less, p.lessAll, p.more, p.moreAll, p.late, p.lateAll}
	count := 0
	for _, list := range cells {
		count += len(list)
	}
	if count+len(p.members)+len(p.marked) == 0 {
		return ruleset.Delta{From: c.Generation, To: c.Generation}
	}
	p.ops = make([]ruleset.Op, 0, count+p.memberOps()+2*len(p.marked))
	p.addRows()
	p.cellOps(p.early)
	p.moveOps()
	p.deleteRows()
	for _, row := range p.temporary {
		c.rows.Drop(row)
	}
	if len(p.ops) == 0 {
		return ruleset.Delta{From: c.Generation, To: c.Generation}
	}
	c.Generation++
	d := ruleset.Delta{From: c.Generation - 1, To: c.Generation, Tightens: p.tightens, Ops: p.ops}
	p.ops = nil
	return d
}

// moveOps appends all that is between the first rows and the last deletions.
func (p *plan) moveOps() {
	switch {
	case p.staged:
		p.moveAlone(atFirst)
		p.toStandIns()
		p.localOps(true)
		p.cellOps(p.less, p.lessAll, p.more, p.moreAll)
		p.localOps(false)
		p.toIdentities()
		p.moveAlone(atLast)
	case p.first: // what is judged from now on is judged by all that is new
		p.cellOps(p.less, p.lessAll, p.more, p.moreAll)
		p.toIdentities()
		p.localOps(true)
		p.localOps(false)
	default:
		p.moveAlone(atFirst)
		p.localOps(true)
		p.cellOps(p.less, p.lessAll)
		p.toIdentities()
		p.cellOps(p.more, p.moreAll)
		p.localOps(false)
		p.moveAlone(atLast)
	}
	p.cellOps(p.late, p.lateAll)
}

func (p *plan) memberOps() int {
	n := 0
	for _, m := range p.members {
		if m.Was || m.Is {
			n++
		}
		if m.standIn >= 0 {
			n++
		}
		if m.Judged || m.Judges {
			n++
		}
	}
	return n
}

// toStandIns moves hosts before the prefixes around them, as they may have the identity of the prefix until then.
func (p *plan) toStandIns() {
	for _, hosts := range []bool{true, false} {
		for _, m := range p.members {
			if m.standIn < 0 || (m.Host) != hosts || !m.Was && !m.Is {
				continue
			}
			p.setAddress(m.Prefix, p.standIns[m.standIn].id)
		}
	}
	// A host that does not move may be in the ruleset from now on, as the prefix around it moves; or it is the reverse.
	for _, m := range p.members {
		if m.standIn < 0 && m.Is && !m.Was && m.when == together {
			p.setAddress(m.Prefix, m.To)
		}
	}
}

// toIdentities moves every address to its identity; those that need not be in the ruleset go last.
func (p *plan) toIdentities() {
	for _, m := range p.members {
		if m.when != together {
			continue
		}
		moved := m.From != m.To
		if m.standIn >= 0 {
			moved = p.standIns[m.standIn].id != m.To
		} else if p.staged && m.Is && !m.Was {
			moved = false
		} else if m.Was != m.Is {
			moved = true
		}
		if m.Is && moved {
			p.setAddress(m.Prefix, m.To)
		}
	}
	for _, m := range slices.Backward(p.members) {
		if !m.Is && m.Was && m.when == together {
			p.ops = append(p.ops, ruleset.Op{Kind: ruleset.DeleteAddress, Prefix: m.Prefix})
		}
	}
}

// moveAlone moves the addresses that wait for nothing else.
func (p *plan) moveAlone(when moment) {
	for _, m := range p.members {
		switch {
		case m.when != when:
		case m.Is:
			p.setAddress(m.Prefix, m.To)
		case m.Was:
			p.ops = append(p.ops, ruleset.Op{Kind: ruleset.DeleteAddress, Prefix: m.Prefix})
		}
	}
}

func (p *plan) setAddress(prefix netip.Prefix, id uint32) {
	p.ops = append(p.ops, ruleset.Op{Kind: ruleset.SetAddress, Prefix: prefix, Identity: ruleset.Identity(id)})
}

// localOps appends the Ops for addresses that are judged from now on, or not any more.
func (p *plan) localOps(come bool) {
	for _, m := range p.members {
		switch {
		case come && m.Judges:
			if !m.Judged || m.At != m.WasAt {
				p.ops = append(p.ops, ruleset.Op{Kind: ruleset.SetLocal, Prefix: m.Prefix, Attachment: m.At})
			}
		case !come && m.Judged && !m.Judges:
			p.ops = append(p.ops, ruleset.Op{Kind: ruleset.DeleteLocal, Prefix: m.Prefix})
		}
	}
}

func (p *plan) cellOps(lists ...[]cellOp) {
	for _, list := range lists {
		for _, x := range list {
			op := ruleset.Op{Subject: ruleset.Subject{Direction: x.dir, Identity: ruleset.Identity(x.subject)}, Peer: ruleset.Identity(x.peer)}
			switch {
			case x.isDefault && x.row != 0:
				op.Kind = ruleset.SetDefault
			case x.isDefault:
				op.Kind = ruleset.DeleteDefault
			case x.row != 0:
				op.Kind = ruleset.SetPair
			default:
				op.Kind = ruleset.DeletePair
			}
			if x.row != 0 {
				op.Row = p.c.rows.At(x.row).ID
			}
			p.ops = append(p.ops, op)
		}
	}
}

// mark notes that a row may have to come or go.
func (p *plan) mark(row uint32) {
	if x := p.c.rows.At(row); !x.Marked {
		x.Marked = true
		p.marked = append(p.marked, row)
	}
}

func (p *plan) use(row uint32, by int) {
	p.c.rows.At(row).Uses += by
	p.mark(row)
}

func (p *plan) addRows() {
	for _, id := range p.marked {
		x := p.c.rows.At(id)
		x.Marked = false
		if x.ID != 0 {
			continue
		}
		p.c.rows.Publish(id)
		p.c.rows.EachRule(&x.Value, func(o *rows.Origin) {
			if o.Rows++; o.Rows == 1 {
				p.ops = append(p.ops, ruleset.Op{Kind: ruleset.AddRule, Rule: o.ID, Origin: o.Rule})
			}
		})
	}
	for _, id := range p.marked {
		if x := p.c.rows.At(id); x.ID != 0 && !x.Held {
			x.Held = true
			p.ops = append(p.ops, ruleset.Op{Kind: ruleset.AddRow, Row: x.ID, Value: x.Value})
		}
	}
}

func (p *plan) deleteRows() {
	for _, id := range p.marked {
		if x := p.c.rows.At(id); x.Uses == 0 && x.ID != 0 {
			p.ops = append(p.ops, ruleset.Op{Kind: ruleset.DeleteRow, Row: x.ID})
		}
	}
	for _, id := range p.marked {
		x := p.c.rows.At(id)
		if x.Uses > 0 || x.ID == 0 {
			continue
		}
		x.ID, x.Held = 0, false
		p.c.rows.EachRule(&x.Value, func(o *rows.Origin) {
			if o.Rows--; o.Rows == 0 {
				p.ops = append(p.ops, ruleset.Op{Kind: ruleset.DeleteRule, Rule: o.ID})
			}
		})
	}
}
