package reach

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Kind is what a box stands for.
type Kind uint8

// The kinds of boxes. The zero value is none.
const (
	Workload Kind = 1 + iota // pods of one workload that policies treat alike
	Nodes                    // nodes that policies treat alike
	Block                    // addresses outside that policies name
	World                    // every other address outside
	Unknown                  // addresses of pods that nobody knows; see Options.Unknown
)

// String is a word.
func (k Kind) String() string {
	return [...]string{"none", "workload", "nodes", "block", "world", "unknown"}[min(int(k), 5)]
}

// Box is something that policies treat as one.
type Box struct {
	Name string // unique: "shop/web", "shop/db (db-0)", "node/a", "198.51.100.0/24", "world"
	Kind Kind
	// Namespace, Owner, Pods, Labels and Ports are a workload's. Labels are those that all its pods have, less those
	// that controllers give to single pods.
	Namespace   string
	Owner       cluster.Owner // the zero value for a bare pod
	Pods        []string      // names, in order; of Nodes, the nodes'
	Labels      label.Set
	Ports       []cluster.Port // as declared: number, protocol, name
	HostNetwork bool           // the pods share their node's addresses: policies see the node
	// Part: other pods of the same workload are treated differently and are another box.
	Part bool
	// FencedEgress and FencedIngress: policies deny something of what the pods would send or take.
	FencedEgress, FencedIngress bool
	Prefixes                    []netip.Prefix // of Block, World and Unknown
	File                        string         // the manifest
	Line                        int

	faces  [2]face
	judged bool            // policies are asked about it as a subject
	nodes  map[string]bool // a pod's: where they run; a node's: itself
	isNode bool            // stands for the nodes themselves
	alike  []identity      // of a Block that was merged
}

// face is what a box is in one address family. All addresses of a box in a family have one identity.
type face struct {
	there bool
	id    ruleset.Identity
}

// ownNodeOf says whether a is the node of the pods in b.
func (a *Box) ownNodeOf(b *Box) ownNode {
	if !a.isNode || !b.judged {
		return notOwn
	}
	own, others := false, false
	for n := range a.nodes {
		for at := range b.nodes {
			own, others = own || n == at, others || n != at
		}
	}
	switch {
	case own && others:
		return partlyOwn
	case own:
		return allOwn
	}
	return notOwn
}

// podClass is what tells the pods of one box from others.
type podClass struct {
	namespace string
	owner     cluster.Owner
	pod       string // of a bare pod
	host      bool
	faces     [2]face
	ports     string
}

func (m *Map) addWorkloads() {
	byClass := map[podClass][]*cluster.Endpoint{}
	var order []podClass
	lost := 0
	for _, e := range m.State.Endpoints() {
		c := m.classOf(e)
		if !c.faces[0].there && !c.faces[1].there {
			lost++
			continue
		}
		if byClass[c] == nil {
			order = append(order, c)
		}
		byClass[c] = append(byClass[c], e)
	}
	if lost > 0 {
		m.Notices = append(m.Notices, fmt.Sprintf("%d pods are left out: a newer pod has their address", lost))
	}
	for _, c := range order {
		m.Boxes = append(m.Boxes, m.workload(c, byClass[c]))
	}
	slices.SortStableFunc(m.Boxes, func(a, b Box) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.workloadName(), b.workloadName()),
			strings.Compare(a.Owner.Kind, b.Owner.Kind), strings.Compare(a.Pods[0], b.Pods[0]))
	})
	m.nameWorkloads()
	for i := range m.Boxes {
		if b := &m.Boxes[i]; !b.HostNetwork {
			m.claim(i, b)
		}
	}
}

func (m *Map) claim(i int, b *Box) {
	for _, name := range b.Pods {
		e := m.State.Endpoint(cluster.Key{Namespace: b.Namespace, Name: name})
		for _, a := range e.Addresses {
			if m.State.At(a).Endpoint == e {
				m.byAddress[a] = i
			}
		}
	}
}

func (m *Map) classOf(e *cluster.Endpoint) podClass {
	c := podClass{namespace: e.Namespace, owner: e.Owner, host: e.HostNetwork, ports: portsText(e.Ports)}
	if e.Owner.Name == "" {
		c.pod = e.Name
	}
	if e.HostNetwork {
		c.faces = m.hostFaces(e)
		return c
	}
	for _, a := range e.Addresses {
		if m.State.At(a).Endpoint == e {
			c.faces[familyOf(a)] = face{true, m.rules.IdentityOf(a)}
		}
	}
	return c
}

// hostFaces are those of the pod's node. A node that is not declared is matched by no selector: identity 0.
func (m *Map) hostFaces(e *cluster.Endpoint) [2]face {
	n := m.State.PartyOf(e, netip.Addr{}).Node
	if n == nil {
		return [2]face{{there: true}, {there: true}}
	}
	return m.nodeFaces(n)
}

func (m *Map) nodeFaces(n *cluster.Node) (faces [2]face) {
	for _, a := range n.Addresses {
		if m.State.At(a).Node == n && !faces[familyOf(a)].there {
			faces[familyOf(a)] = face{true, m.rules.IdentityOf(a)}
		}
	}
	return faces
}

func portsText(ports []cluster.Port) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%d/%d/%s ", p.Number, p.Protocol, p.Name)
	}
	return b.String()
}

func (m *Map) workload(c podClass, pods []*cluster.Endpoint) Box {
	first := pods[0]
	b := Box{Kind: Workload, Namespace: c.namespace, Owner: c.owner, HostNetwork: c.host, File: first.File, Line: first.Line,
		faces: c.faces, judged: !c.host, nodes: map[string]bool{}, isNode: c.host}
	for _, e := range pods {
		b.Pods = append(b.Pods, e.Name)
		if !c.host || m.State.PartyOf(e, netip.Addr{}).Node != nil {
			b.nodes[e.Node] = true
		}
	}
	b.Ports = slices.Clone(first.Ports)
	slices.SortStableFunc(b.Ports, func(x, y cluster.Port) int {
		return cmp.Or(cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Number, y.Number), strings.Compare(x.Name, y.Name))
	})
	b.Ports = slices.Compact(b.Ports)
	b.Labels = commonLabels(pods)
	for _, f := range c.faces {
		if b.judged && f.there {
			b.FencedEgress = b.FencedEgress || m.links.fences(flow.Egress, f.id)
			b.FencedIngress = b.FencedIngress || m.links.fences(flow.Ingress, f.id)
		}
	}
	return b
}

// passing are the labels that controllers put on single pods or on each rollout. They are no part of what a workload
// is; where a policy names one all the same, the pods are boxes of their own.
var passing = []string{"pod-template-hash", "controller-revision-hash", "pod-template-generation", "controller-uid",
	"statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-completion-index"}

func commonLabels(pods []*cluster.Endpoint) label.Set {
	common := pods[0].Labels.Map()
	for _, k := range passing {
		delete(common, k)
	}
	for _, e := range pods[1:] {
		for k, v := range common {
			if has, ok := e.Labels.Get(k); !ok || has != v {
				delete(common, k)
			}
		}
	}
	set, err := label.NewSet(common)
	if err != nil { // labels of a Set are valid: this cannot happen, and no label is the least to say
		return label.Set{}
	}
	return set
}

func (b *Box) workloadName() string {
	if b.Owner.Name == "" {
		return b.Pods[0]
	}
	return b.Owner.Name
}

// nameWorkloads gives each box a name of its own: the workload's; with its kind, where two are called the same; with the
// pods, where those of one workload are treated differently, which is also a notice.
func (m *Map) nameWorkloads() {
	type workload struct {
		namespace string
		owner     cluster.Owner
		pod       string
	}
	boxes := map[workload]int{}
	kinds := map[string]map[workload]bool{} // by "namespace/name"
	of := func(b *Box) (workload, string) {
		w := workload{b.Namespace, b.Owner, ""}
		if b.Owner.Name == "" {
			w.pod = b.Pods[0]
		}
		return w, b.Namespace + "/" + b.workloadName()
	}
	for i := range m.Boxes {
		w, name := of(&m.Boxes[i])
		if boxes[w]++; kinds[name] == nil {
			kinds[name] = map[workload]bool{}
		}
		kinds[name][w] = true
	}
	noted := map[workload]bool{}
	for i := range m.Boxes {
		b := &m.Boxes[i]
		w, name := of(b)
		if b.Name = name; len(kinds[name]) > 1 {
			b.Name = b.Namespace + "/" + strings.ToLower(cmp.Or(b.Owner.Kind, "pod")) + "/" + b.workloadName()
		}
		if b.Part = boxes[w] > 1; !b.Part {
			continue
		}
		if !noted[w] {
			noted[w] = true
			m.Notices = append(m.Notices, fmt.Sprintf("the pods of %s are not all treated alike: they are %d boxes", b.Name, boxes[w]))
		}
		b.Name += " (" + someNames(b.Pods) + ")"
	}
}

// someNames lists up to three names, and of more the first and the last. The first pod is in no other box, so this is
// enough to tell boxes apart.
func someNames(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s … %s, %d pods", names[0], names[len(names)-1], len(names))
}

// addNodes adds the nodes, those with equal identities as one box.
func (m *Map) addNodes() {
	index := map[[2]face]int{}
	nodes := m.State.Nodes()
	for i := range nodes {
		n := &nodes[i]
		faces := m.nodeFaces(n)
		at, ok := index[faces]
		if !ok {
			at = len(m.Boxes)
			index[faces] = at
			m.Boxes = append(m.Boxes, Box{Kind: Nodes, faces: faces, nodes: map[string]bool{}, isNode: true, Labels: n.Labels})
		}
		b := &m.Boxes[at]
		b.Pods = append(b.Pods, n.Name)
		b.nodes[n.Name] = true
		if b.Name = "node/" + n.Name; len(b.Pods) > 1 {
			b.Name = fmt.Sprintf("nodes %s … %s (%d)", b.Pods[0], n.Name, len(b.Pods))
			b.Labels = label.Set{}
		}
		for _, a := range n.Addresses {
			if m.State.At(a).Node == n {
				m.byAddress[a] = at
			}
		}
	}
}
