package policytest

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/report"
	"github.com/ringfence-project/ringfence/internal/words"
)

// Suites are the results in the form of JUnit and TAP: a suite for each file, a case for each check.
func (r *Report) Suites() []report.Suite {
	var all []report.Suite
	for _, f := range r.Files {
		s := report.Suite{Name: f.Name}
		if len(f.Errors) > 0 {
			s.Cases = append(s.Cases, report.Case{Class: f.Name, Name: "read", File: f.Name,
				Error: &report.Failure{Message: firstLine(f.Errors[0]), Text: strings.Join(f.Errors, "\n")}})
		}
		for _, t := range f.Tests {
			s.Took += t.Took
			s.Cases = append(s.Cases, t.cases(f.Name)...)
		}
		all = append(all, s)
	}
	return all
}

func (t Test) cases(file string) []report.Case {
	if t.Error != "" {
		return []report.Case{{Class: t.Name, Name: "run", File: file, Line: t.Line, Error: &report.Failure{Message: firstLine(t.Error), Text: t.Error}}}
	}
	var all []report.Case
	for _, c := range t.Checks {
		x := report.Case{Class: t.Name, Name: c.Text, File: c.File, Line: c.Line, Took: t.Took / time.Duration(len(t.Checks))}
		switch {
		case c.Error != "":
			x.Error = &report.Failure{Message: firstLine(c.Error), Text: c.Error}
		case !c.OK():
			var b strings.Builder
			w := printer{Writer: bufio.NewWriter(&b)}
			w.failures(0, c)
			w.Flush()
			x.Failure = &report.Failure{Message: c.Failures[0].Message, Text: b.String()}
		case c.Made == 0 && len(c.Skipped) > 0:
			x.Skipped = "judged by the evaluator only: " + c.Skipped[0].Why
		}
		all = append(all, x)
	}
	return all
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}

// The codes of a report's findings.
var rules = []report.Rule{
	{Code: "expectation", Name: "expectation-not-met", Level: report.Error, Short: "A connection fares otherwise than a test expects.",
		Help: "Either the policy or the expectation is wrong. The message names the rule that decided and the one that came nearest to deciding otherwise."},
	{Code: "broken", Name: "test-cannot-run", Level: report.Error, Short: "A test could not be run.",
		Help: "The test file or the manifests cannot be read, or name something that is not there. A test that cannot run tests nothing."},
}

// Rules describe the codes of Findings.
func Rules() []report.Rule { return rules }

// Findings are what is wrong, at the expectation; the rule that decided is a related place.
func (r *Report) Findings() []report.Finding {
	var all []report.Finding
	broken := func(p report.Place, message string) {
		all = append(all, report.Finding{Code: "broken", Level: report.Error, Place: p, Message: firstLine(message)})
	}
	for _, f := range r.Files {
		for _, e := range f.Errors {
			if len(f.Problems) == 0 {
				broken(report.Place{File: f.Name}, e)
			}
		}
		for _, p := range f.Problems {
			bare := p
			bare.File, bare.Line = "", 0 // the place says these
			broken(report.Place{File: p.File, Line: p.Line}, bare.Error())
		}
		for _, t := range f.Tests {
			if t.Error != "" {
				broken(report.Place{File: f.Name, Line: t.Line}, t.Name+": "+t.Error)
			}
			for _, c := range t.Checks {
				all = append(all, c.findings(t.Name)...)
			}
		}
	}
	return all
}

func (c Check) findings(test string) []report.Finding {
	place := report.Place{File: c.File, Line: c.Line}
	if c.Error != "" {
		return []report.Finding{{Code: "broken", Level: report.Error, Place: place, Message: test + ": " + firstLine(c.Error)}}
	}
	var all []report.Finding
	for _, f := range c.Failures {
		x := report.Finding{Code: "expectation", Level: report.Error, Place: place, Message: test + ": " + f.Message}
		if f.Rule != "" {
			x.Message += ", by " + f.Rule
		}
		if file, line, ok := cutPlace(f.Place); ok {
			x.Related = []report.Place{{File: file, Line: line, Message: "the rule that decided"}}
		}
		x.Fix = f.Nearest
		all = append(all, x)
	}
	return all
}

func cutPlace(place string) (file string, line int, ok bool) {
	i := strings.LastIndexByte(place, ':')
	if i < 0 {
		return place, 0, place != ""
	}
	_, err := fmt.Sscanf(place[i+1:], "%d", &line)
	return place[:i], line, err == nil
}

// Options says how a report is written as text.
type Options struct {
	Color    bool // for a terminal
	Coverage bool // with what no test looks at
}

// printer writes to a bufio.Writer, which keeps the first error until Flush.
type printer struct {
	*bufio.Writer
	options Options
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer, o Options) error {
	p := printer{bufio.NewWriter(w), o}
	for _, f := range r.Files {
		p.line(0, "%s", f.Name)
		for _, e := range f.Errors {
			p.line(1, "%s %s", p.mark("!"), strings.ReplaceAll(e, "\n", "\n  "))
		}
		for _, n := range f.Notes {
			p.line(1, "note: %s", n)
		}
		for _, t := range f.Tests {
			p.test(t)
		}
	}
	tests, ok, checks, connections := r.Count()
	if o.Coverage {
		p.coverage(r.Coverage)
	}
	verdict := "ok"
	if !r.OK() {
		verdict = "FAILED"
	}
	text := fmt.Sprintf("%s: %d of %d tests hold, %s, %s", p.paint(verdict, r.OK()), ok, tests, words.Counted(checks, "check"), words.Counted(connections, "connection"))
	if made, skipped := r.Made(); made+skipped > 0 {
		text += fmt.Sprintf(", %d made with packets", made)
		if skipped > 0 {
			text += fmt.Sprintf(", %d not made", skipped)
		}
	}
	p.line(0, "%s", text)
	return p.Flush()
}

func (p printer) line(indent int, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for l := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintln(p, strings.TrimRight(strings.Repeat("  ", indent)+l, " "))
	}
}

func (p printer) paint(text string, good bool) string {
	code := "31"
	if good {
		code = "32"
	}
	if !p.options.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p printer) mark(answer string) string { return p.paint(answer, answer == "✓") }

func (p printer) test(t Test) {
	n := 0
	for _, c := range t.Checks {
		n += c.Judged
	}
	if t.OK() {
		p.line(1, "%s %s  (%s, %s)", p.mark("✓"), t.Name, words.Counted(len(t.Checks), "check"), words.Counted(n, "connection"))
		p.skipped(t)
		return
	}
	p.line(1, "%s %s", p.mark("✗"), t.Name)
	if t.Error != "" {
		p.line(2, "%s", t.Error)
	}
	for _, c := range t.Checks {
		if c.OK() {
			continue
		}
		p.line(2, "%s:%d: %s", c.File, c.Line, c.Text)
		p.failures(3, c)
	}
	p.skipped(t)
}

// skipped says what of a test was judged by the evaluator only, each reason once.
func (p printer) skipped(t Test) {
	var all Check
	for _, c := range t.Checks {
		for _, s := range c.Skipped {
			all.skip(s.Why, s.Connections)
		}
	}
	for _, s := range all.Skipped {
		p.line(2, "not made, evaluated only (%s): %s", words.Counted(s.Connections, "connection"), s.Why)
	}
}

func (p printer) failures(indent int, c Check) {
	if c.Error != "" {
		p.line(indent, "%s", c.Error)
	}
	for _, f := range c.Failures {
		p.line(indent, "%s %s", p.mark("✗"), f.Message)
		by := "decided by no policy"
		if f.Rule != "" {
			by = "decided by " + f.Rule
		}
		if f.Place != "" {
			by += " (" + f.Place + ")"
		}
		p.line(indent+1, "%s", by)
		if f.Nearest != "" {
			p.line(indent+1, "%s", f.Nearest)
		}
		if f.Explanation != nil {
			p.explanation(indent+1, f.Explanation)
		}
		if f.Like > 0 {
			p.line(indent+1, "%s like it", words.Counted(f.Like, "more connection"))
		}
	}
	if c.More > 0 {
		p.line(indent, "and %s", words.Counted(c.More, "more failure"))
	}
}

func (p printer) explanation(indent int, e *explain.Explanation) {
	var b strings.Builder
	if e.Write(&b, explain.Options{Color: p.options.Color}) == nil {
		p.line(indent, "%s", b.String())
	}
}

func (p printer) coverage(c Coverage) {
	p.line(0, "coverage: %d of %s exercised, %.0f %%", c.Exercised, words.Counted(c.Rules, "rule"), c.Percent)
	for _, r := range c.Unexercised {
		p.line(1, "no test exercises %s (%s)", r.Rule, r.Place)
	}
	if len(c.Unselected) > 0 {
		p.line(0, "%d of %s selected by no policy: %s", len(c.Unselected), words.Counted(c.Workloads, "workload"), strings.Join(c.Unselected, ", "))
	}
}
