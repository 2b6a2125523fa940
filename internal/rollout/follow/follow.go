// Package follow is a node's part in the rollouts of its cluster: what the node is to put in force by what the stored statuses
// of PolicyRollouts say, and what it reports of what it sees.
//
// It does nothing by itself: an agent tells it what the API says, what is in force, which connections there are, and what of its
// reports the API knows.
package follow

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/judge"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// Options say for which node a Follower is. The functions may be nil, must not wait, and are not to call it.
type Options struct {
	Node     string
	Again    func()           // has another batch taken, though the API says nothing new
	News     func()           // says that what is reported may have changed
	Conflict func(why string) // says why a rollout cannot be, "" if all can
}

// Follower follows the rollouts of a cluster on one node. Make one with New. Take, what it returns, and Pod are for one
// goroutine, all else for any.
//
// What is in force depends on the objects of the API and on one thing of the node's own: a cohort is judged by a candidate
// only once the connections that were there have been judged, and the API has this node's report that says so. A node that
// starts anew finds in its report what it needs to put the same in force as before.
type Follower struct {
	options Options
	begins  chan struct{} // of one place: there may be rollouts whose living connections are to be judged

	mu      sync.RWMutex // guards what follows, which only Take changes; may be taken under the engine's view
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

// New returns a follower that knows nothing yet.
func New(o Options) *Follower {
	if o.Again == nil {
		o.Again = func() {}
	}
	if o.News == nil {
		o.News = func() {}
	}
	if o.Conflict == nil {
		o.Conflict = func(string) {}
	}
	return &Follower{options: o, begins: make(chan struct{}, 1), overlay: rollout.NewOverlay(o.Node), records: map[string]*record.Record{},
		nodes: map[string]*cluster.Node{}, all: map[string]*underWay{}, inForce: map[string]tuple{}, judging: newGate()}
}

// Change is what becomes of a batch.
type Change struct {
	Pods     []cluster.Key // of this node, that change beside those of the batch
	Policies []PolicyEdit
	Apply    func() // brings up to date what else changes together with the engine's compiler, while nobody may look at that
	Done     func() // notes that it is in force
}

// Take takes over what changed.
func (r *Follower) Take(b kube.Batch) Change {
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
	c := Change{Pods: pods, Policies: policyEdits(r.overlay.InForce(), b, policies), Apply: func() {}, Done: func() {}}
	if !isNone {
		r.change(&c, b, policies, stale)
	}
	return c
}

// change is the rest of Take, for when there is a rollout under way, or was.
func (r *Follower) change(c *Change, b kube.Batch, policies []cluster.Key, stale bool) {
	var edits []func()
	next := r.underWay()
	for _, u := range next {
		if edit := r.keepJudge(u, b, c.Pods, policies); edit != nil {
			edits = append(edits, edit)
		}
	}
	c.Apply = func() { r.apply(next, edits) }
	if stale {
		in := r.tuples()
		c.Done = func() { r.done(in) }
	}
}

// Pod returns a pod as policies are to see it, as of the last Take.
func (r *Follower) Pod(k cluster.Key) *cluster.Endpoint { return r.overlay.InForce().Pod(k) }

// note takes over the objects, and reports whether rollouts say something else now.
func (r *Follower) note(b kube.Batch) (stale bool) {
	for name, n := range b.Namespaces {
		r.overlay.SetNamespace(name, n)
	}
	for key, p := range b.Pods {
		r.overlay.SetPod(key, kube.EndpointOf(p))
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

// plan finds out who is judged by which candidate. It is called by Take.
func (r *Follower) plan() {
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
	r.options.Conflict(why)
}

// begin makes what is kept of a rollout that is new here: with what was reported of it, if it is the same.
func (r *Follower) begin(x *record.Record) *underWay {
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
func (r *Follower) underWay() []*underWay {
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
func policyEdits(v rollout.View, b kube.Batch, also []cluster.Key) []PolicyEdit {
	if len(b.Policies)+len(also) == 0 {
		return nil
	}
	edits := make([]PolicyEdit, 0, len(b.Policies)+2*len(also))
	add := func(k cluster.Key, p *policy.Policy) { edits = append(edits, PolicyEdit{k, p}) }
	for key := range b.Policies {
		v.Policy(key, add)
	}
	for _, key := range also {
		v.Policy(key, add)
	}
	return edits
}

// keepJudge returns what keeps the judge of a rollout up to date, nil if it has just been made.
func (r *Follower) keepJudge(u *underWay, b kube.Batch, pods, policies []cluster.Key) func() {
	views := [2]rollout.View{r.overlay.Before(u.name), r.overlay.After(u.name)}
	if u.judge == nil {
		j := judge.New(u.name, compile.Options{Node: r.options.Node})
		j.Selected = func(k cluster.Key) bool { return r.overlay.Selects(u.name, k) && r.isOwn(k) }
		j.Judged = func(k cluster.Key) bool { return r.overlay.Includes(u.name, k) }
		for i, c := range []*compile.Compiler{j.Before, j.After} {
			r.everything(views[i]).Apply(c)
			c.Flush()
		}
		u.judge = j
		return nil
	}
	var all [2]Edits
	for i, v := range views {
		all[i] = Edits{Batch: b, Policies: policyEdits(v, b, policies)}
		for key := range b.Pods {
			all[i].Pods = append(all[i].Pods, PodEdit{Key: key, Pod: v.Pod(key)})
		}
		for _, key := range pods {
			all[i].Pods = append(all[i].Pods, PodEdit{Key: key, Pod: v.Pod(key)})
		}
	}
	return func() {
		for i, c := range []*compile.Compiler{u.judge.Before, u.judge.After} {
			all[i].Apply(c)
			c.Flush()
		}
	}
}

func (r *Follower) isOwn(k cluster.Key) bool {
	e := r.overlay.Pod(k)
	return e != nil && e.Node == r.options.Node
}

// everything is the cluster as it is, for a compiler that knows nothing yet.
func (r *Follower) everything(v rollout.View) Edits {
	x := Edits{Batch: kube.Batch{Namespaces: map[string]*cluster.Namespace{}, Nodes: r.nodes, Ranges: r.ranges, RangesChanged: true}}
	for n := range r.overlay.Namespaces {
		x.Batch.Namespaces[n.Name] = &n
	}
	for e := range r.overlay.Pods {
		x.Pods = append(x.Pods, PodEdit{Key: e.Key, Pod: v.Pod(e.Key)})
	}
	for key := range r.overlay.Policies {
		v.Policy(key, func(k cluster.Key, p *policy.Policy) { x.Policies = append(x.Policies, PolicyEdit{k, p}) })
	}
	return x
}

// apply changes what is judged by, together with the engine's compiler.
func (r *Follower) apply(next []*underWay, edits []func()) {
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
func (r *Follower) tuples() map[string]tuple {
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
func (r *Follower) done(in map[string]tuple) {
	r.see.Lock()
	r.inForce = in
	r.see.Unlock()
	r.options.News()
	select {
	case r.begins <- struct{}{}:
	default:
	}
}
