package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A spaceSelector is a distinct selector over the labels of namespaces.
type spaceSelector struct {
	sel    label.Selector
	name   string // the namespace that it names, if it asks for nothing else
	refs   int
	spaces []uint32 // that it matches
}

// selectorKey is what makes two selectors equal.
type selectorKey struct {
	kind  policy.PeerKind
	space uint32
	text  string
}

// A selector is a distinct one over pods, nodes or addresses.
type selector struct {
	key      selectorKey
	labels   label.Selector // of pods or nodes
	block    *policy.Peer   // nil for others
	refs     int            // of all kinds
	policies []uint32       // whose subject it is
	locals   int            // how many label sets of ours it matches, if it is a subject
	telling  int            // policies that speak and have it as subject or peer: it tells identities apart
}

// anchors find the selectors that may match a label set: a selector is kept under its namespace selector and one of
// the labels that it asks for, if it asks for one.
type anchors struct {
	byLabel map[anchor][]uint32
	plain   map[uint32][]uint32
}

type anchor struct {
	space uint32
	pair  string
}

func newAnchors() anchors {
	return anchors{map[anchor][]uint32{}, map[uint32][]uint32{}}
}

// places calls f for every list that a selector has to be in.
func (x *anchors) change(s *selector, change func([]uint32) []uint32) {
	r := s.anchor()
	if r == nil {
		x.plain[s.key.space] = change(x.plain[s.key.space])
		if len(x.plain[s.key.space]) == 0 {
			delete(x.plain, s.key.space)
		}
		return
	}
	for _, v := range r.Values {
		a := anchor{s.key.space, r.Key + "=" + v}
		x.byLabel[a] = change(x.byLabel[a])
		if len(x.byLabel[a]) == 0 {
			delete(x.byLabel, a)
		}
	}
}

func (x *anchors) add(id uint32, s *selector) {
	x.change(s, func(l []uint32) []uint32 { return append(l, id) })
}

func (x *anchors) remove(id uint32, s *selector) {
	x.change(s, func(l []uint32) []uint32 { return pool.Without(l, id) })
}

// anchor returns the requirement that a label set has to meet by having a certain label: of several, the one with the
// fewest values, as it is met the most rarely. The choice is a function of the selector, or it would not be found again.
func (s *selector) anchor() *label.Requirement {
	var best *label.Requirement
	reqs := s.labels.Requirements()
	for i := range reqs {
		if r := &reqs[i]; r.Op == label.In && (best == nil || len(r.Values) < len(best.Values)) {
			best = r
		}
	}
	return best
}

// matching appends the selectors of x that match a label set.
func (c *Compiler) matching(x *anchors, s *set, found []uint32) []uint32 {
	take := func(ids []uint32) {
		for _, id := range ids {
			if c.selectors.At(id).labels.Matches(s.key.labels) {
				found = append(found, id)
			}
		}
	}
	for _, sel := range c.spaces.At(s.key.space).sels {
		take(x.plain[sel])
		for pair := range pairs(s.key.labels) {
			take(x.byLabel[anchor{sel, pair}])
		}
	}
	return found
}

// matched calls f for every label set that a selector matches, going through the fewest that may be.
func (c *Compiler) matched(s *selector, f func(id uint32, x *set)) {
	if s.key.kind == policy.PeerNodes {
		for _, id := range c.nodeSets {
			if x := c.sets.At(id); s.labels.Matches(x.key.labels) {
				f(id, x)
			}
		}
		return
	}
	spaces := c.spaceSels.At(s.key.space).spaces
	inSpaces := 0
	for _, id := range spaces {
		inSpaces += len(c.spaces.At(id).sets)
	}
	if r := s.anchor(); r != nil {
		var lists [][]uint32
		withLabel := 0
		for _, v := range r.Values {
			l := c.withLabel[r.Key+"="+v]
			lists, withLabel = append(lists, l), withLabel+len(l)
		}
		if withLabel < inSpaces {
			for _, l := range lists {
				c.matchedOf(s, l, true, f)
			}
			return
		}
	}
	for _, id := range spaces {
		c.matchedOf(s, c.spaces.At(id).sets, false, f)
	}
}

func (c *Compiler) matchedOf(s *selector, sets []uint32, checkSpace bool, f func(uint32, *set)) {
	for _, id := range sets {
		x := c.sets.At(id)
		if checkSpace && !slices.Contains(c.spaces.At(x.key.space).sels, s.key.space) {
			continue
		}
		if s.labels.Matches(x.key.labels) {
			f(id, x)
		}
	}
}

// matchSpace finds the space selectors that match a namespace.
func (c *Compiler) matchSpace(id uint32) {
	s := c.spaces.At(id)
	for _, sel := range s.sels {
		x := c.spaceSels.At(sel)
		x.spaces = pool.Without(x.spaces, id)
	}
	s.sels = s.sels[:0]
	take := func(sel uint32) {
		if x := c.spaceSels.At(sel); x.sel.Matches(s.labels) {
			s.sels = append(s.sels, sel)
			x.spaces = append(x.spaces, id)
		}
	}
	if sel, ok := c.spaceSelIndex[cluster.NameLabel+"="+s.name]; ok {
		take(sel)
	}
	for _, sel := range c.generalSels {
		take(sel)
	}
}

func (c *Compiler) spaceSelector(sel label.Selector) uint32 {
	text := sel.String()
	id, ok := c.spaceSelIndex[text]
	if ok {
		return id
	}
	id = c.spaceSels.Take()
	c.spaceSelIndex[text] = id
	x := c.spaceSels.At(id)
	x.sel = sel
	if r := sel.Requirements(); len(r) == 1 && r[0].Key == cluster.NameLabel && r[0].Op == label.In && len(r[0].Values) == 1 {
		x.name = r[0].Values[0]
		if space, ok := c.spaceName[x.name]; ok {
			c.matchSpaceSelector(id, space)
		}
		return id
	}
	c.generalSels = append(c.generalSels, id)
	for space := range c.spaces.Items {
		if space != 0 && c.spaces.Items[space].name != "" {
			c.matchSpaceSelector(id, uint32(space))
		}
	}
	return id
}

func (c *Compiler) matchSpaceSelector(sel, space uint32) {
	x, s := c.spaceSels.At(sel), c.spaces.At(space)
	if x.sel.Matches(s.labels) {
		x.spaces = append(x.spaces, space)
		s.sels = append(s.sels, sel)
	}
}

func (c *Compiler) dropSpaceSelector(id uint32) {
	x := c.spaceSels.At(id)
	if x.refs--; x.refs > 0 {
		return
	}
	for _, space := range x.spaces {
		s := c.spaces.At(space)
		s.sels = pool.Without(s.sels, id)
	}
	if x.name == "" {
		c.generalSels = pool.Without(c.generalSels, id)
	}
	delete(c.spaceSelIndex, x.sel.String())
	c.spaceSels.Drop(id)
}

// selector returns the number of a selector, with one more reference.
func (c *Compiler) selector(k selectorKey, labels label.Selector, block *policy.Peer) uint32 {
	id, ok := c.selectorIndex[k]
	if !ok {
		id = c.selectors.Take()
		*c.selectors.At(id) = selector{key: k, labels: labels, block: block}
		c.selectorIndex[k] = id
		if k.kind == policy.PeerPods {
			c.spaceSels.At(k.space).refs++
		}
	}
	c.selectors.At(id).refs++
	return id
}

func (c *Compiler) podSelector(p policy.Pods) uint32 {
	k := selectorKey{policy.PeerPods, c.spaceSelector(p.Namespaces), p.Pods.String()}
	return c.selector(k, p.Pods, nil)
}

func (c *Compiler) peerSelector(p policy.Peer) uint32 {
	switch p.Kind {
	case policy.PeerPods:
		return c.podSelector(p.Pods)
	case policy.PeerNodes:
		return c.selector(selectorKey{policy.PeerNodes, 0, p.Nodes.String()}, p.Nodes, nil)
	}
	return c.selector(selectorKey{policy.PeerBlock, 0, blockText(p)}, label.Selector{}, &p)
}

func blockText(p policy.Peer) string {
	except := slices.Clone(p.Except)
	slices.SortFunc(except, netip.Prefix.Compare)
	texts := []string{p.Block.String()}
	for _, e := range slices.Compact(except) {
		texts = append(texts, e.String())
	}
	return strings.Join(texts, ",")
}

func (c *Compiler) releaseSelector(id uint32) {
	s := c.selectors.At(id)
	if s.refs--; s.refs > 0 {
		return
	}
	delete(c.selectorIndex, s.key)
	if s.key.kind == policy.PeerPods {
		c.dropSpaceSelector(s.key.space)
	}
	c.selectors.Drop(id)
}

// tell makes a selector tell identities apart, from its first use on.
func (c *Compiler) tell(id uint32) {
	s := c.selectors.At(id)
	if s.telling++; s.telling > 1 {
		return
	}
	switch s.key.kind {
	case policy.PeerBlock:
		c.addBlock(id, s.block)
		return
	case policy.PeerPods:
		c.peers.add(id, s)
		c.podSelectors++
	case policy.PeerNodes:
		c.nodeSelectors = append(c.nodeSelectors, id)
	}
	c.matched(s, func(i uint32, x *set) {
		x.sels = append(x.sels, id)
		c.resignSet(i)
	})
}

func (c *Compiler) untell(id uint32) {
	s := c.selectors.At(id)
	if s.telling--; s.telling > 0 {
		return
	}
	switch s.key.kind {
	case policy.PeerBlock:
		c.removeBlock(id, s.block)
		return
	case policy.PeerPods:
		c.peers.remove(id, s)
		c.podSelectors--
	case policy.PeerNodes:
		c.nodeSelectors = pool.Without(c.nodeSelectors, id)
	}
	c.matched(s, func(i uint32, x *set) {
		x.sels = pool.Without(x.sels, id)
		c.resignSet(i)
	})
}

func (c *Compiler) resignSet(id uint32) {
	c.sets.At(id).resign = true
	c.touchSet(id)
}
