package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// Op is what happens to an object.
type Op string

// The operations.
const (
	Added   Op = "add"
	Changed Op = "change"
	Removed Op = "remove"
)

// PolicyChange is a policy that is added, says something else, or is removed. One that only moved is none.
type PolicyChange struct {
	Op        Op      `json:"op"`
	Kind      string  `json:"kind"`
	Namespace string  `json:"namespace,omitempty"`
	Name      string  `json:"name"`
	Place     string  `json:"place,omitempty"`  // in the new manifests; in the old ones, if it is removed
	Fields    []Field `json:"fields,omitempty"` // of one that is changed
	// Defect is why the new one could not be read; a stand-in that isolates takes its place.
	Defect string `json:"defect,omitempty"`
}

// Field is a part of an object that says something else.
type Field struct {
	Path string `json:"path"` // "ingress[0].ports", with the new index; the old one for what is removed
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// ObjectChange is a workload, namespace or node that comes, goes or is labelled otherwise. What it may do is no Change of
// the policies.
type ObjectChange struct {
	Op   Op     `json:"op"`
	Kind string `json:"kind"` // "workload", "namespace" or "node"
	Name string `json:"name"`
	// Pods are how many there were and are, of a workload.
	PodsBefore int     `json:"podsBefore,omitempty"`
	PodsAfter  int     `json:"podsAfter,omitempty"`
	Fields     []Field `json:"fields,omitempty"`
}

func comparePolicies(old, new *cluster.State) []PolicyChange {
	out := []PolicyChange{}
	was := map[string]*policy.Policy{}
	for _, p := range old.Policies() {
		was[policyName(p)] = p
	}
	for _, p := range new.Policies() {
		o, there := was[policyName(p)]
		delete(was, policyName(p))
		switch {
		case !there:
			out = append(out, policyChange(Added, p))
		default:
			if fields := compareFields(o, p); len(fields) > 0 || p.Defect != "" && o.Defect == "" {
				c := policyChange(Changed, p)
				c.Fields = fields
				out = append(out, c)
			}
		}
	}
	for _, p := range was {
		out = append(out, policyChange(Removed, p))
	}
	slices.SortFunc(out, func(a, b PolicyChange) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return out
}

func policyChange(op Op, p *policy.Policy) PolicyChange {
	return PolicyChange{Op: op, Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name, Place: p.RuleAt(flow.Ingress, flow.Isolation).Place(), Defect: p.Defect}
}

func compareFields(old, new *policy.Policy) []Field {
	var out []Field
	add := func(path, was, is string) {
		if was != is {
			out = append(out, Field{path, was, is})
		}
	}
	add("tier", old.Tier.String(), new.Tier.String())
	if old.Tier != policy.Namespace {
		add("priority", fmt.Sprint(old.Priority), fmt.Sprint(new.Priority))
	}
	if old.Tier == policy.Namespace {
		add("podSelector", subjectText(old), subjectText(new))
		add("policyTypes", typesText(old), typesText(new))
	} else {
		add("subject", subjectText(old), subjectText(new))
	}
	add("annotation "+alertAnnotation, old.AlertTitle, new.AlertTitle)
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		out = append(out, compareRules(old, new, d)...)
	}
	return out
}

// alertAnnotation is the annotation that an AlertTitle comes from.
const alertAnnotation = "ringfence.dev/alert"

func subjectText(p *policy.Policy) string {
	if p.Tier == policy.Namespace {
		if p.Subject.Pods.IsEverything() {
			return "every pod"
		}
		return p.Subject.Pods.String()
	}
	return explain.PodsText(p.Subject)
}

func typesText(p *policy.Policy) string {
	var types []string
	for _, d := range []flow.Direction{flow.Ingress, flow.Egress} {
		if p.Isolates(d) {
			types = append(types, d.String())
		}
	}
	return strings.Join(types, ", ")
}

// ruleText is a rule as lists of texts.
type ruleText struct {
	name, action string
	peers, ports []string
}

func textOf(p *policy.Policy, r policy.Rule) ruleText {
	t := ruleText{name: r.Name}
	if p.Tier != policy.Namespace {
		t.action = r.Action.String()
	}
	for _, peer := range r.Peers {
		t.peers = append(t.peers, peerText(p, peer))
	}
	for _, port := range r.Ports {
		text := port.String()
		if port.Name == "" && port.First == port.Last {
			text = strings.TrimSuffix(text, "/tcp")
		}
		t.ports = append(t.ports, text)
	}
	return t
}

// peerText leaves out the namespace where it is the policy's own.
func peerText(p *policy.Policy, peer policy.Peer) string {
	text := explain.PeerText(peer)
	if peer.Kind == policy.PeerPods && p.Tier == policy.Namespace {
		text = strings.TrimSuffix(text, " in namespace "+p.Namespace)
	}
	return strings.TrimPrefix(text, "pods ")
}

func (t ruleText) equal(o ruleText) bool {
	return t.name == o.name && t.action == o.action && slices.Equal(t.peers, o.peers) && slices.Equal(t.ports, o.ports)
}

// like is how much two rules have in common; 0 is nothing.
func (t ruleText) like(o ruleText) int {
	n := 0
	for _, same := range []bool{t.name != "" && t.name == o.name, slices.Equal(t.peers, o.peers), slices.Equal(t.ports, o.ports)} {
		if same {
			n++
		}
	}
	for _, p := range t.peers {
		if slices.Contains(o.peers, p) {
			n++
		}
	}
	return n
}

// String is "action from … ports …" on one line.
func (t ruleText) String() string {
	text := strings.TrimSpace(t.action + " " + listText(t.peers, "nobody"))
	if len(t.ports) > 0 {
		text += " on " + listText(t.ports, "")
	}
	if t.name != "" {
		text += fmt.Sprintf(" (%q)", t.name)
	}
	return text
}

func listText(items []string, empty string) string {
	if len(items) == 0 {
		return empty
	}
	return strings.Join(items, ", ")
}

// compareRules tells rules that stay from those that come and go: the longest list of rules that are the same and in the
// same order stays; between those, a rule that goes and one that comes at its place are one that changes.
func compareRules(old, new *policy.Policy, d flow.Direction) []Field {
	var was, is []ruleText
	for _, r := range old.Rules(d) {
		was = append(was, textOf(old, r))
	}
	for _, r := range new.Rules(d) {
		is = append(is, textOf(new, r))
	}
	var out []Field
	i, j := 0, 0
	for _, next := range append(common(was, is), [2]int{len(was), len(is)}) {
		for i < next[0] || j < next[1] {
			path := func(n int) string { return fmt.Sprintf("%s[%d]", d, n) }
			switch {
			case i < next[0] && j < next[1] && (was[i].like(is[j]) > 0 || next[0]-i == 1 && next[1]-j == 1):
				out = append(out, ruleFields(path(j), d, was[i], is[j])...)
				i, j = i+1, j+1
			case i < next[0] && (j == next[1] || next[0]-i >= next[1]-j):
				out = append(out, Field{Path: path(i), Old: was[i].String()})
				i++
			default:
				out = append(out, Field{Path: path(j), New: is[j].String()})
				j++
			}
		}
		i, j = next[0]+1, next[1]+1
	}
	return out
}

func ruleFields(path string, d flow.Direction, was, is ruleText) []Field {
	var out []Field
	add := func(field, a, b string) {
		if a != b {
			out = append(out, Field{path + field, a, b})
		}
	}
	side := ".from"
	if d == flow.Egress {
		side = ".to"
	}
	add(".name", was.name, is.name)
	add(".action", was.action, is.action)
	add(side, listText(was.peers, "nobody"), listText(is.peers, "nobody"))
	add(".ports", listText(was.ports, "all"), listText(is.ports, "all"))
	return out
}

// common returns the indices of a longest common subsequence. Policies have few rules, so the square of that is nothing.
func common(a, b []ruleText) [][2]int {
	best := make([][]int, len(a)+1)
	for i := range best {
		best[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if best[i][j] = max(best[i+1][j], best[i][j+1]); a[i].equal(b[j]) {
				best[i][j] = best[i+1][j+1] + 1
			}
		}
	}
	var out [][2]int
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].equal(b[j]):
			out = append(out, [2]int{i, j})
			i, j = i+1, j+1
		case best[i+1][j] >= best[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// compareObjects notes what happens to a workload.
func (c *comparison) compareObjects(name string, members []member) {
	change := ObjectChange{Kind: "workload", Name: name}
	labels := map[Field]int{}
	for _, m := range members {
		if m[0] != nil {
			change.PodsBefore++
		}
		if m[1] != nil {
			change.PodsAfter++
		}
		if m[0] == nil || m[1] == nil {
			continue
		}
		for _, f := range compareLabels(explain.Lasting(m[0].Labels), explain.Lasting(m[1].Labels)) {
			labels[f]++
		}
		if was, is := declaredText(m[0].Ports), declaredText(m[1].Ports); was != is {
			labels[Field{"ports", was, is}]++
		}
		if m[0].HostNetwork != m[1].HostNetwork {
			labels[Field{"hostNetwork", fmt.Sprint(m[0].HostNetwork), fmt.Sprint(m[1].HostNetwork)}]++
		}
	}
	for f, n := range labels {
		if n < min(change.PodsBefore, change.PodsAfter) {
			f.Path += fmt.Sprintf(" (of %d of %d pods)", n, change.PodsAfter)
		}
		change.Fields = append(change.Fields, f)
	}
	sortFields(change.Fields)
	switch {
	case change.PodsBefore == 0:
		change.Op = Added
	case change.PodsAfter == 0:
		change.Op = Removed
	case len(change.Fields) > 0 || change.PodsBefore != change.PodsAfter:
		change.Op = Changed
	default:
		return
	}
	c.plan.Objects = append(c.plan.Objects, change)
}

func declaredText(ports []cluster.Port) string {
	var texts []string
	for _, p := range ports {
		text := reach.Ports{Protocol: p.Protocol, First: p.Number, Last: p.Number}.String()
		if p.Name != "" {
			text += " " + p.Name
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func compareLabels(old, new map[string]string) []Field {
	var out []Field
	for k, v := range old {
		if is, there := new[k]; !there {
			out = append(out, Field{Path: "label " + k, Old: v})
		} else if is != v {
			out = append(out, Field{"label " + k, v, is})
		}
	}
	for k, v := range new {
		if _, there := old[k]; !there {
			out = append(out, Field{Path: "label " + k, New: v})
		}
	}
	sortFields(out)
	return out
}

func sortFields(all []Field) {
	slices.SortFunc(all, func(a, b Field) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Old, b.Old), strings.Compare(a.New, b.New))
	})
}

// compareNamed notes what happens to namespaces or nodes, by their labels.
func (c *comparison) compareNamed(kind string, old, new map[string]map[string]string) {
	names := slices.Sorted(maps.Keys(old))
	for _, n := range slices.Sorted(maps.Keys(new)) {
		if _, there := old[n]; !there {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		was, before := old[n]
		is, after := new[n]
		change := ObjectChange{Op: Changed, Kind: kind, Name: n, Fields: compareLabels(was, is)}
		switch {
		case !before:
			change.Op, change.Fields = Added, nil
		case !after:
			change.Op, change.Fields = Removed, nil
		case len(change.Fields) == 0:
			continue
		}
		c.plan.Objects = append(c.plan.Objects, change)
	}
}

// compareRest notes what happens to namespaces and nodes. A namespace that is only used, and not declared, is none.
func (c *comparison) compareRest() {
	var namespaces, nodes [2]map[string]map[string]string
	for s, state := range c.states {
		namespaces[s], nodes[s] = map[string]map[string]string{}, map[string]map[string]string{}
		for _, n := range state.Namespaces() {
			namespaces[s][n.Name] = n.Labels.Map()
		}
		for _, n := range state.Nodes() {
			nodes[s][n.Name] = n.Labels.Map()
		}
	}
	c.compareNamed("namespace", namespaces[0], namespaces[1])
	c.compareNamed("node", nodes[0], nodes[1])
}
