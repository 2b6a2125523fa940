//go:build linux

package nodes

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/ringfence-project/ringfence/internal/flowlog"
)

const (
	// hold is how long what comes is kept, so that it can be put in order and finds its partner.
	hold = time.Second
	// again is how long an agent that is gone waits to be asked again at first; it grows to slowest.
	again   = time.Second
	slowest = 30 * time.Second
	// behind is how much is asked for again after that, as nodes' clocks differ from this one's. What was heard is left out.
	behind = time.Minute
	// begin is how many agents a second are begun to be followed.
	begin = 50
)

// Follow calls f for each record that the agents have and for what comes, until ctx ends, which is no error, or f fails.
// What comes is about a second late, and in order as far as that allows. An agent that goes is asked again, those that
// come are asked too, and Warn is told of both.
func (a *Agents) Follow(ctx context.Context, o flowlog.Options, f func(*flowlog.Record) error) error {
	c, _, err := a.collect(ctx, o)
	if err != nil {
		return orEnd(ctx, err)
	}
	for _, r := range c.told(o) {
		if err := f(r); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &follower{Agents: a, options: o, collection: c, came: make(chan *flowlog.Record, 1000), pace: flowcontrol.NewTokenBucketRateLimiter(begin, begin),
		streams: map[string]context.CancelFunc{}}
	s.options.Last = 0
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	all.Go(func() {
		if err := s.watch(ctx, &all); err != nil {
			cancel(err)
		}
	})
	if err := s.tell(ctx, f); err != nil {
		return err
	}
	return orEnd(ctx, context.Cause(ctx))
}

// orEnd is nil if the caller ended it, which is the only regular end.
func orEnd(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// follower follows agents.
type follower struct {
	*Agents
	options    flowlog.Options
	collection *collection
	came       chan *flowlog.Record
	pace       flowcontrol.RateLimiter
	streams    map[string]context.CancelFunc // by pod
}

// watch keeps a stream for each agent until ctx ends.
func (s *follower) watch(ctx context.Context, all *sync.WaitGroup) error {
	wait := again
	for first := true; ctx.Err() == nil; first = false {
		agents, version, err := s.find(ctx)
		if err == nil {
			s.reconcile(ctx, agents, first, all)
			err = s.changes(ctx, version, all)
		}
		if err == nil {
			wait = again
		} else if ctx.Err() == nil {
			s.warn("new agents are not noticed: %v", err)
		}
		pause(ctx, wait/2+rand.N(wait))
		wait = min(2*wait, slowest)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// reconcile begins streams of agents that are new, and ends those of agents that are gone.
func (s *follower) reconcile(ctx context.Context, agents []agent, first bool, all *sync.WaitGroup) {
	gone := map[string]bool{}
	for pod := range s.streams {
		gone[pod] = true
	}
	for _, g := range agents {
		delete(gone, g.pod)
		s.set(ctx, g, first, all)
	}
	for pod := range gone {
		s.drop(pod)
	}
}

func (s *follower) drop(pod string) {
	if end := s.streams[pod]; end != nil {
		end()
		delete(s.streams, pod)
	}
}

// set begins to follow an agent, unless that was done.
func (s *follower) set(ctx context.Context, g agent, quiet bool, all *sync.WaitGroup) {
	if g.notReady != "" || s.streams[g.pod] != nil {
		return
	}
	if !quiet {
		s.warn("node %s: following its agent", g.node)
	}
	ctx, cancel := context.WithCancel(ctx)
	s.streams[g.pod] = cancel
	all.Go(func() {
		defer cancel()
		s.follow(ctx, g)
	})
}

// changes takes the agents' changes from a version on, until the API ends the watch or ctx ends.
func (s *follower) changes(ctx context.Context, version string, all *sync.WaitGroup) error {
	w, err := s.Client.CoreV1().Pods(s.namespace()).Watch(ctx, metav1.ListOptions{LabelSelector: Selector, ResourceVersion: version})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, open := <-w.ResultChan():
			if !open || event.Type == watch.Error {
				return nil // it is listed anew
			}
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			if g, is := s.agentOf(pod); event.Type == watch.Deleted {
				s.drop(pod.Name)
			} else if is {
				s.set(ctx, g, false, all)
			}
		}
	}
}

// follow passes on what an agent tells, and asks it again when it ends, until ctx ends.
func (s *follower) follow(ctx context.Context, g agent) {
	wait, lost := again, false
	for s.pace.Wait(ctx) == nil {
		from := s.collection.heard(g.node)
		o := pushed(s.options)
		if !from.at.IsZero() {
			o.Since = from.at.Add(-behind)
		}
		begun := time.Now()
		err := s.ask(ctx, g, append(Arguments(o, begun), "--follow"), func(line []byte) error {
			r, err := decode(g, line)
			if err != nil || from.has(r) {
				return err
			}
			if lost {
				s.warn("node %s: its flows come again", g.node)
				lost = false
			}
			select {
			case s.came <- r:
			case <-ctx.Done():
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		if !lost {
			s.warn("node %s: its flows are missing: %v; it is tried again", g.node, errOr(err, "its agent ended"))
		}
		lost = true
		if time.Since(begun) > slowest {
			wait = again
		}
		pause(ctx, wait/2+rand.N(wait))
		wait = min(2*wait, slowest)
	}
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

// heard is up to where a node was heard.
func (c *collection) heard(node string) progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.progress[node]
}

func (c *collection) note(r *flowlog.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress[r.Node] = c.progress[r.Node].with(r)
}

// held is a record that waits for its partner.
type held struct {
	record *flowlog.Record
	entry  *entry
	until  time.Time
}

// tell passes on what comes, in order, until ctx ends or f fails.
func (s *follower) tell(ctx context.Context, f func(*flowlog.Record) error) error {
	const most = 50_000
	var waiting []held
	tick := time.NewTicker(hold / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.came:
			s.collection.note(r)
			waiting = append(waiting, held{r, s.collection.joiner.offer(r), time.Now().Add(hold)})
			if len(waiting) < most {
				continue
			}
		case <-tick.C:
		}
		due := len(waiting)
		if due < most {
			now := time.Now()
			due = slices.IndexFunc(waiting, func(h held) bool { return h.until.After(now) })
			if due < 0 {
				due = len(waiting)
			}
		}
		if err := s.pass(waiting[:due], f); err != nil {
			return err
		}
		waiting = slices.Delete(waiting, 0, due)
	}
}

func (s *follower) pass(due []held, f func(*flowlog.Record) error) error {
	slices.SortStableFunc(due, func(x, y held) int { return seen(x.record).Compare(seen(y.record)) })
	for _, h := range due {
		if r := h.entry.complete(h.record); !h.entry.left && isTold(s.options, r) {
			if err := f(r); err != nil {
				return err
			}
		}
	}
	return nil
}
