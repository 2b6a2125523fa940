package lab

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/report"
	"github.com/ringfence-project/ringfence/internal/words"
)

// JSON writes the whole report as one object.
func (r *Report) JSON(w io.Writer) error {
	out := jsonReport{OK: r.OK(), Topology: r.Topology, Enforced: r.Enforced, Pods: r.Pods, Probes: len(r.Results),
		Outcomes: map[string]int{}, Mismatches: len(r.Mismatches()), LostEvents: r.LostEvents, Skipped: r.Skipped, Notices: r.Notices,
		Seconds: map[string]float64{"boot": r.Timings.Boot.Seconds(), "wire": r.Timings.Wire.Seconds(),
			"compile": r.Timings.Compile.Seconds(), "apply": r.Timings.Apply.Seconds(), "probe": r.Timings.Probe.Seconds()}}
	for _, x := range r.Results {
		out.Outcomes[x.Outcome.String()]++
		out.Results = append(out.Results, jsonResult{From: x.From.Name, To: x.To.Name, Source: x.Tuple.Source.String(),
			Destination: x.Tuple.Destination.String(), Protocol: x.Tuple.Protocol.String(), Port: x.Tuple.Port, Outcome: x.Outcome.String(),
			DeniedBy: jsonRuleOf(x.Rule), Want: x.Want.Verdict.String(), WantBy: jsonRuleOf(x.Want.Rule),
			Milliseconds: float64(x.Took.Microseconds()) / 1000, Mismatch: x.Mismatch})
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

type jsonReport struct {
	OK         bool               `json:"ok"`
	Topology   string             `json:"topology"`
	Enforced   bool               `json:"enforced"`
	Pods       int                `json:"pods"`
	Probes     int                `json:"probes"`
	Outcomes   map[string]int     `json:"outcomes"`
	Mismatches int                `json:"mismatches"`
	LostEvents int                `json:"lostEvents"`
	Skipped    []Skip             `json:"skipped,omitempty"`
	Notices    []string           `json:"notices,omitempty"`
	Seconds    map[string]float64 `json:"seconds"`
	Results    []jsonResult       `json:"results"`
}

type jsonResult struct {
	From         string    `json:"from"`
	To           string    `json:"to"`
	Source       string    `json:"source"`
	Destination  string    `json:"destination"`
	Protocol     string    `json:"protocol"`
	Port         uint16    `json:"port,omitempty"`
	Outcome      string    `json:"outcome"`
	DeniedBy     *jsonRule `json:"deniedBy,omitempty"`
	Want         string    `json:"want"`
	WantBy       *jsonRule `json:"wantBy,omitempty"`
	Milliseconds float64   `json:"ms"`
	Mismatch     string    `json:"mismatch,omitempty"`
}

type jsonRule struct {
	Policy string `json:"policy"`
	Rule   string `json:"rule"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
}

func jsonRuleOf(r flow.Rule) *jsonRule {
	if r.IsZero() {
		return nil
	}
	return &jsonRule{Policy: r.Policy(), Rule: r.String(), File: r.File, Line: r.Line}
}

// JUnit writes the report as JUnit XML: a test case for each source and destination, which fails if one of the
// probes between them was not what the reference says.
func (r *Report) JUnit(w io.Writer) error {
	suite := report.Suite{Name: "ringfence lab", Took: r.Timings.Probe}
	type pair struct{ from, to string }
	at := newIndex[pair]()
	for _, x := range r.Results {
		i := at.of(pair{x.From.Name, x.To.Name})
		if i == len(suite.Cases) {
			suite.Cases = append(suite.Cases, report.Case{Class: x.From.Name, Name: x.From.Name + " -> " + x.To.Name})
		}
		c := &suite.Cases[i]
		c.Took += x.Took
		if x.Mismatch == "" {
			continue
		}
		if c.Failure == nil {
			c.Failure = &report.Failure{Message: x.Mismatch}
		}
		c.Failure.Text += fmt.Sprintf("%s: %s\n", x.Tuple, x.Mismatch)
	}
	for _, s := range r.Skipped {
		suite.Cases = append(suite.Cases, report.Case{Class: "skipped", Name: s.What,
			Skipped: fmt.Sprintf("%s: %s", words.Counted(s.Count, "probe"), s.Why)})
	}
	return report.JUnit(w, []report.Suite{suite})
}
