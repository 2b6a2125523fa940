package policytest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/near"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Verdict is a three-valued answer. The zero value is none.
type Verdict uint8

// The answers. Unknown: it depends on the labels of a pod that nobody knows.
const (
	Denied Verdict = 1 + iota
	Unknown
	Allowed
)

// String is the word that test files use.
func (v Verdict) String() string {
	return [...]string{"none", "deny", "unknown", "allow"}[min(v, Allowed)]
}

// verdictOf reads what String writes; 0 for anything else.
func verdictOf(word string) Verdict {
	for _, v := range []Verdict{Denied, Unknown, Allowed} {
		if word == v.String() {
			return v
		}
	}
	return 0
}

// verdict is what a decision says for certain. A denial in which an unknown pod may have met a rule is not certain.
func verdict(d eval.Decision) Verdict {
	if d.Verdict == flow.Allow {
		return Allowed
	}
	for _, side := range []*eval.Side{d.Egress, d.Ingress} {
		if side != nil && side.Verdict != flow.Allow && !uncertain(side) {
			return Denied
		}
	}
	return Unknown
}

func uncertain(side *eval.Side) bool {
	for _, t := range side.Tiers {
		for _, p := range t.Policies {
			for _, r := range p.Rules {
				if r.Match == eval.Maybe {
					return true
				}
			}
		}
	}
	return false
}

// Observed is what became of a connection that was really made.
type Observed struct {
	Verdict Verdict
	Rule    flow.Rule // that denied; zero if it was allowed, as no packet tells what let it through
	Trouble string    // why there is no verdict
	// Skip is why the connection was not made. Then it is judged by the evaluator, and that is told.
	Skip string
}

// Judge makes connections for real, in the stead of the evaluator.
type Judge interface {
	// State is the cluster as it is run there, with the addresses that it gave out.
	State() *cluster.State
	// Connect makes the connections, all of which have addresses, and says what became of each.
	Connect([]cluster.Connection) ([]Observed, error)
	Close() error
}

// Runner runs test files. The zero value runs everything offline.
type Runner struct {
	// Run chooses tests: those whose "file: name" it matches. nil is all.
	Run *regexp.Regexp
	// Manifests stand in for what documents name as policies, and for the folder; "-" is Stdin.
	Manifests []string
	Stdin     []byte
	// Boot makes a Judge for a cluster, in which the outside has these addresses and everybody listens on these ports.
	// nil: cases are judged by the evaluator. Invariants always are, as there is more to them than can be tried.
	Boot func(o cluster.Objects, needs Needs) (Judge, error)
	// Invariants: a Boot makes connections between the pods that invariants speak of, too.
	Invariants bool
	// Cluster stands in for all manifests but for workloads, and namespaces, that it does not have.
	Cluster *Cluster
	// Progress is called when a test begins, if it is set.
	Progress func(done, total int)

	coverage *coverage
}

// Needs is what a Judge has to provide beside the cluster.
type Needs struct {
	Connections []cluster.Connection
	// Hypothetical: these are not the policies that are in force in Runner.Cluster.
	Hypothetical bool
	// Namespaces are those of Runner.Cluster that the document is about, in order: those of its manifests, and those that it
	// names at the ends of connections. What it means by a pattern alone does not count.
	Namespaces []string
}

// Report is what came of running test files.
type Report struct {
	Files    []File   `json:"files"`
	Coverage Coverage `json:"coverage"`
}

// File is one document's results.
type File struct {
	Name     string             `json:"file"`
	Tests    []Test             `json:"tests"`
	Problems []manifest.Problem `json:"-"` // why the document could not be run
	Errors   []string           `json:"errors,omitempty"`
	Notes    []string           `json:"notes,omitempty"`
}

// Test is one test's results; a document's own invariants are a test called "invariants".
type Test struct {
	Name   string        `json:"name"`
	Line   int           `json:"line"`
	Checks []Check       `json:"checks"`
	Took   time.Duration `json:"-"`
	Error  string        `json:"error,omitempty"` // why it could not be made
}

// Check is one case or invariant. One with an Error could not be made, for instance because it names nobody, and does not
// hold.
type Check struct {
	Text     string    `json:"check"`
	File     string    `json:"file"`
	Line     int       `json:"line"`
	Judged   int       `json:"connections"` // or, of an invariant, pairs of workloads
	Error    string    `json:"error,omitempty"`
	Failures []Failure `json:"failures,omitempty"`
	More     int       `json:"moreFailures,omitempty"` // failures that are not listed
	// Skipped are the connections that were to be made for real and were only judged by the evaluator.
	Skipped []Skipped `json:"notMade,omitempty"`
	Made    int       `json:"made,omitempty"` // connections that were made for real
}

// Skipped are connections that were not made, for one reason.
type Skipped struct {
	Why         string `json:"why"`
	Connections int    `json:"connections"`
}

// skip notes n connections that were not made.
func (c *Check) skip(why string, n int) {
	for i := range c.Skipped {
		if c.Skipped[i].Why == why {
			c.Skipped[i].Connections += n
			return
		}
	}
	c.Skipped = append(c.Skipped, Skipped{why, n})
}

// OK reports whether the check was made and holds.
func (c Check) OK() bool { return c.Error == "" && len(c.Failures) == 0 }

// OK reports whether all checks hold.
func (t Test) OK() bool {
	for _, c := range t.Checks {
		if !c.OK() {
			return false
		}
	}
	return t.Error == ""
}

// Broken reports whether a file could not be read, which is another thing than a test that fails.
func (r *Report) Broken() bool {
	return slices.ContainsFunc(r.Files, func(f File) bool { return len(f.Errors) > 0 })
}

// Count says how many tests there are, how many of them hold, and how many checks were made.
func (r *Report) Count() (tests, ok, checks, connections int) {
	for _, f := range r.Files {
		for _, t := range f.Tests {
			tests++
			if t.OK() {
				ok++
			}
			checks += len(t.Checks)
			for _, c := range t.Checks {
				connections += c.Judged
			}
		}
	}
	return tests, ok, checks, connections
}

// Made says how many connections were made for real, and how many were to be and were judged by the evaluator instead.
func (r *Report) Made() (made, skipped int) {
	for _, f := range r.Files {
		for _, t := range f.Tests {
			for _, c := range t.Checks {
				made += c.Made
				for _, s := range c.Skipped {
					skipped += s.Connections
				}
			}
		}
	}
	return made, skipped
}

// OK reports whether everything was run and holds.
func (r *Report) OK() bool {
	tests, ok, _, _ := r.Count()
	return !r.Broken() && tests == ok
}

// Docs runs the documents. problems are those of files that could not be read; they are in the report.
func (r *Runner) Docs(docs []Doc, problems []manifest.Problem) *Report {
	r.coverage = newCoverage()
	report := &Report{}
	for _, p := range problems {
		if n := len(report.Files); n == 0 || report.Files[n-1].Name != p.File {
			report.Files = append(report.Files, File{Name: p.File})
		}
		report.Files[len(report.Files)-1].add([]manifest.Problem{p}, nil)
	}
	total, done := 0, 0
	for _, d := range docs {
		total += len(r.chosen(d))
	}
	step := func() {
		if r.Progress != nil {
			r.Progress(done, total)
		}
		done++
	}
	for _, d := range docs {
		if len(r.chosen(d)) > 0 {
			report.Files = append(report.Files, r.doc(d, step))
		}
	}
	report.Coverage = r.coverage.report()
	return report
}

// namedTest is a test with its place in the document.
type namedTest struct {
	testSpec
	path string
}

// chosen are the tests of d that are to be run.
func (r *Runner) chosen(d Doc) []namedTest {
	var all []namedTest
	for i, t := range d.spec.Value.Tests {
		all = append(all, namedTest{t, at("tests", i)})
	}
	if v := d.spec.Value.Invariants; len(v) > 0 {
		all = append(all, namedTest{testSpec{Name: "invariants", Invariants: v}, ""})
	}
	var kept []namedTest
	for _, t := range all {
		if r.Run == nil || r.Run.MatchString(d.File+": "+t.Name) {
			kept = append(kept, t)
		}
	}
	return kept
}

func (r *Runner) doc(d Doc, step func()) File {
	f := File{Name: d.File}
	w, problems, err := r.loadWorld(d)
	if f.add(problems, err) {
		return f
	}
	f.Notes = w.notes
	for _, t := range r.chosen(d) {
		step()
		start := time.Now()
		result := Test{Name: t.Name, Line: d.spec.LineOf(t.path)}
		if err := r.test(d, w, t, &result); err != nil {
			result.Error = err.Error()
		}
		result.Took = time.Since(start)
		f.Tests = append(f.Tests, result)
	}
	return f
}

// add notes what is wrong, and reports whether something is.
func (f *File) add(problems []manifest.Problem, err error) bool {
	var p manifest.Problem
	switch {
	case errors.As(err, &p):
		problems = append(problems, p)
	case err != nil:
		f.Errors = append(f.Errors, f.Name+": "+err.Error())
	}
	for _, p := range problems {
		f.Problems = append(f.Problems, p)
		f.Errors = append(f.Errors, p.Text())
	}
	return len(f.Errors) > 0
}

// test runs one test. An error means that nothing of it could be run.
func (r *Runner) test(d Doc, w world, t namedTest, out *Test) error {
	w, err := w.patched(d, t.path, t.Patch)
	if err != nil {
		return err
	}
	inForce, would, problems, err := r.candidate(w, d, t.path, t.Candidate)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return problems[0]
	}
	now, err := r.newArena(inForce)
	if err != nil {
		return err
	}
	later := now
	if len(t.Candidate) > 0 {
		if later, err = r.newArena(would); err != nil {
			return err
		}
	}
	out.Checks = append(out.Checks, r.cases(d, t, now, later)...)
	invariants, path := t.Invariants, t.path+".invariants"
	if t.path == "" {
		path = "invariants"
	}
	return r.invariants(d, path, invariants, now, out)
}

// arena is a cluster with who judges in it.
type arena struct {
	world
	state  *cluster.State
	oracle *eval.Oracle
}

func (r *Runner) newArena(w world) (*arena, error) {
	s, err := cluster.NewState(w.clone())
	if err != nil {
		return nil, err
	}
	r.coverage.saw(s)
	return &arena{w, s, eval.NewOracle(s)}, nil
}

// nearestPolicy is advice about a name that no policy has.
func nearestPolicy(name string, policies []*policy.Policy) string {
	var names []string
	for _, p := range policies {
		names = append(names, p.RuleAt(flow.Ingress, flow.Isolation).Policy())
	}
	if found := near.Of(name, names); found != "" {
		return fmt.Sprintf("did you mean %q?", found)
	}
	return ""
}
