// Package driver drives the rollouts of one machine: it follows what the manifests say, judges what is seen by the
// candidates beside what is in force, lets time pass, keeps everything on disk, and says for whom which policies are in
// force. What follows from what is package rollout's.
//
// A Status is on disk before anything of it is in force, so whoever takes over after a crash finds at least as much
// written as was in force, and goes on from there. What narrows is put in force even if the disk refuses.
package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
)

// Pod is what is known of a pod's health.
type Pod struct {
	Ready    bool
	Restarts int
}

// Options are what a Driver needs to know. All of them but Say are needed, and may be called while it is locked: they must
// not call it.
type Options struct {
	Folder string // where rollouts are kept
	// Decide judges by what is in force.
	Decide func(flow.Tuple) flow.Decision
	// Living lists all connections that there are.
	Living func(context.Context) ([]flow.Tuple, error)
	// Pod tells a pod's health; false if nobody knows it.
	Pod func(cluster.Key) (Pod, bool)
	// Measured returns the newest answers to the queries of a step, which it is named by; it waits for nothing.
	Measured func(step string, queries []rollout.Query) []rollout.Measurement
	// Again has Rewrite called and its result put in force.
	Again func()
	// Say tells a person what happens.
	Say func(format string, args ...any)
}

// Driver drives rollouts. Its methods may be called from any goroutine.
type Driver struct {
	options Options
	policies
	wake chan struct{} // of one place: something was found

	mu       sync.Mutex
	all      map[string]*driven
	past     []rollout.Status // of rollouts that are no more; the newest last
	base     *cluster.State   // with the policies of the files
	inForce  *cluster.State   // as Rewrite last said
	bottom   *cluster.State   // of it, what is in force for everyone
	applied  bool             // that is in force
	unsaved  bool             // evidence that is not on disk
	saved    time.Time
	complain string // the last error that was told
}

// driven is a rollout on its way.
type driven struct {
	spec   *rollout.Spec
	status rollout.Status
	// living: the connections that were there when it began have been judged. Before, nothing of it is in force.
	living bool
	// former is an earlier revision that was complete: its policies are in force beneath this one.
	former *finished
	// own is this revision, kept when it was complete.
	own *finished

	part     rollout.Part
	selected map[cluster.Key]bool
	judge    *judge.Judge // while it is active
	lost     []string
	before   map[cluster.Key]Pod // the cohort's health when the step began
	step     int                 // that before is of
	measured []rollout.Measurement
}

// finished is a change that was in force for everyone.
type finished struct {
	rollout.Change
	Digest string
	At     time.Time
}

// Open takes over what is in the folder.
func Open(o Options) (*Driver, error) {
	store, err := openPolicies(o.Folder)
	if err != nil {
		return nil, fmt.Errorf("rollouts: %w", err)
	}
	d := &Driver{options: o, policies: store, wake: make(chan struct{}, 1), all: map[string]*driven{}}
	if err := d.load(); err != nil {
		return nil, fmt.Errorf("rollouts: %w", err)
	}
	return d, nil
}

// sorted are the rollouts by name.
func (d *Driver) sorted() []*driven {
	var all []*driven
	for _, r := range d.all {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *driven) int { return strings.Compare(a.status.Rollout, b.status.Rollout) })
	return all
}

// Follow brings the rollouts in step with the manifests'. One that is not among them any more is over, and its policies
// are in force no longer. The caller then has the newest state rewritten and put in force.
func (d *Driver) Follow(specs []*rollout.Spec, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	there := map[string]bool{}
	for _, s := range specs {
		there[s.Name] = true
	}
	for _, r := range d.sorted() {
		if !there[r.status.Rollout] {
			d.drop(r, now)
		}
	}
	for _, s := range specs {
		if d.all[s.Name] == nil {
			d.all[s.Name] = &driven{status: rollout.Status{Rollout: s.Name}}
		}
		d.all[s.Name].spec = s
	}
	for _, r := range d.sorted() {
		d.follow(r, now)
	}
	d.applied = false
	_ = d.save(now) // told, and tried again: nothing is in force of what begins before it is on disk
}

func (d *Driver) drop(r *driven, now time.Time) {
	name := r.status.Rollout
	delete(d.all, name)
	r.status.Events = append(r.status.Events, rollout.Event{Time: now, Text: "removed from the manifests"})
	d.past = append(d.past, r.status)
	if n := len(d.past); n > maxPast {
		d.past = slices.Clone(d.past[n-maxPast:])
	}
	d.options.Say("rollout %s: removed from the manifests; their policies are in force", name)
}

// maxPast bounds how many rollouts are remembered that are no more.
const maxPast = 50

// follow is rollout.Status.Follow with what belongs to it here.
func (d *Driver) follow(r *driven, now time.Time) {
	if r.status.Digest != r.spec.Digest && r.status.Phase == rollout.Complete {
		r.former = r.own
	}
	next := r.status.Follow(r.spec, d.waitsFor(r), now)
	if next.Digest != r.status.Digest || next.Phase != r.status.Phase {
		r.own = nil
		r.living, r.judge = false, nil
		d.set(r, next)
	}
}

// waitsFor says that another rollout is under way and touches a policy that r touches too.
func (d *Driver) waitsFor(r *driven) string {
	touched := r.spec.Touches()
	for _, o := range d.sorted() {
		if o != r && o.status.Active() && o.spec != nil &&
			slices.ContainsFunc(o.spec.Touches(), func(p rollout.Ref) bool { return slices.Contains(touched, p) }) {
			return rollout.UnderWay(o.status.Rollout)
		}
	}
	return ""
}

// set takes a new status, and says what is new about it.
func (d *Driver) set(r *driven, next rollout.Status) {
	said := slices.IndexFunc(next.Events, func(e rollout.Event) bool {
		return len(r.status.Events) == 0 || e.Time.After(r.status.Events[len(r.status.Events)-1].Time)
	})
	for i := said; i >= 0 && i < len(next.Events); i++ {
		d.options.Say("rollout %s: %s", next.Rollout, next.Events[i].Text)
	}
	r.status = next
}

// ErrUnknown is returned for a rollout that is not there.
var ErrUnknown = errors.New("no such rollout")

// Do does what a person wants of a rollout.
func (d *Driver) Do(name string, c rollout.Command, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.all[name]
	if r == nil || r.spec == nil {
		return fmt.Errorf("rollout %s: %w", name, ErrUnknown)
	}
	next, err := r.status.Do(r.spec, c, d.health(r), now)
	if err != nil {
		return fmt.Errorf("rollout %s: %w", name, err)
	}
	if c == rollout.Retry {
		r.living = false
	}
	return d.move(r, next, now)
}

// move goes to another status: on disk first, and then in force.
func (d *Driver) move(r *driven, next rollout.Status, now time.Time) error {
	previous, own := r.status, r.own
	d.set(r, next)
	switch {
	case next.Phase == rollout.Complete && previous.Phase != rollout.Complete:
		r.own = &finished{Change: r.spec.Change, Digest: r.spec.Digest, At: now}
	case next.Phase != rollout.Complete:
		r.own = nil
	}
	err := d.save(now)
	if err != nil && (next.Active() || next.Phase == rollout.Complete) { // what does not narrow waits for the disk
		r.status, r.own = previous, own
		return err
	}
	if !next.Active() {
		r.judge = nil
	}
	if next.Phase != previous.Phase || next.Step != previous.Step {
		d.applied = false
		d.options.Again()
	}
	return err
}

// View is a rollout for people and programs.
type View struct {
	rollout.Status
	Steps    []string      `json:"steps"`
	For      time.Duration `json:"for,omitempty"`    // of the current step; 0 if it has no end
	Selected int           `json:"selected"`         // pods that the change selects
	Cohort   []string      `json:"cohort,omitempty"` // pods that are judged by the candidate
	InForce  bool          `json:"inForce"`          // what the status says is in force
	// Nodes says, of a cluster, on how many of the nodes that matter it is in force, and Size how many pods the cohort has,
	// which are not listed there.
	Nodes string `json:"nodes,omitempty"`
	Size  int    `json:"cohortSize,omitempty"`
	// Differs are the policies that are in force by this rollout, as it is complete, and that the files say otherwise.
	Differs []string `json:"differs,omitempty"`
	// Queries are the analysis' queries and their newest answers, while the rollout is under way.
	Queries []string `json:"queries,omitempty"`
}

// Views are all rollouts by name, and then those that are no more, the newest first.
func (d *Driver) Views() (now, past []View) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.sorted() {
		v := View{Status: r.status, InForce: d.applied && (r.living || !r.status.Active()), Selected: len(r.selected), Differs: d.differs(r)}
		if r.spec != nil {
			for _, s := range r.spec.Steps {
				v.Steps = append(v.Steps, s.String())
			}
			if r.status.Step < len(r.spec.Steps) {
				v.For = r.spec.Steps[r.status.Step].For
			}
		}
		for _, q := range d.queries(r) {
			v.Queries = append(v.Queries, q.Tell(r.measured))
		}
		for k := range r.selected {
			if r.part.Includes(k) {
				v.Cohort = append(v.Cohort, k.String())
			}
		}
		slices.Sort(v.Cohort)
		now = append(now, v)
	}
	for _, s := range slices.Backward(d.past) {
		past = append(past, View{Status: s})
	}
	return now, past
}

func (d *Driver) differs(r *driven) []string {
	if r.status.Phase != rollout.Complete || r.spec == nil || d.base == nil {
		return nil
	}
	files := map[rollout.Ref]*policy.Policy{}
	for _, p := range d.base.Policies() {
		files[rollout.RefOf(p)] = p
	}
	var all []string
	for _, p := range r.spec.Policies {
		if !generation.Same(files[rollout.RefOf(p)], p) {
			all = append(all, rollout.RefOf(p).String())
		}
	}
	for _, ref := range r.spec.Remove {
		if files[ref] != nil {
			all = append(all, ref.String())
		}
	}
	slices.Sort(all)
	return all
}

// finals are the changes that are in force for everyone beneath those on their way, the earlier ones first.
func (d *Driver) finals() []rollout.Part {
	type at struct {
		*finished
		name string
	}
	var all []at
	for _, r := range d.sorted() {
		if r.former != nil {
			all = append(all, at{r.former, r.status.Rollout})
		}
		if own := r.own; own != nil {
			if r.spec != nil && r.spec.Digest == own.Digest { // whose rules have their places in the files of now
				own = &finished{Change: r.spec.Change, Digest: own.Digest, At: own.At}
			}
			all = append(all, at{own, r.status.Rollout})
		}
	}
	slices.SortStableFunc(all, func(a, b at) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.name, b.name)) })
	var parts []rollout.Part
	for _, f := range all {
		parts = append(parts, rollout.Part{Name: f.name, Change: f.Change, Final: true})
	}
	return parts
}
