package explain

import (
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Lacks says in a few words what the connection of d lacked to meet a rule of the policy that r belongs to, in r's
// direction: of the rule that was nearest, the first thing that did not match, and which rule that is. Where the policy
// does not apply at all, it says why, and the rule is r. It is "" where the policy was not looked at, or has no rule that
// did not match.
func Lacks(d eval.Decision, r flow.Rule) (why string, nearest flow.Rule) {
	side := d.Ingress
	if r.Direction == flow.Egress {
		side = d.Egress
	}
	if side == nil {
		return "", flow.Rule{}
	}
	best := -1
	for _, tier := range side.Tiers {
		for _, p := range tier.Policies {
			if p.Policy.Kind() != r.Kind || p.Policy.Namespace != r.Namespace || p.Policy.Name != r.Name {
				continue
			}
			if !p.Applies {
				return p.Reason, r
			}
			for _, rule := range p.Rules {
				if score, text := lacking(rule); text != "" && score > best {
					best, why, nearest = score, text, rule.Rule
				}
			}
		}
	}
	return why, nearest
}

// lacking says why a rule did not match, and how much of it did.
func lacking(r eval.Rule) (score int, why string) {
	peers, peerWhy := eval.No, ""
	for _, p := range r.Peers {
		if p.Match > peers || peerWhy == "" {
			peers, peerWhy = max(peers, p.Match), p.Reason
		}
	}
	ports, portWhy := eval.Yes, ""
	if len(r.Ports) > 0 {
		ports = eval.No
	}
	for _, p := range r.Ports {
		if p.Match > ports || portWhy == "" {
			ports, portWhy = max(ports, p.Match), p.Reason
		}
	}
	switch {
	case ports != eval.Yes && peers == eval.Yes:
		return 1, portWhy
	case ports != eval.Yes:
		return 0, portWhy
	case peers != eval.Yes:
		return 2, peerWhy
	}
	return 0, ""
}
