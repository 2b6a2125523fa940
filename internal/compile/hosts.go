package compile

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile/classes"
	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

type pod struct{ endpoint *cluster.Endpoint }

type node struct {
	node cluster.Node
}

// An owner is a pod or a node that has an address: a number, and a bit that says of which kind.
type owner uint32

const ofNode owner = 1 << 31

// A host is an address that somebody has.
type host struct {
	addr       netip.Addr
	first      owner  // the first of those who say that it is theirs; the others are in Compiler.rivals
	set        uint32 // the label set of the one who has it; 0 for nobody
	region     uint32 // the smallest that it is in
	next, prev uint32 // in the set
	local      bool   // of a pod that is judged
	touched    bool   // since the last flush
}

// touchedHost is a host as it was at the last flush.
type touchedHost struct {
	host     uint32
	identity uint32
	local    bool
	explicit bool // its identity was not that of its region
}

// SetPod adds a pod or replaces it by a changed one; at says where it is plugged in.
func (c *Compiler) SetPod(e *cluster.Endpoint, at ruleset.Attachment) {
	hash := c.hashKey(e.Key)
	id := c.podNumber(hash, e.Key)
	var old *cluster.Endpoint
	if id == 0 {
		id = c.pods.Take()
		c.podIndex.Insert(hash, id)
	} else if old = c.pods.At(id).endpoint; old == e && c.attachments[id] == at {
		return
	}
	c.pods.At(id).endpoint = e
	if at != (ruleset.Attachment{}) {
		c.attachments[id] = at
	} else if len(c.attachments) > 0 {
		delete(c.attachments, id)
	}
	now := addressesOf(e)
	if old != nil {
		for _, a := range addressesOf(old) {
			if !slices.Contains(now, a) {
				c.disown(a, owner(id))
			}
		}
	}
	for _, a := range now {
		c.own(a, owner(id))
	}
}

// DeletePod removes a pod; one that is not there is no error.
func (c *Compiler) DeletePod(k cluster.Key) {
	hash := c.hashKey(k)
	id := c.podNumber(hash, k)
	if id == 0 {
		return
	}
	for _, a := range addressesOf(c.pods.At(id).endpoint) {
		c.disown(a, owner(id))
	}
	c.podIndex.Remove(hash, id)
	c.pods.At(id).endpoint = nil
	c.pods.Drop(id)
	delete(c.attachments, id)
}

// SetNode adds a node or replaces it by a changed one.
func (c *Compiler) SetNode(n cluster.Node) {
	id, known := c.nodes[n.Name]
	if !known {
		id = c.nodePool.Take()
		c.nodes[n.Name] = id
	}
	old := c.nodePool.At(id).node
	if known && old.Labels == n.Labels && slices.Equal(old.Addresses, n.Addresses) {
		return
	}
	c.nodePool.At(id).node = n
	for _, a := range plain(old.Addresses) {
		if !slices.Contains(n.Addresses, a) {
			c.disown(a, owner(id)|ofNode)
		}
	}
	for _, a := range plain(n.Addresses) {
		c.own(a, owner(id)|ofNode)
	}
}

// DeleteNode removes a node; one that is not there is no error.
func (c *Compiler) DeleteNode(name string) {
	id, known := c.nodes[name]
	if !known {
		return
	}
	for _, a := range plain(c.nodePool.At(id).node.Addresses) {
		c.disown(a, owner(id)|ofNode)
	}
	delete(c.nodes, name)
	c.nodePool.Drop(id)
}

// addressesOf returns the addresses that a pod has to itself.
func addressesOf(e *cluster.Endpoint) []netip.Addr {
	if e.HostNetwork {
		return nil
	}
	return plain(e.Addresses)
}

// plain leaves out what can be no packet's address.
func plain(addrs []netip.Addr) []netip.Addr {
	odd := func(a netip.Addr) bool { return !a.IsValid() || a.Is4In6() || a.Zone() != "" }
	if slices.ContainsFunc(addrs, odd) {
		return slices.DeleteFunc(slices.Clone(addrs), odd)
	}
	return addrs
}

func (c *Compiler) hashKey(k cluster.Key) uint64 {
	return maphash.String(c.seed, k.Name) ^ bits.RotateLeft64(maphash.String(c.seed, k.Namespace), 32)
}

func (c *Compiler) podNumber(hash uint64, k cluster.Key) uint32 {
	return c.podIndex.Find(hash, func(i uint32) bool { return c.pods.At(i).endpoint.Key == k })
}

// hashAddr mixes: addresses are dense, and places next to each other are what an index is quickest with.
func hashAddr(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) * 0x9e3779b97f4a7c15 >> 20
	}
	b := a.As16()
	hi, lo := bits.Mul64(binary.BigEndian.Uint64(b[:8])^0x9e3779b97f4a7c15, binary.BigEndian.Uint64(b[8:])^0xd6e8feb86659fd93)
	return (hi ^ lo) * 0x9e3779b97f4a7c15 >> 20
}

func (c *Compiler) hostAt(a netip.Addr) uint32 {
	return c.hostIndex.Find(hashAddr(a), func(i uint32) bool { return c.hosts.At(i).addr == a })
}

// own notes that o says that a is its own.
func (c *Compiler) own(a netip.Addr, o owner) {
	h := c.hostAt(a)
	if h == 0 {
		h = c.hosts.Take()
		*c.hosts.At(h) = host{addr: a, region: c.regionOf(a)}
		c.hostIndex.Insert(hashAddr(a), h)
		c.areaOf(a).hosts++
	}
	switch x := c.hosts.At(h); {
	case x.first == 0:
		x.first = o
	case x.first != o && !slices.Contains(c.rivals[h], o):
		c.rivals[h] = append(c.rivals[h], o)
	}
	c.settleHost(h)
}

func (c *Compiler) disown(a netip.Addr, o owner) {
	h := c.hostAt(a)
	if h == 0 {
		return
	}
	x, others := c.hosts.At(h), c.rivals[h]
	switch {
	case x.first == o && len(others) > 0:
		x.first, others = others[0], others[1:]
	case x.first == o:
		x.first = 0
	default:
		others = pool.Without(others, o)
	}
	if len(others) > 0 {
		c.rivals[h] = others
	} else {
		delete(c.rivals, h)
	}
	c.settleHost(h)
}

// winner is who has an address: the newest pod, else the last node.
func (c *Compiler) winner(h uint32) owner {
	best := c.hosts.At(h).first
	if len(c.rivals) > 0 {
		for _, o := range c.rivals[h] {
			if c.goesBefore(o, best) {
				best = o
			}
		}
	}
	return best
}

// At says whose address a is: a pod's before a node's, and only then an unknown pod's or the world's. Like Judge it must
// not be called between a change and the next Flush.
func (c *Compiler) At(a netip.Addr) cluster.Party {
	p := cluster.Party{Addr: a}
	h := c.hostAt(a)
	if h == 0 || c.hosts.At(h).first == 0 {
		p.Unknown = c.regions.At(c.regionOf(a)).unknown
	} else if w := c.winner(h); w&ofNode != 0 {
		n := c.nodePool.At(uint32(w &^ ofNode)).node
		p.Node = &n
	} else {
		p.Endpoint = c.pods.At(uint32(w)).endpoint
	}
	return p
}

func (c *Compiler) goesBefore(a, b owner) bool {
	switch {
	case a&ofNode != b&ofNode:
		return b&ofNode != 0
	case a&ofNode != 0:
		return c.nodePool.At(uint32(a&^ofNode)).node.Name > c.nodePool.At(uint32(b&^ofNode)).node.Name
	}
	x, y := c.pods.At(uint32(a)).endpoint, c.pods.At(uint32(b)).endpoint
	if !x.Created.Equal(y.Created) {
		return x.Created.After(y.Created)
	}
	return x.Key.Compare(y.Key) < 0
}

// settleHost gives a host the label set of whoever has it now.
func (c *Compiler) settleHost(h uint32) {
	w := c.winner(h)
	var s uint32
	local := false
	var at ruleset.Attachment
	switch {
	case w == 0:
	case w&ofNode != 0:
		s = c.nodeSet(c.nodePool.At(uint32(w &^ ofNode)).node.Labels)
	default:
		e := c.pods.At(uint32(w)).endpoint
		s = c.podSet(e)
		local = c.options.Node == "" || e.Node == c.options.Node
		if local && len(c.attachments) > 0 {
			at = c.attachments[uint32(w)]
		}
	}
	x := c.hosts.At(h)
	if x.set == s && x.local == local && (!local || at == c.attached[h]) {
		return
	}
	c.touchHost(h)
	if x.set == s && x.local == local {
		return
	}
	c.leaveSet(h)
	x.set, x.local = s, local
	c.joinSet(h)
}

func (c *Compiler) touchHost(h uint32) {
	x := c.hosts.At(h)
	if !x.touched {
		x.touched = true
		id := c.identityOf(x)
		c.pending.hosts = append(c.pending.hosts, touchedHost{h, id, x.local, id != c.identityAround(x)})
	}
}

// identityOf returns the identity that a host has.
func (c *Compiler) identityOf(x *host) uint32 {
	if x.set == 0 {
		return c.regions.At(x.region).identity
	}
	return c.sets.At(x.set).atom(x.region).identity
}

// identityAround returns the identity that a host would have if the ruleset did not name it: that of its region, or of what
// is around a region that is its address alone.
func (c *Compiler) identityAround(x *host) uint32 {
	r := c.regions.At(x.region)
	if r.prefix.IsSingleIP() {
		r = c.regions.At(r.parent)
	}
	return r.identity
}

func (c *Compiler) leaveSet(h uint32) {
	x := c.hosts.At(h)
	if x.set == 0 {
		return
	}
	s := c.sets.At(x.set)
	if x.next != 0 {
		c.hosts.At(x.next).prev = x.prev
	}
	if x.prev != 0 {
		c.hosts.At(x.prev).next = x.next
	} else {
		s.first = x.next
	}
	x.next, x.prev = 0, 0
	c.count(x, s, -1)
	if a := s.atom(x.region); a.hosts == 0 || s.locals == 0 && x.local {
		c.touchSet(x.set)
	}
}

func (c *Compiler) joinSet(h uint32) {
	x := c.hosts.At(h)
	if x.set == 0 {
		return
	}
	s := c.sets.At(x.set)
	x.next, x.prev = s.first, 0
	if s.first != 0 {
		c.hosts.At(s.first).prev = h
	}
	s.first = h
	if s.atom(x.region) == nil {
		s.atoms = append(s.atoms, atom{region: x.region, identity: classes.Unassigned})
		c.touchSet(x.set)
	}
	c.count(x, s, 1)
	if s.locals == 1 && x.local {
		c.touchSet(x.set)
	}
}

// count counts a host of a set in or out.
func (c *Compiler) count(x *host, s *set, by int32) {
	a := s.atom(x.region)
	s.hosts += by
	a.hosts += by
	if x.local {
		s.locals += by
		a.locals += by
		if a.identity != classes.Unassigned {
			c.classes.CountLocals(a.identity, by)
		}
	}
}

// each yields the hosts of a set in a region.
func (c *Compiler) each(s *set, region uint32, yield func(uint32)) {
	for h := s.first; h != 0; h = c.hosts.At(h).next {
		if c.hosts.At(h).region == region {
			yield(h)
		}
	}
}
