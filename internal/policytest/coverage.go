package policytest

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Coverage says what the tests do not look at. A rule is exercised if it decided a connection of a case, or of a pair
// that an invariant is about; a policy that isolates has one rule more for each direction, its "and nothing else".
type Coverage struct {
	Rules       int       `json:"rules"`
	Exercised   int       `json:"exercised"`
	Percent     float64   `json:"percent"` // of the rules; 100 if there are none
	Unexercised []RuleRef `json:"unexercised,omitempty"`
	Workloads   int       `json:"workloads"`
	Unselected  []string  `json:"unselected,omitempty"` // workloads that no policy selects
}

// RuleRef names a rule.
type RuleRef struct {
	Rule  string `json:"rule"`
	Place string `json:"place,omitempty"`
}

// coverage collects what was seen.
type coverage struct {
	rules     map[flow.Rule]bool // exercised
	workloads map[string]bool    // selected by a policy
}

func newCoverage() *coverage { return &coverage{map[flow.Rule]bool{}, map[string]bool{}} }

// saw notes the rules and workloads of a cluster.
func (c *coverage) saw(s *cluster.State) {
	for _, p := range s.Policies() {
		for _, d := range flow.Directions {
			for i := range p.Rules(d) {
				c.rules[p.RuleAt(d, i)] = c.rules[p.RuleAt(d, i)]
			}
			if p.Isolates(d) {
				r := p.RuleAt(d, flow.Isolation)
				c.rules[r] = c.rules[r]
			}
		}
	}
	for _, e := range s.Endpoints() {
		if e.HostNetwork {
			continue
		}
		name := e.Namespace + "/" + cmp.Or(e.Owner.Name, e.Name)
		c.workloads[name] = c.workloads[name] || slices.ContainsFunc(s.Policies(), func(p *policy.Policy) bool { return selects(s, p, e) })
	}
}

func selects(s *cluster.State, p *policy.Policy, e *cluster.Endpoint) bool {
	return p.Subject.Namespaces.Matches(s.Namespace(e.Namespace).Labels) && p.Subject.Pods.Matches(e.Labels)
}

func (c *coverage) exercised(r flow.Rule) {
	if !r.IsZero() {
		c.rules[r] = true
	}
}

// decided notes the rules that decided a connection: of a denial those of the side that denies, and of what is allowed
// those of both sides.
func (c *coverage) decided(d eval.Decision) {
	f := d.Flow()
	for _, side := range []*eval.Side{d.Egress, d.Ingress} {
		if side == nil || f.Verdict == flow.Deny && side.Direction != f.Direction {
			continue
		}
		c.exercised(side.Rule)
		for _, t := range side.Tiers {
			c.exercised(t.Rule) // of a Pass
		}
	}
}

func (c *coverage) report() Coverage {
	out := Coverage{Rules: len(c.rules), Workloads: len(c.workloads), Percent: 100}
	var missed []flow.Rule
	for r, yes := range c.rules {
		if yes {
			out.Exercised++
		} else {
			missed = append(missed, r)
		}
	}
	slices.SortFunc(missed, func(a, b flow.Rule) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Direction, b.Direction), strings.Compare(a.String(), b.String()))
	})
	for _, r := range missed {
		out.Unexercised = append(out.Unexercised, RuleRef{r.String(), r.Place()})
	}
	if out.Rules > 0 {
		out.Percent = 100 * float64(out.Exercised) / float64(out.Rules)
	}
	for name, yes := range c.workloads {
		if !yes {
			out.Unselected = append(out.Unselected, name)
		}
	}
	slices.Sort(out.Unselected)
	return out
}
