package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Options are what a cluster gives its Services. The zero value gives nothing away: only Services that ask for an
// address have one.
type Options struct {
	Range4, Range6 netip.Prefix // of cluster addresses; invalid: none of that family are given out
	Reserved       []netip.Addr // not given out: the DNS server's, for instance
	NodePorts      PortRange    // the zero value is 30000-32767
	// Kept are addresses and node ports as they were before (Table.Allocation): a Service whose address was given
	// out keeps it.
	Kept Allocation
}

// PortRange is a range of ports, both ends in it.
type PortRange struct{ First, Last uint16 }

// Table is what is to be in force: inert, sorted, and never changed once made.
type Table struct {
	Entries   []Entry        // every Service that could be taken, by name
	Frontends []Frontend     // what packets are translated by, in the order of their Services, ports and families
	Ranges    []netip.Prefix // addresses in them that are nobody's are refused, not routed
	Problems  []Problem      // what a Service asked for and did not get
}

// Entry is a Service with what was found for it.
type Entry struct {
	Service   *Service
	Addresses []netip.Addr // cluster addresses, IPv4 first
	Endpoints []Endpoint   // the pods that it selects, by name, ready or not
}

// Endpoint is a pod behind a Service.
type Endpoint struct {
	Pod       cluster.Key
	Hostname  string       // the pod's name within a headless Service; "" if it has none
	Addresses []netip.Addr // of the Service's families
	Ports     []uint16     // for each port of the Service its port; 0 if the pod has none of that name
	Ready     bool         // connections and names lead to it
}

// Frontend is one address and port, and the backends that connections to it are spread over. No backends means that
// connections are refused.
type Frontend struct {
	Service  cluster.Key
	PortName string
	Protocol flow.Protocol
	Address  netip.Addr // the cluster address
	Port     uint16
	NodePort uint16 // on every address of the node of Address's family; 0: none
	Affinity time.Duration
	Backends []netip.AddrPort // sorted, each once
}

// Problem is what a Service asked for and did not get.
type Problem struct {
	Service *Service
	Err     error
}

// String is "file:line: Service ns/name: reason".
func (p Problem) String() string {
	s := fmt.Sprintf("Service %s: %v", p.Service.Key, p.Err)
	if p.Service.File != "" {
		return fmt.Sprintf("%s:%d: %s", p.Service.File, p.Service.Line, s)
	}
	return s
}

// Compute makes the table of services over pods. ready says of a pod whether connections may be sent to it; nil means
// that all are. The result depends on the values only, not on their order.
func Compute(services []Service, pods []*cluster.Endpoint, ready func(cluster.Key) bool, o Options) *Table {
	t := &Table{}
	for _, r := range []netip.Prefix{o.Range4, o.Range6} {
		if r.IsValid() {
			t.Ranges = append(t.Ranges, r.Masked())
		}
	}
	sorted := t.admit(services)
	a := newAllocator(t, o, pods)
	a.addresses(sorted)
	a.nodePorts(sorted)
	perNamespace := map[string][]*cluster.Endpoint{}
	for _, p := range pods {
		perNamespace[p.Namespace] = append(perNamespace[p.Namespace], p)
	}
	for _, s := range sorted {
		e := Entry{Service: s, Addresses: a.given[s.Key]}
		e.Endpoints = endpoints(s, perNamespace[s.Namespace], ready)
		t.Entries = append(t.Entries, e)
		t.Frontends = append(t.Frontends, e.frontends(a)...)
	}
	return t
}

// admit sorts services and leaves out those that cannot be told apart or that nothing could hold.
func (t *Table) admit(services []Service) []*Service {
	var sorted []*Service
	for i := range services {
		sorted = append(sorted, &services[i])
	}
	slices.SortStableFunc(sorted, func(x, y *Service) int {
		return cmp.Or(x.Key.Compare(y.Key), strings.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line))
	})
	seen := map[cluster.Key]bool{}
	return slices.DeleteFunc(sorted, func(s *Service) bool {
		err := check(s)
		if err == nil && seen[s.Key] {
			err = fmt.Errorf("is there twice: remove one")
		}
		if err != nil {
			t.problem(s, err)
			return true
		}
		seen[s.Key] = true
		return false
	})
}

// check refuses what the API server would refuse as well, and the kernel could not hold or a name could not say.
func check(s *Service) error {
	const longestLabel = 63
	if n := len(s.Name); n == 0 || n > longestLabel || len(s.Namespace) == 0 || len(s.Namespace) > longestLabel {
		return fmt.Errorf("its name or namespace is empty or longer than %d characters: shorten it", longestLabel)
	}
	if s.Affinity < 0 {
		return fmt.Errorf("session affinity of %s: use a positive time", s.Affinity)
	}
	seen := map[Port]bool{}
	for _, p := range s.Ports {
		if p.Port == 0 || !p.Protocol.HasPorts() {
			return fmt.Errorf("port %d/%s is no port of TCP, UDP or SCTP: use 1 to 65535", p.Port, p.Protocol)
		}
		k := Port{Protocol: p.Protocol, Port: p.Port}
		if seen[k] {
			return fmt.Errorf("port %d/%s is there twice: remove one", p.Port, p.Protocol)
		}
		seen[k] = true
	}
	return nil
}

func (t *Table) problem(s *Service, err error) {
	t.Problems = append(t.Problems, Problem{s, err})
}

// endpoints are the pods of the Service's namespace that it selects and that have an address in its families.
func endpoints(s *Service, pods []*cluster.Endpoint, ready func(cluster.Key) bool) []Endpoint {
	var found []Endpoint
	for _, p := range pods {
		if s.Kind == ExternalName || !s.Selector.Matches(p.Labels) {
			continue
		}
		e := Endpoint{Pod: p.Key, Hostname: hostname(s, p), Ready: s.PublishNotReady || ready == nil || ready(p.Key)}
		for _, a := range p.Addresses {
			if s.wants(FamilyOf(a), []Family{IPv4, IPv6}) {
				e.Addresses = append(e.Addresses, a)
			}
		}
		if len(e.Addresses) == 0 {
			continue
		}
		slices.SortFunc(e.Addresses, netip.Addr.Compare)
		for _, port := range s.Ports {
			e.Ports = append(e.Ports, port.target(p))
		}
		found = append(found, e)
	}
	slices.SortFunc(found, func(x, y Endpoint) int { return x.Pod.Compare(y.Pod) })
	return found
}

// hostname is the pod's name within a headless Service. Kubernetes goes by the pod's hostname and subdomain, which a
// StatefulSet sets to the pod's name and its serviceName; the core knows neither, so a pod of a StatefulSet has its
// name in every headless Service that selects it.
func hostname(s *Service, p *cluster.Endpoint) string {
	if s.Kind == Headless && p.Owner.Kind == "StatefulSet" {
		return p.Name
	}
	return ""
}

// frontends are one for each port and cluster address.
func (e *Entry) frontends(a *allocator) []Frontend {
	var out []Frontend
	for i, p := range e.Service.Ports {
		for _, address := range e.Addresses {
			out = append(out, Frontend{
				Service: e.Service.Key, PortName: p.Name, Protocol: p.Protocol, Address: address, Port: p.Port,
				NodePort: a.ports[nodePortOf{e.Service.Key, p.Protocol, p.Port}], Affinity: e.Service.Affinity,
				Backends: e.backends(i, FamilyOf(address)),
			})
		}
	}
	return out
}

func (e *Entry) backends(port int, family Family) []netip.AddrPort {
	var out []netip.AddrPort
	for _, p := range e.Endpoints {
		for _, a := range p.Addresses {
			if p.Ready && p.Ports[port] != 0 && FamilyOf(a) == family {
				out = append(out, netip.AddrPortFrom(a, p.Ports[port]))
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// String is a line for each frontend and problem:
//
//	shop/web http tcp 10.96.7.3:80 node 30080 affinity 3h0m0s -> 10.0.0.2:8080 10.0.0.3:8080
func (t *Table) String() string {
	var b strings.Builder
	for _, f := range t.Frontends {
		b.WriteString(f.String() + "\n")
	}
	for _, p := range t.Problems {
		b.WriteString("problem: " + p.String() + "\n")
	}
	return b.String()
}

// String is the frontend's line in the table.
func (f Frontend) String() string {
	s := f.Service.String() + " "
	if f.PortName != "" {
		s += f.PortName + " "
	}
	s += f.Protocol.String() + " " + netip.AddrPortFrom(f.Address, f.Port).String()
	if f.NodePort != 0 {
		s += fmt.Sprintf(" node %d", f.NodePort)
	}
	if f.Affinity > 0 {
		s += " affinity " + f.Affinity.String()
	}
	s += " ->"
	for _, b := range f.Backends {
		s += " " + b.String()
	}
	if len(f.Backends) == 0 {
		s += " refused"
	}
	return s
}
