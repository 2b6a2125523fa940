package follow

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// Look shows a function the compiler whose rules are in force, as engine.Engine.Look does.
type Look func(func(*compile.Compiler))

// Judge judges a connection that was seen, and how it fared, and returns what the first rollout says otherwise, nil if none
// does. live: it was there before.
func (r *Follower) Judge(look Look, t flow.Tuple, fared flow.Verdict, live bool, at time.Time) (diff *judge.Difference) {
	select {
	case <-r.judging.open():
		look(func(c *compile.Compiler) { diff = r.saw(c, t, fared, live, at, nil) })
	default:
	}
	return diff
}

// Begins has a value when JudgeLiving may have something to do.
func (r *Follower) Begins() <-chan struct{} { return r.begins }

// JudgeLiving judges the connections that list returns by the rollouts that have begun, and reports whether any had. It is to
// be called until none has; after an error, which is that of list, they are as before.
func (r *Follower) JudgeLiving(look Look, list func() ([]flow.Tuple, error)) (had bool, err error) {
	begun := r.begun()
	if len(begun) == 0 {
		return false, nil
	}
	all, err := list()
	if err != nil {
		return true, err
	}
	now := time.Now()
	for _, t := range all {
		look(func(c *compile.Compiler) {
			r.saw(c, t, flow.Allow, true, now, func(u *underWay) bool { return slices.Contains(begun, u) })
		})
	}
	r.judged(begun)
	return true, nil
}

// saw judges a connection that was seen by all rollouts, or by those that only chooses, and returns what the first one
// says otherwise. live: it was there before they began.
func (r *Follower) saw(c *compile.Compiler, t flow.Tuple, fared flow.Verdict, live bool, at time.Time, only func(*underWay) bool) *judge.Difference {
	seen := judge.Connection{Connection: cluster.Connection{From: c.At(t.Source), To: c.At(t.Destination), Protocol: t.Protocol, Port: t.Port,
		Translated: t.Translated}, Fared: fared, Live: live, At: at}
	seen.InForce = c.Decide(seen.Tuple()).Verdict
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.see.Lock()
	defer r.see.Unlock()
	var first *judge.Difference
	for _, u := range r.now {
		if only != nil && !only(u) {
			continue
		}
		diff, isNew := u.judge.Saw(&u.evidence, seen)
		if isNew {
			r.options.News()
		}
		if first == nil {
			first = diff
		}
	}
	return first
}

// Ended notes how a TCP connection between two pods ended. The zero Key is no pod.
func (r *Follower) Ended(from, to cluster.Key, how flow.Outcome) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.see.Lock()
	defer r.see.Unlock()
	for _, u := range r.now {
		u.judge.Ended(&u.evidence, from, to, how)
	}
}

// begun are the rollouts whose living connections have not been judged yet.
func (r *Follower) begun() []*underWay {
	r.see.Lock()
	defer r.see.Unlock()
	var all []*underWay
	for _, u := range r.now {
		if !u.living {
			all = append(all, u)
		}
	}
	return all
}

// judged notes that living connections were judged.
func (r *Follower) judged(all []*underWay) {
	r.see.Lock()
	for _, u := range all {
		u.living = true
	}
	r.see.Unlock()
	r.options.News()
}

// Stored notes what the API knows of the node's report.
func (r *Follower) Stored(s v1alpha1.NodeEnforcementStatus) {
	r.see.Lock()
	changed := false
	for _, n := range s.Rollouts {
		u := r.all[n.Name]
		if u != nil && n.Living && !u.stored && u.digest == n.Digest && u.revision == int(n.Revision) {
			u.stored, r.stale, changed = true, true, true
		}
	}
	r.see.Unlock()
	if changed {
		r.options.Again()
	}
}

// Restore takes over what the node reported before it started anew. It is called before the first Take.
func (r *Follower) Restore(s v1alpha1.NodeEnforcementStatus) {
	r.see.Lock()
	defer r.see.Unlock()
	r.restored = map[string]v1alpha1.NodeRollout{}
	for _, n := range s.Rollouts {
		r.restored[n.Name] = n
	}
}

// Watches notes whether connections are seen. Without that nothing is reported as in force.
func (r *Follower) Watches(sees bool) {
	r.see.Lock()
	r.seeing = sees
	r.see.Unlock()
	r.options.News()
}

// The bounds of a report's evidence, beside that of rollouts, which is inforce.MaxList.
const (
	maxFindings  = 20
	maxWorkloads = 50
	maxRollouts  = 20
)

// UnderWay returns what is closed once a rollout is under way, so that connections have to be seen.
func (r *Follower) UnderWay() <-chan struct{} { return r.judging.open() }

// Over returns what is closed once none is.
func (r *Follower) Over() <-chan struct{} { return r.judging.shut() }

// Report is what the API is to know, by name: of rollouts that are under way, and of a return, before those that are over. One
// that the API has no more is told of for as long as it is in force here.
func (r *Follower) Report() []v1alpha1.NodeRollout {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.see.Lock()
	defer r.see.Unlock()
	var all []v1alpha1.NodeRollout
	if !r.taken {
		for _, name := range slices.Sorted(maps.Keys(r.restored)) {
			all = append(all, r.restored[name])
		}
		return all
	}
	isOver := map[string]bool{}
	for name, x := range r.records {
		if !isTold(x.Status.Phase) {
			continue
		}
		isOver[name] = x.Status.Over() && name != record.ReturnName
		all = append(all, r.reportOf(x))
	}
	for name, in := range r.inForce {
		if isTold(in.phase) && r.records[name] == nil {
			isOver[name] = name != record.ReturnName
			all = append(all, in.report(name))
		}
	}
	byName := func(a, b v1alpha1.NodeRollout) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(all, func(a, b v1alpha1.NodeRollout) int {
		if isOver[a.Name] != isOver[b.Name] {
			return map[bool]int{true: 1, false: -1}[isOver[a.Name]]
		}
		return byName(a, b)
	})
	all = all[:min(len(all), maxRollouts)]
	slices.SortFunc(all, byName)
	return all
}

// isTold reports whether something of a rollout in that phase is, or was, in force.
func isTold(p rollout.Phase) bool {
	return p != "" && p != rollout.Waiting && p != rollout.Invalid
}

// report says that t is in force of a rollout.
func (t tuple) report(name string) v1alpha1.NodeRollout {
	return v1alpha1.NodeRollout{Name: name, Digest: t.digest, Revision: int64(t.revision), StepIndex: int32(t.step), Phase: string(t.phase), InForce: !t.held}
}

func (r *Follower) reportOf(x *record.Record) v1alpha1.NodeRollout {
	t := tupleOf(x)
	n := t.report(x.Name)
	n.InForce = r.inForce[x.Name] == t && (r.seeing || x.Status.Over())
	if u := r.all[x.Name]; u != nil && u.digest == t.digest && u.revision == t.revision {
		n.Living, n.Evidence = u.living, record.ToEvidence(bounded(u.evidence))
	}
	return n
}

// bounded keeps the findings that were seen first, and counts the others.
func bounded(e rollout.Evidence) rollout.Evidence {
	e.Workloads = slices.Clone(e.Workloads[:min(len(e.Workloads), maxWorkloads)])
	if len(e.Findings) <= maxFindings {
		return e
	}
	all := slices.SortedStableFunc(slices.Values(e.Findings), func(a, b rollout.Finding) int { return cmp.Compare(a.First.UnixNano(), b.First.UnixNano()) })
	e.Findings = nil
	for i, f := range all {
		if i < maxFindings {
			e.Add(f)
		} else {
			e.More += f.Count
		}
	}
	return e
}
