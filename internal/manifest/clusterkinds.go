package manifest

import (
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

func (b *Bundle) takeClusterNetworkPolicy(o *object, cnp *v1alpha2.ClusterNetworkPolicy) {
	o.checkName()
	s := o.specOfCluster(cnp)
	b.addPolicy(o, cnp.Annotations, o.clusterPolicy(s), func() policy.Policy { return o.clusterStandIn(s) })
}

func (o *object) specOfCluster(cnp *v1alpha2.ClusterNetworkPolicy) clusterSpec {
	s := clusterSpec{priority: cnp.Spec.Priority, limit: 25, ports: "protocols",
		subject: clusterPeer{namespaces: cnp.Spec.Subject.Namespaces, pods: cnp.Spec.Subject.Pods},
		actions: map[string]policy.Action{"Accept": policy.Accept, "Deny": policy.Deny, "Pass": policy.Pass},
		rules:   map[flow.Direction][]clusterRule{}}
	switch cnp.Spec.Tier {
	case v1alpha2.AdminTier:
		s.tier = policy.Admin
	case v1alpha2.BaselineTier:
		s.tier = policy.Baseline
	default:
		o.unknownWord("spec.tier", string(cnp.Spec.Tier), []string{"Admin", "Baseline"})
	}
	if o.Missing("spec.priority") {
		o.Problem("spec.priority", "write a number from 0 (asked first) to 1000", "required field is missing")
	}
	for _, r := range cnp.Spec.Ingress {
		rule := clusterRule{name: r.Name, action: string(r.Action), ports: protocolPorts(r.Protocols)}
		for _, p := range r.From {
			rule.peers = append(rule.peers, clusterPeer{namespaces: p.Namespaces, pods: p.Pods})
		}
		s.rules[flow.Ingress] = append(s.rules[flow.Ingress], rule)
	}
	for _, r := range cnp.Spec.Egress {
		rule := clusterRule{name: r.Name, action: string(r.Action), ports: protocolPorts(r.Protocols)}
		for _, p := range r.To {
			rule.peers = append(rule.peers, clusterPeer{p.Namespaces, p.Nodes, p.Pods, texts(p.Networks), texts(p.DomainNames)})
		}
		s.rules[flow.Egress] = append(s.rules[flow.Egress], rule)
	}
	return s
}

// texts converts named string types; nil stays nil, and an empty list stays one.
func texts[S ~string](list []S) []string {
	if list == nil {
		return nil
	}
	out := []string{}
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

func protocolPorts(list []v1alpha2.ClusterNetworkPolicyProtocol) []clusterPort {
	var ports []clusterPort
	for _, p := range list {
		ports = append(ports, func(o *object, path string) policy.Port { return o.protocolPort(path, p) })
	}
	return ports
}

// protocolPort translates one item of protocols, which sets exactly one of its fields.
func (o *object) protocolPort(path string, p v1alpha2.ClusterNetworkPolicyProtocol) policy.Port {
	type choice struct {
		name     string
		set      bool
		protocol flow.Protocol
		port     *v1alpha2.Port
	}
	choices := []choice{{"destinationNamedPort", p.DestinationNamedPort != "" || o.Written(path+".destinationNamedPort"), 0, nil}}
	if p.TCP != nil {
		choices = append(choices, choice{"tcp", true, flow.TCP, p.TCP.DestinationPort})
	}
	if p.UDP != nil {
		choices = append(choices, choice{"udp", true, flow.UDP, p.UDP.DestinationPort})
	}
	if p.SCTP != nil {
		choices = append(choices, choice{"sctp", true, flow.SCTP, p.SCTP.DestinationPort})
	}
	var names []string
	var chosen choice
	for _, c := range choices {
		if c.set {
			names, chosen = append(names, c.name), c
		}
	}
	if !o.exactlyOne(path, names, []string{"tcp", "udp", "sctp", "destinationNamedPort"}) {
		return policy.Port{}
	}
	if chosen.protocol == 0 {
		o.portName(path+".destinationNamedPort", p.DestinationNamedPort)
		return policy.Port{Name: p.DestinationNamedPort}
	}
	return o.destinationPort(path+"."+chosen.name, chosen.protocol, chosen.port)
}

func (o *object) destinationPort(path string, protocol flow.Protocol, p *v1alpha2.Port) policy.Port {
	if p == nil {
		o.Problem(path, "write destinationPort: {range: {start: 1, end: 65535}} for all ports", "names no port")
		return policy.Port{}
	}
	path += ".destinationPort"
	var names []string
	if p.Number != 0 || o.Written(path+".number") {
		names = append(names, "number")
	}
	if p.Range != nil {
		names = append(names, "range")
	}
	if !o.exactlyOne(path, names, []string{"number", "range"}) {
		return policy.Port{}
	}
	if p.Range == nil {
		n := o.portNumber(path+".number", p.Number)
		return policy.Port{Protocol: protocol, First: n, Last: n}
	}
	return o.portRange(path+".range", protocol, p.Range.Start, p.Range.End)
}

func (o *object) portRange(path string, protocol flow.Protocol, start, end int32) policy.Port {
	port := policy.Port{Protocol: protocol, First: o.portNumber(path+".start", start), Last: o.portNumber(path+".end", end)}
	if !o.Broken(path) && port.First >= port.Last {
		o.Problem(path, "", "start %d is not less than end %d", start, end)
	}
	return port
}

func (b *Bundle) takeAdminNetworkPolicy(o *object, anp *v1alpha1.AdminNetworkPolicy) {
	o.checkName()
	if o.Missing("spec.priority") {
		o.Problem("spec.priority", "write a number from 0 (asked first) to 1000", "required field is missing")
	}
	s := olderSpec(policy.Admin, anp.Spec.Priority, anp.Spec.Subject)
	for _, r := range anp.Spec.Ingress {
		s.rules[flow.Ingress] = append(s.rules[flow.Ingress], olderIngress(r.Name, string(r.Action), r.From, r.Ports))
	}
	for _, r := range anp.Spec.Egress {
		rule := clusterRule{name: r.Name, action: string(r.Action), ports: olderPorts(r.Ports)}
		for _, p := range r.To {
			rule.peers = append(rule.peers, clusterPeer{p.Namespaces, p.Nodes, olderPods(p.Pods), texts(p.Networks), texts(p.DomainNames)})
		}
		s.rules[flow.Egress] = append(s.rules[flow.Egress], rule)
	}
	o.Notice("", "read as a ClusterNetworkPolicy of tier Admin with the same priority, named %s; Allow is Accept", o.policyName())
	b.addPolicy(o, anp.Annotations, o.clusterPolicy(s), func() policy.Policy { return o.clusterStandIn(s) })
}

// baselinePriority is asked after every other policy of the tier: the older kind has no priority, and was the last word.
const baselinePriority = 1000

func (b *Bundle) takeBaselineAdminNetworkPolicy(o *object, banp *v1alpha1.BaselineAdminNetworkPolicy) {
	o.checkName()
	if o.Key.Name != "default" && o.Key.Name != "" {
		o.Problem("metadata.name", `name it "default"`, "there is one BaselineAdminNetworkPolicy only, called default")
	}
	s := olderSpec(policy.Baseline, baselinePriority, banp.Spec.Subject)
	delete(s.actions, "Pass")
	for _, r := range banp.Spec.Ingress {
		s.rules[flow.Ingress] = append(s.rules[flow.Ingress], olderIngress(r.Name, string(r.Action), r.From, r.Ports))
	}
	for _, r := range banp.Spec.Egress {
		rule := clusterRule{name: r.Name, action: string(r.Action), ports: olderPorts(r.Ports)}
		for _, p := range r.To {
			rule.peers = append(rule.peers, clusterPeer{p.Namespaces, p.Nodes, olderPods(p.Pods), texts(p.Networks), nil})
		}
		s.rules[flow.Egress] = append(s.rules[flow.Egress], rule)
	}
	o.Notice("", "read as a ClusterNetworkPolicy of tier Baseline with priority %d, named %s; Allow is Accept", baselinePriority, o.policyName())
	b.addPolicy(o, banp.Annotations, o.clusterPolicy(s), func() policy.Policy { return o.clusterStandIn(s) })
}

func olderSpec(tier policy.Tier, priority int32, s v1alpha1.AdminNetworkPolicySubject) clusterSpec {
	return clusterSpec{tier: tier, priority: priority, limit: 100, ports: "ports",
		subject: clusterPeer{namespaces: s.Namespaces, pods: olderPods(s.Pods)},
		actions: map[string]policy.Action{"Allow": policy.Accept, "Deny": policy.Deny, "Pass": policy.Pass},
		rules:   map[flow.Direction][]clusterRule{}}
}

func olderPods(p *v1alpha1.NamespacedPod) *v1alpha2.NamespacedPod {
	return (*v1alpha2.NamespacedPod)(p)
}

func olderIngress(name, action string, from []v1alpha1.AdminNetworkPolicyIngressPeer, ports *[]v1alpha1.AdminNetworkPolicyPort) clusterRule {
	rule := clusterRule{name: name, action: action, ports: olderPorts(ports)}
	for _, p := range from {
		rule.peers = append(rule.peers, clusterPeer{namespaces: p.Namespaces, pods: olderPods(p.Pods)})
	}
	return rule
}

func olderPorts(list *[]v1alpha1.AdminNetworkPolicyPort) []clusterPort {
	var ports []clusterPort
	if list != nil {
		for _, p := range *list {
			ports = append(ports, func(o *object, path string) policy.Port { return o.olderPort(path, p) })
		}
	}
	return ports
}

func (o *object) olderPort(path string, p v1alpha1.AdminNetworkPolicyPort) policy.Port {
	var names []string
	if p.PortNumber != nil {
		names = append(names, "portNumber")
	}
	if p.NamedPort != nil {
		names = append(names, "namedPort")
	}
	if p.PortRange != nil {
		names = append(names, "portRange")
	}
	if !o.exactlyOne(path, names, []string{"portNumber", "namedPort", "portRange"}) {
		return policy.Port{}
	}
	switch {
	case p.NamedPort != nil:
		o.portName(path+".namedPort", *p.NamedPort)
		return policy.Port{Name: *p.NamedPort}
	case p.PortNumber != nil:
		n := o.portNumber(path+".portNumber.port", p.PortNumber.Port)
		return policy.Port{Protocol: o.protocol(path+".portNumber.protocol", p.PortNumber.Protocol), First: n, Last: n}
	}
	protocol := o.protocol(path+".portRange.protocol", corev1.Protocol(p.PortRange.Protocol))
	return o.portRange(path+".portRange", protocol, p.PortRange.Start, p.PortRange.End)
}
