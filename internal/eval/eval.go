package eval

import (
	"fmt"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Evaluate judges c by the policies of s. The package comment says how.
func Evaluate(s *cluster.State, c cluster.Connection) Decision {
	d := Decision{Connection: c, Verdict: flow.Allow}
	if d.EgressUnjudged = unjudged(c, flow.Egress); d.EgressUnjudged == "" {
		d.Egress = question{s, c, flow.Egress, c.From.Endpoint, c.To}.judge()
	}
	if d.IngressUnjudged = unjudged(c, flow.Ingress); d.IngressUnjudged == "" {
		d.Ingress = question{s, c, flow.Ingress, c.To.Endpoint, c.From}.judge()
	}
	for _, side := range []*Side{d.Egress, d.Ingress} {
		if side != nil && side.Verdict != flow.Allow {
			d.Verdict = flow.Deny
		}
	}
	return d
}

// unjudged says why no policy is asked about a side; "" if policies are.
func unjudged(c cluster.Connection, d flow.Direction) string {
	subject, end := c.From, "source"
	if d == flow.Ingress {
		subject, end = c.To, "destination"
	}
	switch {
	case subject.Endpoint == nil && subject.Node != nil:
		return fmt.Sprintf("the %s is a node (or a pod on its network), and policies select pods only", end)
	case subject.Endpoint == nil && subject.Unknown:
		return fmt.Sprintf("the %s is a pod that is not known yet: its own node decides", end)
	case subject.Endpoint == nil:
		return fmt.Sprintf("the %s is outside the cluster, and policies select pods only", end)
	case c.From.Endpoint == c.To.Endpoint && !c.Translated:
		return "a pod always reaches itself by its own address"
	case d == flow.Ingress && c.FromOwnNode():
		return "a node always reaches its own pods"
	}
	return ""
}

// question is one side of a connection that is to be judged.
type question struct {
	state   *cluster.State
	conn    cluster.Connection
	dir     flow.Direction
	subject *cluster.Endpoint
	peer    cluster.Party
}

// judge asks the tiers in order until one decides.
func (q question) judge() *Side {
	side := &Side{Direction: q.dir, Subject: q.subject, Peer: q.peer}
	decided, denied := false, false
	for _, t := range policy.Tiers {
		tier := Tier{Tier: t}
		if !decided {
			tier = q.ask(t)
		}
		side.Tiers = append(side.Tiers, tier)
		switch tier.Outcome {
		case Denied:
			side.Rule, decided, denied = tier.Rule, true, true
		case Accepted:
			if decided = true; side.Rule.IsZero() { // else an earlier Accept stands, and has been confirmed
				side.Rule = tier.Rule
			}
		case Stands:
			if side.Rule.IsZero() {
				side.Rule = tier.Rule
			}
		}
	}
	if !denied {
		side.Verdict = flow.Allow
	}
	return side
}

func (q question) ask(t policy.Tier) Tier {
	var policies []*policy.Policy
	for _, p := range q.state.Policies() {
		if p.Tier == t {
			policies = append(policies, p)
		}
	}
	if t == policy.Namespace {
		return q.askNetworkPolicies(policies)
	}
	return q.askClusterPolicies(t, policies)
}

// askClusterPolicies walks a tier whose first matching rule decides.
func (q question) askClusterPolicies(t policy.Tier, policies []*policy.Policy) Tier {
	tier := Tier{Tier: t, Outcome: NoEffect}
	for _, p := range policies {
		seen := q.look(p)
		decided := false
		for i := 0; seen.Applies && !decided && i < len(p.Rules(q.dir)); i++ {
			r := q.matchRule(p, i)
			seen.Rules = append(seen.Rules, r)
			decided = tier.take(r)
		}
		tier.Policies = append(tier.Policies, seen)
		if decided {
			break
		}
	}
	return tier
}

// take adds what rule r does to the outcome, and reports whether that decides the tier.
func (t *Tier) take(r Rule) bool {
	if r.Match == No || r.Match == Maybe && r.Action == policy.Accept {
		return false
	}
	mayHavePassed := t.Outcome == Passed
	switch r.Action {
	case policy.Accept:
		t.Outcome, t.Rule = Accepted, r.Rule
		if mayHavePassed {
			t.Outcome = Stands
		}
		return true
	case policy.Pass:
		if !mayHavePassed {
			t.Outcome, t.Rule = Passed, r.Rule
		}
		return r.Match == Yes
	}
	t.Outcome, t.Rule = Denied, r.Rule
	return true
}

// askNetworkPolicies asks all policies that isolate the subject: one Accept is enough, and none is a denial.
func (q question) askNetworkPolicies(policies []*policy.Policy) Tier {
	tier := Tier{Tier: policy.Namespace, Outcome: NoEffect}
	for _, p := range policies {
		seen := q.look(p)
		if seen.Applies && tier.Outcome == NoEffect {
			tier.Outcome, tier.Rule = Denied, p.RuleAt(q.dir, flow.Isolation)
		}
		for i := 0; seen.Applies && tier.Outcome != Accepted && i < len(p.Rules(q.dir)); i++ {
			r := q.matchRule(p, i)
			seen.Rules = append(seen.Rules, r)
			if r.Match == Yes {
				tier.Outcome, tier.Rule = Accepted, r.Rule
			}
		}
		tier.Policies = append(tier.Policies, seen)
		if tier.Outcome == Accepted {
			break
		}
	}
	return tier
}

// look says whether p applies to the side, and why or why not.
func (q question) look(p *policy.Policy) Policy {
	selects, reason := selects(q.state, p.Subject, q.subject)
	switch {
	case !selects:
	case p.Tier == policy.Namespace && !p.Isolates(q.dir):
		selects, reason = false, "it is not about "+q.dir.String()
	case p.Tier != policy.Namespace && len(p.Rules(q.dir)) == 0:
		selects, reason = false, "it has no "+q.dir.String()+" rules"
	}
	return Policy{Policy: p, Applies: selects, Reason: reason}
}
