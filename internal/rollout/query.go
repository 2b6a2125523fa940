package rollout

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Query is a question to a metrics server whose answer has to be within limits.
type Query struct {
	Name     string
	Server   string   // "https://prometheus.example:9090"; the API is below it
	Text     string   // in the server's language; the answer is one number or several, all of which count
	Min, Max *float64 // nil is no limit
	Then     Answer   // beyond a limit; Pass ignores it
}

// Measurement is an answer to a query.
type Measurement struct {
	Query   string // its name
	Values  []float64
	Problem string // why there is no answer
}

// Find returns the answer to a query, or says that there is none.
func (q Query) find(all []Measurement) Measurement {
	i := slices.IndexFunc(all, func(m Measurement) bool { return m.Query == q.Name })
	if i < 0 {
		return Measurement{Query: q.Name, Problem: "it was not asked yet"}
	}
	return all[i]
}

// judge says what is beyond a limit, or else why nobody can tell; neither if all is well.
func (q Query) judge(m Measurement) (beyond, unknown string) {
	if m.Problem != "" {
		return "", m.Problem
	}
	for _, v := range m.Values {
		switch {
		case math.IsNaN(v):
			unknown = "the answer is not a number"
		case q.Max != nil && v > *q.Max:
			return number(v) + " is more than " + number(*q.Max), ""
		case q.Min != nil && v < *q.Min:
			return number(v) + " is less than " + number(*q.Min), ""
		}
	}
	if len(m.Values) == 0 {
		unknown = "the answer is empty"
	}
	return "", unknown
}

// Tell is one line for people: "errors: 0.002 (at most 0.01)".
func (q Query) Tell(all []Measurement) string {
	m := q.find(all)
	beyond, unknown := q.judge(m)
	switch {
	case beyond != "":
		return q.Name + ": " + beyond
	case unknown != "":
		return q.Name + ": no answer: " + unknown
	}
	var limits []string
	if q.Min != nil {
		limits = append(limits, "at least "+number(*q.Min))
	}
	if q.Max != nil {
		limits = append(limits, "at most "+number(*q.Max))
	}
	values := []string{}
	for _, v := range m.Values {
		values = append(values, number(v))
	}
	return fmt.Sprintf("%s: %s (%s)", q.Name, some(values), strings.Join(limits, ", "))
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// What a reason says of a query, and so what a person accepts who promotes: that it is beyond its limits, or that it has no
// answer; not the one by the other. They are keys of Status.Accepted too. No name holds a space or a colon.
func beyondKey(q Query) string  { return "query " + q.Name + ": " }
func unknownKey(q Query) string { return "query " + q.Name + " has no answer: " }

// queryKeys are what promoting accepts of the queries, of a status with a reason.
func (a Analysis) queryKeys(reason string) []string {
	var keys []string
	for _, q := range a.Queries {
		for _, key := range []string{beyondKey(q), unknownKey(q)} {
			if strings.Contains(reason, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// judgeQueries takes what is beyond a limit at once while something is enforced, and what has no answer at the end of a
// step. What is beyond its limit in an audit, nobody's pods did: it is no reason to roll back, and none to begin.
func (a Analysis) judgeQueries(v *Verdict, step StepKind, h Health, accepted []string, done bool) {
	for _, q := range a.Queries {
		beyond, unknown := q.judge(q.find(h.Measured))
		switch {
		case q.Then == Pass:
		case beyond != "" && slices.Contains(accepted, beyondKey(q)), unknown != "" && slices.Contains(accepted, unknownKey(q)):
		case beyond != "" && step == Audit:
			v.lower(Inconclusive, "%s%s, before anything is enforced", beyondKey(q), beyond)
		case beyond != "":
			v.lower(q.Then, "%s%s", beyondKey(q), beyond)
		case unknown != "" && done && step != Pause:
			v.lower(Inconclusive, "%s%s", unknownKey(q), unknown)
		}
	}
}
