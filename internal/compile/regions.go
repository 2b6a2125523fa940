package compile

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/pool"
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
		c.regions.At(c.edge(r)).ranges++
	}
	for _, r := range c.ranges {
		c.regions.At(c.edge(r)).ranges--
	}
	c.ranges = now
}

func (c *Compiler) addBlock(id uint32, b *policy.Peer) {
	r := c.regions.At(c.edge(b.Block))
	r.start = append(r.start, id)
	for _, e := range b.Except {
		r := c.regions.At(c.edge(e))
		r.except = append(r.except, id)
	}
}

func (c *Compiler) removeBlock(id uint32, b *policy.Peer) {
	r := c.regions.At(c.edge(b.Block))
	r.start = pool.Without(r.start, id)
	for _, e := range b.Except {
		r := c.regions.At(c.edge(e))
		r.except = pool.Without(r.except, id)
	}
}

// edge returns the region of a prefix, which is about to change.
func (c *Compiler) edge(p netip.Prefix) uint32 {
	c.pending.edges = append(c.pending.edges, p)
	id, ok := c.regionIndex[p]
	if ok {
		return id
	}
	parent := c.around(p)
	id = c.regions.Take()
	*c.regions.At(id) = region{prefix: p, parent: parent, identity: c.regions.At(parent).identity}
	c.regionIndex[p] = id
	c.countLength(p, 1)
	// What is around it has this identity by now: if it changes later in this round, so does this one.
	c.pending.regions = append(c.pending.regions, touchedRegion{region: id, prefix: p, identity: c.regions.At(id).identity, isNew: true})
	c.regions.At(id).touched = true
	c.classes.Join(c.regions.At(id).identity)
	for i := range c.regions.Items {
		x := &c.regions.Items[i]
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
	if x := c.areas[areaKeyOf(a)]; c.wideRegions[family(a)] == 0 && (x == nil || x.regions == 0) {
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
	f, used := family(p.Addr()), &c.lengths.v4
	if f == 1 {
		used = &c.lengths.v6
	}
	if p.Bits() < areaBits[f] {
		c.wideRegions[f] += by
	} else {
		c.areaOf(p.Addr()).regions += int32(by)
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
	for h := range c.hosts.Items {
		x := &c.hosts.Items[h]
		if x.region != from || !x.addr.IsValid() || !p.Contains(x.addr) {
			continue
		}
		c.touchHost(uint32(h))
		c.leaveSet(uint32(h))
		x.region = to
		c.joinSet(uint32(h))
	}
}

// An area is a wide prefix, for which is known how much is in it.
type area struct {
	hosts   int32
	regions int32 // that are no larger
}

// areaKey is the address of an area without its last bits, and its family.
type areaKey uint64

// areaBits are the lengths of areas, of IPv4 and IPv6.
var areaBits = [2]int{16, 48}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func areaKeyOf(a netip.Addr) areaKey {
	if a.Is4() {
		b := a.As4()
		return areaKey(binary.BigEndian.Uint16(b[:2]))
	}
	b := a.As16()
	return areaKey(binary.BigEndian.Uint64(b[:8])>>16 | 1<<63)
}

// areaOf returns the area of an address. Areas are few, and kept.
func (c *Compiler) areaOf(a netip.Addr) *area {
	key := areaKeyOf(a)
	x := c.areas[key]
	if x == nil {
		x = &area{}
		c.areas[key] = x
	}
	return x
}

// addr returns the first address of an area.
func (k areaKey) addr() netip.Addr {
	if k>>63 == 0 {
		return netip.AddrFrom4([4]byte{byte(k >> 8), byte(k)})
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(k)<<16)
	return netip.AddrFrom16(b)
}

// anyHost reports whether a host may be in p.
func (c *Compiler) anyHost(p netip.Prefix) bool {
	if areaBits[family(p.Addr())] <= p.Bits() {
		x := c.areas[areaKeyOf(p.Addr())]
		return x != nil && x.hosts > 0
	}
	for key, x := range c.areas {
		if x.hosts > 0 && p.Contains(key.addr()) {
			return true
		}
	}
	return false
}

func (c *Compiler) touchRegion(id uint32) {
	if x := c.regions.At(id); !x.touched {
		x.touched = true
		c.pending.regions = append(c.pending.regions, touchedRegion{region: id, prefix: x.prefix, identity: x.identity,
			around: c.regions.At(x.parent).identity})
	}
}

// touchRegions touches those that changed and those inside them, which have another one around them when it gets
// another identity; all of them where policies begin or cease to ask for labels.
func (c *Compiler) touchRegions(all bool) {
	for i := range c.regions.Items {
		x := &c.regions.Items[i]
		if !x.prefix.IsValid() || !all && !c.inEdges(x.prefix) {
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

func (c *Compiler) inEdges(p netip.Prefix) bool {
	return slices.ContainsFunc(c.pending.edges, func(e netip.Prefix) bool { return e.Bits() <= p.Bits() && e.Contains(p.Addr()) })
}

// updateRegions forgets regions that nothing needs and finds the blocks that the others are in.
func (c *Compiler) updateRegions() {
	special := c.special()
	all := special != c.wasSpecial
	if len(c.pending.edges) == 0 && !all {
		return
	}
	slices.SortFunc(c.pending.edges, netip.Prefix.Compare)
	c.pending.edges = slices.Compact(c.pending.edges)
	c.touchRegions(all)
	for i := range c.regions.Items {
		if x := &c.regions.Items[i]; x.prefix.IsValid() && len(x.start)+len(x.except)+x.ranges == 0 {
			c.dropRegion(uint32(i))
		}
	}
	for _, t := range c.pending.regions {
		x := c.regions.At(t.region)
		if !x.prefix.IsValid() {
			continue
		}
		blocks, inRange := c.blocksAt(x.prefix)
		if slices.Equal(blocks, x.blocks) && inRange == x.unknown && (special == c.wasSpecial || !inRange) {
			continue
		}
		x.blocks, x.unknown = blocks, inRange
		c.resignRegion(t.region)
	}
	c.wasSpecial = special
}

func (c *Compiler) dropRegion(id uint32) {
	c.touchRegion(id)
	r := *c.regions.At(id)
	delete(c.regionIndex, r.prefix)
	c.countLength(r.prefix, -1)
	for i := range c.regions.Items {
		if x := &c.regions.Items[i]; x.parent == id && x.prefix.IsValid() {
			c.touchRegion(uint32(i))
			x.parent = r.parent
		}
	}
	c.moveHosts(r.prefix, id, r.parent)
	c.regions.At(id).prefix = netip.Prefix{}
	c.regions.Drop(id)
}

// resignRegion has the hosts in a region looked at again.
func (c *Compiler) resignRegion(id uint32) {
	if !c.anyHost(c.regions.At(id).prefix) {
		return
	}
	for i := range c.sets.Items {
		if s := &c.sets.Items[i]; s.atom(id) != nil {
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
		x := c.regions.At(c.regionIndex[q])
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
