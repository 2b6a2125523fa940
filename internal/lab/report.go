package lab

import (
	"fmt"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Report is what came of probing a lab.
type Report struct {
	Topology   string
	Enforced   bool   // by a dataplane; without one, everything should get through
	Pods       int    // with a network of their own
	OtherPort  uint16 // of TCP, on which everybody listens and of which nobody speaks; 0 if it was not probed
	Results    []Result
	Skipped    []Skip
	Notices    []string // what was adapted to make a lab of these manifests
	LostEvents int      // denials that came too fast to be read; probes that needed them were repeated or lost
	Timings    Timings
}

// Skip is what could not be probed, and why.
type Skip struct {
	What  string `json:"what"`
	Count int    `json:"count"` // of probes
	Why   string `json:"why"`
}

// Timings say how long the parts of a run took.
type Timings struct {
	Boot    time.Duration // all until everybody listens
	Compile time.Duration // of the policies
	Apply   time.Duration // putting them in force
	Wire    time.Duration // namespaces, interfaces and routes
	Probe   time.Duration
}

// OK reports whether every packet's fate was what the reference says.
func (r *Report) OK() bool { return len(r.Mismatches()) == 0 }

// Mismatches are the results that are not what the reference says.
func (r *Report) Mismatches() []Result {
	var all []Result
	for _, x := range r.Results {
		if x.Mismatch != "" {
			all = append(all, x)
		}
	}
	return all
}

// Count says how many results had outcome o.
func (r *Report) Count(o Outcome) int {
	n := 0
	for _, x := range r.Results {
		if x.Outcome == o {
			n++
		}
	}
	return n
}

// judge compares what became of a probe with what the reference says.
func (r *Result) judge() {
	wantAllow := r.Want.Verdict == flow.Allow
	switch {
	case r.Outcome == Failed:
		r.Mismatch = "the probe failed: " + r.Error
	case r.Outcome == Refused:
		r.Mismatch = "the packet arrived, but nobody listened"
	case r.Outcome == Lost:
		r.Mismatch = fmt.Sprintf("neither an answer nor a logged denial was seen; the policies say %s", describe(r.Want))
		if r.Error != "" {
			r.Mismatch += " (" + r.Error + ")"
		}
	case r.Outcome == Answered && !wantAllow:
		r.Mismatch = fmt.Sprintf("it got through; the policies say %s", describe(r.Want))
	case r.Outcome == Denied && wantAllow:
		r.Mismatch = fmt.Sprintf("it was denied by %s; the policies say %s", r.deniedBy(), describe(r.Want))
	case r.Outcome == Denied && r.Rule != r.Want.Rule:
		r.Mismatch = fmt.Sprintf("it was denied by %s, and should have been by %s", r.deniedBy(), cite(r.Want.Rule))
	}
}

func (r *Result) deniedBy() string {
	if r.Rule.IsZero() {
		return "no policy's rule"
	}
	return cite(r.Rule)
}

func describe(d flow.Decision) string {
	if d.Rule.IsZero() {
		return d.Verdict.String()
	}
	return d.Verdict.String() + ", by " + cite(d.Rule)
}

// cite names a rule with its place.
func cite(r flow.Rule) string {
	if r.Place() == "" {
		return r.String()
	}
	return r.String() + " (" + r.Place() + ")"
}
