package controller

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/controller/enforcement"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/rollout/measure"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

const (
	// tick is how often time passes when nothing happens, and settle how long what comes at once may take to come.
	tick   = time.Second
	settle = 50 * time.Millisecond
	// writeEvery is how often evidence and times are written, which no agent waits for; on large clusters it is less often,
	// as every agent reads it.
	writeEvery = 5 * time.Second
	// beat is how often a rollout under way is written at least, so that people see that somebody drives it.
	beat = 30 * time.Second
	// retry is how long reports that cannot be followed wait for the next attempt.
	retry = 2 * time.Second
)

// leader drives all rollouts. But for the reports, one goroutine does everything.
type leader struct {
	options Options
	log     *slog.Logger
	metrics *metrics
	source  *kube.Source
	asker   *measure.Asker
	world   *world
	keeper  *enforcement.Keeper
	kept    *generations
	held    map[string]*held
	told    map[string]bool // conditions that were logged

	mu       sync.Mutex
	reports  map[string]v1alpha1.NodeEnforcementStatus
	unheard  string // why the reports are not followed, "" if they are
	reported chan struct{}
}

// held is a rollout as the API has it, and as it has gone on since without being written.
type held struct {
	stored, now record.Record
	memory      memory
	lost        lost
	written     time.Time
	complained  string
}

func newLeader(o Options, m *metrics) *leader {
	return &leader{options: o, log: o.Log, metrics: m, source: kube.New(kube.Options{Client: o.Client, Dynamic: o.Dynamic, Health: true}),
		asker: measure.New(measure.Options{}), keeper: enforcement.New(o.Dynamic, o.Log), kept: newGenerations(o, m), world: newWorld(),
		held: map[string]*held{}, told: map[string]bool{}, unheard: "the first list has not come", reported: make(chan struct{}, 1)}
}

func (l *leader) notReady() string {
	if missing := l.source.Waiting(); len(missing) > 0 {
		return "waiting for the first list of " + strings.Join(missing, ", ")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unheard != "" {
		return "reports of nodes are not followed: " + l.unheard
	}
	return ""
}

// run drives the rollouts until ctx ends.
func (l *leader) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { _ = l.source.Run(ctx) }) // which ends with ctx only
	all.Go(func() { l.followReports(ctx) })
	all.Go(func() { l.keeper.Run(ctx) })
	all.Go(func() { l.kept.run(ctx) })
	all.Go(func() { l.drive(ctx) })
	all.Wait()
	l.asker.Close()
}

func (l *leader) drive(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-l.source.Changed():
		case <-l.reported:
		case <-l.source.ConditionsChanged():
		}
		l.round(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
	}
}

// followReports keeps the reports of the nodes until ctx ends.
func (l *leader) followReports(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.followOnce(ctx)
		if err != nil && ctx.Err() == nil {
			l.hear(nil, err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(retry/2 + rand.N(retry)):
			}
		}
	}
}

func (l *leader) followOnce(ctx context.Context) error {
	reports, err := inforce.List(ctx, l.options.Dynamic)
	if err != nil {
		return err
	}
	l.hear(reports.ByNode, "")
	err = reports.Follow(ctx, l.options.Dynamic, func() bool {
		l.hear(reports.ByNode, "")
		return true
	})
	if apierrors.IsGone(err) || apierrors.IsResourceExpired(err) {
		return nil // which a list puts right
	}
	return err
}

// hear takes over the reports, or why there are none; then those known last stay.
func (l *leader) hear(reports map[string]v1alpha1.NodeEnforcementStatus, unheard string) {
	l.mu.Lock()
	if unheard == "" {
		l.reports = maps.Clone(reports)
	}
	l.unheard = unheard
	l.mu.Unlock()
	select {
	case l.reported <- struct{}{}:
	default:
	}
}

// round looks at everything once, and writes what follows.
func (l *leader) round(ctx context.Context, now time.Time) {
	batch, ok := l.source.Take()
	conditions := l.conditions(now)
	if !ok {
		l.metrics.show(nil, conditions)
		return
	}
	l.world.take(batch)
	l.takeRollouts(ctx, batch, now)
	l.showKeeper(now)
	names := slices.Sorted(maps.Keys(l.held))
	all := make([]record.Record, 0, len(names))
	for _, name := range names {
		all = append(all, l.held[name].now)
	}
	if len(all) > 0 {
		s := l.snapshot(now, conditions)
		for i, name := range names {
			h := l.held[name]
			h.now = s.move(all, i, &h.memory, h.lost.find)
			l.write(ctx, h, now)
			if !h.now.Status.Active() {
				h.memory, h.lost = memory{}, lost{}
			}
			all[i] = h.now
		}
	}
	l.kept.look(l.world.policies, all, len(batch.Policies) > 0, now)
	l.metrics.show(all, conditions)
}

// conditions are all that is wrong; those that are new are logged.
func (l *leader) conditions(now time.Time) []kube.Condition {
	all := append(l.source.Conditions(), l.kept.conditions()...)
	l.mu.Lock()
	if l.unheard != "" {
		all = append(all, kube.Condition{Type: kube.Unreachable, Object: inforce.Resource.Resource, Message: l.unheard, Since: now})
	}
	l.mu.Unlock()
	said := map[string]bool{}
	for _, c := range all {
		if said[c.String()] = true; !l.told[c.String()] {
			l.log.Warn("condition", "what", c.String())
		}
	}
	for c := range l.told {
		if !said[c] {
			l.log.Info("condition is over", "what", c)
		}
	}
	l.told = said
	return all
}

// showKeeper shows whoever says on objects how far policies are in force what there is, if that is of use now. Before the
// reports are known it would be that nothing is in force.
func (l *leader) showKeeper(now time.Time) {
	if !l.keeper.Wants(now) {
		return
	}
	l.mu.Lock()
	reports, unheard := l.reports, l.unheard
	l.mu.Unlock()
	if unheard != "" {
		return
	}
	l.keeper.Look(l.view(reports))
}

// view is what there is to say how far policies are in force.
func (l *leader) view(reports map[string]v1alpha1.NodeEnforcementStatus) enforcement.View {
	boots := l.source.NodeBoots()
	v := enforcement.View{State: l.world.state(l.log), Policies: maps.Clone(l.world.policies), Reports: reports}
	spared := l.world.spared(l.options.Nodes)
	for _, name := range slices.Sorted(maps.Keys(l.world.nodes)) {
		if spared[name] {
			continue
		}
		v.Nodes = append(v.Nodes, inforce.Node{Name: name, BootID: boots[name]})
	}
	return v
}

func (l *leader) snapshot(now time.Time, conditions []kube.Condition) *snapshot {
	s := &snapshot{now: now, state: l.world.state(l.log), pods: l.world.pods, boots: l.source.NodeBoots(), measured: l.asker.Measured,
		spared: l.world.spared(l.options.Nodes)}
	s.deaf = slices.ContainsFunc(conditions, func(c kube.Condition) bool { return c.Type == kube.Unreachable || c.Type == kube.Forbidden })
	l.mu.Lock()
	s.reports = l.reports
	l.mu.Unlock()
	return s
}

// takeRollouts takes over what the API says of rollouts. What it says of an older version than the one that was written
// last is an echo.
func (l *leader) takeRollouts(ctx context.Context, b kube.Batch, now time.Time) {
	for name, r := range b.Rollouts {
		if r == nil {
			if h := l.held[name]; h != nil {
				l.log.Info("rollout", "name", name, "what", "deleted; nothing of it is in force any more")
			}
			delete(l.held, name)
			continue
		}
		h := l.held[name]
		if h == nil || h.stored.UID != r.UID {
			l.held[name] = &held{stored: *r, now: *r}
			l.tell(ctx, *r, recent(r.Status, now))
			continue
		}
		if order, err := resourceversion.CompareResourceVersion(r.ResourceVersion, h.stored.ResourceVersion); err == nil && order <= 0 {
			continue
		}
		l.tell(ctx, *r, news(h.stored.Status, r.Status)) // a person's doing, or another leader's
		h.stored, h.now = *r, *r
	}
}

// write writes a rollout if that is due. One that cannot be written is as it is stored: nothing goes on from what nobody
// else can know.
func (l *leader) write(ctx context.Context, h *held, now time.Time) {
	if !moved(h.stored, h.now) {
		every := max(writeEvery, inforce.Spread(l.source.NodeCount()))
		beats := h.now.Status.Active() && now.Sub(h.stored.Status.Seen) >= beat
		if !beats && !(now.Sub(h.written) >= every && told(h.stored, h.now)) {
			return
		}
	}
	written, err := h.now.Write(ctx, l.options.Dynamic, "ringfence-controller")
	switch {
	case ctx.Err() != nil:
		return
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		l.metrics.writes.WithLabelValues("conflict").Inc()
		h.now = h.stored // until the newer one comes
		return
	case err != nil:
		l.metrics.writes.WithLabelValues("error").Inc()
		if h.complained != err.Error() {
			l.log.Warn("a status could not be written; it is tried again", "rollout", h.now.Name, "error", err)
		}
		h.now, h.complained = h.stored, err.Error()
		return
	}
	l.metrics.writes.WithLabelValues("ok").Inc()
	l.tell(ctx, written, news(h.stored.Status, written.Status))
	h.stored, h.now, h.written, h.complained = written, written, now, ""
}

// moved reports whether something else is in force, or happened, that agents and people are to know at once.
func moved(was, is record.Record) bool {
	a, b := was.Status, is.Status
	return a.Phase != b.Phase || a.Step != b.Step || a.Digest != b.Digest || a.Revision != b.Revision || a.By != b.By ||
		is.Complete != was.Complete || is.Former != was.Former || b.Over() && is.Nodes != was.Nodes && everywhere(is.Nodes)
}

// everywhere reports whether something is in force on all nodes, by what is told people.
func everywhere(nodes string) bool {
	in, of, both := strings.Cut(nodes, "/")
	return both && in == of
}

// told reports whether there is something to tell people.
func told(was, is record.Record) bool {
	a, b := was.Status, is.Status
	return a.Watched != b.Watched || a.Reason != b.Reason || was.Nodes != is.Nodes || was.Selected != is.Selected || was.Cohort != is.Cohort ||
		!slices.Equal(was.Lost, is.Lost) || !reflect.DeepEqual(a.Evidence, b.Evidence)
}

// world is the cluster as the API has it.
type world struct {
	pods       map[cluster.Key]*kube.Pod
	namespaces map[string]*cluster.Namespace
	nodes      map[string]*cluster.Node
	policies   map[kube.PolicyKey]*kube.Policy
	jobs       map[cluster.Key]*cluster.Workload
	servers    []netip.AddrPort // of the API
	made       *cluster.State   // nil if something has changed since
}

func newWorld() *world {
	return &world{pods: map[cluster.Key]*kube.Pod{}, namespaces: map[string]*cluster.Namespace{}, nodes: map[string]*cluster.Node{},
		policies: map[kube.PolicyKey]*kube.Policy{}, jobs: map[cluster.Key]*cluster.Workload{}}
}

func (w *world) take(b kube.Batch) {
	if len(b.Pods)+len(b.Namespaces)+len(b.Nodes)+len(b.Policies)+len(b.CronJobs) == 0 && !b.APIServersChanged {
		return
	}
	w.made = nil
	if b.APIServersChanged {
		w.servers = b.APIServers
	}
	merge(w.pods, b.Pods)
	merge(w.namespaces, b.Namespaces)
	merge(w.nodes, b.Nodes)
	merge(w.policies, b.Policies)
	merge(w.jobs, b.CronJobs)
}

// spared are the nodes that are not meant to run an agent. One that is not known is none of them.
func (w *world) spared(meant *label.Selector) map[string]bool {
	all := map[string]bool{}
	for name, n := range w.nodes {
		if meant != nil && !meant.Matches(n.Labels) {
			all[name] = true
		}
	}
	return all
}

func merge[K comparable, V any](into, from map[K]*V) {
	for k, v := range from {
		if v == nil {
			delete(into, k)
		} else {
			into[k] = v
		}
	}
}

// state is the cluster's. Each object is read by itself, so that there is nothing in them together that could be wrong but
// a name that is there twice, of which the API has none.
func (w *world) state(log *slog.Logger) *cluster.State {
	if w.made != nil {
		return w.made
	}
	o := cluster.Objects{APIServers: w.servers}
	for _, p := range w.pods {
		o.Endpoints = append(o.Endpoints, p.Endpoint)
	}
	for _, n := range w.namespaces {
		o.Namespaces = append(o.Namespaces, *n)
	}
	for _, n := range w.nodes {
		o.Nodes = append(o.Nodes, *n)
	}
	for _, p := range w.policies {
		o.Policies = append(o.Policies, p.Policy)
	}
	for _, j := range w.jobs {
		o.Workloads = append(o.Workloads, *j)
	}
	s, err := cluster.NewState(o)
	if err != nil {
		log.Error("the cluster cannot be as the API says", "error", err)
		s, _ = cluster.NewState(cluster.Objects{}) // in which nothing is selected, and nothing goes on
	}
	w.made = s
	return s
}
