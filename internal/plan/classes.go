package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// none is the box of what is not there.
const none = -1

// member is a pod before and after; one of them may be nil.
type member [2]*cluster.Endpoint

// class is a set of pods, nodes or addresses that are treated alike before and treated alike after.
type class struct {
	name    string // of the whole that it is a part of: a workload, "nodes", "world"
	part    string // how it is called if it is not the whole
	kind    reach.Kind
	box     [2]int     // in the maps, or none
	has     [2][2]bool // addresses: by state and family
	members []member   // of a workload
	nodes   []string   // of Nodes
	samples []reach.Sample
	alone   bool // one pod: it is never an end of a connection with itself
	isNode  [2]bool
	// runsOn is the one node that all of it runs on, or is; "" if there are several.
	runsOn [2]string
}

func (c *class) there(state int) bool { return c.box[state] != none }

// stays reports whether a class is there before and after. Others come or go.
func (c *class) stays() bool { return c.there(0) && c.there(1) }

// partyIndex finds classes by what people and records call their members.
type partyIndex struct {
	pods      map[cluster.Key]int
	workloads map[ownerKey][]int
	nodes     map[string]int
	samples   []int // the class of each of the comparison's samples
}

type ownerKey struct {
	namespace string
	cluster.Owner
}

func ownerOf(e *cluster.Endpoint) ownerKey {
	if e.Owner.Name == "" {
		return ownerKey{e.Namespace, cluster.Owner{Name: e.Name}}
	}
	return ownerKey{e.Namespace, e.Owner}
}

func (k ownerKey) compare(o ownerKey) int {
	return cmp.Or(strings.Compare(k.namespace, o.namespace), strings.Compare(k.Name, o.Name), strings.Compare(k.Kind, o.Kind))
}

// findClasses makes the classes: workloads by name, then nodes, then what nobody has.
func (c *comparison) findClasses() {
	c.index = partyIndex{pods: map[cluster.Key]int{}, workloads: map[ownerKey][]int{}, nodes: map[string]int{}}
	c.addWorkloads()
	c.addNodes()
	c.addSamples()
}

func (c *comparison) addWorkloads() {
	var boxes [2]map[cluster.Key]int
	var pods [2]map[ownerKey][]*cluster.Endpoint
	var order []ownerKey
	seen := map[ownerKey]bool{}
	for s, state := range c.states {
		boxes[s] = boxesOfPods(c.maps[s])
		pods[s] = map[ownerKey][]*cluster.Endpoint{}
		for _, e := range state.Endpoints() {
			k := ownerOf(e)
			if !seen[k] {
				seen[k] = true
				order = append(order, k)
			}
			pods[s][k] = append(pods[s][k], e)
		}
	}
	slices.SortFunc(order, ownerKey.compare)
	kinds := map[string]int{}
	for _, k := range order {
		kinds[k.namespace+"/"+k.Name]++
	}
	for _, k := range order {
		name := k.namespace + "/" + k.Name
		if kinds[name] > 1 {
			name = k.namespace + "/" + strings.ToLower(cmp.Or(k.Kind, "pod")) + "/" + k.Name
		}
		members := match(pods[0][k], pods[1][k])
		c.compareObjects(name, members)
		c.addClasses(k, name, members, boxes)
	}
}

func boxesOfPods(m *reach.Map) map[cluster.Key]int {
	boxes := map[cluster.Key]int{}
	for i, b := range m.Boxes {
		if b.Kind == reach.Workload {
			for _, name := range b.Pods {
				boxes[cluster.Key{Namespace: b.Namespace, Name: name}] = i
			}
		}
	}
	return boxes
}

// match pairs the pods of one workload: those of one name, and the rest in order, as they are one another's successors.
func match(old, new []*cluster.Endpoint) []member {
	byName := map[string]*cluster.Endpoint{}
	for _, e := range new {
		byName[e.Name] = e
	}
	var all []member
	var rest []*cluster.Endpoint
	for _, e := range old {
		if n := byName[e.Name]; n != nil {
			all = append(all, member{e, n})
			delete(byName, e.Name)
		} else {
			rest = append(rest, e)
		}
	}
	for _, e := range new {
		if byName[e.Name] == nil {
			continue
		}
		if len(rest) > 0 {
			all = append(all, member{rest[0], e})
			rest = rest[1:]
		} else {
			all = append(all, member{nil, e})
		}
	}
	for _, e := range rest {
		all = append(all, member{e, nil})
	}
	return all
}

// memberKey is what tells the members of one class from the others of their workload.
type memberKey struct {
	box    [2]int
	has    [2][2]bool
	isNode [2]bool
}

func (c *comparison) addClasses(k ownerKey, name string, members []member, boxes [2]map[cluster.Key]int) {
	var keys []memberKey
	byKey := map[memberKey][]member{}
	for _, m := range members {
		var key memberKey
		for s, e := range m {
			key.box[s] = none
			if e == nil {
				continue
			}
			if box, ok := boxes[s][e.Key]; ok {
				key.box[s], key.isNode[s], key.has[s] = box, e.HostNetwork, c.families(s, e)
			}
		}
		if key.box == [2]int{none, none} {
			continue
		}
		if byKey[key] == nil {
			keys = append(keys, key)
		}
		byKey[key] = append(byKey[key], m)
	}
	stays := slices.ContainsFunc(keys, func(k memberKey) bool { return k.box[0] != none && k.box[1] != none })
	for _, key := range keys {
		if stays && isReplica(key, keys) {
			continue
		}
		members := byKey[key]
		cl := class{name: name, kind: reach.Workload, box: key.box, has: key.has, isNode: key.isNode, members: members, alone: len(members) == 1}
		cl.part = fmt.Sprintf("%s (%s)", name, someNames(members))
		for s := range cl.runsOn {
			cl.runsOn[s] = c.oneNode(s, members)
		}
		for _, m := range members {
			for _, e := range m {
				if e != nil {
					c.index.pods[e.Key] = len(c.classes)
				}
			}
		}
		c.index.workloads[k] = append(c.index.workloads[k], len(c.classes))
		c.classes = append(c.classes, cl)
	}
}

// isReplica reports whether a class that is on one side only is treated there as one that stays: then the workload has
// only another number of replicas, which changes nobody's connections.
func isReplica(k memberKey, all []memberKey) bool {
	for s := range 2 {
		if k.box[1-s] != none {
			continue
		}
		return slices.ContainsFunc(all, func(o memberKey) bool { return o != k && o.box[1-s] != none && o.box[s] == k.box[s] })
	}
	return false
}

// families says which families a pod takes part in.
func (c *comparison) families(s int, e *cluster.Endpoint) (has [2]bool) {
	state := c.states[s]
	if e.HostNetwork {
		n := state.PartyOf(e, netip.Addr{}).Node
		if n == nil {
			return [2]bool{true, true} // a node that is not declared: its addresses may be any
		}
		for _, a := range n.Addresses {
			if state.At(a).Node != nil && state.At(a).Node.Name == n.Name {
				has[family(a)] = true
			}
		}
		return has
	}
	for _, a := range e.Addresses {
		if state.At(a).Endpoint == e {
			has[family(a)] = true
		}
	}
	return has
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// oneNode returns the node that all pods are on; "" if there are several. A pod on its host's network counts only where
// the node is declared, as only then anybody knows that the two are one.
func (c *comparison) oneNode(s int, members []member) string {
	node := ""
	for _, m := range members {
		e := m[s]
		if e == nil {
			continue
		}
		if e.Node == "" || e.HostNetwork && c.states[s].PartyOf(e, netip.Addr{}).Node == nil || node != "" && node != e.Node {
			return ""
		}
		node = e.Node
	}
	return node
}

func someNames(members []member) string {
	var names []string
	for _, m := range members {
		e := m[1]
		if e == nil {
			e = m[0]
		}
		names = append(names, e.Name)
	}
	if len(names) > 3 {
		return fmt.Sprintf("%s … %s, %d pods", names[0], names[len(names)-1], len(names))
	}
	return strings.Join(names, ", ")
}

func (c *comparison) addNodes() {
	var boxes [2]map[string]int
	var names []string
	has := map[string][2][2]bool{}
	for s, state := range c.states {
		boxes[s] = map[string]int{}
		for i, b := range c.maps[s].Boxes {
			if b.Kind == reach.Nodes {
				for _, n := range b.Pods {
					boxes[s][n] = i
				}
			}
		}
		for _, n := range state.Nodes() {
			h := has[n.Name]
			for _, a := range n.Addresses {
				if at := state.At(a).Node; at != nil && at.Name == n.Name {
					h[s][family(a)] = true
				}
			}
			has[n.Name] = h
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	index := map[memberKey]int{}
	for _, n := range slices.Compact(names) {
		key := memberKey{has: has[n], isNode: [2]bool{true, true}}
		for s := range 2 {
			box, ok := boxes[s][n]
			if key.box[s] = box; !ok {
				key.box[s] = none
			}
		}
		i, there := index[key]
		if !there {
			i = len(c.classes)
			index[key] = i
			c.classes = append(c.classes, class{name: "nodes", kind: reach.Nodes, box: key.box, has: key.has, isNode: key.isNode})
		}
		k := &c.classes[i]
		k.nodes = append(k.nodes, n)
		k.runsOn = [2]string{n, n}
		k.part = "node/" + n
		if len(k.nodes) > 1 {
			k.runsOn = [2]string{}
			k.part = fmt.Sprintf("nodes %s … %s (%d)", k.nodes[0], n, len(k.nodes))
		}
		c.index.nodes[n] = i
	}
	if len(index) == 1 { // they are all there is of nodes
		if k := &c.classes[len(c.classes)-1]; len(k.nodes) == 1 {
			k.name = k.part
		}
	}
}

// addSamples makes classes of the addresses that nobody has.
func (c *comparison) addSamples() {
	c.samples = reach.Samples(c.states[0], c.states[1])
	type sampleKey struct {
		box  [2]int
		kind [2]reach.Kind
	}
	index := map[sampleKey]int{}
	for _, p := range c.samples {
		var key sampleKey
		for s, m := range c.maps {
			box, ok := m.BoxAt(p.Addr)
			if !ok {
				key.box[s] = none
				continue
			}
			key.box[s], key.kind[s] = box, m.Boxes[box].Kind
		}
		i, there := index[key]
		if !there {
			i = len(c.classes)
			index[key] = i
			c.classes = append(c.classes, class{box: key.box, kind: key.kind[1]})
		}
		k := &c.classes[i]
		k.samples = append(k.samples, p)
		for s := range 2 {
			k.has[s][family(p.Addr)] = true
		}
		c.index.samples = append(c.index.samples, i)
		k.nameSamples(key.kind)
	}
}

func (c *class) nameSamples(kinds [2]reach.Kind) {
	var prefixes []string
	for _, p := range c.samples {
		prefixes = append(prefixes, p.Prefix.String())
	}
	if len(prefixes) > 3 {
		prefixes = append(prefixes[:3], fmt.Sprintf("and %d more", len(c.samples)-3))
	}
	list := strings.Join(prefixes, ", ")
	unknown := [2]bool{kinds[0] == reach.Unknown, kinds[1] == reach.Unknown}
	switch {
	case unknown[0] && unknown[1]:
		c.name = "unknown pods"
	case unknown[0]:
		c.name = list + " (of pods before, outside now)"
	case unknown[1]:
		c.name = list + " (outside before, of pods now)"
	case c.samples[0].Prefix.Bits() == 0:
		c.name = "world"
	default:
		c.name = list
	}
	c.part = c.name
	if unknown[0] && unknown[1] {
		c.part = "unknown pods in " + list
	}
}

// namespaceOf is the namespace in a workload's name.
func namespaceOf(workload string) string {
	ns, _, _ := strings.Cut(workload, "/")
	return ns
}
