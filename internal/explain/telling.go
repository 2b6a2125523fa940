package explain

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// tellingKeys are the labels that say what a workload is, the most telling first.
var tellingKeys = []string{
	"app.kubernetes.io/name", "app", "k8s-app", "name", "app.kubernetes.io/component", "component", "role", "tier", "app.kubernetes.io/instance",
}

// passingKeys are the labels that controllers put on pods and that change with every rollout or pod.
var passingKeys = map[string]bool{
	"pod-template-hash": true, "controller-revision-hash": true, "pod-template-generation": true, "controller-uid": true, "job-name": true,
	"statefulset.kubernetes.io/pod-name": true, "apps.kubernetes.io/pod-index": true,
	"batch.kubernetes.io/controller-uid": true, "batch.kubernetes.io/job-name": true, "batch.kubernetes.io/job-completion-index": true,
}

// telling selects e by as few of its labels as tell it from the other workloads of its namespace: the most telling
// label, then those that leave out more strangers. A pod without lasting labels is selected by the empty selector.
func telling(s *cluster.State, e *cluster.Endpoint) label.Selector {
	labels := Lasting(e.Labels)
	var chosen []label.Requirement
	others := strangers(s, e)
	for _, key := range orderedKeys(labels) {
		r := label.Requirement{Key: key, Op: label.In, Values: []string{labels[key]}}
		left := slices.DeleteFunc(slices.Clone(others), func(o *cluster.Endpoint) bool { return !r.Matches(o.Labels) })
		if len(chosen) == 0 || len(left) < len(others) {
			chosen, others = append(chosen, r), left
		}
	}
	sel, err := label.NewSelector(chosen...)
	if err != nil { // the labels of a Set are valid: this cannot happen, and selecting nothing suggests nothing
		return label.Selector{}
	}
	return sel
}

// Lasting are the labels of a pod that its workload has: without those that controllers give to each pod or rollout. The
// caller owns the map.
func Lasting(pod label.Set) map[string]string {
	labels := pod.Map()
	for key := range passingKeys {
		delete(labels, key)
	}
	return labels
}

func orderedKeys(labels map[string]string) []string {
	var keys []string
	for _, k := range tellingKeys {
		if _, ok := labels[k]; ok {
			keys = append(keys, k)
		}
	}
	var rest []string
	for k := range labels {
		if !slices.Contains(tellingKeys, k) {
			rest = append(rest, k)
		}
	}
	slices.Sort(rest)
	return append(keys, rest...)
}

// strangers are the pods of e's namespace that have other lasting labels: other workloads, as far as policy can tell.
func strangers(s *cluster.State, e *cluster.Endpoint) []*cluster.Endpoint {
	var all []*cluster.Endpoint
	own := label.MustSet(Lasting(e.Labels))
	for _, o := range s.Endpoints() {
		if o.Namespace == e.Namespace && label.MustSet(Lasting(o.Labels)) != own {
			all = append(all, o)
		}
	}
	return all
}

// hostname is the label that tells one node from all others.
const hostname = "kubernetes.io/hostname"

// tellingNode selects a node by its host name, or by all its labels.
func tellingNode(n *cluster.Node) label.Selector {
	labels := n.Labels.Map()
	if name, ok := labels[hostname]; ok {
		labels = map[string]string{hostname: name}
	}
	sel, err := label.MatchLabels(labels)
	if err != nil {
		return label.Selector{}
	}
	return sel
}

// nameOnly are the labels of a namespace that nobody labelled.
func nameOnly(namespace string) label.Set {
	set, err := label.NewSet(map[string]string{cluster.NameLabel: namespace})
	if err != nil {
		return label.Set{}
	}
	return set
}

func inNamespace(name string) label.Selector {
	sel, err := label.MatchLabels(map[string]string{cluster.NameLabel: name})
	if err != nil {
		return label.Selector{}
	}
	return sel
}

func oneAddress(a netip.Addr) policy.Peer {
	return policy.Peer{Kind: policy.PeerBlock, Block: netip.PrefixFrom(a, a.BitLen())}
}

// shortName is a word for a party that can be part of an object's name.
func shortName(s *cluster.State, p cluster.Party) string {
	switch {
	case p.Endpoint != nil:
		for _, r := range telling(s, p.Endpoint).Requirements() {
			if slices.Contains(tellingKeys[:4], r.Key) {
				return dnsLabel(r.Values[0])
			}
		}
		if p.Endpoint.Owner.Name != "" {
			return dnsLabel(p.Endpoint.Owner.Name)
		}
		return dnsLabel(p.Endpoint.Name)
	case p.Node != nil:
		return dnsLabel(p.Node.Name)
	}
	return "outside"
}

// dnsLabel makes text fit for an object's name.
func dnsLabel(text string) string {
	text = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(text))
	if text = strings.Trim(text[:min(len(text), 60)], "-"); text == "" {
		return "pod"
	}
	return text
}
