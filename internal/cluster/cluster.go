// Package cluster is the cluster as policies see it: pods, namespaces, nodes and policies at one moment.
//
// A State is an immutable snapshot. It answers the one question that policy asks of a cluster: whose address is
// this? Everything else about Kubernetes stays outside.
package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// NameLabel is the label that the API server puts on every namespace, with the namespace's name.
// https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name
const NameLabel = "kubernetes.io/metadata.name"

// Key names a namespaced object.
type Key struct{ Namespace, Name string }

// String is "namespace/name".
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Compare orders keys by namespace, then name.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(k.Namespace, o.Namespace), strings.Compare(k.Name, o.Name))
}

// Port is a port that a pod's container declares.
type Port struct {
	Name     string // may be empty
	Protocol flow.Protocol
	Number   uint16
}

// Owner is the workload that a pod belongs to; the zero value is a bare pod.
type Owner struct{ Kind, Name string }

// Endpoint is a pod. It is shared between snapshots and not changed once it is in one.
type Endpoint struct {
	Key
	Labels      label.Set
	Addresses   []netip.Addr // its podIPs; none for a pod that has none yet or has ended
	Node        string       // where it runs, "" if not yet known
	HostNetwork bool         // it shares its node's addresses, and policy sees the node
	Ended       bool         // it ran to its end (Succeeded, Failed) and has given its addresses back
	UsesAPI     bool         // it has a token of an account of its own for the cluster's API; false where nobody asks
	Ports       []Port
	Owner       Owner
	Created     time.Time // decides who owns an address that was given out twice: the newest
	UID         string    // tells it from earlier and later pods of its name; "" if not known
	File        string
	Line        int
}

// PortsNamed resolves a port's name: the declared ports of that name, with the given protocol (0: any). Where
// containers declare one name and protocol twice, the first counts.
func (e *Endpoint) PortsNamed(name string, p flow.Protocol) []Port {
	var found []Port
	for _, c := range e.Ports {
		same := func(f Port) bool { return f.Protocol == c.Protocol }
		if c.Name == name && (p == 0 || p == c.Protocol) && !slices.ContainsFunc(found, same) {
			found = append(found, c)
		}
	}
	return found
}

// Workload is a controller's pod template, from which its pods are made.
type Workload struct {
	Key
	Kind     string // "Deployment", "StatefulSet", ...
	Replicas int
	Template *Endpoint // without addresses; its name is the workload's
}

// Namespace is a namespace with its labels, NameLabel among them.
type Namespace struct {
	Name   string
	Labels label.Set
}

// Node is a machine of the cluster.
type Node struct {
	Name      string
	Labels    label.Set
	Addresses []netip.Addr
}

// Objects is what a State is made of.
type Objects struct {
	Revision   uint64 // of the source; grows
	Namespaces []Namespace
	Nodes      []Node
	Endpoints  []*Endpoint
	Workloads  []Workload
	Policies   []*policy.Policy
	// PodRanges are the prefixes that pods get their addresses from. An address in one of them that belongs to
	// nobody is an unknown pod.
	PodRanges []netip.Prefix
	// APIServers are where pods get to when they ask for the cluster's API: what is behind the Service default/kubernetes.
	// No policy speaks of them.
	APIServers []netip.AddrPort
}

// State is an immutable snapshot of a cluster. Make one with NewState.
type State struct {
	objects    Objects
	namespaces map[string]Namespace
	endpoints  map[Key]*Endpoint
	owners     map[netip.Addr]*Endpoint
	nodes      map[netip.Addr]*Node
}

// NewState makes a snapshot of o, which the caller gives away. A namespace that is used but not declared exists with
// no label but its name. The error names an object that is there twice.
func NewState(o Objects) (*State, error) {
	s := &State{objects: o, namespaces: map[string]Namespace{}, endpoints: map[Key]*Endpoint{},
		owners: map[netip.Addr]*Endpoint{}, nodes: map[netip.Addr]*Node{}}
	s.sort()
	if err := s.indexNames(); err != nil {
		return nil, err
	}
	for i := range s.objects.Nodes {
		for _, a := range s.objects.Nodes[i].Addresses {
			s.nodes[a] = &s.objects.Nodes[i]
		}
	}
	for _, e := range s.objects.Endpoints {
		for _, a := range e.Addresses {
			if old := s.owners[a]; !e.HostNetwork && (old == nil || e.Created.After(old.Created)) {
				s.owners[a] = e
			}
		}
	}
	return s, nil
}

func (s *State) sort() {
	o := &s.objects
	slices.SortFunc(o.Namespaces, func(a, b Namespace) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(o.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(o.Endpoints, func(a, b *Endpoint) int { return a.Key.Compare(b.Key) })
	slices.SortFunc(o.Workloads, func(a, b Workload) int {
		return cmp.Or(a.Key.Compare(b.Key), strings.Compare(a.Kind, b.Kind))
	})
	slices.SortFunc(o.Policies, policy.Compare)
}

func (s *State) indexNames() error {
	o := &s.objects
	for i := range o.Namespaces {
		n := &o.Namespaces[i]
		labels, err := n.Labels.With(NameLabel, n.Name)
		if err != nil {
			return fmt.Errorf("namespace %q: %w", n.Name, err)
		}
		n.Labels = labels
		if _, twice := s.namespaces[n.Name]; twice {
			return fmt.Errorf("namespace %s is there twice", n.Name)
		}
		s.namespaces[n.Name] = *n
	}
	for _, e := range o.Endpoints {
		if _, twice := s.endpoints[e.Key]; twice {
			return fmt.Errorf("pod %s is there twice", e.Key)
		}
		s.endpoints[e.Key] = e
	}
	names := map[string]bool{}
	for _, p := range o.Policies {
		name := p.Kind() + " " + p.RuleAt(flow.Ingress, flow.Isolation).Policy()
		if names[name] {
			return fmt.Errorf("%s is there twice", name)
		}
		names[name] = true
	}
	return nil
}

// Revision is the revision of the source that the snapshot was made of.
func (s *State) Revision() uint64 { return s.objects.Revision }

// Namespace returns the namespace of that name; one that was not declared has its name label only.
func (s *State) Namespace(name string) Namespace {
	if n, ok := s.namespaces[name]; ok {
		return n
	}
	labels, err := label.NewSet(map[string]string{NameLabel: name})
	if err != nil { // such a namespace cannot exist; no label is the fewest that policies can match
		return Namespace{Name: name}
	}
	return Namespace{Name: name, Labels: labels}
}

// The lists are sorted: by name, pods and workloads by namespace and name, policies as they are asked. The
// caller must not change them.

// Namespaces returns the declared namespaces.
func (s *State) Namespaces() []Namespace { return s.objects.Namespaces }

// Nodes returns the nodes.
func (s *State) Nodes() []Node { return s.objects.Nodes }

// Endpoints returns the pods.
func (s *State) Endpoints() []*Endpoint { return s.objects.Endpoints }

// Workloads returns the workloads that pods were made from.
func (s *State) Workloads() []Workload { return s.objects.Workloads }

// Policies returns the policies of all tiers.
func (s *State) Policies() []*policy.Policy { return s.objects.Policies }

// PodRanges returns the prefixes that pods get their addresses from.
func (s *State) PodRanges() []netip.Prefix { return s.objects.PodRanges }

// APIServers returns where the cluster's API is served.
func (s *State) APIServers() []netip.AddrPort { return s.objects.APIServers }

// Endpoint returns the pod of that name, or nil.
func (s *State) Endpoint(k Key) *Endpoint { return s.endpoints[k] }

// Objects returns what s was made of, for making a changed snapshot; the slices are copies, the objects are shared.
func (s *State) Objects() Objects {
	o := s.objects
	o.Namespaces, o.Nodes, o.Endpoints = slices.Clone(o.Namespaces), slices.Clone(o.Nodes), slices.Clone(o.Endpoints)
	o.Workloads, o.Policies, o.PodRanges = slices.Clone(o.Workloads), slices.Clone(o.Policies), slices.Clone(o.PodRanges)
	o.APIServers = slices.Clone(o.APIServers)
	return o
}
