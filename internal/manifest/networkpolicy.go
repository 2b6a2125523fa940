package manifest

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/policy"
)

func (b *Bundle) takeNetworkPolicy(o *object, np *networkingv1.NetworkPolicy) {
	o.checkName()
	p := o.networkPolicy(np)
	b.addPolicy(o, np.Annotations, p, func() policy.Policy { return o.networkStandIn(np) })
}

// networkPolicy translates np. The result counts only if no problem was noted.
func (o *object) networkPolicy(np *networkingv1.NetworkPolicy) policy.Policy {
	p := policy.Policy{Tier: policy.Namespace, Namespace: o.Key.Namespace, Name: o.Key.Name, File: o.File, Line: o.Line,
		Subject: policy.Pods{Namespaces: o.inNamespace(o.Key.Namespace), Pods: o.selector("spec.podSelector", &np.Spec.PodSelector)}}
	p.IsolatesIngress, p.IsolatesEgress = o.policyTypes(np)
	for i, r := range np.Spec.Ingress {
		p.Ingress = append(p.Ingress, o.networkRule(document.At("spec.ingress", i), ".from", r.From, r.Ports))
	}
	for i, r := range np.Spec.Egress {
		p.Egress = append(p.Egress, o.networkRule(document.At("spec.egress", i), ".to", r.To, r.Ports))
	}
	// Rules of a direction that policyTypes leaves out have no effect, so they must not be there to be misread.
	if !p.IsolatesIngress && len(p.Ingress) > 0 {
		o.NoticeOfNothing("spec.ingress", "the ingress rules have no effect, as policyTypes does not name Ingress")
		p.Ingress = nil
	}
	if !p.IsolatesEgress && len(p.Egress) > 0 {
		o.NoticeOfNothing("spec.egress", "the egress rules have no effect, as policyTypes does not name Egress")
		p.Egress = nil
	}
	return p
}

// AlertAnnotation is the annotation of a policy that says how the message about whoever it denies begins, for instance
// "a pod that is no LDAP client tried".
const AlertAnnotation = "ringfence.dev/alert"

// maxTitle bounds an alert's title, in bytes.
const maxTitle = 200

// alertTitle is one line, whatever was written.
func alertTitle(annotations map[string]string) string {
	title := strings.Join(strings.FieldsFunc(annotations[AlertAnnotation], func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(title) > maxTitle {
		title = strings.ToValidUTF8(title[:maxTitle], "")
	}
	return title
}

// policyTypes applies the API server's default: Ingress always, Egress if there are egress rules.
func (o *object) policyTypes(np *networkingv1.NetworkPolicy) (ingress, egress bool) {
	if len(np.Spec.PolicyTypes) == 0 {
		return true, len(np.Spec.Egress) > 0
	}
	if len(np.Spec.PolicyTypes) > 2 {
		o.Problem("spec.policyTypes", "", "holds more than the two types Ingress and Egress")
	}
	for i, t := range np.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		default:
			o.unknownWord(document.At("spec.policyTypes", i), string(t), []string{"Egress", "Ingress"})
		}
	}
	return ingress, egress
}

func (o *object) networkRule(path, peersField string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) policy.Rule {
	r := policy.Rule{Action: policy.Accept, Line: o.LineOf(path)}
	for i, peer := range peers {
		r.Peers = append(r.Peers, o.networkPeer(document.At(path+peersField, i), peer))
	}
	if len(peers) == 0 {
		r.Peers = []policy.Peer{{Kind: policy.PeerAnyone}}
	}
	for i, port := range ports {
		r.Ports = append(r.Ports, o.networkPort(document.At(path+".ports", i), port))
	}
	return r
}

func (o *object) networkPeer(path string, peer networkingv1.NetworkPolicyPeer) policy.Peer {
	switch {
	case peer.IPBlock != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil):
		o.Problem(path, "make two list items of it", "ipBlock cannot be combined with selectors")
	case peer.IPBlock != nil:
		return o.ipBlock(path+".ipBlock", peer.IPBlock)
	case peer.PodSelector == nil && peer.NamespaceSelector == nil:
		o.Problem(path, "for anyone leave the whole list out", "names no peer: wants podSelector, namespaceSelector or ipBlock")
	default:
		pods := policy.Pods{Namespaces: o.inNamespace(o.Key.Namespace), Pods: label.Everything()}
		if peer.NamespaceSelector != nil {
			pods.Namespaces = o.selector(path+".namespaceSelector", peer.NamespaceSelector)
		}
		if peer.PodSelector != nil {
			pods.Pods = o.selector(path+".podSelector", peer.PodSelector)
		}
		return policy.Peer{Kind: policy.PeerPods, Pods: pods}
	}
	return policy.Peer{}
}

func (o *object) ipBlock(path string, b *networkingv1.IPBlock) policy.Peer {
	if b.CIDR == "" {
		o.Problem(path+".cidr", "for everything write 0.0.0.0/0 and ::/0", "required field is missing")
		return policy.Peer{}
	}
	block, ok := o.prefix(path+".cidr", b.CIDR)
	peer := policy.Peer{Kind: policy.PeerBlock, Block: block}
	for i, text := range b.Except {
		where := document.At(path+".except", i)
		except, good := o.prefix(where, text)
		if ok && good && (except.Bits() <= block.Bits() || !block.Contains(except.Addr())) {
			o.Problem(where, "", "%s is not a smaller block inside of %s", text, block)
		}
		if good && !slices.Contains(peer.Except, except) {
			peer.Except = append(peer.Except, except)
		}
	}
	slices.SortFunc(peer.Except, netip.Prefix.Compare)
	return peer
}

func (o *object) networkPort(path string, p networkingv1.NetworkPolicyPort) policy.Port {
	port := policy.Port{Last: 65535}
	if p.Protocol != nil {
		port.Protocol = o.protocol(path+".protocol", *p.Protocol)
	} else {
		port.Protocol = flow.TCP
	}
	switch {
	case p.Port == nil && p.EndPort != nil:
		o.Problem(path+".endPort", "write port too", "an endPort needs a port")
	case p.Port == nil:
	case p.Port.Type == intstr.String && p.EndPort != nil:
		o.Problem(path+".endPort", "", "an endPort needs a port that is a number, not the name %q", p.Port.StrVal)
	case p.Port.Type == intstr.String:
		o.portName(path+".port", p.Port.StrVal)
		return policy.Port{Protocol: port.Protocol, Name: p.Port.StrVal}
	default:
		port.First = o.portNumber(path+".port", p.Port.IntVal)
		port.Last = port.First
		if p.EndPort != nil {
			port.Last = o.endPort(path+".endPort", *p.EndPort, port.First)
		}
	}
	return port
}

// readableSelector is the selector at path, or everything if it could not be read: a stand-in may select too much,
// never too little.
func (o *object) readableSelector(path string, s *metav1.LabelSelector) label.Selector {
	if o.Broken(path) || o.BrokenAbove(path) {
		return label.Everything()
	}
	probe := &object{document.Object{Lines: o.Lines}}
	if sel := probe.selector(path, s); len(probe.Problems) == 0 {
		return sel
	}
	return label.Everything()
}

// endPort is the end of a range. The API server refuses one above 65535, but what it means is beyond doubt.
func (o *object) endPort(path string, end int32, first uint16) uint16 {
	if end > 65535 {
		o.Notice(path, "endPort %d is read as 65535, the highest port there is; the API server would refuse it", end)
		return 65535
	}
	if last := o.portNumber(path, end); last == 0 || last >= first {
		return last
	}
	o.Problem(path, "", "endPort %d is less than port %d", end, first)
	return 0
}
