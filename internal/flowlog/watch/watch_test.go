//go:build linux

package watch_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/conntrack"
	"github.com/ringfence-project/ringfence/internal/conntrack/tracktest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/watch"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// counters is a dataplane of one row that drops a thousand packets whenever somebody looks, and fails at first.
type counters struct{ asked atomic.Uint64 }

func (c *counters) RowDrops(context.Context) (map[ruleset.RowID]uint64, error) {
	if c.asked.Add(1) == 1 {
		return nil, errors.New("not now")
	}
	return map[ruleset.RowID]uint64{1: c.asked.Load() * 1000}, nil
}

func newLog(t *testing.T) *flowlog.Log {
	t.Helper()
	s, err := cluster.NewState(cluster.Objects{Endpoints: []*cluster.Endpoint{
		{Key: cluster.Key{Namespace: "shop", Name: "client"}, Addresses: []netip.Addr{tracktest.ClientAddr}},
		{Key: cluster.Key{Namespace: "shop", Name: "server"}, Addresses: []netip.Addr{tracktest.ServerAddr}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return flowlog.New(flowlog.Names{Resolve: s.Resolve}, flowlog.Limits{})
}

// run runs a watch until the test ends.
func run(t *testing.T, w tracktest.World, l *flowlog.Log, c flowlog.RowCounters) {
	t.Helper()
	watcher, err := watch.New(w.Router, l, c)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- watcher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		watcher.Close()
	})
}

// next waits for one record that follows.
func next(t *testing.T, s *flowlog.Subscription) *flowlog.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, _, err := s.Next(ctx)
	if err != nil || len(got) == 0 {
		t.Fatalf("no record: %v", err)
	}
	return got[0]
}

func TestRealConnectionIsRecordedFromBeginToEnd(t *testing.T) {
	w := tracktest.New(t)
	l := newLog(t)
	run(t, w, l, nil)
	_, s := l.Subscribe(flowlog.Query{}, 100)
	defer s.Close()
	w.Serve(t)
	c := w.Dial(t, netip.AddrPortFrom(tracktest.ServiceAddr, tracktest.ServicePort), 5*time.Second)
	if c == nil {
		t.Fatal("no answer")
	}
	begun := next(t, s)
	if begun.Source.String() != "shop/client" || begun.Destination.String() != "shop/server" || begun.Port != tracktest.ServerPort ||
		begun.Verdict != flow.Allow || begun.Asked == nil || begun.Asked.Address != tracktest.ServiceAddr || begun.End != nil {
		t.Errorf("begins as %+v", begun)
	}
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	closed := time.Now()
	c.Close()
	ended := next(t, s)
	if ended.ID != begun.ID || ended.End == nil || ended.End.BytesReceived < 10 || !ended.Answered {
		t.Errorf("ends as %+v, %+v", ended, ended.End)
	}
	if late := time.Since(closed); late > time.Second {
		t.Errorf("the end is told %s after it", late)
	}
}

// TestHowConnectionsEnd: what came of connections to one server, as the kernel tracked them.
func TestHowConnectionsEnd(t *testing.T) {
	w := tracktest.New(t)
	l := newLog(t)
	run(t, w, l, nil)
	netnstest.Sysctl(t, w.Router, "net/netfilter/nf_conntrack_tcp_timeout_syn_sent=1")
	w.Serve(t)
	w.ServePolitely(t)
	_, s := l.Subscribe(flowlog.Query{}, 100)
	defer s.Close()
	for _, c := range []struct {
		to   netip.AddrPort
		wait time.Duration
		want flow.Outcome
	}{
		{netip.AddrPortFrom(tracktest.ServerAddr, tracktest.PolitePort), 5 * time.Second, flow.Well},
		{netip.AddrPortFrom(tracktest.ServerAddr, tracktest.ServerPort), 5 * time.Second, flow.Reset},
		{netip.AddrPortFrom(tracktest.ServerAddr, tracktest.ShutPort), 5 * time.Second, flow.Refused},
		{netip.AddrPortFrom(tracktest.SilentAddr, tracktest.ServerPort), 200 * time.Millisecond, flow.Unanswered},
	} {
		if conn := w.Dial(t, c.to, c.wait); conn != nil {
			_, _ = io.ReadFull(conn, make([]byte, 10))
			_, _ = conn.Write([]byte("x"))
			_, _ = conn.Read(make([]byte, 1)) // until the server ended it
			conn.Close()
		} else if !c.want.Failed() {
			t.Fatalf("%s: no answer", c.to)
		}
		if got := awaitEnd(t, w, s).Outcome; got != c.want {
			t.Errorf("the connection to %s ended %s, want %s", c.to, got, c.want)
		}
	}
}

// awaitEnd waits for the end of a connection, and has the kernel look for what is overdue meanwhile.
func awaitEnd(t *testing.T, w tracktest.World, s *flowlog.Subscription) *flowlog.Ending {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		round, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		all, _, err := s.Next(round)
		stop()
		if ctx.Err() != nil {
			t.Fatalf("it never ended: %v", err)
		}
		for _, r := range all {
			if r.End != nil {
				return r.End
			}
		}
		if err := conntrack.List(ctx, w.Router, func(conntrack.Conn) {}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOlderConnectionIsFound(t *testing.T) {
	w := tracktest.New(t)
	w.Serve(t)
	if err := conntrack.Prepare(w.Router); errors.Is(err, errors.ErrUnsupported) { // as an instance before did
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	c := w.Dial(t, netip.AddrPortFrom(tracktest.ServerAddr, tracktest.ServerPort), 5*time.Second)
	if c == nil {
		t.Fatal("no answer")
	}
	l := newLog(t)
	_, s := l.Subscribe(flowlog.Query{}, 100)
	defer s.Close()
	run(t, w, l, nil)
	if r := next(t, s); !r.Earlier || r.Destination.String() != "shop/server" {
		t.Errorf("found %+v", r)
	}
	c.Close()
	if r := next(t, s); r.End == nil || r.End.Unseen {
		t.Errorf("its end is %+v", r.End)
	}
}

func TestCountersAreRead(t *testing.T) {
	l := newLog(t)
	w := tracktest.World{Router: netnstest.New(t)}
	c := &counters{}
	run(t, w, l, c)
	deadline := time.Now().Add(20 * time.Second)
	for c.asked.Load() < 4 { // the fourth reading began: the third is counted
		if time.Now().After(deadline) {
			t.Fatal("nobody reads the counters")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if drops := l.Totals().Drops; len(drops) != 1 || drops[0].Packets < 3000 {
		t.Errorf("drops %+v", drops)
	}
}
