// Package explain turns a decision of the reference evaluator into something people read: first data (Explain), which
// is also the JSON form, then text made of that data only (Explanation.Write). For a denial it adds the smallest change
// of policy that would allow the connection (Suggest), and only one that was tried and works.
package explain

import (
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Explanation is a decision with its whole why.
type Explanation struct {
	From        string `json:"from"`
	FromAddress string `json:"fromAddress,omitempty"`
	To          string `json:"to"`
	ToAddress   string `json:"toAddress,omitempty"`
	Protocol    string `json:"protocol"`
	Port        uint16 `json:"port,omitempty"`
	// Translated: the connection goes through a Service.
	Translated bool        `json:"translated,omitempty"`
	Verdict    string      `json:"verdict"`             // "allow" or "deny"
	Direction  string      `json:"direction,omitempty"` // the side that denies
	Rule       *Rule       `json:"rule,omitempty"`      // the rule that decides; absent if no policy does
	Egress     Side        `json:"egress"`
	Ingress    Side        `json:"ingress"`
	Suggestion *Suggestion `json:"suggestion,omitempty"` // for a denial
}

// Rule names a rule and its place.
type Rule struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Policy    string `json:"policy"`
	Direction string `json:"direction"`
	Index     *int   `json:"index,omitempty"` // absent for a NetworkPolicy's "and nothing else"
	Name      string `json:"name,omitempty"`
	Place     string `json:"place,omitempty"` // file:line
	text      string
}

// Side is what one end's policies say.
type Side struct {
	Direction string `json:"direction"`
	// Unjudged is why no policy is asked about this side; what follows is then empty.
	Unjudged string `json:"unjudged,omitempty"`
	Subject  string `json:"subject,omitempty"`
	Verdict  string `json:"verdict,omitempty"`
	Rule     *Rule  `json:"rule,omitempty"`
	Tiers    []Tier `json:"tiers,omitempty"`
}

// Tier is what one tier says.
type Tier struct {
	Tier     string   `json:"tier"`
	Outcome  string   `json:"outcome"`
	Rule     *Rule    `json:"rule,omitempty"`
	Policies []Policy `json:"policies,omitempty"`
}

// Policy is a policy that was looked at.
type Policy struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Place     string `json:"place,omitempty"`
	Applies   bool   `json:"applies"`
	Reason    string `json:"reason"`
	// Defect is why the policy could not be read; what is judged is then a stand-in that isolates.
	Defect  string         `json:"defect,omitempty"`
	Rules   []RuleLookedAt `json:"rules,omitempty"`
	foreign bool           // a NetworkPolicy of another namespace than the subject's
}

// RuleLookedAt is a rule with the answer of each of its peers and ports.
type RuleLookedAt struct {
	Rule    Rule       `json:"rule"`
	Action  string     `json:"action"`
	Matches string     `json:"matches"` // "no", "maybe" or "yes"
	Peers   []Question `json:"peers"`
	Ports   []Question `json:"ports,omitempty"` // none: the rule is about all ports and protocols
}

// Question is one peer or port with its answer.
type Question struct {
	What    string `json:"what"`
	Matches string `json:"matches"`
	Reason  string `json:"reason"`
}

// Explain explains d, which must be a decision in s. A denial comes with a suggestion.
func Explain(s *cluster.State, d eval.Decision) Explanation {
	c, f := d.Connection, d.Flow()
	e := Explanation{
		From: c.From.String(), To: c.To.String(), Protocol: c.Protocol.String(), Port: c.Port, Translated: c.Translated,
		Verdict: f.Verdict.String(), Rule: RuleOf(f.Rule),
		Egress:  sideOf(flow.Egress, d.Egress, d.EgressUnjudged),
		Ingress: sideOf(flow.Ingress, d.Ingress, d.IngressUnjudged),
	}
	if c.From.Addr.IsValid() {
		e.FromAddress = c.From.Addr.String()
	}
	if c.To.Addr.IsValid() {
		e.ToAddress = c.To.Addr.String()
	}
	if f.Verdict == flow.Deny {
		e.Direction = f.Direction.String()
		suggestion := Suggest(s, c)
		e.Suggestion = &suggestion
	}
	return e
}

// RuleOf is r as data; nil if no policy applies.
func RuleOf(r flow.Rule) *Rule {
	if r.IsZero() {
		return nil
	}
	out := &Rule{Kind: r.Kind, Namespace: r.Namespace, Policy: r.Name, Direction: r.Direction.String(), Name: r.Label,
		Place: r.Place(), text: r.String()}
	if r.Index != flow.Isolation {
		out.Index = &r.Index
	}
	return out
}

func sideOf(d flow.Direction, s *eval.Side, unjudged string) Side {
	if s == nil {
		return Side{Direction: d.String(), Unjudged: unjudged}
	}
	side := Side{Direction: d.String(), Subject: s.Subject.Key.String(), Verdict: s.Verdict.String(), Rule: RuleOf(s.Rule)}
	for _, t := range s.Tiers {
		tier := Tier{Tier: t.Tier.String(), Outcome: t.Outcome.String(), Rule: RuleOf(t.Rule)}
		for _, p := range t.Policies {
			tier.Policies = append(tier.Policies, policyOf(s, p))
		}
		side.Tiers = append(side.Tiers, tier)
	}
	return side
}

func policyOf(s *eval.Side, seen eval.Policy) Policy {
	p := seen.Policy
	out := Policy{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name, Place: p.RuleAt(s.Direction, flow.Isolation).Place(),
		Applies: seen.Applies, Reason: seen.Reason, Defect: p.Defect,
		foreign: p.Tier == policy.Namespace && p.Namespace != s.Subject.Namespace}
	for _, r := range seen.Rules {
		rule := RuleLookedAt{Rule: *RuleOf(r.Rule), Action: r.Action.String(), Matches: r.Match.String()}
		for _, e := range r.Peers {
			rule.Peers = append(rule.Peers, Question{PeerText(e.Peer), e.Match.String(), e.Reason})
		}
		for _, e := range r.Ports {
			rule.Ports = append(rule.Ports, Question{e.Port.String(), e.Match.String(), e.Reason})
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

// PeerText is policy.Peer.String for people: "pods app=web in namespace shop".
func PeerText(p policy.Peer) string {
	switch p.Kind {
	case policy.PeerPods:
		return PodsText(p.Pods)
	case policy.PeerNodes:
		if p.Nodes.IsEverything() {
			return "every node"
		}
		return "nodes " + p.Nodes.String()
	}
	return p.String()
}

// PodsText is policy.Pods.String for people: "every pod in namespace shop".
func PodsText(p policy.Pods) string {
	text := "pods " + p.Pods.String()
	if p.Pods.IsEverything() {
		text = "every pod"
	}
	if p.Namespaces.IsEverything() {
		return text + " in any namespace"
	}
	reqs := p.Namespaces.Requirements()
	if len(reqs) == 1 && reqs[0].Key == cluster.NameLabel && len(reqs[0].Values) == 1 && reqs[0].Matches(nameOnly(reqs[0].Values[0])) {
		return text + " in namespace " + reqs[0].Values[0]
	}
	return text + " in namespaces " + p.Namespaces.String()
}
