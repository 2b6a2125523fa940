package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// rollouts puts in force on this node what the stored statuses of PolicyRollouts say, and judges what the node sees by the
// rollouts that are under way.
//
// What is in force depends on the objects of the API and on one thing of the node's own: a cohort is judged by a candidate
// only once the connections that were there have been judged, and the API has this node's report that says so. An agent
// that starts anew finds in its report what it needs to put the same in force as the one before it.
type rollouts struct {
	node     string
	again    func()           // has the feed taken once more
	news     func()           // says that what is reported may have changed
	conflict func(why string) // says why a rollout cannot be, "" if all can
	begins   chan struct{}    // of one place: there may be rollouts whose living connections are to be judged

	mu      sync.RWMutex // guards what follows, which only take changes; may be taken under the engine's view
	overlay *rollout.Overlay
	records map[string]*record.Record
	nodes   map[string]*cluster.Node
	ranges  []netip.Prefix

	see      sync.Mutex // guards what follows; taken last
	stale    bool       // who is judged by which candidate has to be found out again
	taken    bool       // the first objects are there
	restored map[string]v1alpha1.NodeRollout
	all      map[string]*underWay
	now      []*underWay // as the compilers have them; changes with them
	inForce  map[string]tuple
	judging  gate // open while there is one under way
	seeing   bool // connections are seen
}

// tuple is what a node is told to put in force of a rollout.
type tuple struct {
	digest   string
	revision int
	step     int
	phase    rollout.Phase
	held     bool // nobody is judged by the candidate yet, though the step says so
}

// underWay is a rollout that is under way.
type underWay struct {
	name     string
	digest   string
	revision int
	judge    *judge.Judge
	step     int // that the evidence is of
	evidence rollout.Evidence
	living   bool // the connections that were there have been judged
	stored   bool // and the API knows
}

func newRollouts(node string) *rollouts {
	return &rollouts{node: node, again: func() {}, news: func() {}, conflict: func(string) {}, begins: make(chan struct{}, 1),
		overlay: rollout.NewOverlay(node), records: map[string]*record.Record{},
		nodes: map[string]*cluster.Node{}, all: map[string]*underWay{}, inForce: map[string]tuple{}, judging: newGate()}
}

// change is what becomes of a batch.
type change struct {
	pods     []cluster.Key // of this node, that change beside those of the batch
	policies []policyEdit
	apply    func() // brings up to date what else changes together with the engine's compiler
	done     func() // notes that it is in force
}

// policyEdit is what the compiler is told of one policy.
type policyEdit struct {
	key    cluster.Key
	policy *policy.Policy // nil if it is gone
}

// take takes over what changed. It is called by one goroutine, which may look at the overlay without a lock until it
// calls it again.
func (r *rollouts) take(b kube.Batch) change {
	r.mu.Lock()
	stale := r.note(b)
	r.see.Lock()
	stale = stale || r.stale
	r.stale, r.taken = false, true
	isNone := !stale && len(r.all)+len(r.now) == 0
	r.see.Unlock()
	if stale {
		r.plan()
	}
	pods, policies := r.overlay.Settle()
	r.mu.Unlock()
	c := change{pods: pods, policies: policyEdits(r.overlay.InForce(), b, policies), apply: func() {}, done: func() {}}
	if !isNone {
		r.change(&c, b, policies, stale)
	}
	return c
}

// change is the rest of take, for when there is a rollout under way, or was.
func (r *rollouts) change(c *change, b kube.Batch, policies []cluster.Key, stale bool) {
	var edits []func()
	next := r.underWay()
	for _, u := range next {
		if edit := r.keepJudge(u, b, c.pods, policies); edit != nil {
			edits = append(edits, edit)
		}
	}
	c.apply = func() { r.apply(next, edits) }
	if stale {
		in := r.tuples()
		c.done = func() { r.done(in) }
	}
}

// pod returns a pod as policies are to see it, as of the last take.
func (r *rollouts) pod(k cluster.Key) *cluster.Endpoint { return r.overlay.InForce().Pod(k) }

// note takes over the objects, and reports whether rollouts say something else now.
func (r *rollouts) note(b kube.Batch) (stale bool) {
	for name, n := range b.Namespaces {
		r.overlay.SetNamespace(name, n)
	}
	for key, p := range b.Pods {
		r.overlay.SetPod(key, endpointOf(p))
	}
	for key, p := range b.Policies {
		if p == nil {
			r.overlay.SetPolicy(key, nil)
		} else {
			r.overlay.SetPolicy(key, p.Policy)
		}
	}
	for name, n := range b.Nodes {
		if n == nil {
			delete(r.nodes, name)
		} else {
			r.nodes[name] = n
		}
	}
	if b.RangesChanged {
		r.ranges = b.Ranges
	}
	for name, now := range b.Rollouts {
		stale = stale || !sameInForce(r.records[name], now)
		if now == nil {
			delete(r.records, name)
		} else {
			r.records[name] = withOld(now, r.records[name])
		}
	}
	return stale
}

// withOld returns a rollout with what an earlier version of it has in common with it, as it was read then: a policy that
// stays the same costs a compiler nothing if it is the same object.
func withOld(now, old *record.Record) *record.Record {
	if old == nil || old.UID != now.UID {
		return now
	}
	out := *now
	if out.Spec != nil && old.Spec != nil && out.Digest == old.Digest {
		out.Spec = old.Spec
	}
	for _, f := range []**record.Finished{&out.Complete, &out.Former} {
		for _, was := range []*record.Finished{old.Complete, old.Former} {
			if *f != nil && was != nil && (*f).Digest == was.Digest && (*f).At.Equal(was.At) {
				*f = was
			}
		}
	}
	return &out
}

// sameInForce reports whether two versions of a rollout say the same is in force. Time that passes is no other.
func sameInForce(a, b *record.Record) bool {
	if a == nil || b == nil {
		return a == b
	}
	digest := func(f *record.Finished) string {
		if f == nil {
			return ""
		}
		return f.Digest + " " + f.At.String()
	}
	return a.UID == b.UID && a.Digest == b.Digest && (a.Spec == nil) == (b.Spec == nil) && tupleOf(a) == tupleOf(b) &&
		digest(a.Complete) == digest(b.Complete) && digest(a.Former) == digest(b.Former)
}

func tupleOf(x *record.Record) tuple {
	return tuple{digest: x.Status.Digest, revision: x.Status.Revision, step: x.Status.Step, phase: x.Status.Phase}
}

// isJudged reports whether a rollout is under way, by the spec that there is.
func isJudged(x *record.Record) bool {
	return x.Spec != nil && x.Status.Active() && x.Digest == x.Status.Digest
}

// plan finds out who is judged by which candidate. It is called by take.
func (r *rollouts) plan() {
	r.see.Lock()
	defer r.see.Unlock()
	var records []record.Record
	var layers []rollout.Layer
	maps.DeleteFunc(r.all, func(name string, u *underWay) bool {
		x := r.records[name]
		return x == nil || !isJudged(x) || x.Status.Digest != u.digest || x.Status.Revision != u.revision
	})
	for _, name := range slices.Sorted(maps.Keys(r.records)) {
		x := r.records[name]
		records = append(records, *x)
		if !isJudged(x) {
			continue
		}
		u := r.all[name]
		if u == nil {
			u = r.begin(x)
		}
		l := rollout.Layer{Name: name, Change: x.Spec.Change}
		if u.living && u.stored {
			l.Cohort = x.Status.Cohort(x.Spec)
		}
		layers = append(layers, l)
	}
	r.restored = nil
	err := r.overlay.SetRollouts(record.Finals(records), layers)
	maps.DeleteFunc(r.all, func(name string, _ *underWay) bool { return !r.overlay.Has(name) })
	why := ""
	if err != nil {
		why = err.Error()
	}
	r.conflict(why)
}

// begin makes what is kept of a rollout that is new here: with what was reported of it, if it is the same.
func (r *rollouts) begin(x *record.Record) *underWay {
	u := &underWay{name: x.Name, digest: x.Status.Digest, revision: x.Status.Revision, step: x.Status.Seeing(x.Spec)}
	r.all[x.Name] = u
	was, ok := r.restored[x.Name]
	if !ok || was.Digest != u.digest || int(was.Revision) != u.revision {
		return u
	}
	u.living, u.stored = was.Living, was.Living
	before := x.Status
	before.Step = int(was.StepIndex)
	if before.Seeing(x.Spec) == u.step {
		u.evidence = record.EvidenceOf(was.Evidence)
	}
	return u
}

// underWay returns those that can be judged by, in order.
func (r *rollouts) underWay() []*underWay {
	r.see.Lock()
	defer r.see.Unlock()
	var all []*underWay
	for _, u := range r.all {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *underWay) int { return strings.Compare(a.name, b.name) })
	return all
}

// policyEdits are what becomes of the policies of a batch, and of others that change along with them.
func policyEdits(v rollout.View, b kube.Batch, also []cluster.Key) []policyEdit {
	if len(b.Policies)+len(also) == 0 {
		return nil
	}
	edits := make([]policyEdit, 0, len(b.Policies)+2*len(also))
	add := func(k cluster.Key, p *policy.Policy) { edits = append(edits, policyEdit{k, p}) }
	for key := range b.Policies {
		v.Policy(key, add)
	}
	for _, key := range also {
		v.Policy(key, add)
	}
	return edits
}

// keepJudge returns what keeps the judge of a rollout up to date, nil if it has just been made.
func (r *rollouts) keepJudge(u *underWay, b kube.Batch, pods, policies []cluster.Key) func() {
	views := [2]rollout.View{r.overlay.Before(u.name), r.overlay.After(u.name)}
	if u.judge == nil {
		j := judge.New(u.name, compile.Options{Node: r.node})
		j.Selected = func(k cluster.Key) bool { return r.overlay.Selects(u.name, k) && r.isOwn(k) }
		j.Judged = func(k cluster.Key) bool { return r.overlay.Includes(u.name, k) }
		for i, c := range []*compile.Compiler{j.Before, j.After} {
			r.everything(views[i]).apply(c)
			c.Flush()
		}
		u.judge = j
		return nil
	}
	var all [2]edits
	for i, v := range views {
		all[i] = edits{batch: b, policies: policyEdits(v, b, policies)}
		for key := range b.Pods {
			all[i].pods = append(all[i].pods, podEdit{key: key, pod: v.Pod(key)})
		}
		for _, key := range pods {
			all[i].pods = append(all[i].pods, podEdit{key: key, pod: v.Pod(key)})
		}
	}
	return func() {
		for i, c := range []*compile.Compiler{u.judge.Before, u.judge.After} {
			all[i].apply(c)
			c.Flush()
		}
	}
}

func (r *rollouts) isOwn(k cluster.Key) bool {
	e := r.overlay.Pod(k)
	return e != nil && e.Node == r.node
}

// everything is the cluster as it is, for a compiler that knows nothing yet.
func (r *rollouts) everything(v rollout.View) edits {
	x := edits{batch: kube.Batch{Namespaces: map[string]*cluster.Namespace{}, Nodes: r.nodes, Ranges: r.ranges, RangesChanged: true}}
	for n := range r.overlay.Namespaces {
		x.batch.Namespaces[n.Name] = &n
	}
	for e := range r.overlay.Pods {
		x.pods = append(x.pods, podEdit{key: e.Key, pod: v.Pod(e.Key)})
	}
	for key := range r.overlay.Policies {
		v.Policy(key, func(k cluster.Key, p *policy.Policy) { x.policies = append(x.policies, policyEdit{k, p}) })
	}
	return x
}

// apply changes what is judged by, together with the engine's compiler.
func (r *rollouts) apply(next []*underWay, edits []func()) {
	for _, edit := range edits {
		edit()
	}
	r.see.Lock()
	defer r.see.Unlock()
	r.now = next
	for _, u := range next {
		x := r.records[u.name]
		if step := x.Status.Seeing(x.Spec); step != u.step {
			u.step, u.evidence = step, rollout.Evidence{}
		}
		u.judge.Audit = x.Spec.Steps[u.step].Kind == rollout.Audit
	}
	r.judging.set(len(next) > 0)
}

// tuples are what the batch that was just taken puts in force.
func (r *rollouts) tuples() map[string]tuple {
	r.see.Lock()
	defer r.see.Unlock()
	in := map[string]tuple{}
	for name, x := range r.records {
		t := tupleOf(x)
		u := r.all[name]
		t.held = x.Status.Active() && (u == nil || !(u.living && u.stored) && x.Status.Cohort(x.Spec).Percent > 0)
		in[name] = t
	}
	return in
}

// done notes what is in force now.
func (r *rollouts) done(in map[string]tuple) {
	r.see.Lock()
	r.inForce = in
	r.see.Unlock()
	r.news()
	select {
	case r.begins <- struct{}{}:
	default:
	}
}

// judge judges a connection that was seen, and how it fared, and returns what the first rollout says otherwise. live: it
// was there before.
func (r *rollouts) judge(e *engine.Engine, t flow.Tuple, fared flow.Verdict, live bool, at time.Time) (diff *judge.Difference) {
	select {
	case <-r.judging.open():
		e.Look(func(c *compile.Compiler) { diff = r.saw(c, t, fared, live, at, nil) })
	default:
	}
	return diff
}

// judgeLiving judges one of the connections that are there by rollouts that begin.
func (r *rollouts) judgeLiving(e *engine.Engine, t flow.Tuple, at time.Time, begun []*underWay) {
	e.Look(func(c *compile.Compiler) {
		r.saw(c, t, flow.Allow, true, at, func(u *underWay) bool { return slices.Contains(begun, u) })
	})
}

// saw judges a connection that was seen by all rollouts, or by those that only chooses, and returns what the first one
// says otherwise. live: it was there before they began.
func (r *rollouts) saw(c *compile.Compiler, t flow.Tuple, fared flow.Verdict, live bool, at time.Time, only func(*underWay) bool) *judge.Difference {
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
			r.news()
		}
		if first == nil {
			first = diff
		}
	}
	return first
}

// ended notes how a connection ended.
func (r *rollouts) ended(from, to cluster.Key, how flow.Outcome) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.see.Lock()
	defer r.see.Unlock()
	for _, u := range r.now {
		u.judge.Ended(&u.evidence, from, to, how)
	}
}

// begun are the rollouts whose living connections have not been judged yet.
func (r *rollouts) begun() []*underWay {
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
func (r *rollouts) judged(all []*underWay) {
	r.see.Lock()
	for _, u := range all {
		u.living = true
	}
	r.see.Unlock()
	r.news()
}

// stored notes what the API knows.
func (r *rollouts) stored(s v1alpha1.NodeEnforcementStatus) {
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
		r.again()
	}
}

// restore takes over what the agent before this one reported. It is called before the first take.
func (r *rollouts) restore(s v1alpha1.NodeEnforcementStatus) {
	r.see.Lock()
	defer r.see.Unlock()
	r.restored = map[string]v1alpha1.NodeRollout{}
	for _, n := range s.Rollouts {
		r.restored[n.Name] = n
	}
}

// watches notes whether connections are seen.
func (r *rollouts) watches(sees bool) {
	r.see.Lock()
	r.seeing = sees
	r.see.Unlock()
	r.news()
}

// The bounds of a report's evidence, beside that of rollouts, which is inforce.MaxList.
const (
	maxFindings  = 20
	maxWorkloads = 50
	maxRollouts  = 20
)

// report is what the API is to know, by name: of rollouts that are under way, and of a return, before those that are over.
func (r *rollouts) report() []v1alpha1.NodeRollout {
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
		if x.Status.Phase == "" || x.Status.Phase == rollout.Waiting || x.Status.Phase == rollout.Invalid {
			continue
		}
		isOver[name] = x.Status.Over() && x.Returned() == nil
		all = append(all, r.reportOf(x))
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

func (r *rollouts) reportOf(x *record.Record) v1alpha1.NodeRollout {
	t := tupleOf(x)
	n := v1alpha1.NodeRollout{Name: x.Name, Digest: t.digest, Revision: int64(t.revision), StepIndex: int32(t.step), Phase: string(t.phase),
		InForce: r.inForce[x.Name] == t && (r.seeing || x.Status.Over())}
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
