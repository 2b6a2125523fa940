//go:build linux

// Package watch tells a flowlog.Log what the kernel of one network namespace saw: the connections that passed, from
// connection tracking, and how much was denied, from the dataplane's counters. Denied packets themselves the caller
// tells the log (Log.Denied), as they come with the dataplane's other events.
package watch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/conntrack"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// tick is how often counters are read and what grew is told. A denial that no log line told is in the sums this soon.
const tick = time.Second

// reconcileEvery is how often all connections are listed, which makes the kernel forget the overdue ones and tell of
// their end; by itself it may take a minute for it.
const reconcileEvery = 20 * time.Second

// maxFailures is how often in a row counters may not be readable. They only grow, so that the next reading makes good.
const maxFailures = 10

// Watch tells one log of one namespace.
type Watch struct {
	log      *flowlog.Log
	counters flowlog.RowCounters // may be nil
	ns       *netns.NS
	watcher  *conntrack.Watcher
	lookup   *conntrack.Lookup
}

// New prepares the namespace and begins to hear of its connections; Run reads what was heard. The caller keeps ns open
// until Close. Counters may be nil.
func New(ns *netns.NS, log *flowlog.Log, counters flowlog.RowCounters) (*Watch, error) {
	if err := conntrack.Prepare(ns); err != nil {
		return nil, err
	}
	watcher, err := conntrack.Open(ns, conntrack.Options{Updates: true})
	if err != nil {
		return nil, err
	}
	lookup, err := conntrack.OpenLookup(ns)
	if err != nil {
		watcher.Close()
		return nil, err
	}
	return &Watch{log: log, counters: counters, ns: ns, watcher: watcher, lookup: lookup}, nil
}

// Close frees the sockets. Not while Run runs.
func (w *Watch) Close() error { return errors.Join(w.watcher.Close(), w.lookup.Close()) }

// Run tells the log until ctx ends, and then returns nil, or until hearing fails. It may run once.
func (w *Watch) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	parts.Go(func() { cancel(w.hear(ctx)) })
	parts.Go(func() { cancel(w.count(ctx)) })
	parts.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// hear passes events on. Listing happens in the same goroutine: what ends meanwhile waits in the socket, so that its
// end is told after its beginning.
func (w *Watch) hear(ctx context.Context) error {
	if err := w.reconcile(ctx); err != nil {
		return err
	}
	next := time.Now().Add(reconcileEvery)
	lost := false
	for {
		round, stop := context.WithDeadline(ctx, next)
		err := w.watcher.Run(round, func(e conntrack.Event) {
			if e.Kind == conntrack.Lost {
				lost = true
				stop()
				return
			}
			w.tell(ctx, e)
		})
		stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if round.Err() == nil {
			return err
		}
		if lost {
			w.log.Lose(1) // at least
			lost = false
		}
		if err := w.reconcile(ctx); err != nil {
			return err
		}
		next = time.Now().Add(reconcileEvery)
	}
}

func (w *Watch) reconcile(ctx context.Context) error {
	begun := time.Now()
	var all []flowlog.Connection
	if err := conntrack.List(ctx, w.ns, func(c conntrack.Conn) {
		all = append(all, connection(&c))
	}); err != nil {
		return err
	}
	w.log.Reconcile(all, begun)
	return nil
}

func (w *Watch) tell(ctx context.Context, e conntrack.Event) {
	c := connection(&e.Conn)
	switch e.Kind {
	case conntrack.New:
		w.log.Opened(c, e.Time)
	case conntrack.Updated:
		switch {
		case e.Conn.Over() && w.log.IsOpen(c.Key):
			w.over(ctx, e)
		case c.Answered:
			w.log.Answered(c.Key)
		}
	case conntrack.Ended:
		w.log.Forgotten(c, e.Time)
	}
}

// over ends a connection that the kernel remembers for a while longer. An update tells no bytes, so they are asked
// for; if that fails, they are told when the kernel forgets the connection.
func (w *Watch) over(ctx context.Context, e conntrack.Event) {
	now, found, err := w.lookup.Get(ctx, e.Conn.Key)
	if err == nil && found {
		c := connection(&now)
		c.Outcome = e.Conn.Outcome() // a reset that came since, to a connection that was closed, is not how it ended
		w.log.Closed(c, e.Time)
	}
}

// count reads the dataplane's counters and lets the log tell what grew.
func (w *Watch) count(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ticker.C:
			w.log.Tick(now)
			if w.counters == nil {
				continue
			}
			rows, err := w.counters.RowDrops(ctx)
			if err == nil {
				w.log.CountDrops(rows, now)
				failures = 0
			} else if failures++; failures == maxFailures {
				return fmt.Errorf("read counters of denied packets: %w", err)
			}
		}
	}
}

func connection(c *conntrack.Conn) flowlog.Connection {
	o := c.Original
	out := flowlog.Connection{
		Key: flowlog.Key{ID: c.ID, Zone: c.Zone, Protocol: c.Protocol,
			Source:      netip.AddrPortFrom(o.Source.Addr, o.Source.Port),
			Destination: netip.AddrPortFrom(o.Destination.Addr, o.Destination.Port)},
		Tuple: c.Tuple(), Answered: c.Status&conntrack.SeenReply != 0, Over: c.Over(), Outcome: c.Outcome(), Start: c.Start, Stop: c.Stop,
		BytesSent: c.Sent.Bytes, BytesReceived: c.Received.Bytes, PacketsSent: c.Sent.Packets, PacketsReceived: c.Received.Packets,
	}
	if asked, other := c.Asked(); other {
		out.Asked = asked
	}
	return out
}
