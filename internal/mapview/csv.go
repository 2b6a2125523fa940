package mapview

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// writeCSV writes a line for each pair that policies are asked about, or that was seen.
func (v View) writeCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	header := []string{"from", "to", "level", "ports", "declared", "allowed by", "denied by"}
	if len(v.Seen) > 0 {
		header = append(header, "seen allowed", "seen denied", "last seen")
	}
	if err := out.Write(header); err != nil {
		return err
	}
	seen, texts := v.seenByPair(), make([]answerTexts, v.Map.Answers())
	for from := range v.Map.Boxes {
		for to := range v.Map.Boxes {
			number, s := v.Map.AnswerIndex(from, to), seen[pair{from, to}]
			a, t := v.Map.AnswerAt(number), &texts[number]
			if a.Level == reach.Unjudged && s == nil {
				continue
			}
			if t.level == "" {
				*t = answerTexts{a.Level.String(), a.Text(), deciders(a, flow.Allow), deciders(a, flow.Deny)}
			}
			declared := strings.Join(declaredNames(a, v.Map.Boxes[to].Ports), ", ")
			line := []string{v.Map.Boxes[from].Name, v.Map.Boxes[to].Name, t.level, t.ports, declared, t.allowedBy, t.deniedBy}
			if err := out.Write(v.withSeen(line, s)); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

// answerTexts are what the pairs of one answer have in common.
type answerTexts struct{ level, ports, allowedBy, deniedBy string }

func (v View) withSeen(line []string, s *pairSeen) []string {
	switch {
	case s != nil:
		line = append(line, strconv.FormatUint(s.Allowed, 10), strconv.FormatUint(s.Denied, 10), s.Last)
	case len(v.Seen) > 0:
		line = append(line, "", "", "")
	}
	return line
}

// deciders are the rules behind a verdict, with their places: "shop/db ingress[0] (db.yaml:12)". For what is allowed
// these are the rules of both ends.
func deciders(a *reach.Answer, verdict flow.Verdict) string {
	var all []string
	known := map[flow.Rule]bool{}
	add := func(r flow.Rule) {
		if known[r] {
			return
		}
		known[r] = true
		text := r.String()
		if p := r.Place(); p != "" {
			text += " (" + p + ")"
		}
		all = append(all, text)
	}
	for _, p := range a.Parts {
		for i := range p.Clauses {
			c := &p.Clauses[i]
			if c.Verdict != verdict {
				continue
			}
			both := []flow.Rule{c.Decision().Rule}
			if verdict == flow.Allow {
				both = []flow.Rule{c.Egress.Rule, c.Ingress.Rule}
			}
			for _, r := range both {
				if !r.IsZero() {
					add(r)
				}
			}
		}
	}
	if all == nil && a.Level != reach.Unjudged && (verdict == flow.Allow) == (a.Level == reach.All) {
		return "no policy"
	}
	return strings.Join(all, "; ")
}
