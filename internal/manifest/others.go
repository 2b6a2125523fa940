package manifest

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// checkName notes a name or namespace that the API server would refuse. Only a namespace that cannot be is a problem,
// as it is matched by; any name is as good as another.
func (o *object) checkName() {
	if o.key.Name == "" && !o.broken("metadata") {
		o.problem("metadata.name", "", "required field is missing")
	} else if o.key.Name != "" && !isDNSName(o.key.Name, 253) {
		o.notice("metadata.name", "the API server would refuse the name %q: it wants at most 253 of a-z, 0-9, '-' and '.'", o.key.Name)
	}
	if ns := o.key.Namespace; ns != "" && (!isDNSName(ns, 63) || strings.Contains(ns, ".")) {
		o.problem("metadata.namespace", "", "%q is no name of a namespace: at most 63 of a-z, 0-9 and '-'", ns)
	}
}

func isDNSName(s string, most int) bool {
	if len(s) > most {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, c := range part {
			if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}

func (b *Bundle) takeNamespace(o *object, n *corev1.Namespace) {
	o.checkName()
	labels, good := o.labels("metadata.labels", n.Labels)
	if o.broken("metadata.name") || o.key.Name == "" || !b.once(o) {
		return
	}
	if !good {
		o.problems[0].Effect = "until this is fixed, the namespace has no label but " + cluster.NameLabel
		labels = label.Set{}
	}
	labels, err := labels.With(cluster.NameLabel, n.Name)
	if err != nil {
		o.problem("metadata.name", "", "%s", err)
		return
	}
	b.namespaces = append(b.namespaces, cluster.Namespace{Name: n.Name, Labels: labels})
}

func (b *Bundle) takeNode(o *object, n *corev1.Node) {
	o.checkName()
	labels, good := o.labels("metadata.labels", n.Labels)
	node := cluster.Node{Name: n.Name, Labels: labels}
	for i, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if addr, ok := o.address(at("status.addresses", i)+".address", a.Address); ok {
			node.Addresses = append(node.Addresses, addr)
		}
	}
	ranges := o.podRanges(n)
	if !good && len(o.problems) > 0 {
		o.problems[0].Effect = "until this is fixed, the node has no labels"
	}
	if n.Name != "" && b.once(o) {
		b.nodes = append(b.nodes, node)
		b.podRanges = append(b.podRanges, ranges...)
	}
}

func (o *object) podRanges(n *corev1.Node) []netip.Prefix {
	var ranges []netip.Prefix
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		if p, ok := o.prefix("spec.podCIDR", n.Spec.PodCIDR); ok {
			ranges = append(ranges, p)
		}
	}
	for i, text := range n.Spec.PodCIDRs {
		if p, ok := o.prefix(at("spec.podCIDRs", i), text); ok {
			ranges = append(ranges, p)
		}
	}
	return ranges
}

// Service is a Service: a name and addresses in front of pods. Policy never sees it, but people ask by its name.
type Service struct {
	cluster.Key
	Type       string // "ClusterIP", "NodePort", "LoadBalancer" or "ExternalName"
	Headless   bool   // its name resolves to the pods' own addresses
	ClusterIPs []netip.Addr
	Selector   map[string]string // over pods of its namespace; empty selects none
	Ports      []ServicePort
	File       string
	Line       int
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name       string
	Protocol   flow.Protocol
	Port       uint16
	Target     uint16 // the backend's port; 0 if TargetName says it
	TargetName string // a port name, to be resolved on each pod
	NodePort   uint16 // 0 if none
}

func (b *Bundle) takeService(o *object, s *corev1.Service) {
	o.checkName()
	service := Service{Key: o.key, Type: string(s.Spec.Type), Selector: s.Spec.Selector, File: o.file, Line: o.line}
	if service.Type == "" {
		service.Type = string(corev1.ServiceTypeClusterIP)
	}
	if _, good := o.labels("spec.selector", s.Spec.Selector); !good {
		return
	}
	service.Headless = s.Spec.ClusterIP == corev1.ClusterIPNone
	if !service.Headless {
		service.ClusterIPs = o.clusterIPs(s)
	}
	for i, p := range s.Spec.Ports {
		service.Ports = append(service.Ports, o.servicePort(at("spec.ports", i), p))
	}
	if !o.broken("spec") && o.key.Name != "" && b.once(o) {
		b.services = append(b.services, service)
	}
}

func (o *object) clusterIPs(s *corev1.Service) []netip.Addr {
	var addrs []netip.Addr
	if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP != "" {
		if a, ok := o.address("spec.clusterIP", s.Spec.ClusterIP); ok {
			addrs = append(addrs, a)
		}
	}
	for i, text := range s.Spec.ClusterIPs {
		if a, ok := o.address(at("spec.clusterIPs", i), text); ok {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (o *object) servicePort(path string, p corev1.ServicePort) ServicePort {
	port := ServicePort{Name: p.Name, Protocol: o.protocol(path+".protocol", p.Protocol), Port: o.portNumber(path+".port", p.Port)}
	if p.NodePort != 0 {
		port.NodePort = o.portNumber(path+".nodePort", p.NodePort)
	}
	switch {
	case p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "":
		o.portName(path+".targetPort", p.TargetPort.StrVal)
		port.TargetName = p.TargetPort.StrVal
	case p.TargetPort.IntVal != 0:
		port.Target = o.portNumber(path+".targetPort", p.TargetPort.IntVal)
	default: // none is the same number
		port.Target = port.Port
	}
	return port
}
