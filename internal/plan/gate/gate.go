// Package gate decides whether a plan may pass: conditions that a pipeline names.
package gate

import (
	"fmt"
	"strings"

	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/words"
)

// All are the conditions that Fails knows, with what each means, in the order in which they are listed.
var All = []struct{ Name, Means string }{
	{"newly-denied", "something is newly denied"},
	{"newly-allowed", "something is newly allowed"},
	{"newly-allowed-outside", "something between a pod and the world outside is newly allowed"},
	{"newly-denied-seen", "a recorded connection would break"},
	{"newly-allowed-seen", "a recorded denial would be let through"},
	{"uncertain", "nobody can say what becomes of recorded connections, or records were lost"},
	{"bad-manifests", "NEW holds something that cannot be read"},
	{"medium", "the risk is MEDIUM or HIGH"},
	{"high", "the risk is HIGH"},
}

// Fails returns those of the gates that the plan does not pass, each with what it found, in the order of All. The error
// names a gate that is none.
func Fails(p *plan.Plan, gates []string) ([]string, error) {
	known := map[string]bool{}
	var names []string
	for _, g := range All {
		known[g.Name] = true
		names = append(names, g.Name)
	}
	want := map[string]bool{}
	for _, g := range gates {
		if !known[g] {
			return nil, fmt.Errorf("%q is no gate: want some of %s", g, strings.Join(names, ", "))
		}
		want[g] = true
	}
	var out []string
	for _, g := range All {
		if found := look(p, g.Name); want[g.Name] && found != "" {
			out = append(out, g.Name+": "+found)
		}
	}
	return out, nil
}

// look says what a gate found; "" for nothing.
func look(p *plan.Plan, name string) string {
	pairs := func(verb plan.Verb, outside bool) string {
		n := 0
		for _, c := range p.Changes {
			if c.Effect == verb && (c.Outside || !outside) {
				n += c.Pairs
			}
		}
		return found(n, "pair")
	}
	flows := p.Flows
	if flows == nil {
		flows = &plan.Effect{}
	}
	switch name {
	case "newly-denied":
		return pairs(plan.NewlyDenied, false)
	case "newly-allowed":
		return pairs(plan.NewlyAllowed, false)
	case "newly-allowed-outside":
		return pairs(plan.NewlyAllowed, true)
	case "newly-denied-seen":
		return found(plan.Total(flows.Breaks), "connection")
	case "newly-allowed-seen":
		return found(plan.Total(flows.Opens), "denial")
	case "uncertain":
		n := 0
		for _, u := range flows.Uncertain {
			n += u.Connections
		}
		if n == 0 && flows.Lost > 0 {
			return "records were lost"
		}
		return found(n, "connection")
	case "bad-manifests":
		n := 0
		for _, b := range p.Problems {
			if b.Side == "new" {
				n++
			}
		}
		return found(n, "problem")
	case "medium", "high":
		if p.Risk == plan.High || p.Risk == plan.Medium && name == "medium" {
			return "risk " + string(p.Risk) + ", " + strings.Join(p.RiskWhy, ", ")
		}
	}
	return ""
}

func found(n int, noun string) string {
	if n == 0 {
		return ""
	}
	return words.Counted(n, noun)
}
