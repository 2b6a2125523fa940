// Package classes keeps what a compiled cluster is: classes of addresses of which policies can tell the same, which are
// the identities of a ruleset; sides, which are all rules that speak for some of them in one direction; and the row that
// each side gives each class. From what was touched it works out the difference to before, as a Delta that is safe at
// every point.
//
//   - class: label sets and regions that the same selectors match are one class.
//   - sides: the row that a side gives each class.
//   - plan, subjects, tighten: the difference, in an order that is safe at every point.
//
// What selectors are and what they match is its caller's business: here they are numbers.
package classes

import (
	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/compile/rows"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Nobody is the class of which no policy can tell anything. It is always there.
const Nobody = 0

// Unassigned is no class.
const Unassigned = ^uint32(0)

// Classes are those of one compiler. Make them with New.
type Classes struct {
	// Generation is that of the ruleset of the last Flush.
	Generation uint64
	// SideOf returns the side of subjects that selectors match, made with Side, in the direction with an index in
	// flow.Directions; 0 if no policy has an effect. Names is the number of what they call their ports.
	SideOf func(sels []uint32, names uint32, d int) uint32

	round     uint32 // counts flushes: what is marked with it was touched since the last one
	rows      *rows.Rows
	classes   pool.Pool[class]
	index     map[string]uint32 // by signature
	unknowns  []uint32          // classes of unknown pods
	selectors []selector
	sides     pool.Pool[side]
	sideIndex map[string]uint32
	moves     map[[2]uint32]bool // whether an address loses something by going from one class to another
	pending   pending
	scratch   scratch
}

// A selector is what is known here of one: the classes that it matches, and the rules that ask for it.
type selector struct {
	classes []uint32
	uses    []use
}

// use is a side's rule.
type use struct{ side, rule uint32 }

// pending is what has been touched since the last flush.
type pending struct {
	classes  []uint32 // with what they were in class.old
	subjects []uint32 // classes whose sides have to be looked up again
	changed  []uint32 // classes with a new signature
	built    []uint32 // sides
	cells    []cellChange
}

// scratch is memory that is used again and again.
type scratch struct {
	key         []byte
	left, some  []uint32
	hits        []uint64
	own, merged []rows.Hit
	cells       []cell
	trails      trails
	plan        plan
}

// New returns the one class that is always there. Rows are where its rows are kept.
func New(r *rows.Rows) *Classes {
	c := &Classes{round: 1, rows: r, classes: pool.New[class](), index: map[string]uint32{}, sides: pool.New[side](),
		sideIndex: map[string]uint32{}, moves: map[[2]uint32]bool{}}
	c.index[string(c.signature(nil, 0, false))] = Nobody
	c.classes.At(Nobody).refs = 1 // of the region that is everything
	return c
}

// selector returns the selector with a number.
func (c *Classes) selector(id uint32) *selector {
	for int(id) >= len(c.selectors) {
		c.selectors = append(c.selectors, selector{})
	}
	return &c.selectors[id]
}

// Join counts a member of a class in.
func (c *Classes) Join(id uint32) {
	c.touchClass(id)
	c.classes.At(id).refs++
}

// Leave counts a member of a class out. A class without members goes with the next Flush.
func (c *Classes) Leave(id uint32) {
	c.touchClass(id)
	c.classes.At(id).refs--
}

// CountLocals counts members that are judged in or out.
func (c *Classes) CountLocals(id uint32, by int32) {
	c.touchClass(id)
	x := c.classes.At(id)
	was := x.locals
	if x.locals += by; was == 0 || x.locals == 0 {
		c.touchSubject(id)
	}
}

// TouchSubjects has the sides of the classes that a selector matches looked up again. A class that comes only now is
// looked up anyway.
func (c *Classes) TouchSubjects(sel uint32) {
	for _, id := range c.selector(sel).classes {
		c.touchSubject(id)
	}
}

// Flush finds the rows of what was touched, and returns the difference from the last Flush. Members are the addresses
// and prefixes that change; first says that nobody was judged before.
func (c *Classes) Flush(members []Member, first bool) ruleset.Delta {
	c.updateSubjects()
	c.updateRows()
	d := c.makePlan(members, first)
	c.sweep()
	return d
}

// sweep forgets what is not needed any more, and begins a new round.
func (c *Classes) sweep() {
	c.sweepClasses()
	c.sweepSides()
	p := &c.pending
	for _, id := range p.changed {
		c.classes.At(id).was = nil
	}
	for _, id := range p.built {
		c.sides.At(id).fresh = nil
	}
	p.classes, p.subjects, p.changed, p.cells, p.built = p.classes[:0], p.subjects[:0], p.changed[:0], p.cells[:0], p.built[:0]
	c.classes.Settle()
	c.sides.Settle()
	c.rows.Settle()
	c.round++
	const large = 1 << 12 // memory that only a very large change needs, as the first one is
	if cap(c.scratch.plan.early) > large {
		c.pending, c.scratch = pending{}, scratch{}
	}
}

// Row returns the row of a subject and a peer in a direction, and whether a policy speaks for the subject at all.
func (c *Classes) Row(subject, peer uint32, d int) (row *rows.Row, judged bool) {
	side := c.classes.At(subject).sides[d]
	if side == 0 {
		return nil, false
	}
	return c.rows.At(c.rowIn(c.classes.At(peer).cells, side)), true
}

// AddTo adds defaults, pairs, rows and rules to a ruleset.
func (c *Classes) AddTo(r *ruleset.Ruleset) {
	for i := range c.sides.Items {
		for _, subject := range c.sides.Items[i].subjects {
			c.addSide(r, &c.sides.Items[i], subject)
		}
	}
	for i := range c.classes.Items {
		if c.alive(uint32(i)) {
			c.addPeer(r, uint32(i))
		}
	}
	for x := range c.rows.All {
		r.Rows[x.ID] = x.Value
		c.rows.EachRule(&x.Value, func(o *rows.Origin) { r.Rules[o.ID] = o.Rule })
	}
}

func (c *Classes) addSide(r *ruleset.Ruleset, s *side, subject uint32) {
	key := ruleset.Subject{Direction: s.dir, Identity: ruleset.Identity(subject)}
	r.Defaults[key] = c.rows.At(s.common).ID
	if s.even() {
		return
	}
	for peer := range c.classes.Items { // those that are listed have another row set later
		if c.alive(uint32(peer)) {
			r.Pairs[ruleset.Pair{Subject: key, Peer: ruleset.Identity(peer)}] = c.rows.At(s.usual).ID
		}
	}
}

// addPeer adds the pairs of all subjects with an identity.
func (c *Classes) addPeer(r *ruleset.Ruleset, id uint32) {
	for _, y := range c.classes.At(id).cells {
		s := c.sides.At(y.side)
		for _, subject := range s.subjects {
			key := ruleset.Pair{Subject: ruleset.Subject{Direction: s.dir, Identity: ruleset.Identity(subject)}, Peer: ruleset.Identity(id)}
			if y.row == s.common {
				delete(r.Pairs, key)
			} else {
				r.Pairs[key] = c.rows.At(y.row).ID
			}
		}
	}
}
