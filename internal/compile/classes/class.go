package classes

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/pool"
)

// A class is all that policies can tell of an address, and its number is the identity of all addresses of which they
// can tell the same. Class Nobody is that of which no policy can tell anything.
type class struct {
	// What is asked for most comes first, as classes are many and asked for one here and one there.
	refs     int32  // atoms and regions
	locals   int32  // hosts that are judged
	touched  uint32 // the round in which it was touched; what it was before is below
	resigned uint32 // the round in which it got its signature
	peer     uint32 // the round in which it was one of plan.peers
	standIn  uint32 // the round in which it was a stand-in, for a plan
	cells    []cell // its rows in the sides that do not give it their usual one, in the order of the sides
	sides    [2]uint32
	subject  uint32 // the round in which its sides were to be looked up again
	names    uint32 // values for the port names that policies use
	unknown  bool   // nobody knows which selectors over labels match
	kept     bool   // it had another signature before, which differs in delta only

	// What it was at the last flush, if it was touched in this round.
	wasThere  bool
	wasLocals int32
	wasSides  [2]uint32

	signature string
	sels      []uint32 // that match, in order
	delta     []uint32 // selectors
	was       []cell   // what cells was at the last flush, if it got its signature in this round
}

// signature makes what is equal for equal classes. The selectors must be in order. It is good until the next call.
func (c *Classes) signature(sels []uint32, names uint32, unknown bool) []byte {
	key := c.scratch.key[:0]
	for _, s := range sels {
		key = binary.AppendUvarint(key, uint64(s))
	}
	key = append(key, 0) // no selector has number 0
	if unknown {
		key = append(key, 1)
	} else {
		key = append(key, 0)
	}
	c.scratch.key = binary.AppendUvarint(key, uint64(names))
	return c.scratch.key
}

func (c *Classes) touchClass(id uint32) {
	x := c.classes.At(id)
	if x.touched != c.round {
		x.touched, x.wasThere, x.wasLocals, x.wasSides = c.round, x.refs > 0, x.locals, x.sides
		c.pending.classes = append(c.pending.classes, id)
	}
}

// touchSubject has the sides of a class looked up again.
func (c *Classes) touchSubject(id uint32) {
	if x := c.classes.At(id); x.subject != c.round {
		x.subject = c.round
		c.touchClass(id)
		c.pending.subjects = append(c.pending.subjects, id)
	}
}

// living is how many classes there are, those that go in this round not among them.
func (c *Classes) living() int {
	n := len(c.index)
	for _, id := range c.pending.classes {
		if x := c.classes.At(id); id != Nobody && x.refs == 0 && x.signature != "" {
			n--
		}
	}
	return n
}

// A Move is a member that gets a class. Regroup sets New.
type Move struct {
	Old, New uint32 // Old may be Unassigned
	Hosts    int32  // how many addresses move with it
	group    uint32 // of those with the same new signature
}

// A resignedGroup is what gets a new class, or one of those that become free.
type resignedGroup struct {
	signature string
	sels      []uint32
	names     uint32
	unknown   bool
	class     uint32
}

// Regroup gives members the classes of what of returns for each: the selectors that match, in order, the number of what
// they call their ports, and whether nobody knows which selectors over labels match. The slice has to be good only until
// the next call.
//
// A class whose members all get other signatures is free: its number goes to the group of new equals that most of its
// hosts are in, so that their addresses stay as they are.
func (c *Classes) Regroup(moves []Move, of func(i int) (sels []uint32, names uint32, unknown bool)) {
	groups := c.group(moves, of)
	for i := range groups {
		if id, ok := c.index[groups[i].signature]; ok {
			groups[i].class = id
		}
	}
	c.inherit(moves, groups)
	for i := range groups {
		if g := &groups[i]; g.class == Unassigned {
			c.newClass(g)
		}
	}
	for i := range moves {
		moves[i].New = groups[moves[i].group].class
		c.Join(moves[i].New)
	}
}

// group finds those with equal signatures, and lets them leave their classes.
func (c *Classes) group(moves []Move, of func(i int) ([]uint32, uint32, bool)) (groups []resignedGroup) {
	byKey := map[string]uint32{}
	for i := range moves {
		m := &moves[i]
		sels, names, unknown := of(i)
		key := c.signature(sels, names, unknown)
		g, ok := byKey[string(key)]
		if !ok {
			g = uint32(len(groups))
			groups = append(groups, resignedGroup{string(key), slices.Clone(sels), names, unknown, Unassigned})
			byKey[groups[g].signature] = g
		}
		m.group = g
		if m.Old != Unassigned {
			c.Leave(m.Old)
		}
	}
	return groups
}

// inherit gives the numbers of classes that became free to groups. Larger parts choose first.
func (c *Classes) inherit(work []Move, groups []resignedGroup) {
	type part struct {
		old, group uint32
		hosts      int32
	}
	var parts []part
	for _, w := range work {
		if w.Old != Unassigned && w.Old != Nobody && c.classes.At(w.Old).refs == 0 && groups[w.group].class == Unassigned {
			parts = append(parts, part{w.Old, w.group, w.Hosts})
		}
	}
	compare := func(a, b part) int { return cmp.Or(cmp.Compare(a.old, b.old), cmp.Compare(a.group, b.group)) }
	slices.SortFunc(parts, compare)
	joined := parts[:0]
	for _, p := range parts {
		if n := len(joined); n > 0 && compare(joined[n-1], p) == 0 {
			joined[n-1].hosts += p.hosts
			continue
		}
		joined = append(joined, p)
	}
	slices.SortStableFunc(joined, func(a, b part) int { return cmp.Compare(b.hosts, a.hosts) })
	taken := map[uint32]bool{}
	for i := range groups { // a group that keeps its signature keeps its class
		if groups[i].class != Unassigned {
			taken[groups[i].class] = true
		}
	}
	for _, p := range joined {
		if g := &groups[p.group]; g.class == Unassigned && !taken[p.old] {
			taken[p.old] = true
			g.class = p.old
			c.resign(p.old, g)
		}
	}
}

func (c *Classes) newClass(g *resignedGroup) {
	g.class = c.classes.Take()
	c.touchClass(g.class)
	c.resign(g.class, g)
}

// resign gives a class another signature. What an old one and the new one have in common is left as it is: of the
// selectors that match a class most stay.
func (c *Classes) resign(id uint32, g *resignedGroup) {
	x := c.classes.At(id)
	if c.index[x.signature] == id {
		delete(c.index, x.signature)
	}
	old := x.sels
	x.kept = x.signature != "" && x.names == g.names && x.unknown == g.unknown
	x.delta = x.delta[:0]
	if x.unknown != g.unknown {
		if c.unknowns = pool.Without(c.unknowns, id); g.unknown {
			c.unknowns = append(c.unknowns, id)
		}
	}
	x.signature, x.sels, x.names, x.unknown, x.resigned = g.signature, g.sels, g.names, g.unknown, c.round
	c.index[g.signature] = id
	for _, s := range old {
		if _, stays := slices.BinarySearch(g.sels, s); !stays {
			sel := c.selector(s)
			sel.classes = pool.Without(sel.classes, id)
			x.delta = append(x.delta, s)
		}
	}
	for _, s := range g.sels {
		if _, was := slices.BinarySearch(old, s); !was {
			sel := c.selector(s)
			sel.classes = append(sel.classes, id)
			x.delta = append(x.delta, s)
		}
	}
	c.pending.changed = append(c.pending.changed, id)
	c.touchSubject(id)
}

// unlist takes a class from where it is found by its signature.
func (c *Classes) unlist(id uint32) {
	x := c.classes.At(id)
	if c.index[x.signature] == id {
		delete(c.index, x.signature)
	}
	for _, s := range x.sels {
		sel := c.selector(s)
		sel.classes = pool.Without(sel.classes, id)
	}
	if x.unknown {
		c.unknowns = pool.Without(c.unknowns, id)
	}
	x.sels, x.unknown = nil, false
}

// sweepClasses forgets classes that nothing is a member of.
func (c *Classes) sweepClasses() {
	for _, id := range c.pending.classes {
		if x := c.classes.At(id); x.refs == 0 && id != Nobody && x.signature != "" {
			c.unlist(id)
			x.signature = ""
			c.countCells(x.cells, -1)
			c.classes.Drop(id)
		}
	}
}
