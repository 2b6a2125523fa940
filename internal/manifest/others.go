package manifest

import (
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/service"
)

// checkName notes a name or namespace that the API server would refuse. A name in capitals or with underscores is only
// worth a notice, as no verdict depends on it; one that could be taken for something else is a problem.
func (o *object) checkName() {
	const want = "at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends"
	switch name := o.Key.Name; {
	case name == "":
		if !o.Broken("metadata") {
			o.Problem("metadata.name", "", "required field is missing")
		}
	case isDNSName(name, 253):
	case isDNSName(strings.ReplaceAll(strings.ToLower(name), "_", "-"), 253):
		o.Notice("metadata.name", "the API server would refuse the name %q: it wants %s", document.Shorten(name), want)
	default:
		o.Problem("metadata.name", "", "%q is no name: want %s", document.Shorten(name), want)
	}
	if ns := o.Key.Namespace; ns != "" && (!isDNSName(ns, 63) || strings.Contains(ns, ".")) {
		o.Problem("metadata.namespace", "", "%q is no name of a namespace: want at most 63 of a-z, 0-9 and '-'", document.Shorten(ns))
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
	labels, err := o.labels("metadata.labels", n.Labels).With(cluster.NameLabel, o.Key.Name)
	if err != nil {
		o.Problem("metadata.name", "", "%s", err)
	}
	if err != nil || o.Broken("metadata.name") || !b.once(o) {
		return
	}
	o.Effect("the namespace has no labels but %s", labels)
	b.namespaces = append(b.namespaces, cluster.Namespace{Name: o.Key.Name, Labels: labels})
}

func (b *Bundle) takeNode(o *object, n *corev1.Node) {
	o.checkName()
	node := cluster.Node{Name: o.Key.Name, Labels: o.labels("metadata.labels", n.Labels)}
	for i, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if addr, ok := o.address(document.At("status.addresses", i)+".address", a.Address); ok {
			node.Addresses = append(node.Addresses, addr)
		}
	}
	ranges := o.podRanges(n)
	if o.Broken("metadata.name") || !b.once(o) {
		return
	}
	o.Effect("the node has the labels %q and the addresses %v", node.Labels, node.Addresses)
	b.nodes = append(b.nodes, node)
	b.podRanges = append(b.podRanges, ranges...)
}

func (o *object) podRanges(n *corev1.Node) []netip.Prefix {
	return oneOrMany("spec.podCIDR", n.Spec.PodCIDR, n.Spec.PodCIDRs, o.prefix)
}

// oneOrMany reads a field that has a list beside it, of the field's name and an s, which counts if it is there.
func oneOrMany[T any](field, one string, many []string, read func(field, text string) (T, bool)) []T {
	var all []T
	add := func(field, text string) {
		if v, ok := read(field, text); ok {
			all = append(all, v)
		}
	}
	if len(many) == 0 && one != "" {
		add(field, one)
	}
	for i, text := range many {
		add(document.At(field+"s", i), text)
	}
	return all
}

func (b *Bundle) takeService(o *object, s *corev1.Service) {
	o.checkName()
	made := service.Service{Key: o.Key, Kind: serviceKind(s), ExternalName: s.Spec.ExternalName,
		PublishNotReady: s.Spec.PublishNotReadyAddresses, File: o.File, Line: o.Line}
	o.labels("spec.selector", s.Spec.Selector)
	if len(s.Spec.Selector) > 0 && len(o.Problems) == 0 { // an empty selector selects none, unlike elsewhere
		selector, err := label.MatchLabels(s.Spec.Selector)
		if err != nil {
			o.Problem("spec.selector", "", "%v", err)
		}
		made.Selector = selector
	}
	if made.Kind != service.Headless {
		made.ClusterIPs = o.clusterIPs(s)
	}
	for _, f := range s.Spec.IPFamilies {
		made.Families = append(made.Families, map[corev1.IPFamily]service.Family{
			corev1.IPv4Protocol: service.IPv4, corev1.IPv6Protocol: service.IPv6}[f])
	}
	made.Affinity = affinity(s)
	for i, p := range s.Spec.Ports {
		made.Ports = append(made.Ports, o.servicePort(document.At("spec.ports", i), p))
	}
	if len(o.Problems) == 0 && b.once(o) {
		b.services = append(b.services, made)
	}
}

// serviceKind says how a Service is reached. On one machine, a load balancer is no more than its node port.
func serviceKind(s *corev1.Service) service.Kind {
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return service.ExternalName
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		return service.Headless
	case s.Spec.Type == corev1.ServiceTypeNodePort, s.Spec.Type == corev1.ServiceTypeLoadBalancer:
		return service.NodePort
	}
	return service.ClusterIP
}

func affinity(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return service.DefaultAffinity
}

func (o *object) clusterIPs(s *corev1.Service) []netip.Addr {
	return oneOrMany("spec.clusterIP", s.Spec.ClusterIP, s.Spec.ClusterIPs, o.address)
}

func (o *object) servicePort(path string, p corev1.ServicePort) service.Port {
	port := service.Port{Name: p.Name, Protocol: o.protocol(path+".protocol", p.Protocol), Port: o.portNumber(path+".port", p.Port)}
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
