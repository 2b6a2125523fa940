package policytest

import (
	"fmt"
	"strings"

	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// nearest names the rule that came nearest to the verdict that was wanted, and what it lacked; "" if none came near.
func nearest(d eval.Decision, want Verdict) string {
	if want == Allowed {
		side := d.Egress
		if side == nil || side.Verdict == flow.Allow {
			side = d.Ingress
		}
		return nearestRule(side, policy.Accept)
	}
	for _, side := range []*eval.Side{d.Ingress, d.Egress} {
		if text := nearestRule(side, policy.Deny); text != "" {
			return text
		}
	}
	for _, side := range []*eval.Side{d.Ingress, d.Egress} {
		if text := nearestPolicyOf(side); text != "" {
			return text
		}
	}
	return ""
}

// nearestRule is the rule with the action, of those that were looked at and did not match, of which most is met: peer
// and port. The first of equals counts. A rule of which nothing is met is not near.
func nearestRule(side *eval.Side, action policy.Action) string {
	if side == nil {
		return ""
	}
	best, text := 0, ""
	for _, t := range side.Tiers {
		for _, p := range t.Policies {
			for _, r := range p.Rules {
				if score := met(r); r.Action == action && r.Match != eval.Yes && score > best {
					best, text = score, "nearest rule: "+cite(r.Rule)+": "+lacks(r)
				}
			}
		}
	}
	return text
}

// met counts what of a rule is met. The peer counts more than the port.
func met(r eval.Rule) int {
	n := 0
	if bestPeer(r) == eval.Yes {
		n += 2
	}
	if bestPort(r) == eval.Yes {
		n++
	}
	return n
}

func bestPeer(r eval.Rule) eval.Match {
	best := eval.No
	for _, p := range r.Peers {
		best = max(best, p.Match)
	}
	return best
}

func bestPort(r eval.Rule) eval.Match {
	best := eval.No
	for _, p := range r.Ports {
		best = max(best, p.Match)
	}
	if len(r.Ports) == 0 {
		best = eval.Yes
	}
	return best
}

// lacks is why a rule does not match.
func lacks(r eval.Rule) string {
	var reasons []string
	if bestPeer(r) != eval.Yes {
		for _, p := range r.Peers {
			reasons = append(reasons, p.Reason)
		}
		if len(r.Peers) == 0 {
			reasons = append(reasons, "it names no peer")
		}
	}
	if bestPort(r) != eval.Yes {
		for _, p := range r.Ports {
			reasons = append(reasons, p.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// nearestPolicyOf is the first policy of the subject's own namespace that would isolate it, but does not select it.
func nearestPolicyOf(side *eval.Side) string {
	if side == nil || side.Rule != (flow.Rule{}) {
		return ""
	}
	for _, t := range side.Tiers {
		for _, p := range t.Policies {
			if p.Policy.Namespace == side.Subject.Namespace && !p.Applies && p.Policy.Isolates(side.Direction) {
				return fmt.Sprintf("nearest policy, which does not select it: %s: %s", cite(p.Policy.RuleAt(side.Direction, flow.Isolation)), p.Reason)
			}
		}
	}
	return ""
}

// cite names a rule with its place.
func cite(r flow.Rule) string {
	if r.Place() == "" {
		return r.String()
	}
	return r.String() + " (" + r.Place() + ")"
}
