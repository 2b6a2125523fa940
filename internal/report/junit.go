package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// JUnit writes results as JUnit XML, in the form that GitLab, Jenkins and GitHub's test reporters read.
func JUnit(w io.Writer, suites []Suite) error {
	var all junitSuites
	for _, s := range suites {
		all.Suites = append(all.Suites, junitOf(s))
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func junitOf(s Suite) junitSuite {
	out := junitSuite{Name: s.Name, Tests: len(s.Cases), Time: seconds(s.Took)}
	for _, c := range s.Cases {
		x := junitCase{Class: c.Class, Name: c.Name, File: slashed(c.File), Line: c.Line, Time: seconds(c.Took)}
		switch {
		case c.Error != nil:
			x.Error = junitFailureOf(c.Error)
			out.Errors++
		case c.Failure != nil:
			x.Failure = junitFailureOf(c.Failure)
			out.Failures++
		case c.Skipped != "":
			x.Skipped = &junitSkipped{c.Skipped}
			out.Skipped++
		}
		out.Cases = append(out.Cases, x)
	}
	return out
}

func junitFailureOf(f *Failure) *junitFailure {
	return &junitFailure{Message: xmlText(f.Message), Text: xmlText(f.Text)}
}

// xmlText is s without what XML cannot hold, such as control characters.
func xmlText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < ' ' && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, s)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	File    string        `xml:"file,attr,omitempty"`
	Line    int           `xml:"line,attr,omitempty"`
	Time    string        `xml:"time,attr"`
	Skipped *junitSkipped `xml:"skipped,omitempty"`
	Error   *junitFailure `xml:"error,omitempty"`
	Failure *junitFailure `xml:"failure,omitempty"`
}

type junitSkipped struct {
	Message string `xml:"message,attr"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}
