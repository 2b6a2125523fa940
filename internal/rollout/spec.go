// Package rollout is the life of a policy change: what is to change, for which pods it is in force at each moment, what
// was seen of it, and what follows from that. Values in, values out; the clock is an argument.
//
// A Spec says what somebody wants: policies that replace those of the same name or are new (the candidate), policies to
// remove, and steps. A Status is how far that has come. Three functions move it: Follow when the manifest says something
// new, Do when a person says something, Tick when time passes. Part says for which pods the candidate is in force in a
// Status, and Rewrite turns a cluster's state into one that says exactly that. Whoever drives a rollout stores the Status
// before it puts in force what follows from it, so that never more is enforced than a stored Status says; a driver that is
// gone moves nothing. Overlay is Rewrite where objects come and go one by one, for the agent of a cluster's node.
//
// What is seen goes into the Status' Evidence. Judge answers of it, at each moment: pass, fail or inconclusive.
package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Ref names a policy.
type Ref struct {
	Kind      string // "NetworkPolicy" or "ClusterNetworkPolicy"
	Namespace string // of a NetworkPolicy
	Name      string
}

// RefOf names p.
func RefOf(p *policy.Policy) Ref {
	return Ref{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name}
}

// String is "NetworkPolicy shop/db" or "ClusterNetworkPolicy guardrails".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + cluster.Key{Namespace: r.Namespace, Name: r.Name}.String()
}

// Change is what a rollout changes.
type Change struct {
	Policies []*policy.Policy // new ones, and new versions of those with the same kind and name
	Remove   []Ref
}

// Touches are the policies that c adds, replaces or removes.
func (c Change) Touches() []Ref {
	var all []Ref
	for _, p := range c.Policies {
		all = append(all, RefOf(p))
	}
	return append(all, c.Remove...)
}

// StepKind is what a step does. The zero value is none.
type StepKind uint8

// The kinds of steps.
const (
	Audit   StepKind = 1 + iota // nobody is judged by the candidate; what it would do is seen
	Enforce                     // the candidate is in force for a cohort
	Pause                       // the cohort stays as it is, until time has passed or a person promotes
)

// Step is one stage of a rollout.
type Step struct {
	Kind StepKind
	// For is how long the step is watched before the next one; 0 for a Pause is until a person promotes.
	For    time.Duration
	Cohort Cohort // of an Enforce
}

// String is for instance "audit for 10m0s" or "enforce 10% of the pods for 5m0s".
func (s Step) String() string {
	switch s.Kind {
	case Audit:
		return "audit for " + durationText(s.For)
	case Enforce:
		return "enforce " + s.Cohort.String() + " for " + durationText(s.For)
	case Pause:
		if s.For == 0 {
			return "pause until promoted"
		}
		return "pause for " + durationText(s.For)
	}
	return "no step"
}

// durationText is 10m instead of 10m0s.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Cohort chooses pods among those that the change selects. All that is set has to hold. The zero value chooses none.
type Cohort struct {
	Percent    int             // 1 to 100, of the pods that the rest chooses
	Namespaces *label.Selector // by the labels of the pod's namespace; nil is all
	Pods       *label.Selector // by the pod's own labels; nil is all
	Nodes      []string        // by the node on which the pod runs; none is all
}

// String is for instance "10% of the pods app=web on node n1".
func (c Cohort) String() string {
	text := fmt.Sprintf("%d%% of the pods", c.Percent)
	if c.Percent == 100 {
		text = "all pods"
	}
	if c.Pods != nil {
		text += " " + c.Pods.String()
	}
	if c.Namespaces != nil {
		text += " in namespaces " + c.Namespaces.String()
	}
	if len(c.Nodes) > 0 {
		text += " on " + strings.Join(c.Nodes, ", ")
	}
	return text
}

// Spec is a rollout as it was written. It is not changed once it is made.
type Spec struct {
	Name string // a label.CheckKey name: its pods are marked with it
	Change
	Steps    []Step // after the last one, everyone is judged by the candidate
	Analysis Analysis
	Digest   string // of all that was written but for its place; another one is another rollout
	File     string
	Line     int
	Lines    Lines
}

// Lines are places in a Spec's file; 0 and missing ones are the Spec's own.
type Lines struct {
	Analysis      int
	Steps, Remove []int
}

// StepLine is the place of a step.
func (s *Spec) StepLine(i int) int {
	if i < len(s.Lines.Steps) {
		return s.Lines.Steps[i]
	}
	return s.Line
}

// Answer is what a limit says when it is exceeded. The zero value rolls back.
type Answer uint8

// The answers. Of several, the least counts.
const (
	Fail         Answer = iota // roll back
	Inconclusive               // pause
	Pass                       // go on
)

// String is "fail", "inconclusive" or "pass".
func (a Answer) String() string {
	switch a {
	case Pass:
		return "pass"
	case Inconclusive:
		return "inconclusive"
	}
	return "fail"
}

// Limit is how much of something is taken, and what more of it means.
type Limit struct {
	Max  int
	Then Answer // Pass ignores it
}

// Analysis is what a rollout is measured by. DefaultAnalysis is what holds where nothing is said.
type Analysis struct {
	// NewlyDenied counts connections that the policies before allow and the candidate denies; NewlyAllowed the opposite.
	NewlyDenied, NewlyAllowed Limit
	// FailedConnects: TCP connections of the cohort that nobody answered or that were refused, as a share of all in percent,
	// by how much it may be more than that of all other pods. Fewer than MinConnects of either do not count.
	FailedConnects Limit
	// Resets: likewise those that were reset, of all that were established. It is a comparison because there are applications
	// that end every connection so.
	Resets   Limit
	NotReady Limit // pods of the cohort that were ready before the step and are not
	Restarts Limit // of the cohort's pods since the step began
	Probes   Limit // connections that every pod wants and that the candidate takes away, used or not: see Probe
	// Queries are asked of metrics servers.
	Queries []Query
	// Coverage is what has to be seen before a step can pass.
	Coverage Coverage
}

// Coverage is how much has to be seen of the pods that the candidate selects before a step can pass.
type Coverage struct {
	Connections int  // at least so many in the step
	Workloads   bool // in an audit, at least one of each workload
	Then        Answer
}

// MinConnects is how many connections must have ended, in the cohort and beside it, before shares of them are compared.
const MinConnects = 10

// DefaultAnalysis is what sensible people would declare: a step fails by the first newly denied connection, and pauses by
// the first newly allowed one or if too little was seen.
func DefaultAnalysis() Analysis {
	return Analysis{
		NewlyDenied:    Limit{0, Fail},
		NewlyAllowed:   Limit{0, Inconclusive},
		FailedConnects: Limit{20, Fail},
		Resets:         Limit{20, Fail},
		NotReady:       Limit{0, Fail},
		Restarts:       Limit{0, Fail},
		Probes:         Limit{0, Inconclusive},
		Coverage:       Coverage{Connections: 1, Workloads: true, Then: Inconclusive},
	}
}

// The durations of steps that do not say theirs.
const (
	DefaultAudit   = 10 * time.Minute
	DefaultEnforce = 5 * time.Minute
)
