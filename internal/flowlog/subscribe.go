package flowlog

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Query is which records somebody wants.
type Query struct {
	Filter Filter
	Since  time.Time // zero: however old
	Last   int       // at most so many of those that are there, the newest; 0 for all
}

// matches reports whether q wants r. An ended connection counts as seen at its end.
func (q *Query) matches(r *Record) bool {
	at := r.Time
	if r.End != nil {
		at = r.End.Time
	} else if r.Last.After(at) {
		at = r.Last
	}
	return !at.Before(q.Since) && q.Filter.Matches(r)
}

// choose returns what q wants of all, in their order.
func (q *Query) choose(all []*Record) []*Record {
	var chosen []*Record
	for i := len(all) - 1; i >= 0 && (q.Last == 0 || len(chosen) < q.Last); i-- {
		if q.matches(all[i]) {
			chosen = append(chosen, all[i])
		}
	}
	for i, j := 0, len(chosen)-1; i < j; i, j = i+1, j-1 {
		chosen[i], chosen[j] = chosen[j], chosen[i]
	}
	return chosen
}

// Records returns the records that are there and wanted, the oldest first.
func (l *Log) Records(q Query) []*Record {
	l.mu.Lock()
	all := l.ring.all()
	l.mu.Unlock()
	return q.choose(all)
}

// ErrClosed is returned by Next after Close.
var ErrClosed = errors.New("subscription is closed")

// Subscription gets records as they come. What it does not take in time it loses, the oldest first, and is told.
type Subscription struct {
	log    *Log
	filter Filter
	limit  int
	wake   chan struct{} // holds a token while there may be something to take
	done   chan struct{}

	mu    sync.Mutex
	queue []*Record
	head  int
	lost  int
}

// Subscribe returns the records that are there and wanted, and a subscription to all that follow; none is missed
// between the two. At most queue records wait for Next. The caller closes the subscription.
func (l *Log) Subscribe(q Query, queue int) ([]*Record, *Subscription) {
	s := &Subscription{log: l, filter: q.Filter, limit: max(1, queue), wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.mu.Lock()
	all := l.ring.all()
	l.subscribers[s] = struct{}{}
	l.mu.Unlock()
	return q.choose(all), s
}

// offer is called with the log locked: it must not wait.
func (s *Subscription) offer(r *Record) {
	if !s.filter.Matches(r) {
		return
	}
	s.mu.Lock()
	if len(s.queue)-s.head >= s.limit {
		s.queue[s.head] = nil
		s.head++
		s.lost++
	}
	if s.head > s.limit {
		n := copy(s.queue, s.queue[s.head:])
		clear(s.queue[n:])
		s.queue, s.head = s.queue[:n], 0
	}
	s.queue = append(s.queue, r)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Next waits for records and returns all that came, the oldest first, and how many were lost before them because
// nobody took them. One goroutine at a time may call it.
func (s *Subscription) Next(ctx context.Context) (records []*Record, lost int, err error) {
	for {
		s.mu.Lock()
		records, lost = s.queue[s.head:], s.lost
		s.queue, s.head, s.lost = nil, 0, 0
		s.mu.Unlock()
		if len(records) > 0 || lost > 0 {
			return records, lost, nil
		}
		select {
		case <-s.wake:
		case <-s.done:
			return nil, 0, ErrClosed
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// maxEnds is how many ends of connections may wait in Outcomes. They are for shares, so some may be lost.
const maxEnds = 4096

// Outcomes tells how TCP connections end, until ctx ends: between which pods, the zero Key for what is none.
func (l *Log) Outcomes(ctx context.Context, tell func(from, to cluster.Key, how flow.Outcome)) {
	_, s := l.Subscribe(Query{Since: time.Now()}, maxEnds)
	defer s.Close()
	for {
		all, _, err := s.Next(ctx)
		if err != nil {
			return
		}
		for _, r := range all {
			if r.End != nil && r.End.Outcome != 0 {
				tell(cluster.Key{Namespace: r.Source.Namespace, Name: r.Source.Pod},
					cluster.Key{Namespace: r.Destination.Namespace, Name: r.Destination.Pod}, r.End.Outcome)
			}
		}
	}
}

// Close ends the subscription. It may be called once.
func (s *Subscription) Close() {
	s.log.mu.Lock()
	delete(s.log.subscribers, s)
	s.log.mu.Unlock()
	close(s.done)
}
