package manifest

import (
	"fmt"
	"regexp"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A policy with a problem is never used in part: half a policy can open what the whole one closes. A stand-in takes its
// place, which denies what the policy could have been about: its subject and directions where they are readable, else
// more.

// addPolicy adds p, or its stand-in if there were problems.
func (b *Bundle) addPolicy(o *object, p policy.Policy, standIn func() policy.Policy) {
	if len(o.problems) == 0 {
		good, err := policy.New(p)
		if err == nil {
			if b.once(o) {
				b.policies = append(b.policies, good)
			}
			return
		}
		o.problem("", "", "%s", err) // what our checks let pass and the core does not take
	}
	defect := o.problems[0].Error()
	if o.key.Name == "" {
		o.key.Name = fmt.Sprintf("unnamed at %s", place(o.file, o.line))
	}
	p = standIn()
	p.Name, p.Namespace, p.File, p.Line, p.Defect = o.policyName(), o.key.Namespace, o.file, o.line, defect
	if !b.once(o) {
		return
	}
	stand, err := policy.New(p)
	if err != nil {
		o.problem("", "", "not even a stand-in can be made, so nothing is denied: %s", err)
		return
	}
	o.problems[0].Effect = effect(stand)
	b.policies = append(b.policies, stand)
}

// effect says in words what a stand-in does.
func effect(p *policy.Policy) string {
	var directions []string
	for _, d := range flow.Directions {
		if p.Isolates(d) || len(p.Rules(d)) > 0 {
			directions = append(directions, d.String())
		}
	}
	whom := "pods that match " + p.Subject.Pods.String()
	if p.Subject.Pods.IsEverything() {
		whom = "all pods"
	}
	switch {
	case p.Namespace != "":
		whom += " of namespace " + p.Namespace
	case !p.Subject.Namespaces.IsEverything():
		whom += " of namespaces that match " + p.Subject.Namespaces.String()
	case p.Subject.Pods.IsEverything():
		whom += " of all namespaces"
	}
	verb := "until this is fixed, %s of %s is denied"
	if p.Namespace != "" {
		verb = "until this is fixed, %s of %s is denied unless another NetworkPolicy allows it"
	} else if p.Tier == policy.Baseline {
		verb = "until this is fixed, %s of %s is denied by default (tier Baseline)"
	}
	return fmt.Sprintf(verb, strings.Join(directions, " and "), whom)
}

// networkStandIn isolates what np selects, in its directions.
func (o *object) networkStandIn(np *networkingv1.NetworkPolicy) policy.Policy {
	p := policy.Policy{Tier: policy.Namespace}
	p.Subject = policy.Pods{Namespaces: o.readableNamespace(), Pods: o.readableSelector("spec.podSelector", &np.Spec.PodSelector)}
	p.IsolatesIngress, p.IsolatesEgress = true, true
	unsaid := len(np.Spec.PolicyTypes) == 0
	if !o.broken("spec.policyTypes") && !o.problemAbove("spec.policyTypes") && !(unsaid && o.brokenAt("spec")) {
		probe := &object{}
		p.IsolatesIngress, p.IsolatesEgress = probe.policyTypes(np)
	}
	return p
}

// readableNamespace selects the policy's namespace. One that cannot exist holds no pods.
func (o *object) readableNamespace() label.Selector {
	probe := &object{}
	return probe.inNamespace(o.key.Namespace)
}

// problemAbove reports whether an object that holds path could not be read, for instance because it is a list.
func (o *object) problemAbove(path string) bool {
	for _, p := range o.problems {
		if p.Field != path && p.Field != "apiVersion" && p.Field != "" && within(path, p.Field) {
			return true
		}
	}
	return false
}

// denyAll is the one rule of a stand-in for a cluster-wide policy.
func denyAll(line int) []policy.Rule {
	return []policy.Rule{{Action: policy.Deny, Peers: []policy.Peer{{Kind: policy.PeerAnyone}}, Line: line}}
}

var (
	kindLine      = regexp.MustCompile(`(?m)^\s*["']?kind["']?\s*:\s*["']?(\w+)`)
	nameLine      = regexp.MustCompile(`(?m)^\s+["']?name["']?\s*:\s*["']?([a-z0-9.-]+)["',]*\s*$`)
	namespaceLine = regexp.MustCompile(`(?m)^\s+["']?namespace["']?\s*:\s*["']?([a-z0-9-]+)["',]*\s*$`)
)

// takeUnreadable notes a document that cannot be parsed. If its text says that it is a policy, it gets a stand-in too.
func (b *Bundle) takeUnreadable(file string, c chunk, err error) {
	at, ok := err.(placed)
	if !ok {
		at = placed{c.before + 1, err.Error()}
	}
	o := &object{file: file, line: at.line, lines: map[string]int{}, types: b.types}
	text := string(c.text)
	o.kind = firstGroup(kindLine, text)
	o.key = cluster.Key{Namespace: firstGroup(namespaceLine, text), Name: firstGroup(nameLine, text)}
	info := kinds[o.kind]
	if info.namespaced && o.key.Namespace == "" {
		o.key.Namespace = "default"
	}
	if strings.Contains(text, "{{") {
		o.problem("", `render it first, for instance with "helm template"`, "looks like a template, not like a manifest (%s)", at.text)
	} else {
		o.problem("", "", "%s", at.text)
	}
	if info.policy {
		b.addPolicy(o, policy.Policy{}, func() policy.Policy { return o.blindStandIn() })
	}
	b.collect(o)
}

// blindStandIn denies everything that a policy of this kind and namespace can be about.
func (o *object) blindStandIn() policy.Policy {
	all := policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}
	if o.kind == "NetworkPolicy" {
		all.Namespaces = o.readableNamespace()
		return policy.Policy{Tier: policy.Namespace, Subject: all, IsolatesEgress: true, IsolatesIngress: true}
	}
	tier := policy.Admin
	if o.kind == "BaselineAdminNetworkPolicy" {
		tier = policy.Baseline
	}
	return policy.Policy{Tier: tier, Subject: all, Egress: denyAll(o.line), Ingress: denyAll(o.line)}
}

func firstGroup(re *regexp.Regexp, text string) string {
	if m := re.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}
