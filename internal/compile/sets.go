package compile

import (
	"hash/maphash"
	"math/bits"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/label"
)

// setKey is all of a pod or node that selectors and named ports can tell apart, but its address.
type setKey struct {
	space  uint32 // 0 for nodes
	labels label.Set
	ports  uint32 // number of its list of named ports
}

// A set is a label set with the hosts that have it.
type set struct {
	key    setKey
	names  uint32 // number of its values for the port names that policies use
	hosts  int32
	locals int32
	first  uint32 // of its hosts, which are a list
	atoms  []atom // one for each region that its hosts are in
	sels   []uint32
	// subjects are the selectors of policies' subjects that match it; kept only while some of its hosts are judged.
	subjects []uint32
	isLocal  bool // subjects are kept
	touched  bool
	rematch  bool // its namespace has other labels, or it is new
	resign   bool // other selectors match it, or other port names are used
}

// An atom is the part of a label set in one region: all that selectors can see is the same for its hosts.
type atom struct {
	region   uint32
	identity uint32 // unassigned until the next flush
	hosts    int32
	locals   int32
}

func (s *set) atom(region uint32) *atom {
	for i := range s.atoms {
		if s.atoms[i].region == region {
			return &s.atoms[i]
		}
	}
	return nil
}

// A space is a namespace.
type space struct {
	name     string
	labels   label.Set
	declared bool
	sels     []uint32 // space selectors that match it
	sets     []uint32
}

// SetNamespace adds a namespace or replaces it by a changed one.
func (c *Compiler) SetNamespace(n cluster.Namespace) {
	if v, ok := n.Labels.Get(cluster.NameLabel); !ok || v != n.Name {
		n.Labels = named(n.Labels, n.Name)
	}
	id := c.space(n.Name)
	s := c.spaces.At(id)
	s.declared = true
	if s.labels != n.Labels {
		s.labels = n.Labels
		c.relabeled(id)
	}
}

// DeleteNamespace removes a namespace. One in which there still are pods has no label but its name then.
func (c *Compiler) DeleteNamespace(name string) {
	id, known := c.spaceName[name]
	if !known {
		return
	}
	s := c.spaces.At(id)
	s.declared = false
	if bare := named(label.Set{}, name); s.labels != bare {
		s.labels = bare
		c.relabeled(id)
	}
	c.pending.spaces = true
}

// named returns labels with the label that every namespace has.
func named(labels label.Set, name string) label.Set {
	with, err := labels.With(cluster.NameLabel, name)
	if err != nil { // such a namespace cannot exist; no label is the fewest that policies can match
		return label.Set{}
	}
	return with
}

// space returns the number of a namespace, which exists from then on.
func (c *Compiler) space(name string) uint32 {
	if id, ok := c.spaceName[name]; ok {
		return id
	}
	id := c.spaces.Take()
	*c.spaces.At(id) = space{name: name, labels: named(label.Set{}, name)}
	c.spaceName[name] = id
	c.matchSpace(id)
	return id
}

// relabeled looks up again what matches a namespace; its label sets have to be matched again.
func (c *Compiler) relabeled(id uint32) {
	for _, s := range c.spaces.At(id).sets {
		c.sets.At(s).rematch = true
		c.touchSet(s)
	}
	c.matchSpace(id)
}

// sweepSpaces forgets namespaces that are not declared and have no pods.
func (c *Compiler) sweepSpaces() {
	if !c.pending.spaces {
		return
	}
	for name, id := range c.spaceName {
		if s := c.spaces.At(id); !s.declared && len(s.sets) == 0 {
			for _, sel := range s.sels {
				x := c.spaceSels.At(sel)
				x.spaces = pool.Without(x.spaces, id)
			}
			delete(c.spaceName, name)
			c.spaces.Drop(id)
		}
	}
}

func (c *Compiler) podSet(e *cluster.Endpoint) uint32 {
	ports := c.rows.Ports.List(e)
	hash := c.hashSet(e.Namespace, e.Labels, ports)
	id := c.setIndex.Find(hash, func(i uint32) bool {
		k := &c.sets.At(i).key
		return k.labels == e.Labels && k.ports == ports && k.space != 0 && c.spaces.At(k.space).name == e.Namespace
	})
	if id != 0 {
		return id
	}
	return c.newSet(hash, setKey{c.space(e.Namespace), e.Labels, ports})
}

func (c *Compiler) nodeSet(labels label.Set) uint32 {
	hash := c.hashSet("", labels, 0)
	id := c.setIndex.Find(hash, func(i uint32) bool { return c.sets.At(i).key == setKey{labels: labels} })
	if id != 0 {
		return id
	}
	return c.newSet(hash, setKey{labels: labels})
}

// hashSet is over the name of a namespace in place of its number, which would have to be looked up first.
func (c *Compiler) hashSet(namespace string, labels label.Set, ports uint32) uint64 {
	return maphash.String(c.seed, labels.String()) ^ bits.RotateLeft64(maphash.String(c.seed, namespace), 32) + uint64(ports)
}

func (c *Compiler) newSet(hash uint64, k setKey) uint32 {
	id := c.sets.Take()
	*c.sets.At(id) = set{key: k, rematch: true}
	c.setIndex.Insert(hash, id)
	c.touchSet(id)
	if k.space == 0 {
		c.nodeSets = append(c.nodeSets, id)
		return id
	}
	s := c.spaces.At(k.space)
	s.sets = append(s.sets, id)
	for pair := range pairs(k.labels) {
		c.withLabel[pair] = append(c.withLabel[pair], id)
	}
	return id
}

// dropSet forgets a label set that no host has.
func (c *Compiler) dropSet(id uint32) {
	s := c.sets.At(id)
	c.setIndex.Remove(c.hashSet(c.spaces.At(s.key.space).name, s.key.labels, s.key.ports), id)
	if s.key.space == 0 {
		c.nodeSets = pool.Without(c.nodeSets, id)
	} else {
		space := c.spaces.At(s.key.space)
		space.sets = pool.Without(space.sets, id)
		c.pending.spaces = c.pending.spaces || !space.declared
		for pair := range pairs(s.key.labels) {
			if rest := pool.Without(c.withLabel[pair], id); len(rest) > 0 {
				c.withLabel[pair] = rest
			} else {
				delete(c.withLabel, pair)
			}
		}
	}
	c.sets.Drop(id)
}

// pairs yields the "key=value" of a set, without making strings.
func pairs(s label.Set) func(func(string) bool) {
	return func(yield func(string) bool) {
		for rest := s.String(); rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ",")
			if !yield(pair) {
				return
			}
		}
	}
}

func (c *Compiler) touchSet(id uint32) {
	if s := c.sets.At(id); !s.touched {
		s.touched = true
		c.pending.sets = append(c.pending.sets, id)
	}
}
