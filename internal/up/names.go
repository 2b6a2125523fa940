package up

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/rollout/driver"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// flowNames is what a flow log asks of a running instance: the newest state, what the engine has in force, the
// reference evaluator's reasons by the state that policies are judged by, what rollouts say, and the names of Services.
func flowNames(e *engine.Engine, state, judged func() *cluster.State, rollouts *driver.Driver,
	service func(netip.AddrPort, flow.Protocol) string) flowlog.Names {
	return flowlog.Names{
		Resolve: func(t flow.Tuple) cluster.Connection { return state().Resolve(t) },
		Decide:  e.Decide,
		Attribute: func(row ruleset.RowID, t flow.Tuple) (flow.Rule, bool) {
			return e.Attribute(dataplane.Denial{Row: row, Tuple: t})
		},
		Rules:   func(row ruleset.RowID) []flow.Rule { return denyingRules(e.Ruleset(), row) },
		Reason:  func(t flow.Tuple, by flow.Rule) string { return unmet(judged(), t, by) },
		Title:   func(by flow.Rule) string { return alertTitle(judged(), by) },
		Service: service,
		Beside: func(t flow.Tuple, fared flow.Verdict, earlier bool, at time.Time) *flowlog.Beside {
			d := rollouts.Saw(t, fared, earlier, at)
			if d == nil {
				return nil
			}
			return &flowlog.Beside{Rollout: d.Rollout, Candidate: d.Candidate, Verdict: d.Verdict, Rule: d.Rule}
		},
	}
}

// alertTitle is what the policy behind a rule says of whoever it denies.
func alertTitle(s *cluster.State, by flow.Rule) string {
	for _, p := range s.Policies() {
		if p.Kind() == by.Kind && p.Namespace == by.Namespace && p.Name == by.Name {
			return p.AlertTitle
		}
	}
	return ""
}

// denyingRules are the rules that a row denies by, sorted by their text; none if the row is not there any more.
func denyingRules(r *ruleset.Ruleset, id ruleset.RowID) []flow.Rule {
	row, ok := r.Rows[id]
	if !ok {
		return nil
	}
	cells := []ruleset.Cell{row.Other}
	for _, p := range flow.PortProtocols {
		for _, s := range row.Segments(p) {
			cells = append(cells, s.Cell)
		}
	}
	var rules []flow.Rule
	for _, c := range cells {
		rule, known := r.Rules[c.Rule]
		if c.Verdict != flow.Allow && known && !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	slices.SortFunc(rules, func(a, b flow.Rule) int {
		return strings.Compare(a.String()+" "+a.Place(), b.String()+" "+b.Place())
	})
	return rules
}

// unmet says in a few words what a denied connection lacked to meet a rule of the policy that denied it: of the rule
// that was nearest, the first thing that did not match. "" where there is no such rule, or where the reference
// would not deny by that policy: the state moved on.
func unmet(s *cluster.State, t flow.Tuple, by flow.Rule) string {
	d := eval.Evaluate(s, s.Resolve(t))
	f := d.Flow()
	if f.Verdict == flow.Allow || f.Rule.Kind != by.Kind || f.Rule.Policy() != by.Policy() || by.IsZero() {
		return ""
	}
	why, _ := explain.Lacks(d, f.Rule)
	return why
}
