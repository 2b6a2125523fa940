package explain

import (
	"bytes"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// The YAML of what Suggest makes, and no more: rules with one peer and at most one port number.

// fields is a YAML mapping in the order in which people write it; a map would be sorted by key.
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

func policyYAML(p *policy.Policy) string {
	version, meta := "policy.networking.k8s.io/v1alpha2", fields{{"name", p.Name}}
	spec := fields{{"tier", p.Tier.String()}, {"priority", p.Priority}, {"subject", fields{{"pods", podsYAML(p.Subject)}}}}
	if p.Tier == policy.Namespace {
		version, meta = "networking.k8s.io/v1", append(meta, field{"namespace", p.Namespace})
		spec = fields{{"podSelector", selectorYAML(p.Subject.Pods)}, {"policyTypes", policyTypes(p)}}
	}
	for _, d := range flow.Directions {
		var rules []any
		for _, r := range p.Rules(d) {
			rules = append(rules, ruleFields(p, d, r))
		}
		if rules != nil {
			spec = append(spec, field{d.String(), rules})
		}
	}
	return marshal(fields{{"apiVersion", version}, {"kind", p.Kind()}, {"metadata", meta}, {"spec", spec}})
}

// ruleYAML is the rule as an item of p's list.
func ruleYAML(p *policy.Policy, d flow.Direction, r policy.Rule) string {
	return marshal([]any{ruleFields(p, d, r)})
}

func marshal(v any) string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(v); err != nil { // lists, strings and numbers can always be written
		return ""
	}
	return b.String()
}

func policyTypes(p *policy.Policy) []string {
	if p.IsolatesEgress {
		return []string{"Egress"}
	}
	return []string{"Ingress"}
}

func ruleFields(owner *policy.Policy, d flow.Direction, r policy.Rule) fields {
	var peers, ports []any
	for _, p := range r.Peers {
		peers = append(peers, peerFields(owner, p))
	}
	for _, p := range r.Ports {
		ports = append(ports, portFields(owner.Tier, p))
	}
	side, portsKey := "from", "ports"
	if d == flow.Egress {
		side = "to"
	}
	var out fields
	if owner.Tier != policy.Namespace {
		out, portsKey = fields{{"action", r.Action.String()}}, "protocols"
	}
	if out = append(out, field{side, peers}); ports != nil {
		out = append(out, field{portsKey, ports})
	}
	return out
}

func peerFields(owner *policy.Policy, p policy.Peer) fields {
	if owner.Tier == policy.Namespace {
		return networkPeer(owner.Namespace, p)
	}
	return clusterPeer(p)
}

// networkPeer leaves the namespace out where it is the policy's own.
func networkPeer(own string, p policy.Peer) fields {
	switch {
	case p.Kind == policy.PeerBlock:
		return fields{{"ipBlock", fields{{"cidr", p.Block.String()}}}}
	case p.Pods.Namespaces.Equal(inNamespace(own)):
		return fields{{"podSelector", selectorYAML(p.Pods.Pods)}}
	}
	return podsYAML(p.Pods)
}

func clusterPeer(p policy.Peer) fields {
	switch p.Kind {
	case policy.PeerNodes:
		return fields{{"nodes", selectorYAML(p.Nodes)}}
	case policy.PeerBlock:
		return fields{{"networks", []string{p.Block.String()}}}
	}
	return fields{{"pods", podsYAML(p.Pods)}}
}

func podsYAML(p policy.Pods) fields {
	return fields{{"namespaceSelector", selectorYAML(p.Namespaces)}, {"podSelector", selectorYAML(p.Pods)}}
}

// selectorYAML writes what it can as matchLabels, and the rest as matchExpressions.
func selectorYAML(s label.Selector) fields {
	labels := map[string]string{}
	var expressions []any
	for _, r := range s.Requirements() {
		_, again := labels[r.Key]
		if r.Op == label.In && len(r.Values) == 1 && !again {
			labels[r.Key] = r.Values[0]
			continue
		}
		e := fields{{"key", r.Key}, {"operator", operators[r.Op]}}
		if len(r.Values) > 0 {
			e = append(e, field{"values", r.Values})
		}
		expressions = append(expressions, e)
	}
	var out fields
	if len(labels) > 0 {
		out = append(out, field{"matchLabels", labels})
	}
	if expressions != nil {
		out = append(out, field{"matchExpressions", expressions})
	}
	return out
}

var operators = map[label.Op]string{label.In: "In", label.NotIn: "NotIn", label.Exists: "Exists", label.DoesNotExist: "DoesNotExist"}

func portFields(t policy.Tier, p policy.Port) fields {
	if t == policy.Namespace {
		return fields{{"protocol", strings.ToUpper(p.Protocol.String())}, {"port", p.First}}
	}
	return fields{{p.Protocol.String(), fields{{"destinationPort", fields{{"number", p.First}}}}}}
}
