package rollout

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// Workload names what a pod belongs to: "namespace/workload", or the pod itself.
func Workload(e *cluster.Endpoint) string {
	if e.Owner.Name == "" {
		return e.Key.String()
	}
	return cluster.Key{Namespace: e.Namespace, Name: e.Owner.Name}.String()
}

// Workloads are those whose pods the change selects, sorted, also those that run no pod now, such as a CronJob between its
// runs.
func (c Change) Workloads(s *cluster.State) []string {
	var all []string
	for _, e := range c.Selected(s) {
		all = append(all, Workload(e))
	}
	subjects := c.subjects(s.Policies())
	for _, w := range s.Workloads() {
		if w.Template != nil && !w.Template.HostNetwork && selects(subjects, s.Namespace(w.Template.Namespace).Labels, w.Template) {
			all = append(all, w.Key.String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Probe is a connection that a pod nearly always wants.
type Probe struct {
	What  string // "DNS" or "API server"
	Pod   *cluster.Endpoint
	Tuple flow.Tuple
}

// String is for instance "DNS of shop/web".
func (p Probe) String() string { return p.What + " of " + Workload(p.Pod) }

// The cluster's DNS servers, by the namespace and labels that clusters give them.
const (
	dnsNamespace = "kube-system"
	dnsPort      = 53
)

var dnsLabels, _ = label.MatchLabels(map[string]string{"k8s-app": "kube-dns"})

// Probes are the connections that the pods which c selects want whatever they are for, by way of a Service: to the DNS
// servers and, of those that have a token of an account of their own, to the API servers. The node's health checks are not
// among them, as no policy can deny these.
func Probes(s *cluster.State, c Change) []Probe {
	var names []netip.AddrPort
	for _, e := range s.Endpoints() {
		if e.Namespace == dnsNamespace && dnsLabels.Matches(e.Labels) {
			for _, a := range e.Addresses {
				names = append(names, netip.AddrPortFrom(a, dnsPort))
			}
		}
	}
	var all []Probe
	for _, e := range c.Selected(s) {
		all = append(all, probesOf(e, "DNS", flow.UDP, names)...)
		if e.UsesAPI {
			all = append(all, probesOf(e, "API server", flow.TCP, s.APIServers())...)
		}
	}
	return all
}

func probesOf(e *cluster.Endpoint, what string, p flow.Protocol, servers []netip.AddrPort) []Probe {
	var all []Probe
	for _, own := range e.Addresses {
		for _, server := range servers {
			if own.Is4() == server.Addr().Is4() && own != server.Addr() {
				all = append(all, Probe{What: what, Pod: e, Tuple: flow.Tuple{Source: own, Destination: server.Addr(),
					Protocol: p, Port: server.Port(), Translated: true}})
			}
		}
	}
	return all
}
