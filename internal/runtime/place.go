//go:build linux

package runtime

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Where pods and the node get their addresses from, if nobody says otherwise. The node's are of ranges made for
// documentation, so that they meet nobody's.
var (
	PodRanges     = [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")}
	NodeAddresses = [2]netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:0:a::10")}
)

// nodeName is the node of a cluster that declares none.
const nodeName = "local"

// place puts everything in o onto this node: all pods run here, with addresses of ours.
func (n *Node) place(o cluster.Objects) (*cluster.State, error) {
	n.placeNode(&o)
	o.Endpoints = slices.DeleteFunc(slices.Clone(o.Endpoints), func(e *cluster.Endpoint) bool { return e.Ended })
	var keys []cluster.Key
	for _, e := range o.Endpoints {
		if !e.HostNetwork {
			keys = append(keys, e.Key)
		}
	}
	if err := n.leases.assign(keys, n.limit(), n.unused(o)); err != nil {
		return nil, err
	}
	for i, e := range o.Endpoints {
		pod := *e
		pod.Node, pod.Addresses = o.Nodes[0].Name, slices.Clone(n.net.Address[:])
		if !e.HostNetwork {
			pod.Addresses = n.addressesOf(e.Key)
		}
		o.Endpoints[i] = &pod
	}
	for _, r := range n.net.Ranges {
		if !slices.Contains(o.PodRanges, r) {
			o.PodRanges = append(slices.Clone(o.PodRanges), r)
		}
	}
	return cluster.NewState(o)
}

// placeNode makes the first node this one, with its name and labels. The others are somewhere else.
func (n *Node) placeNode(o *cluster.Objects) {
	o.Nodes = slices.Clone(o.Nodes)
	slices.SortFunc(o.Nodes, func(a, b cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
	if len(o.Nodes) == 0 {
		o.Nodes = []cluster.Node{{Name: nodeName}}
	}
	o.Nodes[0].Addresses = slices.Clone(n.net.Address[:])
	if n.net.Bridge { // the node has these too, and packets from its own processes may carry them
		gateways := n.net.Gateways()
		o.Nodes[0].Addresses = append(o.Nodes[0].Addresses, gateways[:]...)
	}
}

// limit is the first number that is no pod's in both ranges; link-layer addresses have room for 16 bits.
func (n *Node) limit() int {
	limit := 1 << 16
	for _, r := range n.net.Ranges {
		if bits := r.Addr().BitLen() - r.Bits(); bits < 16 {
			limit = min(limit, 1<<bits)
		}
	}
	return limit - 1 // the last one is the range's broadcast address
}

// unused tells numbers whose addresses are nobody else's.
func (n *Node) unused(o cluster.Objects) func(int) bool {
	taken := map[netip.Addr]bool{}
	for _, node := range o.Nodes {
		for _, a := range node.Addresses {
			taken[a] = true
		}
	}
	return func(number int) bool {
		return !taken[numbered(n.net.Ranges[0], number)] && !taken[numbered(n.net.Ranges[1], number)]
	}
}

func (n *Node) addressesOf(k cluster.Key) []netip.Addr {
	number := n.leases.number(k)
	return []netip.Addr{numbered(n.net.Ranges[0], number), numbered(n.net.Ranges[1], number)}
}

// port is where a pod is plugged in.
func (n *Node) port(k cluster.Key) podnet.Port {
	number := n.leases.number(k)
	return podnet.Port{Veth: fmt.Sprintf("rf%d", number), Number: number, Addresses: n.addressesOf(k)}
}

// attachments says the same for all pods of s, to those who check where packets come from.
func (n *Node) attachments(s *cluster.State) map[cluster.Key]ruleset.Attachment {
	m := map[cluster.Key]ruleset.Attachment{}
	for _, e := range s.Endpoints() {
		if e.HostNetwork {
			continue
		}
		a := ruleset.Attachment{Interface: n.port(e.Key).Veth}
		if n.net.Bridge {
			a = ruleset.Attachment{Interface: podnet.BridgeName, Port: a.Interface}
		}
		m[e.Key] = a
	}
	return m
}
