package compile

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/pool"
)

// A class is all that policies can tell of an address, and its number is the identity of all addresses of which they
// can tell the same. Class nobody is that of which no policy can tell anything.
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

const nobody = 0

// signature makes what is equal for equal classes. The selectors must be in order. It is good until the next call.
func (c *Compiler) signature(sels []uint32, names uint32, unknown bool) []byte {
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

func (c *Compiler) touchClass(id uint32) {
	x := c.classes.At(id)
	if x.touched != c.round {
		x.touched, x.wasThere, x.wasLocals, x.wasSides = c.round, x.refs > 0, x.locals, x.sides
		c.pending.classes = append(c.pending.classes, id)
	}
}

// touchSubject has the sides of a class looked up again.
func (c *Compiler) touchSubject(id uint32) {
	if x := c.classes.At(id); x.subject != c.round {
		x.subject = c.round
		c.touchClass(id)
		c.pending.subjects = append(c.pending.subjects, id)
	}
}

func (c *Compiler) countLocals(id uint32, by int32) {
	c.touchClass(id)
	x := c.classes.At(id)
	was := x.locals
	if x.locals += by; was == 0 || x.locals == 0 {
		c.touchSubject(id)
	}
}

// A resigning is an atom or region whose signature is to be made anew.
type resigning struct {
	set    uint32 // 0: it is a region
	region uint32
	old    uint32 // class
	hosts  int32
	group  uint32 // of those with the same new signature
}

// A resignedGroup is what gets a new class, or one of those that become free.
type resignedGroup struct {
	signature string
	sels      []uint32
	names     uint32
	unknown   bool
	class     uint32
}

// updateClasses gives everything that was touched its class.
//
// A class whose members all get other signatures is free: its number goes to the group of new equals that most of its
// hosts are in, so that their addresses stay as they are.
func (c *Compiler) updateClasses() {
	work := c.resignings()
	if len(work) == 0 {
		return
	}
	var groups []resignedGroup
	byKey := map[string]uint32{}
	for i := range work {
		w := &work[i]
		sels, names, unknown := c.selsOf(w)
		key := c.signature(sels, names, unknown)
		g, ok := byKey[string(key)]
		if !ok {
			g = uint32(len(groups))
			groups = append(groups, resignedGroup{string(key), slices.Clone(sels), names, unknown, unassigned})
			byKey[groups[g].signature] = g
		}
		w.group = g
		if w.old != unassigned {
			c.touchClass(w.old)
			c.classes.At(w.old).refs--
		}
	}
	for i := range groups {
		if id, ok := c.classIndex[groups[i].signature]; ok {
			groups[i].class = id
		}
	}
	c.inherit(work, groups)
	for i := range groups {
		if g := &groups[i]; g.class == unassigned {
			c.newClass(g)
		}
	}
	for _, w := range work {
		c.assign(w, groups[w.group].class)
	}
}

// living is how many classes there are, those that go in this round not among them.
func (c *Compiler) living() int {
	n := len(c.classIndex)
	for _, id := range c.pending.classes {
		if x := c.classes.At(id); id != nobody && x.refs == 0 && x.signature != "" {
			n--
		}
	}
	return n
}

// resignings collects what was touched; label sets and atoms without hosts go.
func (c *Compiler) resignings() []resigning {
	work := c.scratch.work[:0]
	for _, id := range c.pending.sets {
		s := c.sets.At(id)
		kept := s.atoms[:0]
		for _, a := range s.atoms {
			if a.hosts == 0 {
				if a.identity != unassigned {
					c.touchClass(a.identity)
					c.classes.At(a.identity).refs--
				}
				continue
			}
			kept = append(kept, a)
			if s.resign || a.identity == unassigned {
				work = append(work, resigning{set: id, region: a.region, old: a.identity, hosts: a.hosts})
			}
		}
		s.atoms = kept
		s.resign, s.touched = false, false
		if s.hosts == 0 {
			c.dropSet(id)
		}
	}
	for _, t := range c.pending.regions {
		x := c.regions.At(t.region)
		if !x.prefix.IsValid() {
			if x.touched { // it was dropped
				x.touched = false
				c.touchClass(x.identity)
				c.classes.At(x.identity).refs--
			}
			continue
		}
		work = append(work, resigning{region: t.region, old: x.identity})
	}
	c.scratch.work = work
	return work
}

// selsOf returns what the signature of w is made of; the slice is good until the next call.
func (c *Compiler) selsOf(w *resigning) (sels []uint32, names uint32, unknown bool) {
	r := c.regions.At(w.region)
	sels = c.scratch.sels[:0]
	if w.set != 0 {
		s := c.sets.At(w.set)
		sels = append(sels, s.sels...)
		s.names = c.rows.Ports.Named(s.key.ports)
		names = s.names
	} else {
		// Where no policy asks for labels or names, an unknown pod is nobody special.
		unknown = r.unknown && c.special()
	}
	sels = append(sels, r.blocks...)
	slices.Sort(sels)
	c.scratch.sels = sels
	return sels, names, unknown
}

func (c *Compiler) special() bool { return c.podSelectors > 0 || len(c.rows.Ports.Used) > 0 }

// inherit gives the numbers of classes that became free to groups. Larger parts choose first.
func (c *Compiler) inherit(work []resigning, groups []resignedGroup) {
	type part struct {
		old, group uint32
		hosts      int32
	}
	var parts []part
	for _, w := range work {
		if w.old != unassigned && w.old != nobody && c.classes.At(w.old).refs == 0 && groups[w.group].class == unassigned {
			parts = append(parts, part{w.old, w.group, w.hosts})
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
		if groups[i].class != unassigned {
			taken[groups[i].class] = true
		}
	}
	for _, p := range joined {
		if g := &groups[p.group]; g.class == unassigned && !taken[p.old] {
			taken[p.old] = true
			g.class = p.old
			c.resign(p.old, g)
		}
	}
}

func (c *Compiler) newClass(g *resignedGroup) {
	g.class = c.classes.Take()
	c.touchClass(g.class)
	c.resign(g.class, g)
}

// resign gives a class another signature. What an old one and the new one have in common is left as it is: of the
// selectors that match a class most stay.
func (c *Compiler) resign(id uint32, g *resignedGroup) {
	x := c.classes.At(id)
	if c.classIndex[x.signature] == id {
		delete(c.classIndex, x.signature)
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
	c.classIndex[g.signature] = id
	for _, s := range old {
		if _, stays := slices.BinarySearch(g.sels, s); !stays {
			sel := c.selectors.At(s)
			sel.classes = pool.Without(sel.classes, id)
			x.delta = append(x.delta, s)
		}
	}
	for _, s := range g.sels {
		if _, was := slices.BinarySearch(old, s); !was {
			sel := c.selectors.At(s)
			sel.classes = append(sel.classes, id)
			x.delta = append(x.delta, s)
		}
	}
	c.pending.changed = append(c.pending.changed, id)
	c.touchSubject(id)
}

// unlist takes a class from where it is found by its signature.
func (c *Compiler) unlist(id uint32) {
	x := c.classes.At(id)
	if c.classIndex[x.signature] == id {
		delete(c.classIndex, x.signature)
	}
	for _, s := range x.sels {
		sel := c.selectors.At(s)
		sel.classes = pool.Without(sel.classes, id)
	}
	if x.unknown {
		c.unknowns = pool.Without(c.unknowns, id)
	}
	x.sels, x.unknown = nil, false
}

// assign makes an atom or region a member of a class.
func (c *Compiler) assign(w resigning, id uint32) {
	c.touchClass(id)
	c.classes.At(id).refs++
	if w.set == 0 {
		c.regions.At(w.region).identity = id
		return
	}
	s := c.sets.At(w.set)
	a := s.atom(w.region)
	if w.old == id {
		return
	}
	if w.old != unassigned {
		c.each(s, w.region, c.touchHost)
	}
	if a.locals > 0 {
		if w.old != unassigned {
			c.countLocals(w.old, -a.locals)
		}
		c.countLocals(id, a.locals)
	}
	a.identity = id
}

// sweepClasses forgets classes that nothing is a member of.
func (c *Compiler) sweepClasses() {
	for _, id := range c.pending.classes {
		if x := c.classes.At(id); x.refs == 0 && id != nobody && x.signature != "" {
			c.unlist(id)
			x.signature = ""
			c.countCells(x.cells, -1)
			c.classes.Drop(id)
		}
	}
}
