// Package report writes what was checked and what was found in the forms that other programs read: JUnit and TAP for
// test results, SARIF 2.1.0 and the annotations of GitHub's workflows for findings in files.
//
// It knows nothing of what is checked. Output depends on the input alone, so that it can be compared.
package report

import (
	"path/filepath"
	"strconv"
	"time"
)

// Suite is test results that belong together, those of one file for instance.
type Suite struct {
	Name  string
	Took  time.Duration
	Cases []Case
}

// Case is the result of one test: failed, broken or skipped if that field is set, else passed.
type Case struct {
	Class   string // groups cases in reports
	Name    string
	File    string // where the expectation stands; may be empty
	Line    int    // from 1; 0 if unknown
	Took    time.Duration
	Failure *Failure // an expectation was not met
	Error   *Failure // the test could not be made
	Skipped string   // why it was not made
}

// Failure is why a test failed.
type Failure struct {
	Message string // one line
	Text    string // all that is known; may have several lines
}

// Level is how much a finding weighs. The zero value is the least.
type Level uint8

// The levels.
const (
	Note Level = iota
	Warning
	Error
)

// String is "note", "warning" or "error", which are SARIF's words too.
func (l Level) String() string { return [...]string{"note", "warning", "error"}[min(l, Error)] }

// Place is a line of a file.
type Place struct {
	File    string
	Line    int    // from 1; 0 if unknown
	Message string // what is there, for a place beside the main one
}

// String is "file:line".
func (p Place) String() string {
	if p.File == "" || p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Finding is something that was found in a file.
type Finding struct {
	Code    string // names the Rule
	Level   Level
	Place   Place
	Message string // one line
	Fix     string // what to do about it; may be empty
	Related []Place
	// Suppressed: it is accepted, and Reason says why.
	Suppressed bool
	Reason     string
}

// Rule describes a kind of finding.
type Rule struct {
	Code  string
	Name  string // in words, without spaces: "policy-selects-nothing"
	Short string // one sentence
	Help  string // why it matters and what to do
	Level Level  // that findings of the kind have if nothing else is said
}

// slashed is a path as reports write it.
func slashed(path string) string { return filepath.ToSlash(path) }
