package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// clusterSpec is the common form of ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy, before
// it is checked. The versions differ in names, not in meaning.
type clusterSpec struct {
	tier     policy.Tier // none if the manifest names none that exists
	priority int32
	subject  clusterPeer
	rules    map[flow.Direction][]clusterRule
	limit    int // of rules in a direction, and of peers and ports in a rule
	actions  map[string]policy.Action
	ports    string // the field that lists the ports
}

type clusterRule struct {
	name, action string
	peers        []clusterPeer
	ports        []clusterPort
}

// clusterPeer is a peer, or a subject.
type clusterPeer struct {
	namespaces, nodes *metav1.LabelSelector
	pods              *v1alpha2.NamespacedPod
	networks, domains []string
}

// clusterPort translates itself, because here the versions do differ.
type clusterPort func(o *object, path string) policy.Port

var peersField = map[flow.Direction]string{flow.Ingress: ".from", flow.Egress: ".to"}

// clusterPolicy translates s. The result counts only if no problem was noted.
func (o *object) clusterPolicy(s clusterSpec) policy.Policy {
	p := policy.Policy{Tier: s.tier, Name: o.policyName(), Priority: s.priority, File: o.File, Line: o.Line}
	p.Subject = o.subject("spec.subject", s.subject)
	if s.priority < 0 || s.priority > 1000 {
		o.Problem("spec.priority", "", "%d is not from 0 to 1000", s.priority)
	}
	for _, d := range flow.Directions {
		path := "spec." + d.String()
		if len(s.rules[d]) > s.limit {
			o.Problem(path, "split the policy", "holds %d rules, more than %d", len(s.rules[d]), s.limit)
		}
		var rules []policy.Rule
		for i, r := range s.rules[d] {
			rules = append(rules, o.clusterRule(document.At(path, i), d, r, s))
		}
		if d == flow.Egress {
			p.Egress = rules
		} else {
			p.Ingress = rules
		}
	}
	return p
}

// policyName keeps policies of the older kinds apart from a ClusterNetworkPolicy of the same name: no Kubernetes name
// can hold a colon.
func (o *object) policyName() string {
	switch o.Kind {
	case "AdminNetworkPolicy":
		return "anp:" + o.Key.Name
	case "BaselineAdminNetworkPolicy":
		return "banp:" + o.Key.Name
	}
	return o.Key.Name
}

func (o *object) clusterRule(path string, d flow.Direction, r clusterRule, s clusterSpec) policy.Rule {
	rule := policy.Rule{Name: r.name, Line: o.LineOf(path)}
	if len([]rune(r.name)) > 100 {
		o.Problem(path+".name", "shorten it", "is longer than 100 characters")
	}
	action, known := s.actions[r.action]
	if !known {
		o.unknownWord(path+".action", r.action, slices.Sorted(maps.Keys(s.actions)))
	}
	rule.Action = action
	o.checkCount(path+peersField[d], len(r.peers), s.limit, true)
	o.checkCount(path+"."+s.ports, len(r.ports), s.limit, false)
	for i, p := range r.peers {
		rule.Peers = append(rule.Peers, o.clusterPeers(document.At(path+peersField[d], i), d, p, action)...)
	}
	for i, translate := range r.ports {
		rule.Ports = append(rule.Ports, translate(o, document.At(path+"."+s.ports, i)))
	}
	o.checkNamedPorts(path+"."+s.ports, r, rule)
	if o.Lines == nil {
		closeUnknownPeers(&rule, r.peers)
	}
	return rule
}

// closeUnknownPeers is what the API asks for when a peer holds nothing that we know, because the cluster has a newer
// version of the API than we: an Accept matches nothing, a Deny or Pass denies everybody everything.
func closeUnknownPeers(rule *policy.Rule, peers []clusterPeer) {
	if !slices.ContainsFunc(peers, func(p clusterPeer) bool { return len(p.fields()) == 0 }) {
		return
	}
	if rule.Action == policy.Accept {
		rule.Peers = nil
		return
	}
	rule.Action, rule.Ports, rule.Peers = policy.Deny, nil, []policy.Peer{{Kind: policy.PeerAnyone}}
}

func (o *object) checkCount(path string, n, limit int, required bool) {
	switch {
	case required && o.Missing(path):
		o.Problem(path, "", "required field is missing")
	case n == 0 && (required || o.Written(path)):
		o.Problem(path, "", "needs at least one item")
	case n > limit:
		o.Problem(path, "split the rule", "holds %d items, more than %d", n, limit)
	}
}

// checkNamedPorts: only pods have port names.
func (o *object) checkNamedPorts(path string, r clusterRule, rule policy.Rule) {
	named := slices.ContainsFunc(rule.Ports, func(p policy.Port) bool { return p.Name != "" })
	for _, p := range r.peers {
		if named && (p.networks != nil || p.nodes != nil || p.domains != nil) {
			o.Problem(path, "make two rules of it", "a port's name cannot be used with networks, nodes or domainNames, which have none")
			return
		}
	}
}

func (o *object) subject(path string, s clusterPeer) policy.Pods {
	if o.Missing(path) {
		o.Problem(path, "for all pods write {namespaces: {}}", "required field is missing")
		return policy.Pods{}
	}
	if !o.exactlyOne(path, s.fields(), []string{"namespaces", "pods"}) {
		return policy.Pods{}
	}
	return o.pods(path, s)
}

// pods translates the field namespaces or pods, one of which is set.
func (o *object) pods(path string, p clusterPeer) policy.Pods {
	if p.namespaces != nil {
		return policy.Pods{Namespaces: o.selector(path+".namespaces", p.namespaces), Pods: label.Everything()}
	}
	if p.pods == nil {
		return policy.Pods{}
	}
	if o.Missing(path + ".pods.podSelector") {
		o.Problem(path+".pods.podSelector", "for all pods write podSelector: {}", "required field is missing")
	}
	return policy.Pods{Namespaces: o.selector(path+".pods.namespaceSelector", &p.pods.NamespaceSelector),
		Pods: o.selector(path+".pods.podSelector", &p.pods.PodSelector)}
}

// fields lists the fields that are set.
func (p clusterPeer) fields() []string {
	var set []string
	for _, f := range []struct {
		name string
		set  bool
	}{{"namespaces", p.namespaces != nil}, {"pods", p.pods != nil}, {"nodes", p.nodes != nil},
		{"networks", p.networks != nil}, {"domainNames", p.domains != nil}} {
		if f.set {
			set = append(set, f.name)
		}
	}
	return set
}

// exactlyOne notes a problem if not exactly one of the known fields is set. An unknown field is noted already.
func (o *object) exactlyOne(path string, set, known []string) bool {
	switch {
	case len(set) == 1:
		return true
	case len(set) > 1:
		o.Problem(path, "keep one of them", "sets %s, of which exactly one can be set", strings.Join(set, ", "))
		return false
	}
	if !o.Broken(path) {
		o.Problem(path, "", "sets none of %s", strings.Join(known, ", "))
	}
	return false
}

var peerFields = map[flow.Direction][]string{
	flow.Ingress: {"namespaces", "pods"},
	flow.Egress:  {"namespaces", "pods", "nodes", "networks", "domainNames"},
}

func (o *object) clusterPeers(path string, d flow.Direction, p clusterPeer, action policy.Action) []policy.Peer {
	fields := p.fields()
	if o.Lines == nil && len(fields) == 0 {
		return nil // see closeUnknownPeers
	}
	if !o.exactlyOne(path, fields, peerFields[d]) {
		return nil
	}
	switch {
	case p.nodes != nil:
		return []policy.Peer{{Kind: policy.PeerNodes, Nodes: o.selector(path+".nodes", p.nodes)}}
	case p.networks != nil:
		return o.networks(path+".networks", p.networks)
	case p.domains != nil:
		return o.domains(path+".domainNames", p.domains, action)
	}
	return []policy.Peer{{Kind: policy.PeerPods, Pods: o.pods(path, p)}}
}

func (o *object) networks(path string, cidrs []string) []policy.Peer {
	o.checkCount(path, len(cidrs), 25, true)
	var peers []policy.Peer
	for i, text := range cidrs {
		if block, ok := o.prefix(document.At(path, i), text); ok {
			peers = append(peers, policy.Peer{Kind: policy.PeerBlock, Block: block})
		}
	}
	return peers
}

// domainName is the pattern of the CRD, with its slip (A-z, which holds more than letters) put right.
var domainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

func (o *object) domains(path string, names []string, action policy.Action) []policy.Peer {
	o.checkCount(path, len(names), 25, true)
	if action != policy.Accept {
		o.Problem(path, "deny with networks instead", "can only be used in rules that accept")
	}
	for i, name := range names {
		if !domainName.MatchString(name) {
			o.Problem(document.At(path, i), "", "%q is no domain name such as example.com or *.example.com", name)
		}
	}
	o.NoticeOfNothing(path, "domainNames are not enforced yet: they match nothing")
	return []policy.Peer{{Kind: policy.PeerNone}}
}

// clusterStandIn denies everything to and from the subject, in the directions for which there are rules.
func (o *object) clusterStandIn(s clusterSpec) policy.Policy {
	p := policy.Policy{Tier: s.tier, Priority: s.priority, Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}}
	if p.Tier == 0 {
		p.Tier = policy.Admin
	}
	if o.Broken("spec.priority") || p.Priority < 0 || p.Priority > 1000 {
		p.Priority = 0
	}
	path := "spec.subject"
	if !o.Broken(path) && !o.BrokenAbove(path) && len(s.subject.fields()) == 1 {
		probe := &object{document.Object{Lines: o.Lines}}
		if pods := probe.subject(path, s.subject); len(probe.Problems) == 0 {
			p.Subject = pods
		}
	}
	unsure := o.Misnamed() || o.BrokenAbove("spec.egress")
	if unsure || len(s.rules[flow.Egress]) > 0 || o.Broken("spec.egress") {
		p.Egress = denyAll(o.Line)
	}
	if unsure || len(s.rules[flow.Ingress]) > 0 || o.Broken("spec.ingress") {
		p.Ingress = denyAll(o.Line)
	}
	return p
}
