package compile

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/policy"
)

// A region is a prefix at whose edges the answer of a block changes, without the longer such prefixes inside: all
// its addresses get the same answer from every block. Region 0 is all the rest, without a prefix.
type region struct {
	prefix   netip.Prefix
	start    []uint32 // blocks that are this prefix
	except   []uint32 // blocks that have it as an exception
	ranges   int      // pods get their addresses from it
	blocks   []uint32 // that its addresses are in
	unknown  bool     // nobody knows the pods that its addresses belong to
	identity uint32   // of its addresses that no host has
	parent   uint32   // the next smallest around it
	touched  bool
}

// touchedRegion is a region as it was at the last flush.
type touchedRegion struct {
	region   uint32
	prefix   netip.Prefix
	identity uint32
	around   uint32 // the identity around it
	isNew    bool
}

// SetPodRanges says which prefixes pods get their addresses from. An address in one of them that belongs to nobody is
// an unknown pod's.
func (c *Compiler) SetPodRanges(ranges []netip.Prefix) {
	var now []netip.Prefix
	for _, r := range ranges {
		if r.IsValid() && !r.Addr().Is4In6() { // the others contain no address
			now = append(now, r.Masked())
		}
	}
	slices.SortFunc(now, netip.Prefix.Compare)
	now = slices.Compact(now)
	if slices.Equal(now, c.ranges) {
		return
	}
	for _, r := range now {
		c.regions.at(c.edge(r)).ranges++
	}
	for _, r := range c.ranges {
		c.regions.at(c.edge(r)).ranges--
	}
	c.ranges = now
}

func (c *Compiler) addBlock(id uint32, b *policy.Peer) {
	r := c.regions.at(c.edge(b.Block))
	r.start = append(r.start, id)
	for _, e := range b.Except {
		r := c.regions.at(c.edge(e))
		r.except = append(r.except, id)
	}
}

func (c *Compiler) removeBlock(id uint32, b *policy.Peer) {
	r := c.regions.at(c.edge(b.Block))
	r.start = without(r.start, id)
	for _, e := range b.Except {
		r := c.regions.at(c.edge(e))
		r.except = without(r.except, id)
	}
}

// edge returns the region of a prefix, which is about to change.
func (c *Compiler) edge(p netip.Prefix) uint32 {
	c.pending.edges = true
	id, ok := c.regionIndex[p]
	if ok {
		return id
	}
	parent := c.around(p)
	id = c.regions.take()
	*c.regions.at(id) = region{prefix: p, parent: parent, identity: c.regions.at(parent).identity}
	c.regionIndex[p] = id
	c.countLength(p, 1)
	// What is around it has this identity by now: if it changes later in this round, so does this one.
	c.pending.regions = append(c.pending.regions, touchedRegion{region: id, prefix: p, identity: c.regions.at(id).identity, isNew: true})
	c.regions.at(id).touched = true
	c.classes.at(c.regions.at(id).identity).refs++
	for i := range c.regions.items {
		x := &c.regions.items[i]
		if uint32(i) != id && x.parent == parent && x.prefix.IsValid() && p.Bits() <= x.prefix.Bits() && p.Contains(x.prefix.Addr()) {
			c.touchRegion(uint32(i))
			x.parent = id
		}
	}
	c.moveHosts(p, parent, id)
	return id
}

// around returns the smallest region around p that is not p itself.
func (c *Compiler) around(p netip.Prefix) uint32 {
	for q := range c.lengths.around(p) {
		if id, ok := c.regionIndex[q]; ok && q != p {
			return id
		}
	}
	return 0
}

// regionOf returns the smallest region that an address is in.
func (c *Compiler) regionOf(a netip.Addr) uint32 {
	if len(c.regionIndex) == 0 {
		return 0
	}
	for q := range c.lengths.around(netip.PrefixFrom(a, a.BitLen())) {
		if id, ok := c.regionIndex[q]; ok {
			return id
		}
	}
	return 0
}

func (c *Compiler) countLength(p netip.Prefix, by int) {
	f, used := 0, &c.lengths.v4
	if !p.Addr().Is4() {
		f, used = 1, &c.lengths.v6
	}
	c.lengthCount[f][p.Bits()] += by
	used[p.Bits()] = c.lengthCount[f][p.Bits()] > 0
}

// moveHosts moves the hosts that are in p from one region to another, which looks at every host; so it looks first
// whether there may be any.
func (c *Compiler) moveHosts(p netip.Prefix, from, to uint32) {
	if !c.anyHost(p) {
		return
	}
	for h := range c.hosts.items {
		x := &c.hosts.items[h]
		if x.region != from || !x.addr.IsValid() || !p.Contains(x.addr) {
			continue
		}
		c.touchHost(uint32(h))
		c.leaveSet(uint32(h))
		x.region = to
		c.joinSet(uint32(h))
	}
}

// wideOf is the prefix under which hosts are counted.
func wideOf(a netip.Addr) netip.Prefix {
	bits := 16
	if a.Is6() {
		bits = 48
	}
	p, _ := a.Prefix(bits)
	return p
}

func (c *Compiler) countWide(a netip.Addr, by int) {
	p := wideOf(a)
	if c.wide[p] += by; c.wide[p] == 0 {
		delete(c.wide, p)
	}
}

// anyHost reports whether a host may be in p.
func (c *Compiler) anyHost(p netip.Prefix) bool {
	if w := wideOf(p.Addr()); w.Bits() <= p.Bits() {
		return c.wide[w] > 0
	}
	for w := range c.wide {
		if p.Contains(w.Addr()) {
			return true
		}
	}
	return false
}

func (c *Compiler) touchRegion(id uint32) {
	if x := c.regions.at(id); !x.touched {
		x.touched = true
		c.pending.regions = append(c.pending.regions, touchedRegion{region: id, prefix: x.prefix, identity: x.identity,
			around: c.regions.at(x.parent).identity})
	}
}

// touchRegions touches all of them: when one gets another identity, those inside have another one around them.
func (c *Compiler) touchRegions() {
	for i := range c.regions.items {
		x := &c.regions.items[i]
		if !x.prefix.IsValid() {
			continue
		}
		c.touchRegion(uint32(i))
		if x.prefix.IsSingleIP() { // the ruleset names its host in its stead
			if h := c.hostAt(x.prefix.Addr()); h != 0 {
				c.touchHost(h)
			}
		}
	}
}

// updateRegions forgets regions that nothing needs and finds the blocks that the others are in.
func (c *Compiler) updateRegions() {
	special := c.special()
	if !c.pending.edges && special == c.wasSpecial {
		return
	}
	c.touchRegions()
	for i := range c.regions.items {
		if x := &c.regions.items[i]; x.prefix.IsValid() && len(x.start)+len(x.except)+x.ranges == 0 {
			c.dropRegion(uint32(i))
		}
	}
	for i := range c.regions.items {
		x := &c.regions.items[i]
		if !x.prefix.IsValid() {
			continue
		}
		blocks, inRange := c.blocksAt(x.prefix)
		if slices.Equal(blocks, x.blocks) && inRange == x.unknown && (special == c.wasSpecial || !inRange) {
			continue
		}
		x.blocks, x.unknown = blocks, inRange
		c.resignRegion(uint32(i))
	}
	c.wasSpecial = special
}

func (c *Compiler) dropRegion(id uint32) {
	c.touchRegion(id)
	r := *c.regions.at(id)
	delete(c.regionIndex, r.prefix)
	c.countLength(r.prefix, -1)
	for i := range c.regions.items {
		if x := &c.regions.items[i]; x.parent == id && x.prefix.IsValid() {
			c.touchRegion(uint32(i))
			x.parent = r.parent
		}
	}
	c.moveHosts(r.prefix, id, r.parent)
	c.regions.at(id).prefix = netip.Prefix{}
	c.regions.drop(id)
}

// resignRegion has the hosts in a region looked at again.
func (c *Compiler) resignRegion(id uint32) {
	if !c.anyHost(c.regions.at(id).prefix) {
		return
	}
	for i := range c.sets.items {
		if s := &c.sets.items[i]; s.atom(id) != nil {
			c.resignSet(uint32(i))
			c.each(s, id, c.touchHost) // where they are the same as their region, the ruleset does not name them
		}
	}
}

// blocksAt returns the blocks that hold the addresses of p which are in no longer prefix, and whether p is in a range
// of pods.
func (c *Compiler) blocksAt(p netip.Prefix) (blocks []uint32, inRange bool) {
	var excepted []uint32
	for q := range c.lengths.around(p) {
		x := c.regions.at(c.regionIndex[q])
		if x.prefix != q {
			continue
		}
		blocks = append(blocks, x.start...)
		excepted = append(excepted, x.except...)
		inRange = inRange || x.ranges > 0
	}
	if len(excepted) > 0 {
		blocks = slices.DeleteFunc(blocks, func(b uint32) bool { return slices.Contains(excepted, b) })
	}
	slices.Sort(blocks)
	return slices.Compact(blocks), inRange
}
