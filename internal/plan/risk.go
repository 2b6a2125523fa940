package plan

import (
	"fmt"
	"strings"
)

// Risk is how careful one should be. The zero value is none of them.
type Risk string

// The risks.
const (
	Low    Risk = "LOW"
	Medium Risk = "MEDIUM"
	High   Risk = "HIGH"
)

// RiskHelp is the rule for the risk, for help texts.
const RiskHelp = `The risk is
  HIGH    if a recorded connection would break, if something between a pod and the world outside is newly allowed, or if a
          policy of NEW cannot be read and so isolates
  MEDIUM  if anything else is newly denied or newly allowed, or if nobody can say what becomes of recorded connections
  LOW     if no connection fares otherwise`

// judgeRisk applies RiskHelp.
func (p *Plan) judgeRisk() {
	p.Risk = Low
	raise := func(to Risk, format string, args ...any) {
		if p.Risk == Low || to == High && p.Risk == Medium {
			p.Risk, p.RiskWhy = to, nil
		}
		if p.Risk == to {
			p.RiskWhy = append(p.RiskWhy, fmt.Sprintf(format, args...))
		}
	}
	if f := p.Flows; f != nil {
		if n := sumOf(f.Breaks); n > 0 {
			raise(High, "%s that %s recorded would break", counted(n, "connection"), wasWere(n))
		}
	}
	defects := 0
	for _, c := range p.Policies {
		if c.Defect != "" {
			defects++
		}
	}
	if defects > 0 {
		raise(High, "%s of %s cannot be read", pluralOf(defects, "policy", "policies"), p.New)
	}
	denied, allowed, outside := 0, 0, 0
	for _, c := range p.Changes {
		switch {
		case c.Effect == NewlyDenied:
			denied += c.Pairs
		case c.outside:
			outside += c.Pairs
		default:
			allowed += c.Pairs
		}
	}
	if outside > 0 {
		raise(High, "%s with the world outside %s opened", counted(outside, "pair"), isAre(outside))
	}
	if denied > 0 {
		raise(Medium, "%s %s newly denied", counted(denied, "pair"), isAre(denied))
	}
	if allowed > 0 {
		raise(Medium, "%s %s newly allowed", counted(allowed, "pair"), isAre(allowed))
	}
	if f := p.Flows; f != nil {
		n := 0
		for _, u := range f.Uncertain {
			n += u.Connections
		}
		if n > 0 {
			raise(Medium, "nobody can say what becomes of %s that %s recorded", counted(n, "connection"), wasWere(n))
		}
	}
}

func sumOf(list []Seen) int {
	n := 0
	for _, s := range list {
		n += s.Connections
	}
	return n
}

func wasWere(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func counted(n int, noun string) string { return pluralOf(n, noun, noun+"s") }

func pluralOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

// thousands is a number with commas: 31,204.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Gates are the conditions that Fails knows, with what each means, in the order in which they are listed.
var Gates = []struct{ Name, Means string }{
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

// Fails returns those of the gates that the plan does not pass, each with what it found, in the order of Gates. The error
// names a gate that is none.
func (p *Plan) Fails(gates []string) ([]string, error) {
	known := map[string]bool{}
	var names []string
	for _, g := range Gates {
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
	for _, g := range Gates {
		if found := p.gate(g.Name); want[g.Name] && found != "" {
			out = append(out, g.Name+": "+found)
		}
	}
	return out, nil
}

// gate says what a gate found; "" for nothing.
func (p *Plan) gate(name string) string {
	pairs := func(verb Verb, outside bool) string {
		n := 0
		for _, c := range p.Changes {
			if c.Effect == verb && (c.outside || !outside) {
				n += c.Pairs
			}
		}
		return found(n, "pair")
	}
	flows := p.Flows
	if flows == nil {
		flows = &Effect{}
	}
	switch name {
	case "newly-denied":
		return pairs(NewlyDenied, false)
	case "newly-allowed":
		return pairs(NewlyAllowed, false)
	case "newly-allowed-outside":
		return pairs(NewlyAllowed, true)
	case "newly-denied-seen":
		return found(sumOf(flows.Breaks), "connection")
	case "newly-allowed-seen":
		return found(sumOf(flows.Opens), "denial")
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
		if p.Risk == High || p.Risk == Medium && name == "medium" {
			return "risk " + string(p.Risk) + ", " + strings.Join(p.RiskWhy, ", ")
		}
	}
	return ""
}

func found(n int, noun string) string {
	if n == 0 {
		return ""
	}
	return counted(n, noun)
}

// Empty reports whether nothing is different: no policy, no object, no connection.
func (p *Plan) Empty() bool {
	return len(p.Policies) == 0 && len(p.Objects) == 0 && len(p.Changes) == 0
}
