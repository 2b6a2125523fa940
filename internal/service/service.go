// Package service is Services as values: from Services, pods and their readiness to a Table that says which address
// and port is spread over which backends, and what every Service has to be called in DNS.
//
// Compute is the whole of it. A Table is inert and printable; service/nft puts one in force in a kernel and names
// answers DNS queries from one. Addresses and node ports that a Service does not ask for are given out by the hash of
// its name, so that they do not depend on which other Services there are, but where two fall on the same one: then a
// Service that had its address before keeps it if the caller remembers so (Options.Kept).
//
// A Service that cannot have all it asks for gets the rest, and the Table's Problems say what is missing and why.
package service

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// APIServer is the Service by which pods ask for the cluster's API.
var APIServer = cluster.Key{Namespace: "default", Name: "kubernetes"}

// Kind is how a Service is reached. The zero value is a cluster address.
type Kind uint8

// The kinds.
const (
	ClusterIP    Kind = iota // by an address inside the cluster
	NodePort                 // by that, and by a port of every node; LoadBalancer is the same on one machine
	Headless                 // by the pods' own addresses: names only
	ExternalName             // by another name: names only
)

// String is the kind's name.
func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case NodePort:
		return "NodePort"
	case Headless:
		return "Headless"
	case ExternalName:
		return "ExternalName"
	}
	return "unknown"
}

// Family is a version of IP.
type Family uint8

// The families, in the order in which addresses are listed.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// DefaultAffinity is how long a client stays with its backend if a Service asks for session affinity and does not say.
const DefaultAffinity = 3 * time.Hour

// Service is a name, and mostly an address, in front of pods.
type Service struct {
	cluster.Key
	Kind Kind
	// Families it is reached by; none means those of ClusterIPs, and without these all that the cluster has.
	Families        []Family
	ClusterIPs      []netip.Addr   // asked for, at most one of each family
	Selector        label.Selector // over pods of its namespace; the zero value selects none
	Ports           []Port
	ExternalName    string        // of an ExternalName: the name that it stands for
	Affinity        time.Duration // a client stays with its backend that long after its last connection; 0: no affinity
	PublishNotReady bool          // pods count as ready whatever their probes say
	File            string
	Line            int
}

// Port is one port of a Service.
type Port struct {
	Name       string // may be empty if it is the only one
	Protocol   flow.Protocol
	Port       uint16
	Target     uint16 // the backend's port; 0 if TargetName says it
	TargetName string // a port name, resolved on each pod
	NodePort   uint16 // asked for; 0 if any will do
}

// target is the port of one pod that p stands for, or 0 if the pod has none of that name.
func (p Port) target(pod *cluster.Endpoint) uint16 {
	if p.TargetName == "" {
		return cmp.Or(p.Target, p.Port)
	}
	for _, found := range pod.PortsNamed(p.TargetName, p.Protocol) {
		return found.Number
	}
	return 0
}

// balanced reports whether the Service has an address of its own.
func (s *Service) balanced() bool { return s.Kind == ClusterIP || s.Kind == NodePort }

// wants reports whether s is reached by a family, in a cluster that has those.
func (s *Service) wants(f Family, has []Family) bool {
	switch {
	case len(s.Families) > 0:
		return slices.Contains(s.Families, f)
	case len(s.ClusterIPs) > 0:
		return slices.ContainsFunc(s.ClusterIPs, func(a netip.Addr) bool { return FamilyOf(a) == f })
	case s.Kind == Headless: // it takes no address, so it can show all that its pods have
		return true
	}
	return slices.Contains(has, f)
}
