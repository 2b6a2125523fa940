package compile

import (
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A side is one direction of some pods of ours: all rules of the policies that select them, in the order in which
// they are asked, and the row that they give each class. Pods for which the same policies speak share it.
type side struct {
	key       string
	dir       flow.Direction
	rules     []rule
	isolated  bool   // by a NetworkPolicy
	denial    uint32 // the rule that is the first such policy's denial
	names     uint32 // ingress: what the subject calls its ports, if some rule asks
	named     bool   // some rule has ports by name
	built     uint32 // round
	subjects  []uint32
	rows      []uint32 // by class
	everyone  []hit    // rules that match every peer
	usual     uint32   // the row of those that no other rule matches
	common    uint32   // the row that most have, which is the default
	others    int      // how many do not have it
	atFirst   int      // others, when common was chosen
	memo      map[string]uint32
	listeners bool // egress by port names: the row depends on what the peer calls its ports
}

// A hit is a rule that matches a peer: its index in side.rules, doubled, and one more if it is not certain, which is
// so for an unknown pod that may have the labels asked for. So the certain hit of a rule comes first.
type hit uint32

func (h hit) rule() int     { return int(h >> 1) }
func (h hit) certain() bool { return h&1 == 0 }

func certainHit(rule int) hit { return hit(rule << 1) }

// updateSubjects looks up the sides of the classes that were touched.
func (c *Compiler) updateSubjects() {
	for i := 0; i < len(c.pending.subjects); i++ {
		id := c.pending.subjects[i]
		for d := range flow.Directions {
			var want uint32
			if x := c.classes.at(id); x.locals > 0 && x.refs > 0 {
				want = c.sideOf(x, d)
			}
			x := c.classes.at(id)
			if old := x.sides[d]; old != want {
				c.leaveSide(old, id)
				x.sides[d] = want
				if want != 0 {
					s := c.sides.at(want)
					s.subjects = append(s.subjects, id)
				}
			}
		}
	}
}

func (c *Compiler) leaveSide(s, class uint32) {
	if s != 0 {
		x := c.sides.at(s)
		x.subjects = without(x.subjects, class)
		if len(x.subjects) == 0 {
			c.scratch.left = append(c.scratch.left, s)
		}
	}
}

// sideOf returns the side of a class in one direction; 0 if no policy has an effect.
func (c *Compiler) sideOf(x *class, d int) uint32 {
	speaking := c.scratch.speaking[:0]
	named := false
	for _, sel := range x.sels {
		for _, p := range c.selectors.at(sel).policies {
			if y := c.policies.at(p); y.speaks && y.dirs[d] {
				speaking = append(speaking, p)
				named = named || y.named[d]
			}
		}
	}
	c.scratch.speaking = speaking
	if len(speaking) == 0 {
		return 0
	}
	slices.SortFunc(speaking, func(a, b uint32) int {
		return policy.Compare(c.policies.at(a).policy, c.policies.at(b).policy)
	})
	names := uint32(0)
	if named && flow.Directions[d] == flow.Ingress { // the subject is the server: what it calls its ports matters
		names = x.names
	}
	key := append(c.scratch.key[:0], byte(d))
	key = binary.AppendUvarint(key, uint64(names))
	for _, p := range speaking {
		key = binary.AppendUvarint(key, uint64(p))
	}
	c.scratch.key = key
	if s, ok := c.sideIndex[string(key)]; ok {
		return s
	}
	if c.silent(speaking, d) {
		return 0
	}
	return c.newSide(string(key), speaking, d, names)
}

// silent reports whether policies say nothing: no rule that could match, no isolation.
func (c *Compiler) silent(policies []uint32, d int) bool {
	for _, id := range policies {
		p := c.policies.at(id)
		if p.denial[d] != 0 || slices.ContainsFunc(p.rules[d], func(r rule) bool { return r.anyone || len(r.peers) > 0 }) {
			return false
		}
	}
	return true
}

func (c *Compiler) newSide(key string, policies []uint32, d int, names uint32) uint32 {
	id := c.sides.take()
	c.sideIndex[key] = id
	s := c.sides.at(id)
	*s = side{key: key, dir: flow.Directions[d], names: names, built: c.round, memo: map[string]uint32{}}
	count := 0
	for _, p := range policies {
		count += len(c.policies.at(p).rules[d])
	}
	s.rules = make([]rule, 0, count)
	for _, p := range policies {
		y := c.policies.at(p)
		if y.denial[d] != 0 && !s.isolated {
			s.isolated, s.denial = true, y.denial[d]
		}
		s.rules = append(s.rules, y.rules[d]...)
		s.named = s.named || y.named[d]
	}
	s.listeners = s.named && s.dir == flow.Egress
	for i, r := range s.rules {
		if r.anyone {
			s.everyone = append(s.everyone, certainHit(i))
			continue
		}
		for _, peer := range r.peers {
			sel := c.selectors.at(peer)
			sel.uses = append(sel.uses, use{id, uint32(i)})
		}
	}
	c.fillSide(s)
	return id
}

// fillSide finds the row of every class.
func (c *Compiler) fillSide(s *side) {
	s.usual = c.row(s, nil, &class{})
	s.rows = make([]uint32, len(c.classes.items), len(c.classes.items)*17/16+16)
	for i := range s.rows {
		s.rows[i] = s.usual
	}
	hits := c.scratch.hits[:0]
	for i, r := range s.rules {
		if r.anyone {
			continue
		}
		for _, peer := range r.peers {
			for _, id := range c.selectors.at(peer).classes {
				hits = append(hits, uint64(id)<<32|uint64(certainHit(i)))
			}
		}
		if r.byLabels {
			for _, id := range c.unknowns {
				hits = append(hits, uint64(id)<<32|uint64(certainHit(i)+1))
			}
		}
	}
	if s.listeners {
		hits = c.addListeners(hits)
	}
	slices.Sort(hits)
	c.scratch.hits = hits
	c.eachGroup(hits, func(id uint32, own []hit) { s.rows[id] = c.row(s, own, c.classes.at(id)) })
	s.common = c.commonest(s)
	for i, r := range s.rows {
		if r != s.common && c.alive(uint32(i)) {
			s.others++
		}
	}
	s.atFirst = s.others
}

// noHit stands for a class that has to be looked at although no rule may match it.
const noHit = 1<<32 - 1

// addListeners adds the classes whose ports have names, or may have.
func (c *Compiler) addListeners(hits []uint64) []uint64 {
	for i := range c.classes.items {
		if x := &c.classes.items[i]; x.names != 0 || x.unknown {
			hits = append(hits, uint64(i)<<32|noHit)
		}
	}
	return hits
}

// eachGroup splits sorted hits by what is in their upper half; of several of one rule the first counts.
func (c *Compiler) eachGroup(hits []uint64, f func(id uint32, own []hit)) {
	own := c.scratch.own[:0]
	for i, h := range hits {
		x := hit(h)
		if n := len(own); x != noHit && (n == 0 || own[n-1].rule() != x.rule()) {
			own = append(own, x)
		}
		if i+1 == len(hits) || hits[i+1]>>32 != h>>32 {
			f(uint32(h>>32), own)
			own = own[:0]
		}
	}
	c.scratch.own = own
}

func (c *Compiler) alive(id uint32) bool { return id == nobody || c.classes.at(id).refs > 0 }

// commonest returns the row that most classes have; of equals the usual one, then the first.
func (c *Compiler) commonest(s *side) uint32 {
	for len(c.scratch.counts) < len(c.rows.items) {
		c.scratch.counts = append(c.scratch.counts, 0)
	}
	counts := c.scratch.counts
	for i, r := range s.rows {
		if c.alive(uint32(i)) {
			counts[r]++
		}
	}
	best := s.usual
	for _, r := range s.rows {
		if counts[r] > counts[best] {
			best = r
		}
	}
	for _, r := range s.rows {
		counts[r] = 0
	}
	counts[best] = 0
	return best
}

// A cellChange is what a side's row for a class was at the last flush.
type cellChange struct{ side, class, was uint32 }

// updateRows gives the classes with new signatures their rows in the sides that were there before.
func (c *Compiler) updateRows() {
	if len(c.pending.changed) == 0 {
		return
	}
	for i := range c.sides.items {
		s := &c.sides.items[i]
		if n := len(c.classes.items); len(s.subjects) > 0 && n > cap(s.rows) {
			s.rows = append(make([]uint32, 0, n*17/16+16), s.rows...) // less room than append leaves: there are many
		}
		for len(s.subjects) > 0 && len(s.rows) < len(c.classes.items) {
			s.rows = append(s.rows, s.usual)
		}
	}
	for _, id := range c.pending.changed {
		c.updateRowsOf(id)
	}
	c.chooseAgain()
}

func (c *Compiler) updateRowsOf(id uint32) {
	x := c.classes.at(id)
	if x.kept {
		c.updateSome(id, x)
		return
	}
	hits := c.scratch.hits[:0]
	for _, sel := range x.sels {
		for _, u := range c.selectors.at(sel).uses {
			hits = append(hits, uint64(u.side)<<32|uint64(certainHit(int(u.rule))))
		}
	}
	if x.unknown || x.names != 0 {
		for i := range c.sides.items {
			hits = c.addSpecial(hits, uint32(i), x)
		}
	}
	slices.Sort(hits)
	c.scratch.hits = hits
	done := 1 // sides before this one have the row
	fresh := !c.wasThere(id)
	rest := func(end int) {
		for ; done < end; done++ {
			c.setRow(uint32(done), id, c.sides.items[done].usual, fresh)
		}
	}
	c.eachGroup(hits, func(s uint32, own []hit) {
		rest(int(s))
		if y := c.sides.at(s); len(y.subjects) > 0 && y.built != c.round {
			c.setRow(s, id, c.row(y, own, x), fresh)
		}
		done = int(s) + 1
	})
	rest(len(c.sides.items))
}

// updateSome updates the rows of a class that had them before, in the sides that ask for a selector that makes a
// difference. Mostly these are new, and have its row.
func (c *Compiler) updateSome(id uint32, x *class) {
	sides := c.scratch.some[:0]
	for _, sel := range x.delta {
		for _, u := range c.selectors.at(sel).uses {
			if s := c.sides.at(u.side); len(s.subjects) > 0 && s.built != c.round {
				sides = append(sides, u.side)
			}
		}
	}
	slices.Sort(sides)
	sides = slices.Compact(sides)
	c.scratch.some = sides
	for _, side := range sides {
		s := c.sides.at(side)
		hits := c.scratch.hits[:0]
		for i, r := range s.rules {
			matches := func(peer uint32) bool { _, ok := slices.BinarySearch(x.sels, peer); return ok }
			if !r.anyone && slices.ContainsFunc(r.peers, matches) {
				hits = append(hits, uint64(certainHit(i)))
			}
		}
		if x.unknown || x.names != 0 {
			for _, h := range c.addSpecial(nil, side, x) {
				hits = append(hits, h&(1<<32-1))
			}
		}
		slices.Sort(hits)
		c.scratch.hits = hits
		row := s.usual
		c.eachGroup(hits, func(_ uint32, own []hit) { row = c.row(s, own, x) })
		c.setRow(side, id, row, false)
	}
}

// addSpecial adds the hits of a side on a class that is unknown or has names for ports.
func (c *Compiler) addSpecial(hits []uint64, side uint32, x *class) []uint64 {
	s := c.sides.at(side)
	if s.listeners {
		hits = append(hits, uint64(side)<<32|noHit)
	}
	for i, r := range s.rules {
		if x.unknown && r.byLabels && !r.anyone {
			hits = append(hits, uint64(side)<<32|uint64(certainHit(i)+1))
		}
	}
	return hits
}

func (c *Compiler) setRow(id, class, row uint32, fresh bool) {
	s := c.sides.at(id)
	if len(s.subjects) == 0 || s.built == c.round {
		return
	}
	was := s.rows[class]
	if was == row && !fresh {
		return
	}
	if !fresh {
		c.pending.cells = append(c.pending.cells, cellChange{id, class, was})
		if was != s.common {
			s.others--
		}
	}
	s.rows[class] = row
	if row != s.common {
		s.others++
	}
}

// wasThere reports whether a class was there at the last flush.
func (c *Compiler) wasThere(id uint32) bool {
	x := c.classes.at(id)
	return id == nobody || x.touched == c.round && x.wasThere || x.touched != c.round && x.refs > 0
}

// chooseAgain makes sides anew whose default has become a bad one. There is some room until then, so that a side
// does not go back and forth.
func (c *Compiler) chooseAgain() {
	again := false
	for i := range c.sides.items {
		s := &c.sides.items[i]
		if len(s.subjects) == 0 || s.built == c.round || s.others <= 2*s.atFirst+64 && len(s.memo) <= 4*len(s.rows)+64 {
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
func (c *Compiler) sweepSides() {
	for _, id := range c.scratch.left {
		s := c.sides.at(id)
		if len(s.subjects) > 0 || s.memo == nil {
			continue
		}
		if c.sideIndex[s.key] == id {
			delete(c.sideIndex, s.key)
		}
		for _, r := range s.rules {
			for _, peer := range r.peers {
				sel := c.selectors.at(peer)
				sel.uses = slices.DeleteFunc(sel.uses, func(u use) bool { return u.side == id })
			}
		}
		for _, row := range s.memo {
			c.dropRow(row)
		}
		s.memo = nil
		c.sides.drop(id)
	}
	c.scratch.left = c.scratch.left[:0]
}
