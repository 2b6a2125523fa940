package clustertest

import (
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Tuple draws a connection between addresses and to a port that mean something in s, or lie just beside. Local is
// what s says of the addresses.
func Tuple(t *rapid.T, s *cluster.State) flow.Tuple {
	near := addresses(s)
	if rapid.IntRange(0, 3).Draw(t, "family") == 0 {
		near.keep(netip.Addr.Is6)
	} else {
		near.keep(netip.Addr.Is4)
	}
	source := near.draw(t, "source")
	slices.Reverse(near.pods) // rapid prefers the first of a list: not the same pod twice, most of the time
	tuple := flow.Tuple{
		Source:      source,
		Destination: near.draw(t, "destination"),
		Protocol:    rapid.SampledFrom([]flow.Protocol{flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.TCP, flow.SCTP, flow.ICMP, 47}).Draw(t, "protocol"),
		Translated:  rapid.IntRange(0, 4).Draw(t, "translated") == 4,
	}
	if tuple.Source == tuple.Destination { // pods that reach themselves are worth a few tuples only
		tuple.Destination = near.draw(t, "another destination")
	}
	if tuple.Protocol == flow.ICMP && tuple.Source.Is6() {
		tuple.Protocol = flow.ICMPv6
	}
	if tuple.Protocol.HasPorts() {
		tuple.Port = rapid.SampledFrom(ports(s)).Draw(t, "port")
	}
	return s.Resolve(tuple).Tuple()
}

// Connection is Tuple as the reference evaluator takes it. Now and then a pod takes part without its address,
// as offline, where no pod has any.
func Connection(t *rapid.T, s *cluster.State) cluster.Connection {
	c := s.Resolve(Tuple(t, s))
	if rapid.IntRange(0, 9).Draw(t, "offline") == 9 {
		for _, p := range []*cluster.Party{&c.From, &c.To} {
			*p = s.PartyOf(rapid.SampledFrom(s.Endpoints()).Draw(t, "offline pod"), netip.Addr{})
		}
	}
	return c
}

// places are the addresses worth trying: those of pods and nodes, and those at the edges of blocks and ranges.
type places struct{ pods, nodes, edges []netip.Addr }

func addresses(s *cluster.State) *places {
	p := &places{edges: slices.Clone(outside)}
	for _, e := range s.Endpoints() {
		p.pods = append(p.pods, e.Addresses...)
	}
	for _, n := range s.Nodes() {
		p.nodes = append(p.nodes, n.Addresses...)
	}
	for _, r := range s.PodRanges() {
		p.edges = append(p.edges, edges(r)...)
	}
	for _, pol := range s.Policies() {
		for _, r := range slices.Concat(pol.Egress, pol.Ingress) {
			for _, peer := range r.Peers {
				p.edges = append(p.edges, blockEdges(peer)...)
			}
		}
	}
	return p
}

func blockEdges(p policy.Peer) []netip.Addr {
	if p.Kind != policy.PeerBlock {
		return nil
	}
	all := edges(p.Block)
	for _, e := range p.Except {
		all = append(all, edges(e)...)
	}
	return all
}

// edges are the first and last address of r and those just outside.
func edges(r netip.Prefix) []netip.Addr {
	last := r.Addr().AsSlice()
	for i := r.Bits(); i < r.Addr().BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return []netip.Addr{r.Addr(), end, r.Addr().Prev(), end.Next()}
}

// keep drops the addresses that f does not hold for, invalid and mapped ones (beyond the ends of a family), and repeats.
func (p *places) keep(f func(netip.Addr) bool) {
	for _, list := range []*[]netip.Addr{&p.pods, &p.nodes, &p.edges} {
		*list = slices.DeleteFunc(*list, func(a netip.Addr) bool { return !a.IsValid() || a.Is4In6() || !f(a) })
		slices.SortFunc(*list, netip.Addr.Compare)
		*list = slices.Compact(*list)
	}
}

func (p *places) draw(t *rapid.T, what string) netip.Addr {
	list := rapid.SampledFrom([][]netip.Addr{p.pods, p.pods, p.edges, p.pods, p.nodes, p.pods}).Draw(t, "kind of "+what)
	if len(list) == 0 {
		list = p.edges // never empty: the world outside has both families
	}
	return rapid.SampledFrom(list).Draw(t, what)
}

// ports are the numbers that pods declare and policies name, and those just beside. What many say is there often.
func ports(s *cluster.State) []uint16 {
	all := []uint16{portNumbers[0]}
	for _, e := range s.Endpoints() {
		for _, c := range e.Ports {
			all = append(all, c.Number)
		}
	}
	for _, p := range s.Policies() {
		for _, r := range slices.Concat(p.Egress, p.Ingress) {
			for _, port := range r.Ports {
				if port.Name == "" {
					all = append(all, port.First, port.Last, port.First-1, port.Last+1)
				}
			}
		}
	}
	return all
}
