package cluster

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Party is one end of a connection, as the cluster knows it. At most one of Endpoint, Node and Unknown is set;
// none of them is the world outside.
type Party struct {
	Endpoint *Endpoint // a pod with addresses of its own
	Node     *Node     // a node, or a pod on its network
	Unknown  bool      // an address that only a pod can have, but nobody knows whose
	// Addr is the address in use. A pod that has none yet can be a party too; no block matches it then.
	Addr netip.Addr
}

// String is "namespace/pod", "node/name", "unknown pod 10.0.0.1" or the address.
func (p Party) String() string {
	switch {
	case p.Endpoint != nil:
		return p.Endpoint.Key.String()
	case p.Node != nil:
		return "node/" + p.Node.Name
	case p.Unknown:
		return "unknown pod " + p.Addr.String()
	}
	return p.Addr.String()
}

// Same reports whether o is the same pod, the same node, or the same address of neither, whatever address is in use.
func (p Party) Same(o Party) bool {
	switch {
	case p.Endpoint != nil || o.Endpoint != nil:
		return p.Endpoint == o.Endpoint
	case p.Node != nil || o.Node != nil:
		return p.Node == o.Node
	}
	return p.Addr == o.Addr
}

// Connection is a connection between two parties: what the reference evaluator judges.
type Connection struct {
	From, To   Party
	Protocol   flow.Protocol
	Port       uint16
	Translated bool // through a Service's address; see flow.Tuple
}

// At says whose address a is: a pod's before a node's, and only then an unknown pod's or the world's.
func (s *State) At(a netip.Addr) Party {
	p := Party{Addr: a}
	if e := s.owners[a]; e != nil {
		p.Endpoint = e
	} else if n := s.nodes[a]; n != nil {
		p.Node = n
	} else {
		for _, r := range s.objects.PodRanges {
			p.Unknown = p.Unknown || r.Contains(a)
		}
	}
	return p
}

// PartyOf returns a pod as a party with the given address, which may be the zero Addr. A host-network pod is its node.
func (s *State) PartyOf(e *Endpoint, a netip.Addr) Party {
	if !e.HostNetwork {
		return Party{Endpoint: e, Addr: a}
	}
	for i := range s.objects.Nodes {
		if n := &s.objects.Nodes[i]; n.Name == e.Node {
			return Party{Node: n, Addr: a}
		}
	}
	return Party{Addr: a}
}

// Resolve turns addresses into parties.
func (s *State) Resolve(t flow.Tuple) Connection {
	return Connection{From: s.At(t.Source), To: s.At(t.Destination), Protocol: t.Protocol, Port: t.Port, Translated: t.Translated}
}

// Tuple is the connection's packets' view of c, for parties that have addresses. It is Local if the source is the
// node that the destination runs on.
func (c Connection) Tuple() flow.Tuple {
	return flow.Tuple{Source: c.From.Addr, Destination: c.To.Addr, Protocol: c.Protocol, Port: c.Port,
		Local: c.FromOwnNode(), Translated: c.Translated}
}

// FromOwnNode reports whether the client is the node on which the server, a pod, runs.
func (c Connection) FromOwnNode() bool {
	return c.From.Node != nil && c.To.Endpoint != nil && c.To.Endpoint.Node == c.From.Node.Name
}
