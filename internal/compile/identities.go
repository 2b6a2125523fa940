package compile

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/classes"
)

// A resigning is an atom or region whose signature is to be made anew.
type resigning struct {
	set    uint32 // 0: it is a region
	region uint32
	old    uint32 // class
	hosts  int32
}

// resignings collects what was touched; label sets and atoms without hosts go.
func (c *Compiler) resignings() []resigning {
	work := c.scratch.work[:0]
	for _, id := range c.pending.sets {
		s := c.sets.At(id)
		kept := s.atoms[:0]
		for _, a := range s.atoms {
			if a.hosts == 0 {
				if a.identity != classes.Unassigned {
					c.classes.Leave(a.identity)
				}
				continue
			}
			kept = append(kept, a)
			if s.resign || a.identity == classes.Unassigned {
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
				c.classes.Leave(x.identity)
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

// updateClasses gives everything that was touched its class.
func (c *Compiler) updateClasses() {
	work := c.resignings()
	if len(work) == 0 {
		return
	}
	moves := c.scratch.moves[:0]
	for _, w := range work {
		moves = append(moves, classes.Move{Old: w.old, Hosts: w.hosts})
	}
	c.scratch.moves = moves
	c.classes.Regroup(moves, func(i int) ([]uint32, uint32, bool) { return c.selsOf(&work[i]) })
	for i, w := range work {
		c.assign(w, moves[i].New)
	}
}

// assign makes an atom or region a member of a class.
func (c *Compiler) assign(w resigning, id uint32) {
	if w.set == 0 {
		c.regions.At(w.region).identity = id
		return
	}
	s := c.sets.At(w.set)
	a := s.atom(w.region)
	if w.old == id {
		return
	}
	if w.old != classes.Unassigned {
		c.each(s, w.region, c.touchHost)
	}
	if a.locals > 0 {
		if w.old != classes.Unassigned {
			c.classes.CountLocals(w.old, -a.locals)
		}
		c.classes.CountLocals(id, a.locals)
	}
	a.identity = id
}

// members returns the addresses and prefixes that change, what is inside another one before it.
func (c *Compiler) members() []classes.Member {
	members := slices.Grow(c.scratch.members[:0], len(c.pending.hosts)+len(c.pending.regions))
	for _, t := range c.pending.hosts {
		x := c.hosts.At(t.host)
		m := classes.Member{Host: true, Prefix: netip.PrefixFrom(x.addr, x.addr.BitLen()), From: t.identity, To: c.identityOf(x),
			Was: t.explicit, Judged: t.local, Judges: x.local}
		m.Is = m.To != c.identityAround(x)
		if x.local {
			m.WasAt, m.At = c.attached[t.host], c.attachmentOf(t.host)
		}
		if m.From != m.To || m.Was != m.Is || m.Judged != m.Judges || m.At != m.WasAt {
			members = append(members, m)
		}
	}
	regions := len(members)
	for _, t := range c.pending.regions {
		x := c.regions.At(t.region)
		if t.prefix.IsSingleIP() && c.hostAt(t.prefix.Addr()) != 0 {
			continue
		}
		m := classes.Member{Prefix: t.prefix, From: t.identity, Was: !t.isNew && t.identity != t.around}
		if x.prefix.IsValid() {
			m.To = x.identity
			m.Is = m.To != c.regions.At(x.parent).identity
		} else {
			m.To = c.regions.At(c.around(t.prefix)).identity
		}
		if (m.From != m.To || m.Was != m.Is) && (x.prefix.IsValid() || !t.isNew) {
			members = append(members, m)
		}
	}
	// What is inside is set before what is around it, and deleted after it: so it never falls to the wrong identity.
	slices.SortStableFunc(members[regions:], func(a, b classes.Member) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	c.scratch.members = members
	return members
}
