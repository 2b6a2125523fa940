// Package write says policies as the Kubernetes objects that package manifest reads: what was written, in one form of the
// many that mean the same.
package write

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// fields is a part of an object, in the order in which people write it; a map would be sorted by key.
type fields []field

type field struct {
	key   string
	value any
}

// MarshalYAML makes a mapping of f.
func (f fields) MarshalYAML() (any, error) {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, kv := range f {
		var key, value yaml.Node
		key.SetString(kv.key)
		if err := value.Encode(kv.value); err != nil {
			return nil, err
		}
		out.Content = append(out.Content, &key, &value)
	}
	return out, nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	err := e.Encode(v)
	return b.Bytes(), err
}

// alertAnnotation is manifest.AlertAnnotation; a test compares them.
const alertAnnotation = "ringfence.dev/alert"

// YAML is a policy as a document that can be applied. An error says what no object can say: that it stands for one that
// could not be read, say, or is of an older kind.
func YAML(p *policy.Policy) ([]byte, error) {
	object, err := object(p)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", p.Kind(), p.RuleAt(flow.Ingress, flow.Isolation).Policy(), err)
	}
	return marshal(object)
}

// Rule is a rule as an item of the list of p's rules in a direction.
func Rule(p *policy.Policy, d flow.Direction, r policy.Rule) ([]byte, error) {
	rule, err := clusterRule(d, r)
	if p.Tier == policy.Namespace {
		rule, err = networkRule(p, d, r)
	}
	if err != nil {
		return nil, err
	}
	return marshal([]fields{rule})
}

func object(p *policy.Policy) (fields, error) {
	switch {
	case p.Defect != "":
		return nil, errors.New("it could not be read, and what stands in for it denies")
	case strings.Contains(p.Name, ":"):
		return nil, errors.New("it is read from an older kind than ClusterNetworkPolicy")
	}
	meta := fields{{"name", p.Name}}
	version, make := "policy.networking.k8s.io/v1alpha2", clusterSpec
	if p.Tier == policy.Namespace {
		meta = append(meta, field{"namespace", p.Namespace})
		version, make = "networking.k8s.io/v1", networkSpec
	}
	if p.AlertTitle != "" {
		meta = append(meta, field{"annotations", fields{{alertAnnotation, p.AlertTitle}}})
	}
	spec, err := make(p)
	return fields{{"apiVersion", version}, {"kind", p.Kind()}, {"metadata", meta}, {"spec", spec}}, err
}

func networkSpec(p *policy.Policy) (fields, error) {
	subject, err := selector(p.Subject.Pods)
	if err != nil {
		return nil, err
	}
	var types []string
	var sides fields
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		if !p.Isolates(d) {
			continue
		}
		types = append(types, map[flow.Direction]string{flow.Ingress: "Ingress", flow.Egress: "Egress"}[d])
		rules := []fields{}
		for i, r := range p.Rules(d) {
			rule, err := networkRule(p, d, r)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", d, i, err)
			}
			rules = append(rules, rule)
		}
		if len(rules) > 0 {
			sides = append(sides, field{d.String(), rules})
		}
	}
	if len(types) == 0 {
		return nil, errors.New("it isolates in no direction")
	}
	return append(fields{{"podSelector", subject}, {"policyTypes", types}}, sides...), nil
}

// side is the field of a rule's peers.
var side = map[flow.Direction]string{flow.Ingress: "from", flow.Egress: "to"}

func networkRule(p *policy.Policy, d flow.Direction, r policy.Rule) (fields, error) {
	if len(r.Peers) == 0 {
		return nil, errors.New("it matches nobody, and a rule without peers everybody")
	}
	rule, peers := fields{}, []fields{}
	for _, peer := range r.Peers {
		switch peer.Kind {
		case policy.PeerAnyone:
			if len(r.Peers) > 1 {
				return nil, errors.New("anyone is among its peers")
			}
		case policy.PeerBlock:
			block := fields{{"cidr", peer.Block.String()}}
			if len(peer.Except) > 0 {
				block = append(block, field{"except", texts(peer.Except)})
			}
			peers = append(peers, fields{{"ipBlock", block}})
		case policy.PeerPods:
			pods, err := selector(peer.Pods.Pods)
			if err != nil {
				return nil, err
			}
			var one fields
			if !peer.Pods.Namespaces.Equal(p.Subject.Namespaces) {
				namespaces, err := selector(peer.Pods.Namespaces)
				if err != nil {
					return nil, err
				}
				one = fields{{"namespaceSelector", namespaces}}
			}
			peers = append(peers, append(one, field{"podSelector", pods}))
		default:
			return nil, fmt.Errorf("no peer can be %s", peer)
		}
	}
	if len(peers) > 0 {
		rule = append(rule, field{side[d], peers})
	}
	var ports []fields
	for _, port := range r.Ports {
		if port.Protocol == 0 {
			return nil, fmt.Errorf("port %s has no protocol", port)
		}
		one := fields{{"protocol", strings.ToUpper(port.Protocol.String())}}
		switch {
		case port.Name != "":
			one = append(one, field{"port", port.Name})
		case port.First == 0 && port.Last == 65535:
		case port.First == 0:
			return nil, fmt.Errorf("%s begins with port 0", port)
		case port.First == port.Last:
			one = append(one, field{"port", port.First})
		default:
			one = append(one, field{"port", port.First}, field{"endPort", port.Last})
		}
		ports = append(ports, one)
	}
	if ports != nil {
		rule = append(rule, field{"ports", ports})
	}
	return rule, nil
}

func clusterSpec(p *policy.Policy) (fields, error) {
	subject, err := pods(p.Subject)
	if err != nil {
		return nil, err
	}
	spec := fields{{"tier", p.Tier.String()}, {"priority", p.Priority}, {"subject", subject}}
	for _, d := range flow.Directions {
		var rules []fields
		for i, r := range p.Rules(d) {
			rule, err := clusterRule(d, r)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", d, i, err)
			}
			rules = append(rules, rule)
		}
		if rules != nil {
			spec = append(spec, field{d.String(), rules})
		}
	}
	return spec, nil
}

func clusterRule(d flow.Direction, r policy.Rule) (fields, error) {
	var peers []fields
	for _, peer := range r.Peers {
		var one fields
		var err error
		switch {
		case peer.Kind == policy.PeerPods:
			one, err = pods(peer.Pods)
		case peer.Kind == policy.PeerNodes && d == flow.Egress:
			var nodes fields
			nodes, err = selector(peer.Nodes)
			one = fields{{"nodes", nodes}}
		case peer.Kind == policy.PeerBlock && d == flow.Egress && len(peer.Except) == 0:
			one = fields{{"networks", []string{peer.Block.String()}}}
		default:
			err = fmt.Errorf("no peer can be %s", peer)
		}
		if err != nil {
			return nil, err
		}
		peers = append(peers, one)
	}
	if peers == nil {
		return nil, errors.New("it has no peers")
	}
	var rule fields
	if r.Name != "" {
		rule = fields{{"name", r.Name}}
	}
	rule = append(rule, field{"action", r.Action.String()}, field{side[d], peers})
	var ports []fields
	for _, port := range r.Ports {
		one, err := clusterPort(port)
		if err != nil {
			return nil, err
		}
		ports = append(ports, one)
	}
	if ports != nil {
		rule = append(rule, field{"protocols", ports})
	}
	return rule, nil
}

func clusterPort(p policy.Port) (fields, error) {
	protocol := strings.ToLower(p.Protocol.String())
	switch {
	case p.Name != "" && p.Protocol != 0:
		return nil, fmt.Errorf("port %s has a name and a protocol", p)
	case p.Name != "":
		return fields{{"destinationNamedPort", p.Name}}, nil
	case p.First == 0:
		return nil, fmt.Errorf("%s begins with port 0", p)
	case p.First == p.Last:
		return fields{{protocol, fields{{"destinationPort", fields{{"number", p.First}}}}}}, nil
	}
	return fields{{protocol, fields{{"destinationPort", fields{{"range", fields{{"start", p.First}, {"end", p.Last}}}}}}}}, nil
}

// pods is a subject or a peer of a ClusterNetworkPolicy.
func pods(p policy.Pods) (fields, error) {
	namespaces, err := selector(p.Namespaces)
	if err != nil {
		return nil, err
	}
	if p.Pods.IsEverything() {
		return fields{{"namespaces", namespaces}}, nil
	}
	own, err := selector(p.Pods)
	return fields{{"pods", fields{{"namespaceSelector", namespaces}, {"podSelector", own}}}}, err
}

// selector is a metav1.LabelSelector.
func selector(s label.Selector) (fields, error) {
	if s.IsNothing() {
		return nil, errors.New("a selector selects nothing, which none that is written does")
	}
	labels, expressions := map[string]string{}, []fields{}
	for _, r := range s.Requirements() {
		if _, twice := labels[r.Key]; r.Op == label.In && len(r.Values) == 1 && !twice {
			labels[r.Key] = r.Values[0]
			continue
		}
		e := fields{{"key", r.Key}, {"operator", operators[r.Op]}}
		if len(r.Values) > 0 {
			e = append(e, field{"values", r.Values})
		}
		expressions = append(expressions, e)
	}
	out := fields{}
	if len(labels) > 0 {
		out = append(out, field{"matchLabels", labels})
	}
	if len(expressions) > 0 {
		out = append(out, field{"matchExpressions", expressions})
	}
	return out, nil
}

var operators = map[label.Op]string{label.In: "In", label.NotIn: "NotIn", label.Exists: "Exists", label.DoesNotExist: "DoesNotExist"}

func texts[T fmt.Stringer](all []T) []string {
	var out []string
	for _, x := range all {
		out = append(out, x.String())
	}
	return out
}
