package manifest

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// A policy with a problem is never used in part: half a policy can open what the whole one closes. A stand-in takes its
// place, which denies what the policy could have been about: its subject and directions where they are readable, else
// more.

// addPolicy adds p, or its stand-in if there were problems.
func (b *Bundle) addPolicy(o *object, annotations map[string]string, p policy.Policy, standIn func() policy.Policy) {
	p.AlertTitle = alertTitle(annotations)
	if len(o.Problems) == 0 {
		good, err := policy.New(p)
		if err == nil {
			if b.once(o) {
				b.policies = append(b.policies, good)
			}
			return
		}
		o.Problem("", "", "%s", err) // what our checks let pass and the core does not take
	}
	defect := o.Problems[0].Error()
	if o.Key.Name == "" {
		o.Key.Name = fmt.Sprintf("unnamed at %s", document.Place(o.File, o.Line))
	}
	p = standIn()
	p.Name, p.Namespace, p.File, p.Line, p.Defect = o.policyName(), o.Key.Namespace, o.File, o.Line, defect
	if !b.once(o) {
		return
	}
	stand, err := policy.New(p)
	if err != nil {
		o.Problem("", "", "not even a stand-in can be made, so nothing is denied: %s", err)
		return
	}
	o.Effect("%s", standInEffect(stand))
	b.policies = append(b.policies, stand)
}

// standInEffect says in words what a stand-in does.
func standInEffect(p *policy.Policy) string {
	var directions []string
	for _, d := range flow.Directions {
		if p.Isolates(d) || len(p.Rules(d)) > 0 {
			directions = append(directions, d.String())
		}
	}
	s := "all pods"
	if !p.Subject.Pods.IsEverything() {
		s = "pods " + p.Subject.Pods.String()
	}
	switch all := p.Subject.Namespaces.IsEverything(); {
	case len(directions) == 0:
		return "it does nothing, as it has no rules"
	case all && p.Tier == policy.Namespace:
		s += " in every namespace"
	case p.Tier == policy.Namespace:
		s += " in namespace " + p.Namespace
	case !all:
		s += " in namespaces " + p.Subject.Namespaces.String()
	}
	s = "all " + strings.Join(directions, " and ") + " of " + s + " is denied"
	if p.Tier == policy.Namespace {
		s += " unless another NetworkPolicy allows it"
	} else if p.Tier == policy.Baseline {
		s += " unless a NetworkPolicy isolates them"
	}
	return s
}

// networkStandIn isolates what np selects, in its directions.
func (o *object) networkStandIn(np *networkingv1.NetworkPolicy) policy.Policy {
	p := policy.Policy{Tier: policy.Namespace}
	namespaces := o.readableNamespace()
	if o.Missing("metadata.namespace") && o.MayHaveMeant("metadata", "namespace") {
		namespaces = label.Everything()
	}
	p.Subject = policy.Pods{Namespaces: namespaces, Pods: o.readableSelector("spec.podSelector", &np.Spec.PodSelector)}
	p.IsolatesIngress, p.IsolatesEgress = true, true
	unsaid := len(np.Spec.PolicyTypes) == 0
	if !o.Broken("spec.policyTypes") && !o.BrokenAbove("spec.policyTypes") && !(unsaid && (o.Misnamed() || o.Broken("spec.egress"))) {
		probe := &object{}
		p.IsolatesIngress, p.IsolatesEgress = probe.policyTypes(np)
	}
	return p
}

// readableNamespace selects the policy's namespace. One that cannot exist holds no pods.
func (o *object) readableNamespace() label.Selector {
	probe := &object{}
	return probe.inNamespace(o.Key.Namespace)
}

// denyAll is the one rule of a stand-in for a cluster-wide policy.
func denyAll(line int) []policy.Rule {
	return []policy.Rule{{Action: policy.Deny, Peers: []policy.Peer{{Kind: policy.PeerAnyone}}, Line: line}}
}

// What can be told of a document that does not parse, in block or flow style.
var (
	kindText      = regexp.MustCompile(`(?m)(?:^[ \t-]*|[{,]\s*)["']?kind["']?\s*:\s*["']?(\w+)`)
	nameText      = regexp.MustCompile(`(?m)(?:^[ \t]+|[{,]\s*)["']?name["']?\s*:\s*["']?([a-z0-9.-]+)["']?\s*(?:[,}]|$)`)
	namespaceText = regexp.MustCompile(`(?m)(?:^[ \t]+|[{,]\s*)["']?namespace["']?\s*:\s*["']?([a-z0-9-]+)["']?\s*(?:[,}]|$)`)
	rolloutText   = regexp.MustCompile(`(?m)^["']?kind["']?\s*:\s*["']?PolicyRollout\b`)
	namespaceKey  = regexp.MustCompile(`\bnamespace["']?\s*:`)
)

// takeUnreadable notes a document that cannot be parsed. Every policy that its text seems to hold gets a stand-in.
func (b *Bundle) takeUnreadable(file string, c document.Chunk, err error) {
	why, ok := err.(document.Placed)
	if !ok {
		why = document.Placed{Line: c.Before + 1, Text: err.Error()}
	}
	fix := ""
	if bytes.Contains(c.Text, []byte("{{")) {
		fix = renderFirst
	}
	kindsAt := kindText.FindAllSubmatchIndex(c.Text, -1)
	if rolloutText.Match(c.Text) {
		kindsAt = nil // the policies that it carries are not in force
	}
	found := false
	for i, m := range kindsAt {
		kind := string(c.Text[m[2]:m[3]])
		if !kinds[kind].policy {
			continue
		}
		found = true
		end := len(c.Text)
		if i+1 < len(kindsAt) {
			end = kindsAt[i+1][0]
		}
		o := &object{document.Object{File: file, Line: c.Before + 1 + bytes.Count(c.Text[:m[2]], []byte("\n")), Lines: map[string]int{}, Kind: kind}}
		o.Key = cluster.Key{Namespace: firstGroup(namespaceText, c.Text[m[0]:end]), Name: firstGroup(nameText, c.Text[m[0]:end])}
		o.ProblemAt(why.Line, "", fix, "%s", why.Text)
		b.addPolicy(o, nil, policy.Policy{}, func() policy.Policy { return o.blindStandIn(c.Text[m[0]:end]) })
		b.collect(o)
	}
	if !found {
		b.Report(Problem{File: file, Line: why.Line, Message: why.Text, Fix: fix})
	}
}

// blindStandIn denies everything that a policy of this kind and namespace can be about: every namespace's pods, if
// the text has a namespace that cannot be told.
func (o *object) blindStandIn(text []byte) policy.Policy {
	all := policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}
	if o.Kind == "NetworkPolicy" {
		told := o.Key.Namespace != "" || !namespaceKey.Match(text)
		o.Key.Namespace = cmp.Or(o.Key.Namespace, "default")
		if told {
			all.Namespaces = o.readableNamespace()
		}
		return policy.Policy{Tier: policy.Namespace, Subject: all, IsolatesEgress: true, IsolatesIngress: true}
	}
	tier := policy.Admin
	if o.Kind == "BaselineAdminNetworkPolicy" {
		tier = policy.Baseline
	}
	return policy.Policy{Tier: tier, Subject: all, Egress: denyAll(o.Line), Ingress: denyAll(o.Line)}
}

func firstGroup(re *regexp.Regexp, text []byte) string {
	if m := re.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}
