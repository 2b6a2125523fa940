package rollout

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// FindingKind is how the candidate differs from the policies before it.
type FindingKind string

// The kinds of findings.
const (
	NewlyDenied  FindingKind = "NewlyDenied"  // allowed before, denied by the candidate
	NewlyAllowed FindingKind = "NewlyAllowed" // denied before, allowed by the candidate
)

// Finding is a connection, or equal ones, on which the candidate and the policies before differ.
type Finding struct {
	Kind FindingKind `json:"kind"`
	// Enforced: it happened, as the candidate was in force for the pod; else it would have happened.
	Enforced bool `json:"enforced,omitempty"`
	// Live: the connection was there when the rollout began.
	Live        bool      `json:"live,omitempty"`
	Source      string    `json:"source"`      // "namespace/workload", or an address
	Destination string    `json:"destination"` // likewise
	Port        string    `json:"port"`        // "5432/tcp"
	Before      string    `json:"before"`      // the rule that decides without the candidate
	After       string    `json:"after"`       // and with it
	Example     string    `json:"example"`     // of the pods: "namespace/pod -> namespace/pod"
	Count       int       `json:"count"`       // connections, or recorded denials
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// Key is what a person accepts by promoting: kind, ends and port.
func (f Finding) Key() string {
	return strings.Join([]string{string(f.Kind), f.Source, f.Destination, f.Port}, " ")
}

// String is for instance "shop/web -> shop/db 5432/tcp, 3 times".
func (f Finding) String() string {
	text := f.Source + " -> " + f.Destination + " " + f.Port + ", " + times(f.Count)
	if f.Live {
		text += " (open since before)"
	}
	return text
}

func (f Finding) compare(o Finding) int {
	return cmp.Or(strings.Compare(f.Key(), o.Key()), compareBools(f.Enforced, o.Enforced), compareBools(f.Live, o.Live))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// maxFindings bounds the kinds of findings that are kept; of what is beyond, only the number is.
const maxFindings = 200

// Evidence is what was seen in one step. The zero value is nothing.
type Evidence struct {
	Findings []Finding `json:"findings,omitempty"` // sorted by Key
	More     int       `json:"more,omitempty"`     // connections of kinds beyond those that are kept
	// Connections of pods whose verdicts matter: in an audit those that the change selects, else those in the cohort.
	Connections int      `json:"connections"`
	Workloads   []string `json:"workloads,omitempty"` // of which such a connection was seen; sorted
	Cohort      Outcomes `json:"cohort"`
	Rest        Outcomes `json:"rest"`
	// Uncertain are connections that could not be judged, as one end was not known or the policies were just changing.
	Uncertain int `json:"uncertain,omitempty"`
}

// Outcomes is how TCP connections ended.
type Outcomes struct {
	Ended  int `json:"ended"`
	Failed int `json:"failed"`          // of these: never established, as nobody answered or it was refused
	Reset  int `json:"reset,omitempty"` // of these: established, and then broken off by a reset
}

// Add notes one more connection of a finding's kind, and reports whether it is the first of its kind.
func (e *Evidence) Add(f Finding) (first bool) {
	f.Count = max(1, f.Count)
	i, known := slices.BinarySearchFunc(e.Findings, f, Finding.compare)
	switch {
	case known:
		found := &e.Findings[i]
		found.Count += f.Count
		found.Last = f.Last
		return false
	case len(e.Findings) >= maxFindings:
		e.More += f.Count
		return false
	}
	e.Findings = slices.Insert(e.Findings, i, f)
	return true
}

// Saw notes a connection of a pod whose verdicts matter.
func (e *Evidence) Saw(workload string) {
	e.Connections++
	e.Know(workload)
}

// Know notes that a connection of a workload was seen, without counting one.
func (e *Evidence) Know(workload string) {
	if i, known := slices.BinarySearch(e.Workloads, workload); !known {
		e.Workloads = slices.Insert(e.Workloads, i, workload)
	}
}

// Join adds what was seen elsewhere.
func (e *Evidence) Join(o Evidence) {
	e.combine(o, func(a, b int) int { return a + b })
}

// AtLeast adds what was seen before and is not in e: of what both have, the greater number counts.
func (e *Evidence) AtLeast(o Evidence) {
	e.combine(o, func(a, b int) int { return max(a, b) })
}

func (e *Evidence) combine(o Evidence, both func(a, b int) int) {
	*e = e.clone()
	for _, f := range o.Findings {
		if i, known := slices.BinarySearchFunc(e.Findings, f, Finding.compare); known {
			found := &e.Findings[i]
			if f.First.Before(found.First) {
				found.First, found.Example = f.First, f.Example
			}
			if f.Last.After(found.Last) {
				found.Last = f.Last
			}
			found.Count = both(found.Count, f.Count)
			continue
		}
		e.Add(f)
	}
	for _, w := range o.Workloads {
		e.Know(w)
	}
	for _, n := range []struct {
		to   *int
		from int
	}{{&e.More, o.More}, {&e.Connections, o.Connections}, {&e.Uncertain, o.Uncertain}, {&e.Cohort.Ended, o.Cohort.Ended},
		{&e.Cohort.Failed, o.Cohort.Failed}, {&e.Cohort.Reset, o.Cohort.Reset}, {&e.Rest.Ended, o.Rest.Ended},
		{&e.Rest.Failed, o.Rest.Failed}, {&e.Rest.Reset, o.Rest.Reset}} {
		*n.to = both(*n.to, n.from)
	}
}

// Add notes how a connection ended.
func (o *Outcomes) Add(how flow.Outcome) {
	o.Ended++
	switch {
	case how.Failed():
		o.Failed++
	case how == flow.Reset:
		o.Reset++
	}
}

// established is how many were.
func (o Outcomes) established() int { return o.Ended - o.Failed }

// share is a part in percent.
func share(part, of int) int { return 100 * part / max(1, of) }

func (e Evidence) clone() Evidence {
	e.Findings, e.Workloads = slices.Clone(e.Findings), slices.Clone(e.Workloads)
	return e
}

// Health is what is known now, beside what was seen.
type Health struct {
	// InForce: what the Status asks for is in force. Time only counts while it is.
	InForce   bool
	Selected  int      // pods that the change selects
	Cohort    int      // of these, pods that are judged by the candidate
	Workloads []string // of the selected pods, also those that run no pod now
	NotReady  []string // pods of the cohort that were ready before the step
	Restarts  []string // pods of the cohort that restarted since the step began
	Lost      []string // probes that the candidate takes away
	// Silent are nodes that should have said long ago that it is in force there, and did not.
	Silent []string
	// Measured are the newest answers to the analysis' queries, asked since the step began. One that is not among them has
	// not been answered.
	Measured []Measurement
}
