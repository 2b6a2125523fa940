package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/generation/configmaps"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
	"github.com/ringfence-project/ringfence/internal/words"
)

// NotKept is the type of the Condition that what came in force could not be kept as a generation.
const NotKept = "GenerationNotKept"

// pace is when generations are written down. docs/rollouts.md says these numbers.
type pace struct {
	quiet   time.Duration // for how long nothing has to change: what is applied together is one generation
	longest time.Duration // how long a change waits at most where they do not end
	every   time.Duration // how often there is a new generation at most
	retry   time.Duration // how long what failed waits, at first; up to retryMost
	prove   time.Duration // how often it is looked at whether something was in force for long
	within  time.Duration // how long the API may take
}

var usualPace = pace{quiet: 5 * time.Second, longest: time.Minute, every: 20 * time.Second, retry: 10 * time.Second, prove: 10 * time.Second, within: 30 * time.Second}

// retryMost is how long what failed waits at most.
const retryMost = 5 * time.Minute

// generations keeps what is in force for everyone on the cluster, beside whoever drives rollouts: nobody waits for it.
type generations struct {
	recorder *generation.Recorder
	store    *generation.Store
	log      *slog.Logger
	metrics  *metrics
	pace     pace
	offered  chan struct{}

	mu    sync.Mutex
	view  *view
	shape string                    // of the finals in view
	wrong map[string]kube.Condition // by what was tried

	// Of the goroutine that runs:
	noted *view            // that was written down last; nil before
	was   []*policy.Policy // in force by it
	told  uint64           // the last entry that was logged
}

// view is what decides what is in force for everyone.
type view struct {
	policies map[kube.PolicyKey]*kube.Policy
	finals   []rollout.Part
	complete []string // names of those, with revisions
	returned *generation.Return
	at       time.Time // when that became so
}

func newGenerations(o Options, m *metrics) *generations {
	store := configmaps.Open(o.Client, o.Namespace)
	return &generations{store: store, recorder: generation.NewRecorder(store, "the first that was seen"), log: o.Log, metrics: m, pace: usualPace, offered: make(chan struct{}, 1),
		wrong: map[string]kube.Condition{}}
}

// look takes note of what there is, if it decides something else than before. changed: policies are others.
func (g *generations) look(policies map[kube.PolicyKey]*kube.Policy, all []record.Record, changed bool, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	shape := finalsOf(all)
	if g.view != nil && !changed && shape == g.shape {
		return
	}
	g.shape = shape
	g.view = &view{policies: maps.Clone(policies), finals: record.Finals(all), complete: completeOf(all), returned: record.ReturnedTo(all), at: now}
	select {
	case g.offered <- struct{}{}:
	default:
	}
}

// finalsOf tells what is in force for everyone by rollouts from what is by others.
func finalsOf(all []record.Record) string {
	var b strings.Builder
	for _, r := range all {
		for _, f := range []*record.Finished{r.Former, r.Complete} {
			if f != nil {
				fmt.Fprintf(&b, "%s %s %d %v\n", r.Name, f.Digest, f.At.UnixNano(), r.Returned())
			}
		}
	}
	return b.String()
}

// completeOf names the revisions of rollouts that are in force for everyone. A return is none: nothing was tried out in it.
func completeOf(all []record.Record) []string {
	var names []string
	for _, r := range all {
		for _, f := range []*record.Finished{r.Former, r.Complete} {
			if f != nil && r.Returned() == nil {
				names = append(names, r.Name+"@"+f.Digest)
			}
		}
	}
	slices.Sort(names)
	return names
}

// burst is a number of changes that are to be one generation.
type burst struct{ first, last, noted time.Time }

// due is when they are noted.
func (b burst) due(p pace) time.Time {
	at := b.last.Add(p.quiet)
	if most := b.first.Add(p.longest); at.After(most) {
		at = most
	}
	if next := b.noted.Add(p.every); at.Before(next) {
		at = next
	}
	return at
}

// run writes down what it is told until ctx ends.
func (g *generations) run(ctx context.Context) {
	prove := time.NewTicker(g.pace.prove)
	defer prove.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	timer.Stop()
	var b burst
	retry := g.pace.retry
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.offered:
			b.last = time.Now()
			if b.first.IsZero() {
				b.first = b.last
			}
			timer.Reset(time.Until(b.due(g.pace)))
		case <-timer.C:
			if err := g.note(ctx); err != nil {
				b.noted = time.Now()
				timer.Reset(retry)
				retry = min(2*retry, retryMost)
				continue
			}
			b, retry = burst{noted: time.Now()}, g.pace.retry
		case now := <-prove.C:
			_ = g.do(ctx, "mark what is in force as good", func(ctx context.Context) (generation.Entry, error) { // again the next time
				return generation.Entry{}, g.recorder.Prove(ctx, now)
			})
		}
	}
}

// note writes down what is in force.
func (g *generations) note(ctx context.Context) error {
	g.mu.Lock()
	v := g.view
	g.mu.Unlock()
	return g.do(ctx, "keep what is in force", func(ctx context.Context) (generation.Entry, error) {
		inForce, err := v.inForce()
		if err != nil {
			return generation.Entry{}, err
		}
		changes, err := g.changes(ctx, v, inForce)
		if err != nil {
			return generation.Entry{}, err
		}
		entry, err := g.recorder.Note(ctx, generation.Arrival{Policies: inForce, Rollouts: v.complete, Returned: v.returned, Changes: changes}, v.at)
		if err == nil {
			g.noted, g.was = v, inForce
		}
		return entry, err
	})
}

// do does something with what is kept, and says what is wrong with that.
func (g *generations) do(ctx context.Context, what string, f func(context.Context) (generation.Entry, error)) error {
	within, cancel := context.WithTimeout(ctx, g.pace.within)
	defer cancel()
	entry, err := f(within)
	why, result := "", "ok"
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		why, result = fmt.Sprintf("%s: %s", what, err), "error"
	case entry.NotKept != "":
		why, result = fmt.Sprintf("the policies of entry %d cannot be shown or returned to: %s", entry.Number, entry.NotKept), "too large"
	}
	if err != nil || entry.Number != g.told && entry.Number > 0 {
		g.metrics.generations.WithLabelValues(result).Inc()
	}
	if err == nil && entry.Number != g.told && entry.Number > 0 {
		g.told = entry.Number
		g.log.Info("generation", "entry", entry.Number, "id", entry.ID.Short(), "why", entry.Why)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case why == "":
		delete(g.wrong, what)
	case g.wrong[what].Message != why:
		g.wrong[what] = kube.Condition{Type: NotKept, Object: "generations", Message: why, Since: time.Now()}
	}
	return err
}

// conditions are what is wrong.
func (g *generations) conditions() []kube.Condition {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []kube.Condition
	for _, what := range slices.Sorted(maps.Keys(g.wrong)) {
		all = append(all, g.wrong[what])
	}
	return all
}

// inForce are the policies that are in force for everyone.
func (v *view) inForce() ([]*policy.Policy, error) {
	var o cluster.Objects
	for _, p := range v.policies {
		o.Policies = append(o.Policies, p.Policy)
	}
	s, err := cluster.NewState(o)
	if err == nil {
		s, err = rollout.Rewrite(s, v.finals...)
	}
	if err != nil {
		return nil, err
	}
	return s.Policies(), nil
}

// changes says which policies changed, beside those that rollouts brought or took away, as far as somebody knows: since this one
// leads, or else since what is in the history.
func (g *generations) changes(ctx context.Context, v *view, inForce []*policy.Policy) (string, error) {
	if g.noted != nil {
		if g.noted.sameRollouts(v.complete, v.returned != nil) {
			return changesText(generation.Changes(g.was, inForce)), nil
		}
		return changesText(changesOf(g.noted.policies, v.policies)), nil
	}
	history, err := g.store.History(ctx)
	current, there := history.Current()
	switch {
	case err != nil && !errors.Is(err, generation.ErrDamaged):
		return "", err
	case !there || !v.sameRollouts(current.Rollouts, current.ReturnedTo != 0):
		return "", nil
	}
	kept, err := g.store.Get(ctx, current.ID)
	if err != nil {
		return "", nil // so nobody knows
	}
	return changesText(generation.Changes(kept.Policies, inForce)), nil
}

// sameRollouts reports whether the same rollouts are complete.
func (v *view) sameRollouts(complete []string, returned bool) bool {
	return slices.Equal(v.complete, complete) && (v.returned != nil) == returned
}

// changesOf is generation.Changes, which looks at those policies only that are others.
func changesOf(before, after map[kube.PolicyKey]*kube.Policy) []generation.Change {
	var old, now []*policy.Policy
	for k, p := range before {
		if after[k] != p {
			old = append(old, p.Policy)
		}
	}
	for k, p := range after {
		if before[k] != p {
			now = append(now, p.Policy)
		}
	}
	return generation.Changes(old, now)
}

// namedChanges is how many policies a reason names.
const namedChanges = 5

func changesText(all []generation.Change) string {
	if len(all) == 0 {
		return ""
	}
	slices.SortStableFunc(all, func(a, b generation.Change) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	var names []string
	for _, c := range all {
		names = append(names, c.Short())
	}
	return "policies changed: " + words.Some(names, namedChanges, " ")
}
