package reach

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Comparison is what two maps say of the same pods, nodes and outside: what a change of policies does to
// connectivity. Make one with Compare. Pods are the same if their names are.
type Comparison struct {
	Old, New *Map
	// Groups are what is one box in both maps, in the order of New's boxes. Where the one or the other tells the pods of
	// a workload apart, the workload is several groups.
	Groups []Group
	// Gone are the pods and nodes that are in Old only, Come those that are in New only, by the names that a Box has:
	// nothing can be compared for them. In order.
	Gone, Come []string
}

// Group is pods, nodes or addresses outside that both maps have in one box.
type Group struct {
	Name     string         // that of New's box; with the pods' names where it is only a part of that
	Kind     Kind           // of New's box
	Pods     []string       // of pods and nodes: their names
	Prefixes []netip.Prefix // of the outside
	Old, New int            // the boxes, by their indices
}

// Change is a range of ports that a group of servers has for a group of clients, for which one map allows what the other
// denies. What is allowed or denied as before, if by another rule, is no change.
type Change struct {
	From, To int    // groups: the clients, the servers
	Family   string // "IPv4" or "IPv6", where the change is one of this family only; else ""
	Ports    Ports
	Old, New flow.Decision // with their rules; their verdicts differ
}

// Compare finds the groups of two maps. Pods without an address were given some by Compute, which need not be the same in
// both; it matters to policies that name blocks of such addresses.
func Compare(old, new *Map) *Comparison {
	c := &Comparison{Old: old, New: new}
	type place struct{ old, new int }
	index := map[place]int{}
	add := func(from, to int) *Group {
		i, ok := index[place{from, to}]
		if !ok {
			i = len(c.Groups)
			index[place{from, to}] = i
			c.Groups = append(c.Groups, Group{Kind: new.Boxes[to].Kind, Old: from, New: to})
		}
		return &c.Groups[i]
	}
	was, is := old.members(), new.members()
	for _, m := range is.order {
		if from, ok := was.box[m]; ok {
			g := add(from, is.box[m])
			g.Pods = append(g.Pods, m.Name)
		} else {
			c.Come = append(c.Come, m.String())
		}
	}
	for _, m := range was.order {
		if _, ok := is.box[m]; !ok {
			c.Gone = append(c.Gone, m.String())
		}
	}
	for _, s := range Samples(old.State, new.State) {
		from, ok1 := old.BoxAt(s.Addr)
		to, ok2 := new.BoxAt(s.Addr)
		if ok1 && ok2 {
			g := add(from, to)
			g.Prefixes = append(g.Prefixes, s.Prefix)
		}
	}
	slices.SortStableFunc(c.Groups, func(a, b Group) int { return cmp.Compare(a.New, b.New) })
	for i := range c.Groups {
		c.Groups[i].Name = new.nameOf(&c.Groups[i])
	}
	return c
}

// members are the pods and nodes of a map and their boxes. The key of a node has no namespace.
type members struct {
	box   map[cluster.Key]int
	order []cluster.Key
}

func (m *Map) members() members {
	all := members{box: map[cluster.Key]int{}}
	for i := range m.Boxes {
		b := &m.Boxes[i]
		for _, name := range b.Pods {
			k := cluster.Key{Namespace: b.Namespace, Name: name}
			if b.Kind == Nodes {
				k = cluster.Key{Namespace: "", Name: "node/" + name}
			}
			all.box[k] = i
			all.order = append(all.order, k)
		}
	}
	return all
}

func (m *Map) nameOf(g *Group) string {
	b := &m.Boxes[g.New]
	if g.Prefixes != nil {
		if b.Kind == World || b.Kind == Unknown {
			return b.Name
		}
		return prefixNames(g.Prefixes)
	}
	if len(g.Pods) == len(b.Pods) {
		return b.Name
	}
	name, _, _ := strings.Cut(b.Name, " (")
	return fmt.Sprintf("%s (%s)", name, someNames(g.Pods))
}

// Changes are the ports of all pairs of groups for which the verdict changes, in the order of the groups, then of
// the families, protocols and ports. Of a pod and itself, of nodes and of the outside among themselves there are none: no
// policy is asked.
func (c *Comparison) Changes() iter.Seq[Change] {
	return func(yield func(Change) bool) {
		type answers struct{ old, new int }
		same := map[answers]bool{}
		found := map[answers][]Change{}
		for i := range c.Groups {
			for j := range c.Groups {
				g, h := &c.Groups[i], &c.Groups[j]
				if i == j && len(g.Pods) < 2 {
					continue
				}
				like := answers{c.Old.AlikeIndex(g.Old, h.Old), c.New.AlikeIndex(g.New, h.New)}
				if same[like] {
					continue
				}
				exact := answers{c.Old.AnswerIndex(g.Old, h.Old), c.New.AnswerIndex(g.New, h.New)}
				changes, ok := found[exact]
				if !ok {
					changes = c.between(exact.old, exact.new)
					found[exact] = changes
					same[like] = len(changes) == 0
				}
				for _, x := range changes {
					x.From, x.To = i, j
					if !yield(x) {
						return
					}
				}
			}
		}
	}
}

// between returns how two answers differ.
func (c *Comparison) between(old, new int) []Change {
	a, b := c.Old.pairs.keys[old], c.New.pairs.keys[new]
	var all [2][]Change
	for f := range all {
		x, y := a.families[f], b.families[f]
		if x == nothingJudged.families[f] || y == nothingJudged.families[f] {
			continue // it is not there, or nobody is asked
		}
		all[f] = c.betweenRows(x, y)
	}
	if slices.Equal(all[0], all[1]) {
		return all[0]
	}
	for f, family := range []string{"IPv4", "IPv6"} {
		for i := range all[f] {
			all[f][i].Family = family
		}
	}
	return append(all[0], all[1]...)
}

func (c *Comparison) betweenRows(old, new rowPair) []Change {
	var all []Change
	rows := [4]*ruleset.Row{c.Old.rowOf(old.egress), c.Old.rowOf(old.ingress), c.New.rowOf(new.egress), c.New.rowOf(new.ingress)}
	compare := func(r Ports) {
		x := c.Old.decide(old, r.Protocol, r.First)
		y := c.New.decide(new, r.Protocol, r.First)
		if x.Verdict == y.Verdict {
			return
		}
		if n := len(all); n > 0 && all[n-1].Old == x && all[n-1].New == y && all[n-1].Ports.Protocol == r.Protocol && int(all[n-1].Ports.Last)+1 == int(r.First) {
			all[n-1].Ports.Last = r.Last
			return
		}
		all = append(all, Change{Ports: r, Old: x, New: y})
	}
	for _, p := range flow.PortProtocols {
		for first := 0; first <= 65535; {
			last := uint16(65535)
			for _, r := range rows {
				last = min(last, endOf(r.Segments(p), uint16(first)))
			}
			compare(Ports{p, uint16(first), last})
			first = int(last) + 1
		}
	}
	compare(Ports{})
	return all
}

// endOf is the last port of the segment that a port is in.
func endOf(segments []ruleset.Segment, port uint16) uint16 {
	i, _ := slices.BinarySearchFunc(segments, port, func(s ruleset.Segment, p uint16) int { return cmp.Compare(s.Last, p) })
	return segments[i].Last
}
