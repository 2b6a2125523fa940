package service

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Allocation is which cluster addresses and node ports were given out, for remembering them.
type Allocation struct {
	Addresses map[cluster.Key][]netip.Addr
	NodePorts []GivenPort
}

// GivenPort is a node port that was given out.
type GivenPort struct {
	Service  cluster.Key
	Protocol flow.Protocol
	Port     uint16 // of the Service
	NodePort uint16
}

// Allocation returns what the table's Services have, for the next Options.Kept.
func (t *Table) Allocation() Allocation {
	a := Allocation{Addresses: map[cluster.Key][]netip.Addr{}}
	for _, e := range t.Entries {
		if len(e.Addresses) > 0 {
			a.Addresses[e.Service.Key] = e.Addresses
		}
	}
	for _, f := range t.Frontends {
		g := GivenPort{f.Service, f.Protocol, f.Port, f.NodePort}
		if f.NodePort != 0 && !slices.Contains(a.NodePorts, g) {
			a.NodePorts = append(a.NodePorts, g)
		}
	}
	return a
}

// nodePortOf names one port of a Service.
type nodePortOf struct {
	service  cluster.Key
	protocol flow.Protocol
	port     uint16
}

// onNode is a port of the node.
type onNode struct {
	protocol flow.Protocol
	port     uint16
}

type allocator struct {
	table   *Table
	options Options
	foreign map[netip.Addr]string // addresses that cannot be a Service's, and whose they are
	owners  map[netip.Addr]*Service
	given   map[cluster.Key][]netip.Addr
	holders map[onNode]*Service
	ports   map[nodePortOf]uint16
}

func newAllocator(t *Table, o Options, pods []*cluster.Endpoint) *allocator {
	a := &allocator{table: t, options: o, foreign: map[netip.Addr]string{}, owners: map[netip.Addr]*Service{},
		given: map[cluster.Key][]netip.Addr{}, holders: map[onNode]*Service{}, ports: map[nodePortOf]uint16{}}
	if o.NodePorts == (PortRange{}) {
		a.options.NodePorts = PortRange{30000, 32767}
	}
	for _, p := range pods {
		for _, addr := range p.Addresses {
			a.foreign[addr] = "pod " + p.Key.String()
		}
	}
	for _, addr := range o.Reserved {
		a.foreign[addr] = "reserved"
	}
	return a
}

// addresses gives out cluster addresses: first those that Services ask for, then those that they had, then by hash.
// Within each, Services are served in the order of their names.
func (a *allocator) addresses(services []*Service) {
	for _, s := range services {
		if s.balanced() {
			a.asked(s)
		}
	}
	for _, s := range services {
		for _, addr := range a.options.Kept.Addresses[s.Key] {
			if s.balanced() && a.lacks(s, FamilyOf(addr)) && a.free(addr) && a.rangeOf(FamilyOf(addr)).Contains(addr) {
				a.give(s, addr)
			}
		}
	}
	for _, s := range services {
		for _, f := range []Family{IPv4, IPv6} {
			if s.balanced() && a.lacks(s, f) {
				a.byHash(s, f)
			}
		}
		slices.SortFunc(a.given[s.Key], netip.Addr.Compare)
	}
}

func (a *allocator) asked(s *Service) {
	for _, addr := range s.ClusterIPs {
		switch {
		case !addr.IsValid() || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsLoopback() ||
			addr.IsMulticast() || addr.IsLinkLocalUnicast():
			a.table.problem(s, fmt.Errorf("clusterIP %s is no address that a Service can have: use one of the cluster's range", addr))
		case a.foreign[addr] != "":
			a.table.problem(s, fmt.Errorf("clusterIP %s is taken (%s): use another", addr, a.foreign[addr]))
		case a.owners[addr] != nil:
			a.table.problem(s, fmt.Errorf("clusterIP %s is that of Service %s: use another", addr, a.owners[addr].Key))
		case a.has(s, FamilyOf(addr)):
			a.table.problem(s, fmt.Errorf("clusterIP %s is its second of that family: ask for one", addr))
		default:
			a.give(s, addr)
		}
	}
}

// byHash starts where the name's hash says and takes the first address from there on that is free.
func (a *allocator) byHash(s *Service, f Family) {
	r := a.rangeOf(f)
	if !r.IsValid() {
		a.table.problem(s, fmt.Errorf("it wants an IPv%d address and the cluster has no such range: give it one", f))
		return
	}
	// The first address is the network's; the last one of an IPv4 range may be taken for a broadcast.
	size := uint64(1) << min(32, r.Addr().BitLen()-r.Bits())
	usable := max(size, 2) - 2
	if f == IPv6 {
		usable = size - 1
	}
	start := hash(s.Key.String(), 0)
	for i := range usable {
		addr := nth(r, 1+(start+i)%usable)
		if a.free(addr) {
			a.give(s, addr)
			return
		}
	}
	a.table.problem(s, fmt.Errorf("no address left in %s: use a larger range", r))
}

func (a *allocator) rangeOf(f Family) netip.Prefix {
	for _, r := range a.table.Ranges {
		if FamilyOf(r.Addr()) == f {
			return r
		}
	}
	return netip.Prefix{}
}

func (a *allocator) free(addr netip.Addr) bool { return a.foreign[addr] == "" && a.owners[addr] == nil }

func (a *allocator) has(s *Service, f Family) bool {
	return slices.ContainsFunc(a.given[s.Key], func(x netip.Addr) bool { return FamilyOf(x) == f })
}

// lacks reports whether s is to be given an address of a family. One that asked for an address and did not get it is
// not given another: its clients have the one that they read in the manifest.
func (a *allocator) lacks(s *Service, f Family) bool {
	refused := slices.ContainsFunc(s.ClusterIPs, func(x netip.Addr) bool { return FamilyOf(x) == f })
	var has []Family
	for _, r := range a.table.Ranges {
		has = append(has, FamilyOf(r.Addr()))
	}
	return s.wants(f, has) && !refused && !a.has(s, f)
}

func (a *allocator) give(s *Service, addr netip.Addr) {
	a.owners[addr] = s
	a.given[s.Key] = append(a.given[s.Key], addr)
}

// nodePorts gives out node ports in the same three rounds.
func (a *allocator) nodePorts(services []*Service) {
	r := a.options.NodePorts
	inRange := func(p uint16) bool { return p >= r.First && p <= r.Last }
	each := func(f func(s *Service, p Port)) {
		for _, s := range services {
			for _, p := range s.Ports {
				if s.Kind == NodePort && a.ports[nodePortOf{s.Key, p.Protocol, p.Port}] == 0 {
					f(s, p)
				}
			}
		}
	}
	each(func(s *Service, p Port) {
		switch holder := a.holders[onNode{p.Protocol, p.NodePort}]; {
		case p.NodePort == 0:
		case !inRange(p.NodePort):
			a.table.problem(s, fmt.Errorf("nodePort %d is not in the range %d-%d: use one of it", p.NodePort, r.First, r.Last))
		case holder != nil:
			a.table.problem(s, fmt.Errorf("nodePort %d/%s is that of Service %s: use another", p.NodePort, p.Protocol, holder.Key))
		default:
			a.givePort(s, p, p.NodePort)
		}
	})
	each(func(s *Service, p Port) {
		for _, k := range a.options.Kept.NodePorts {
			same := k.Service == s.Key && k.Protocol == p.Protocol && k.Port == p.Port
			if same && p.NodePort == 0 && inRange(k.NodePort) && a.holders[onNode{p.Protocol, k.NodePort}] == nil {
				a.givePort(s, p, k.NodePort)
				return
			}
		}
	})
	each(func(s *Service, p Port) {
		if p.NodePort == 0 {
			a.portByHash(s, p)
		}
	})
}

func (a *allocator) portByHash(s *Service, p Port) {
	r := a.options.NodePorts
	if r.First > r.Last {
		a.table.problem(s, fmt.Errorf("the range of node ports %d-%d is empty: turn it round", r.First, r.Last))
		return
	}
	size := uint64(r.Last-r.First) + 1
	// The protocol is left out, so that one port for TCP and UDP is mostly one on the node as well.
	start := hash(s.Key.String(), p.Port)
	for i := range size {
		port := r.First + uint16((start+i)%size)
		if port != 0 && a.holders[onNode{p.Protocol, port}] == nil {
			a.givePort(s, p, port)
			return
		}
	}
	a.table.problem(s, fmt.Errorf("no node port left in %d-%d: use a larger range", r.First, r.Last))
}

func (a *allocator) givePort(s *Service, p Port, port uint16) {
	a.holders[onNode{p.Protocol, port}] = s
	a.ports[nodePortOf{s.Key, p.Protocol, p.Port}] = port
}

// nth is the address n after the first of a prefix.
func nth(p netip.Prefix, n uint64) netip.Addr {
	if a := p.Masked().Addr(); a.Is4() {
		b := a.As4()
		v := binary.BigEndian.Uint32(b[:]) + uint32(n)
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
	}
	b := p.Masked().Addr().As16()
	low := binary.BigEndian.Uint64(b[8:]) + n // n has at most 32 bits, and so many bits of the prefix are zero
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}

// hash is FNV-1a with its bits mixed once more. It is written out because what it gives decides addresses that people
// and machines remember: it must be the same in every process and version, which hash/maphash is not.
func hash(name string, port uint16) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range append([]byte(name), byte(port>>8), byte(port)) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	return h ^ h>>33
}
