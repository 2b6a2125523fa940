package plan

import (
	"fmt"

	"github.com/ringfence-project/ringfence/internal/words"
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
		if n := Total(f.Breaks); n > 0 {
			raise(High, "%s that %s recorded would break", words.Counted(n, "connection"), wasWere(n))
		}
	}
	defects := 0
	for _, c := range p.Policies {
		if c.Defect != "" {
			defects++
		}
	}
	if defects > 0 {
		raise(High, "%s of %s cannot be read", words.Plural(defects, "policy", "policies"), p.New)
	}
	denied, allowed, outside := 0, 0, 0
	for _, c := range p.Changes {
		switch {
		case c.Effect == NewlyDenied:
			denied += c.Pairs
		case c.Outside:
			outside += c.Pairs
		default:
			allowed += c.Pairs
		}
	}
	if outside > 0 {
		raise(High, "%s with the world outside %s opened", words.Counted(outside, "pair"), isAre(outside))
	}
	if denied > 0 {
		raise(Medium, "%s %s newly denied", words.Counted(denied, "pair"), isAre(denied))
	}
	if allowed > 0 {
		raise(Medium, "%s %s newly allowed", words.Counted(allowed, "pair"), isAre(allowed))
	}
	if f := p.Flows; f != nil {
		n := 0
		for _, u := range f.Uncertain {
			n += u.Connections
		}
		if n > 0 {
			raise(Medium, "nobody can say what becomes of %s that %s recorded", words.Counted(n, "connection"), wasWere(n))
		}
	}
}

// Total is how many connections a list stands for.
func Total(list []Seen) int {
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

// Empty reports whether nothing is different: no policy, no object, no connection.
func (p *Plan) Empty() bool {
	return len(p.Policies) == 0 && len(p.Objects) == 0 && len(p.Changes) == 0
}
