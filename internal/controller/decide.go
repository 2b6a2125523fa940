package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
	"github.com/ringfence-project/ringfence/internal/words"
)

// snapshot is what is known at one moment. What follows from it depends on it and on the records only.
type snapshot struct {
	now time.Time
	// deaf: not all is heard that happens, so that no time passes.
	deaf    bool
	state   *cluster.State // as the API has it, without rollouts
	pods    map[cluster.Key]*kube.Pod
	reports map[string]v1alpha1.NodeEnforcementStatus // by node
	boots   map[string]string                         // the id of each node's present start
	spared  map[string]bool                           // nodes that are not meant to run an agent
	// measured returns the newest answers to the queries of a step, which it is named by; it waits for nothing.
	measured func(step string, queries []rollout.Query) []rollout.Measurement
}

// memory is what is kept of a rollout from one look to the next. A controller that begins without it is only slower.
type memory struct {
	// heard is when nodes were last known to have the step in force, or first asked for.
	heard map[string]time.Time
	of    stepOf
	reach reach
}

// stepOf is one step of a rollout.
type stepOf struct {
	digest         string
	revision, step int
}

func stepOfStatus(s rollout.Status) stepOf { return stepOf{s.Digest, s.Revision, s.Step} }

// reach is what a rollout concerns in one state of the cluster.
type reach struct {
	state     *cluster.State
	shape     string // of all rollouts: what is in force by which
	bottom    *cluster.State
	beside    []rollout.Part
	selected  []*cluster.Endpoint
	cohort    []*cluster.Endpoint
	workloads []string
	err       error
}

// silentAfter is how long a node may take to say that a step is in force, beside the time over which reports are spread.
const silentAfter = 30 * time.Second

// move returns what becomes of the i-th rollout at the moment of a snapshot.
func (s *snapshot) move(all []record.Record, i int, m *memory, lost func(record.Record, *reach) []string) record.Record {
	r := all[i]
	if r.Spec == nil {
		r = r.With(r.Status.Refuse(r.Digest, r.Why, s.now), s.now)
		r.Nodes, r.Selected, r.Cohort = "", 0, 0
		return r
	}
	r = r.With(r.Status.Follow(r.Spec, r.WaitsFor(all), s.now), s.now)
	if !r.Status.Active() {
		r.Nodes, r.Cohort = s.over(r), 0
		return r
	}
	now := slices.Clone(all)
	now[i] = r
	m.find(s.state, now, i)
	if m.reach.err != nil {
		return r.With(r.Status.Fail(m.reach.err.Error(), s.now), s.now)
	}
	if of := stepOfStatus(r.Status); m.heard == nil || m.of != of {
		m.of, m.heard = of, map[string]time.Time{}
	}
	h := s.health(r, m)
	h.Measured = s.measured(fmt.Sprintf("%s %s %d %d", r.Name, r.Digest, r.Status.Revision, r.Status.Step), r.Spec.Analysis.Queries)
	r.Lost = lost(r, &m.reach)
	h.Lost = r.Lost
	r.Nodes, h.InForce, h.Silent = s.where(r, m)
	h.InForce = h.InForce && !s.deaf
	r.Selected, r.Cohort = h.Selected, h.Cohort
	status := r.Status
	status.Evidence = s.evidence(r)
	return r.With(status.Tick(r.Spec, h, s.now), s.now)
}

// find brings up to date what the i-th rollout concerns.
func (m *memory) find(state *cluster.State, all []record.Record, i int) {
	shape := shapeOf(all)
	if m.reach.state == state && m.reach.shape == shape {
		return
	}
	r := all[i]
	m.reach = reach{state: state, shape: shape}
	if m.reach.bottom, m.reach.err = rollout.Rewrite(state, record.Finals(all)...); m.reach.err != nil {
		return
	}
	bottom := m.reach.bottom
	var earlier []rollout.Part
	for k, o := range all {
		if k == i || !o.Status.Active() {
			continue
		}
		p := o.Part(bottom)
		m.reach.beside = append(m.reach.beside, p)
		if k < i {
			earlier = append(earlier, p)
		}
	}
	part := r.Part(bottom)
	if _, m.reach.err = rollout.Rewrite(bottom, append(earlier, part)...); m.reach.err != nil {
		return
	}
	m.reach.selected = r.Spec.Selected(bottom)
	for _, e := range m.reach.selected {
		if part.Everyone || part.Members[e.Key] {
			m.reach.cohort = append(m.reach.cohort, e)
		}
	}
	m.reach.workloads = r.Spec.Workloads(bottom)
}

// shapeOf says of all rollouts what is in force by them.
func shapeOf(all []record.Record) string {
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintf(&b, "%s %s %s %d %d %v", r.Name, r.Digest, r.Status.Digest, r.Status.Revision, r.Status.Step, r.Status.Active())
		for _, f := range []*record.Finished{r.Former, r.Complete} {
			if f != nil {
				fmt.Fprintf(&b, " %s %d", f.Digest, f.At.UnixNano())
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// health measures the pods of a rollout. It depends on times that the pods' objects have, and on nothing that a controller
// would have to remember.
func (s *snapshot) health(r record.Record, m *memory) rollout.Health {
	h := rollout.Health{Selected: len(m.reach.selected), Cohort: len(m.reach.cohort), Workloads: m.reach.workloads}
	entered := r.Status.Entered.Truncate(time.Second) // as exact as these times are
	for _, e := range m.reach.cohort {
		p := s.pods[e.Key]
		if p == nil || p.UID != e.UID {
			continue
		}
		if !p.Ready && !p.Since.Before(entered) && !e.Created.After(r.Status.Entered) && !p.Terminating && !e.Ended {
			h.NotReady = append(h.NotReady, e.Key.String())
		}
		if !p.Restarted.IsZero() && !p.Restarted.Before(entered) {
			h.Restarts = append(h.Restarts, e.Key.String())
		}
	}
	return h
}

// where says on which of the nodes that matter a step is in force and watched: those with pods that the change selects, unless
// they are not meant to run an agent.
func (s *snapshot) where(r record.Record, m *memory) (text string, all bool, silent []string) {
	nodes := map[string]bool{}
	for _, e := range m.reach.selected {
		if e.Node != "" && !e.Ended && !s.spared[e.Node] {
			nodes[e.Node] = true
		}
	}
	patience := silentAfter + 2*inforce.Spread(len(s.boots))
	var missing []string
	for _, n := range slices.Sorted(maps.Keys(nodes)) {
		if s.enforces(n, r.Status) {
			m.heard[n] = s.now
			continue
		}
		missing = append(missing, n)
		if m.heard[n].IsZero() {
			m.heard[n] = s.now
		}
		if s.now.Sub(m.heard[n]) > patience {
			silent = append(silent, "node "+n)
		}
	}
	text = fmt.Sprintf("%d/%d", len(nodes)-len(missing), len(nodes))
	if len(missing) > 0 {
		text += ", not " + some(missing)
	}
	return text, len(missing) == 0, silent
}

// enforces reports whether a node says that it has in force what a status says, and has judged the connections that were
// there. What it said before it was started anew is no more.
func (s *snapshot) enforces(node string, status rollout.Status) bool {
	report, ok := s.reports[node]
	if boot := s.boots[node]; !ok || !report.Ready || boot != "" && report.BootID != "" && boot != report.BootID {
		return false
	}
	x, ok := reportOf(report, status)
	phase := rollout.Status{Phase: rollout.Phase(x.Phase)}
	return ok && x.InForce && x.Living && phase.Active()
}

// reportOf finds what a report says of the step that a status is in.
func reportOf(report v1alpha1.NodeEnforcementStatus, s rollout.Status) (v1alpha1.NodeRollout, bool) {
	for _, x := range report.Rollouts {
		if x.Name == s.Rollout && x.Digest == s.Digest && int(x.Revision) == s.Revision && int(x.StepIndex) == s.Step {
			return x, true
		}
	}
	return v1alpha1.NodeRollout{}, false
}

// evidence sums up what all nodes have seen in a step. What was seen stays seen, also when a node goes.
func (s *snapshot) evidence(r record.Record) rollout.Evidence {
	var sum rollout.Evidence
	for _, node := range slices.Sorted(maps.Keys(s.reports)) {
		if x, ok := reportOf(s.reports[node], r.Status); ok {
			sum.Join(record.EvidenceOf(x.Evidence))
		}
	}
	sum.AtLeast(r.Status.Evidence)
	return sum
}

// over says on how many nodes it is in force that a rollout is over, of those that say anything of it.
func (s *snapshot) over(r record.Record) string {
	in, known := 0, 0
	for _, report := range s.reports {
		for _, x := range report.Rollouts {
			if x.Name != r.Name {
				continue
			}
			known++
			if x.Digest == r.Status.Digest && int(x.Revision) == r.Status.Revision && x.Phase == string(r.Status.Phase) && x.InForce {
				in++
			}
		}
	}
	if known == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", in, known)
}

// some is a list of at most three, and how many more.
func some(list []string) string { return words.Some(list, 3, ", ") }
