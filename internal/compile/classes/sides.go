package classes

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/compile/rows"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// A side is one direction of some pods of ours: all rules of the policies that select them, in the order in which
// they are asked, and the row that they give each class. Pods for which the same policies speak share it. A side has
// one row for most classes; the others are kept by class, as few sides tell a class from nobody.
type side struct {
	key string
	dir flow.Direction
	rows.Order
	names     uint32 // ingress: what the subject calls its ports, if some rule asks
	built     uint32 // round
	subjects  []uint32
	everyone  []rows.Hit // rules that match every peer
	usual     uint32     // the row of those that no other rule matches
	common    uint32     // the row that most have, which is the default
	listed    int        // classes that have another row than the usual one
	commons   int        // of those, classes that have the common one
	atFirst   int        // classes that did not have the common row, when that was chosen
	fresh     []peerRow  // those that are listed, in the round in which it is built
	memo      map[string]uint32
	listeners bool // egress by port names: the row depends on what the peer calls its ports
}

// even reports whether the default is the row of the classes that are not listed.
func (s *side) even() bool { return s.common == s.usual }

// others is how many of the living classes do not have the default.
func (s *side) others(living int) int {
	if s.even() {
		return s.listed
	}
	return living - s.commons
}

// A cell is a side's row for the class that keeps it.
type cell struct{ side, row uint32 }

// A peerRow is a class's row for the side that keeps it.
type peerRow struct{ class, row uint32 }

// rowIn finds the row of a side in the cells of a class.
func (c *Classes) rowIn(cells []cell, side uint32) uint32 {
	i, ok := searchCells(cells, side)
	if ok {
		return cells[i].row
	}
	return c.sides.At(side).usual
}

func searchCells(cells []cell, side uint32) (int, bool) {
	low, high := 0, len(cells)
	for low < high {
		if mid := int(uint(low+high) >> 1); cells[mid].side < side {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(cells) && cells[low].side == side
}

// addCell inserts a cell for a side that the class has none of. Lists grow by little: there are many.
func (x *class) addCell(y cell) {
	i, _ := searchCells(x.cells, y.side)
	if len(x.cells) == cap(x.cells) {
		x.cells = append(make([]cell, 0, len(x.cells)+1+len(x.cells)/8+4), x.cells...)
	}
	x.cells = slices.Insert(x.cells, i, y)
}

// countCells counts what a class has in its sides in or out.
func (c *Classes) countCells(cells []cell, by int) {
	for _, y := range cells {
		s := c.sides.At(y.side)
		s.listed += by
		if y.row == s.common {
			s.commons += by
		}
	}
}

// updateSubjects looks up the sides of the classes that were touched.
func (c *Classes) updateSubjects() {
	for i := 0; i < len(c.pending.subjects); i++ {
		id := c.pending.subjects[i]
		for d := range flow.Directions {
			var want uint32
			if x := c.classes.At(id); x.locals > 0 && x.refs > 0 {
				want = c.SideOf(x.sels, x.names, d)
			}
			x := c.classes.At(id)
			if old := x.sides[d]; old != want {
				c.leaveSide(old, id)
				x.sides[d] = want
				if want != 0 {
					s := c.sides.At(want)
					s.subjects = append(s.subjects, id)
				}
			}
		}
	}
}

func (c *Classes) leaveSide(s, class uint32) {
	if s != 0 {
		x := c.sides.At(s)
		x.subjects = pool.Without(x.subjects, class)
		if len(x.subjects) == 0 {
			c.scratch.left = append(c.scratch.left, s)
		}
	}
}

// Side returns the side with a key, which says all that it is made of. If there is none yet it is made of what order
// returns, and of the number of what its subjects call their ports, if some rule of theirs asks; 0 if that says nothing:
// no rule that could match, no isolation.
func (c *Classes) Side(key []byte, d flow.Direction, names uint32, order func() rows.Order) uint32 {
	if s, ok := c.sideIndex[string(key)]; ok {
		return s
	}
	o := order()
	if !o.Isolated && !slices.ContainsFunc(o.Rules, func(r rows.Rule) bool { return r.Anyone || len(r.Peers) > 0 }) {
		return 0
	}
	return c.newSide(string(key), d, names, o)
}

func (c *Classes) newSide(key string, d flow.Direction, names uint32, o rows.Order) uint32 {
	id := c.sides.Take()
	c.sideIndex[key] = id
	s := c.sides.At(id)
	*s = side{key: key, dir: d, Order: o, names: names, built: c.round, memo: map[string]uint32{}}
	for i, r := range s.Rules {
		s.listeners = s.listeners || r.Named && s.dir == flow.Egress
		if r.Anyone {
			s.everyone = append(s.everyone, rows.CertainHit(i))
			continue
		}
		for _, peer := range r.Peers {
			sel := c.selector(peer)
			sel.uses = append(sel.uses, use{id, uint32(i)})
		}
	}
	c.fillSide(id, s)
	return id
}

// A trail is a list of hits that some classes have in common: those of the trail before it, and one more.
type trail struct {
	before uint32
	hit    rows.Hit
	count  int32
	row    uint32   // Unassigned until it is asked for
	next   uint32   // the trail that goes on with nextHit
	next1  rows.Hit // nextHit plus one; 0 if there is none
}

// trails finds out which classes have the same hits. Rules are followed in order, each through the classes that it
// matches, so that no list has to be sorted and few have to be compared.
type trails struct {
	all     []trail  // 0 is not used, 1 is that without hits
	at      []uint32 // by class; 0 if it is not touched
	touched []uint32 // classes
}

func (t *trails) begin(classes int) {
	t.all = append(t.all[:0], trail{}, trail{row: Unassigned})
	t.touched = t.touched[:0]
	if len(t.at) < classes {
		t.at = make([]uint32, classes+classes/16)
	}
}

// touch notes a class; reports whether it was new.
func (t *trails) touch(class uint32) bool {
	if t.at[class] != 0 {
		return false
	}
	t.at[class] = 1
	t.touched = append(t.touched, class)
	return true
}

// add adds a hit to those of a class. Of several of one rule the first counts.
func (t *trails) add(class uint32, h rows.Hit) {
	t.touch(class)
	n := t.at[class]
	from := &t.all[n]
	if n != 1 && from.hit.Rule() == h.Rule() {
		return
	}
	if from.next1 != h+1 {
		from.next, from.next1 = uint32(len(t.all)), h+1
		t.at[class] = from.next
		t.all = append(t.all, trail{before: n, hit: h, row: Unassigned})
		return
	}
	t.at[class] = from.next
}

// hits appends those of a trail, in order.
func (t *trails) hits(n uint32, out []rows.Hit) []rows.Hit {
	for ; n > 1; n = t.all[n].before {
		out = append(out, t.all[n].hit)
	}
	slices.Reverse(out)
	return out
}

func (t *trails) end() {
	for _, class := range t.touched {
		t.at[class] = 0
	}
}

// follow leads every class through the rules of a side that may match it.
func (c *Classes) follow(s *side) *trails {
	t := &c.scratch.trails
	t.begin(len(c.classes.Items))
	for i, r := range s.Rules {
		if r.Anyone {
			continue
		}
		for _, peer := range r.Peers {
			for _, id := range c.selector(peer).classes {
				t.add(id, rows.CertainHit(i))
			}
		}
		if r.ByLabels {
			for _, id := range c.unknowns {
				t.add(id, rows.CertainHit(i)+1)
			}
		}
	}
	if s.listeners {
		c.eachListener(func(id uint32) { t.touch(id) })
	}
	return t
}

// eachListener yields the classes whose ports have names, or may have.
func (c *Classes) eachListener(yield func(uint32)) {
	for i := range c.classes.Items {
		if x := &c.classes.Items[i]; x.names != 0 || x.unknown {
			yield(uint32(i))
		}
	}
}

// fillSide finds the row of every class, and the row that most have, of equals the usual one, then the first.
func (c *Classes) fillSide(id uint32, s *side) {
	s.usual = c.row(s, nil, &class{})
	t := c.follow(s)
	for _, class := range t.touched {
		x := c.classes.At(class)
		if !c.alive(class) {
			continue
		}
		if row := c.rowOfTrail(s, t, t.at[class], x); row != s.usual {
			x.addCell(cell{id, row})
			s.fresh = append(s.fresh, peerRow{class, row})
		}
	}
	t.end()
	s.listed = len(s.fresh)
	c.pending.built = append(c.pending.built, id)
	s.chooseCommon(c.living() - s.listed)
}

// rowOfTrail returns the row of a class with the hits of a trail.
func (c *Classes) rowOfTrail(s *side, t *trails, n uint32, x *class) uint32 {
	special := s.listeners && (x.names != 0 || x.unknown)
	if row := t.all[n].row; row != Unassigned && !special {
		return row
	}
	own := t.hits(n, c.scratch.own[:0])
	c.scratch.own = own
	row := c.row(s, own, x)
	if !special {
		t.all[n].row = row
	}
	return row
}

// chooseCommon makes the row that most classes have the default: of equals the usual one, then the first.
func (s *side) chooseCommon(unlisted int) {
	counts := map[uint32]int{s.usual: unlisted}
	s.common = s.usual
	for _, y := range s.fresh {
		counts[y.row]++
	}
	for _, y := range s.fresh {
		if counts[y.row] > counts[s.common] {
			s.common = y.row
		}
	}
	if !s.even() {
		s.commons = counts[s.common]
	}
	s.atFirst = s.others(unlisted + s.listed)
}

// noHit stands for a class that has to be looked at although no rule may match it.
const noHit = 1<<32 - 1

// eachGroup splits sorted hits by what is in their upper half; of several of one rule the first counts.
func (c *Classes) eachGroup(hits []uint64, f func(id uint32, own []rows.Hit)) {
	own := c.scratch.own[:0]
	for i, h := range hits {
		x := rows.Hit(h)
		if n := len(own); x != noHit && (n == 0 || own[n-1].Rule() != x.Rule()) {
			own = append(own, x)
		}
		if i+1 == len(hits) || hits[i+1]>>32 != h>>32 {
			f(uint32(h>>32), own)
			own = own[:0]
		}
	}
	c.scratch.own = own
}

func (c *Classes) alive(id uint32) bool { return id == Nobody || c.classes.At(id).refs > 0 }

// A cellChange is what a side's row for a class was at the last flush.
type cellChange struct{ side, class, was uint32 }

// updateRows gives the classes with new signatures their rows in the sides that were there before.
func (c *Classes) updateRows() {
	if len(c.pending.changed) == 0 {
		return
	}
	for _, id := range c.pending.changed {
		c.updateRowsOf(id)
	}
	c.chooseAgain()
}

func (c *Classes) updateRowsOf(id uint32) {
	x := c.classes.At(id)
	now := c.scratch.cells[:0]
	if x.kept {
		now = c.someCells(x, now)
	} else {
		now = c.allCells(x, now)
	}
	slices.SortFunc(now, func(a, b cell) int { return cmp.Compare(a.side, b.side) })
	c.scratch.cells = now
	x.was = x.cells
	if slices.Equal(now, x.was) {
		x.cells = slices.Clip(x.cells) // what is added from now on must not show in was
		return
	}
	x.cells = slices.Clone(now)
	c.countCells(x.was, -1)
	c.countCells(x.cells, 1)
	if c.wasThere(id) {
		c.noteChanges(id, x)
	}
}

// ready reports whether a side has its rows from before this round, and is still needed.
func (c *Classes) ready(side uint32) bool {
	s := c.sides.At(side)
	return len(s.subjects) > 0 && s.built != c.round
}

// noteChanges notes the cells in which a class differs from what it was.
func (c *Classes) noteChanges(id uint32, x *class) {
	eachSide(x.was, x.cells, func(side uint32) {
		if was := c.rowIn(x.was, side); c.ready(side) && was != c.rowIn(x.cells, side) {
			c.pending.cells = append(c.pending.cells, cellChange{side, id, was})
		}
	})
}

// eachSide yields the sides of either list, each once and in order.
func eachSide(a, b []cell, yield func(side uint32)) {
	for len(a) > 0 || len(b) > 0 {
		var side uint32
		if len(b) == 0 || len(a) > 0 && a[0].side <= b[0].side {
			side = a[0].side
		} else {
			side = b[0].side
		}
		yield(side)
		if len(a) > 0 && a[0].side == side {
			a = a[1:]
		}
		if len(b) > 0 && b[0].side == side {
			b = b[1:]
		}
	}
}

// allCells appends the cells of a class.
func (c *Classes) allCells(x *class, now []cell) []cell {
	for _, y := range x.cells { // of sides that are being built
		if c.sides.At(y.side).built == c.round {
			now = append(now, y)
		}
	}
	hits := c.scratch.hits[:0]
	for _, sel := range x.sels {
		for _, u := range c.selector(sel).uses {
			hits = append(hits, uint64(u.side)<<32|uint64(rows.CertainHit(int(u.rule))))
		}
	}
	if x.unknown || x.names != 0 {
		for i := range c.sides.Items {
			hits = c.addSpecial(hits, uint32(i), x)
		}
	}
	slices.Sort(hits)
	c.scratch.hits = hits
	c.eachGroup(hits, func(side uint32, own []rows.Hit) {
		if c.ready(side) {
			now = c.appendCell(now, side, c.row(c.sides.At(side), own, x))
		}
	})
	return now
}

func (c *Classes) appendCell(now []cell, side, row uint32) []cell {
	if row == c.sides.At(side).usual {
		return now
	}
	return append(now, cell{side, row})
}

// someCells appends the cells of a class that had some before. Only the sides that ask for a selector that makes a
// difference are looked at; mostly these are new, and have their rows.
func (c *Classes) someCells(x *class, now []cell) []cell {
	sides := c.scratch.some[:0]
	for _, sel := range x.delta {
		for _, u := range c.selector(sel).uses {
			if c.ready(u.side) {
				sides = append(sides, u.side)
			}
		}
	}
	slices.Sort(sides)
	sides = slices.Compact(sides)
	c.scratch.some = sides
	for _, y := range x.cells {
		if _, again := slices.BinarySearch(sides, y.side); !again && len(c.sides.At(y.side).subjects) > 0 {
			now = append(now, y)
		}
	}
	for _, side := range sides {
		s := c.sides.At(side)
		hits := c.scratch.hits[:0]
		for i, r := range s.Rules {
			matches := func(peer uint32) bool { _, ok := slices.BinarySearch(x.sels, peer); return ok }
			if !r.Anyone && slices.ContainsFunc(r.Peers, matches) {
				hits = append(hits, uint64(side)<<32|uint64(rows.CertainHit(i)))
			}
		}
		if x.unknown || x.names != 0 {
			hits = c.addSpecial(hits, side, x)
		}
		slices.Sort(hits)
		c.scratch.hits = hits
		c.eachGroup(hits, func(_ uint32, own []rows.Hit) { now = c.appendCell(now, side, c.row(s, own, x)) })
	}
	return now
}

// addSpecial adds the hits of a side on a class that is unknown or has names for ports.
func (c *Classes) addSpecial(hits []uint64, side uint32, x *class) []uint64 {
	s := c.sides.At(side)
	if s.listeners {
		hits = append(hits, uint64(side)<<32|noHit)
	}
	for i, r := range s.Rules {
		if x.unknown && r.ByLabels && !r.Anyone {
			hits = append(hits, uint64(side)<<32|uint64(rows.CertainHit(i)+1))
		}
	}
	return hits
}

// wasThere reports whether a class was there at the last flush.
func (c *Classes) wasThere(id uint32) bool {
	x := c.classes.At(id)
	return id == Nobody || x.touched == c.round && x.wasThere || x.touched != c.round && x.refs > 0
}

// chooseAgain makes sides anew whose default has become a bad one. There is some room until then, so that a side
// does not go back and forth.
func (c *Classes) chooseAgain() {
	again, living := false, c.living()
	for i := range c.sides.Items {
		s := &c.sides.Items[i]
		if !c.ready(uint32(i)) || s.others(living) <= 2*s.atFirst+64 && len(s.memo) <= 4*living+64 {
			continue
		}
		again = true
		delete(c.sideIndex, s.key)
		for _, id := range s.subjects {
			c.touchClass(id)
			c.pending.subjects = append(c.pending.subjects, id)
		}
	}
	if again {
		c.updateSubjects()
	}
}

// sweepSides forgets the sides that nobody has any more.
func (c *Classes) sweepSides() {
	for _, id := range c.scratch.left {
		s := c.sides.At(id)
		if len(s.subjects) > 0 || s.memo == nil {
			continue
		}
		if c.sideIndex[s.key] == id {
			delete(c.sideIndex, s.key)
		}
		c.dropCells(id, s)
		for _, r := range s.Rules {
			for _, peer := range r.Peers {
				sel := c.selector(peer)
				sel.uses = slices.DeleteFunc(sel.uses, func(u use) bool { return u.side == id })
			}
		}
		for _, row := range s.memo {
			c.rows.Drop(row)
		}
		s.memo = nil
		c.sides.Drop(id)
	}
	c.scratch.left = c.scratch.left[:0]
}

// dropCells takes a side out of the classes that list it. A class that no rule of its matches any more has got another
// signature, and with it cells without this side.
func (c *Classes) dropCells(id uint32, s *side) {
	t := c.follow(s)
	for _, class := range t.touched {
		x := c.classes.At(class)
		if i, ok := searchCells(x.cells, id); ok {
			x.cells = slices.Delete(x.cells, i, i+1)
		}
	}
	t.end()
}

// row returns the number of the row that the rules that match everyone and own make, for a peer of a class.
func (c *Classes) row(s *side, own []rows.Hit, peer *class) uint32 {
	hits := mergeHits(c.scratch.merged[:0], s.everyone, own)
	c.scratch.merged = hits
	names, unknown := s.names, false
	if s.listeners {
		names, unknown = peer.names, peer.unknown
	}
	key := c.scratch.key[:0]
	named := false
	for _, h := range hits {
		key = binary.AppendUvarint(key, uint64(h)+2)
		named = named || s.Rules[h.Rule()].Named
	}
	if named {
		key = append(key, 0)
		key = binary.AppendUvarint(key, uint64(names))
		if unknown {
			key = append(key, 1)
		}
	}
	c.scratch.key = key
	if id, ok := s.memo[string(key)]; ok {
		return id
	}
	id := c.rows.Hold(c.rows.Resolve(&s.Order, hits, names, unknown))
	s.memo[string(key)] = id
	return id
}

// mergeHits joins two lists in order, without a rule in common.
func mergeHits(out, a, b []rows.Hit) []rows.Hit {
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}
