package lab

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Topology is how pods are plugged into the node.
type Topology uint8

// The topologies.
const (
	Routed Topology = iota // a veth for each pod, and a host route to it
	Bridge                 // all pods on one bridge, whose address is their gateway
)

// String is "routed" or "bridge".
func (t Topology) String() string {
	if t == Bridge {
		return "bridge"
	}
	return "routed"
}

// ParseTopology reads what String writes.
func ParseTopology(s string) (Topology, error) {
	for _, t := range []Topology{Routed, Bridge} {
		if s == t.String() {
			return t, nil
		}
	}
	return Routed, fmt.Errorf("unknown topology %q: want routed or bridge", s)
}

// Where the lab's own addresses come from. The node and the world are of ranges made for documentation, so that
// they meet nobody's pods.
var (
	podRanges     = [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")}
	nodeAddresses = [2]netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:0:a::10")}
)

const (
	bridgeName  = "pods0" // as podnet calls it
	outsideVeth = "outside0"
	nodeName    = "lab-node" // of a cluster that declares no node
)

// host is one network stack of the lab: a pod, the node, or the world outside.
type host struct {
	endpoint  *cluster.Endpoint // of a pod
	addresses []netip.Addr
	listen    []cluster.Port // where it answers, on each of its addresses; sorted
	veth      string         // the node's interface that leads there; "" for the node itself
}

// plan is a lab before anything is made: pure, and the same for the same Spec.
type plan struct {
	topology Topology
	state    *cluster.State
	ranges   [2]netip.Prefix // of pods, IPv4 and IPv6
	node     host
	outside  host
	pods     []host // without those on the node's network
	other    cluster.Port
	notices  []string
}

// newPlan gives everything in o a place: all pods run on one node, everything that is not a pod or that node is
// the one host outside.
func newPlan(o cluster.Objects, t Topology, extra []cluster.Port, outside ...netip.Addr) (*plan, error) {
	p := &plan{topology: t}
	p.chooseRanges(&o)
	p.placeNodes(&o)
	p.placePods(&o)
	if err := cluster.AssignAddresses(&o, p.ranges[0], p.ranges[1]); err != nil {
		return nil, fmt.Errorf("give pods addresses: %w", err)
	}
	p.placeHostNetwork(&o)
	p.placeOutside(&o, outside)
	p.placePorts(&o, extra)
	state, err := cluster.NewState(o)
	if err != nil {
		return nil, err
	}
	p.state = state
	return p, nil
}

// chooseRanges takes the pod ranges that the cluster names, the first of each family that has room for all pods, or
// our own: all pods run on one node here.
func (p *plan) chooseRanges(o *cluster.Objects) {
	p.ranges = podRanges
	for i := range p.ranges {
		at := slices.IndexFunc(o.PodRanges, func(r netip.Prefix) bool {
			return familyOf(r.Addr()) == i && r.Addr().BitLen()-r.Bits() > bits.Len(uint(len(o.Endpoints)+3))
		})
		if at >= 0 {
			p.ranges[i] = o.PodRanges[at].Masked()
		}
	}
}

// gateways are the bridge's own addresses: the first of each range.
func (p *plan) gateways() [2]netip.Addr {
	return [2]netip.Addr{p.ranges[0].Addr().Next(), p.ranges[1].Addr().Next()}
}

// placeNodes makes the first node the lab's, with one address of each family. The other nodes have no pods here;
// they keep an address, and the outside host answers there.
func (p *plan) placeNodes(o *cluster.Objects) {
	o.Nodes = slices.Clone(o.Nodes)
	slices.SortFunc(o.Nodes, func(a, b cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
	if len(o.Nodes) == 0 {
		o.Nodes = []cluster.Node{{Name: nodeName}}
	}
	next := nodeAddresses
	for i := range o.Nodes {
		n := &o.Nodes[i]
		var addresses []netip.Addr
		for family := range next {
			given := slices.IndexFunc(n.Addresses, func(a netip.Addr) bool {
				return familyOf(a) == family && isHostAddress(a) && !p.ranges[family].Contains(a)
			})
			if given >= 0 {
				addresses = append(addresses, n.Addresses[given])
				continue
			}
			addresses = append(addresses, next[family])
			next[family] = next[family].Next()
		}
		n.Addresses = addresses
		if i > 0 {
			p.outside.addresses = append(p.outside.addresses, addresses...)
		}
	}
	p.node.addresses = slices.Clone(o.Nodes[0].Addresses)
	if p.topology == Bridge { // the node has these too, and packets from its own processes may carry them
		gateways := p.gateways()
		o.Nodes[0].Addresses = append(o.Nodes[0].Addresses, gateways[:]...)
	}
}

// placePods puts every pod on the node and drops addresses that it cannot have here.
func (p *plan) placePods(o *cluster.Objects) {
	taken := map[netip.Addr]bool{}
	for _, n := range o.Nodes {
		for _, a := range n.Addresses {
			taken[a] = true
		}
	}
	o.Endpoints = slices.Clone(o.Endpoints)
	slices.SortFunc(o.Endpoints, func(a, b *cluster.Endpoint) int { return a.Key.Compare(b.Key) })
	for i, e := range o.Endpoints {
		pod := *e
		pod.Node, pod.Addresses = o.Nodes[0].Name, nil
		o.Endpoints[i] = &pod
		var families [2]bool
		for _, a := range e.Addresses {
			family := familyOf(a)
			switch {
			case pod.HostNetwork:
			case !p.usable(a) || taken[a] || families[family]:
				p.notices = append(p.notices, fmt.Sprintf("pod %s gets another address than %s, which it cannot have here", e.Key, a))
			default:
				taken[a], families[family] = true, true
				pod.Addresses = append(pod.Addresses, a)
			}
		}
	}
}

// usable reports whether a pod can have address a: on a bridge, only inside the bridge's range.
func (p *plan) usable(a netip.Addr) bool {
	inRange := p.ranges[0].Contains(a) || p.ranges[1].Contains(a)
	return isHostAddress(a) && (p.topology == Routed || inRange)
}

// placeHostNetwork gives host-network pods their node's addresses, and makes hosts of the others.
func (p *plan) placeHostNetwork(o *cluster.Objects) {
	for i, e := range o.Endpoints {
		if e.HostNetwork {
			pod := *e
			pod.Addresses = slices.Clone(p.node.addresses)
			o.Endpoints[i] = &pod
			p.node.listen = append(p.node.listen, e.Ports...)
			continue
		}
		p.pods = append(p.pods, host{endpoint: e, addresses: e.Addresses, listen: slices.Clone(e.Ports), veth: fmt.Sprintf("veth%d", len(p.pods))})
	}
}

// attachments says where each pod is plugged in.
func (p *plan) attachments() map[cluster.Key]ruleset.Attachment {
	m := map[cluster.Key]ruleset.Attachment{}
	for _, h := range p.pods {
		a := ruleset.Attachment{Interface: h.veth}
		if p.topology == Bridge {
			a = ruleset.Attachment{Interface: bridgeName, Port: h.veth}
		}
		m[h.endpoint.Key] = a
	}
	return m
}

// placePorts decides where everybody listens: a pod where it says, or, if it says nothing, where policies let
// somebody in; the node and the world where policies let pods out; everybody on extra and on one TCP port that
// nobody speaks of.
func (p *plan) placePorts(o *cluster.Objects, extra []cluster.Port) {
	in, out := policyPorts(o, flow.Ingress), policyPorts(o, flow.Egress)
	p.other = otherPort(o, extra)
	extra = append(slices.Clone(extra), p.other)
	p.node.listen = append(p.node.listen, p.bounded(out, "egress")...)
	p.outside.listen = p.bounded(out, "")
	for i := range p.pods {
		h := &p.pods[i]
		if len(h.listen) == 0 {
			h.listen = slices.Clone(in[:min(len(in), maxPorts)])
		}
		h.listen = distinctPorts(append(h.listen, extra...))
	}
	p.node.listen = distinctPorts(append(p.node.listen, extra...))
	p.outside.listen = distinctPorts(append(p.outside.listen, extra...))
}

// maxPorts bounds the ports of one host that come from policies and not from its own manifest.
const maxPorts = 16

func (p *plan) bounded(ports []cluster.Port, what string) []cluster.Port {
	if len(ports) > maxPorts && what != "" {
		p.notices = append(p.notices, fmt.Sprintf("policies name %d %s ports: the node and the world answer on the first %d", len(ports), what, maxPorts))
	}
	return slices.Clone(ports[:min(len(ports), maxPorts)])
}

// policyPorts are the numbers that rules of one direction name, both ends of a range; ranges of all ports name none.
func policyPorts(o *cluster.Objects, d flow.Direction) []cluster.Port {
	var ports []cluster.Port
	for _, pol := range o.Policies {
		for _, r := range pol.Rules(d) {
			for _, port := range r.Ports {
				if port.Name != "" {
					continue
				}
				for _, n := range []uint16{port.First, port.Last} {
					if n != 0 && n != 65535 {
						ports = append(ports, cluster.Port{Protocol: port.Protocol, Number: n})
					}
				}
			}
		}
	}
	return distinctPorts(ports)
}

// otherPort is the highest TCP port from 65000 down that no pod declares and no policy names.
func otherPort(o *cluster.Objects, extra []cluster.Port) cluster.Port {
	named := map[uint16]bool{}
	ports := slices.Concat(policyPorts(o, flow.Ingress), policyPorts(o, flow.Egress), extra)
	for _, e := range o.Endpoints {
		ports = append(ports, e.Ports...)
	}
	for _, p := range ports {
		named[p.Number] = true
	}
	n := uint16(65000)
	for named[n] && n > 1 {
		n--
	}
	return cluster.Port{Protocol: flow.TCP, Number: n}
}

// distinctPorts sorts by number and protocol, and forgets names and duplicates.
func distinctPorts(ports []cluster.Port) []cluster.Port {
	var all []cluster.Port
	for _, p := range ports {
		all = append(all, cluster.Port{Protocol: p.Protocol, Number: p.Number})
	}
	slices.SortFunc(all, func(a, b cluster.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol))
	})
	return slices.Compact(all)
}

// familyOf is 0 for IPv4 and 1 for IPv6: the order of addresses and ranges here.
func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
