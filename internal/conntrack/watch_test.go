//go:build linux

package conntrack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/conntrack"
	"github.com/ringfence-project/ringfence/internal/conntrack/tracktest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
)

type world struct{ tracktest.World }

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{tracktest.New(t)}
	if err := conntrack.Prepare(w.Router); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else {
		must(t, err)
	}
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watch collects events until the test ends.
func (w world) watch(t *testing.T, o conntrack.Options) <-chan conntrack.Event {
	t.Helper()
	watcher, err := conntrack.Open(w.Router, o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	events, done := make(chan conntrack.Event, 1000), make(chan error, 1)
	go func() { done <- watcher.Run(ctx, func(e conntrack.Event) { events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		watcher.Close()
	})
	return events
}

func await(t *testing.T, events <-chan conntrack.Event, kind conntrack.Kind) conntrack.Event {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e := <-events:
			if e.Kind == kind {
				return e
			}
		case <-timeout:
			t.Fatalf("no event %q", kind)
		}
	}
}

func TestConnectionThroughAServiceIsSeenFromBeginToEnd(t *testing.T) {
	w := newWorld(t)
	must(t, w.Router.Do(func() error { // the end of a reset connection is told when it is forgotten
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", []byte("1"), 0)
	}))
	events := w.watch(t, conntrack.Options{})
	w.Serve(t)
	before := time.Now()
	c := w.Dial(t, netip.AddrPortFrom(tracktest.ServiceAddr, tracktest.ServicePort), 5*time.Second)
	if c == nil {
		t.Fatal("the service does not answer")
	}
	begin := await(t, events, conntrack.New)
	want := flow.Tuple{Source: tracktest.ClientAddr, Destination: tracktest.ServerAddr, Protocol: flow.TCP, Port: tracktest.ServerPort, Translated: true}
	if begin.Conn.Tuple() != want {
		t.Errorf("tuple %s, want %s", begin.Conn.Tuple(), want)
	}
	if asked, other := begin.Conn.Asked(); !other || asked != netip.AddrPortFrom(tracktest.ServiceAddr, tracktest.ServicePort) {
		t.Errorf("asked for %s, %v", asked, other)
	}
	if begin.Time.Before(before.Add(-time.Second)) || begin.Time.After(time.Now().Add(time.Second)) {
		t.Errorf("begins at %s, which is not now", begin.Time)
	}
	buf := make([]byte, 10)
	if _, err := c.Read(buf); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // the connection has to last for a while to have a duration
	c.Close()
	forgetOverdue(t, w)
	end := await(t, events, conntrack.Ended)
	if end.Conn.Key != begin.Conn.Key {
		t.Errorf("ended as %+v, began as %+v", end.Conn.Key, begin.Conn.Key)
	}
	if end.Conn.Status&conntrack.SeenReply == 0 || end.Conn.Status&conntrack.DestNAT == 0 {
		t.Errorf("status %#x tells no reply or no translation", end.Conn.Status)
	}
	if end.Conn.Received.Bytes < 10 || end.Conn.Sent.Packets < 2 {
		t.Errorf("sent %+v, received %+v", end.Conn.Sent, end.Conn.Received)
	}
	if d := end.Conn.Stop.Sub(end.Conn.Start); d < 100*time.Millisecond || d > 20*time.Second {
		t.Errorf("lasted %s", d)
	}
}

// forgetOverdue makes the kernel look at its connections, which it else does once a minute, until the test ends.
func forgetOverdue(t *testing.T, w world) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = conntrack.List(ctx, w.Router, func(conntrack.Conn) {})
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// TestCloseIsToldAtOnce: the kernel remembers a closed connection for minutes; that it is over is an update, and a
// Lookup tells the bytes.
func TestCloseIsToldAtOnce(t *testing.T) {
	w := newWorld(t)
	events := w.watch(t, conntrack.Options{Updates: true})
	w.Serve(t)
	c := w.Dial(t, netip.AddrPortFrom(tracktest.ServiceAddr, tracktest.ServicePort), 5*time.Second)
	if c == nil {
		t.Fatal("no answer")
	}
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	begun := await(t, events, conntrack.New)
	c.Close()
	over := await(t, events, conntrack.Updated)
	for !over.Conn.Over() {
		over = await(t, events, conntrack.Updated)
	}
	if over.Conn.Key != begun.Conn.Key {
		t.Errorf("%+v is over, %+v began", over.Conn.Key, begun.Conn.Key)
	}
	lookup, err := conntrack.OpenLookup(w.Router)
	must(t, err)
	defer lookup.Close()
	now, found, err := lookup.Get(t.Context(), over.Conn.Key)
	if err != nil || !found || now.Received.Bytes < 10 {
		t.Errorf("got %+v, %v, %v", now, found, err)
	}
	other := over.Conn.Key
	other.ID++
	if _, found, err := lookup.Get(t.Context(), other); found || err != nil {
		t.Errorf("another connection of the same tuple: %v, %v", found, err)
	}
	other.Original.Source.Port++
	if _, found, err := lookup.Get(t.Context(), other); found || err != nil {
		t.Errorf("no such tuple: %v, %v", found, err)
	}
}

func TestDeniedConnectionIsNoConnection(t *testing.T) {
	w := newWorld(t)
	events := w.watch(t, conntrack.Options{})
	w.Serve(t)
	if w.Dial(t, netip.AddrPortFrom(tracktest.ServerAddr, tracktest.DeniedPort), 200*time.Millisecond) != nil {
		t.Fatal("the denied port answers")
	}
	if w.Dial(t, netip.AddrPortFrom(tracktest.ServerAddr, tracktest.ServerPort), 5*time.Second) == nil {
		t.Fatal("the allowed port does not answer")
	}
	if e := await(t, events, conntrack.New); e.Conn.Port() != tracktest.ServerPort {
		t.Errorf("first event is %s", e.Conn.Tuple())
	}
}

func TestUpdatesTellOfTheFirstAnswer(t *testing.T) {
	w := newWorld(t)
	events := w.watch(t, conntrack.Options{Updates: true})
	w.Serve(t)
	if w.Dial(t, netip.AddrPortFrom(tracktest.ServerAddr, tracktest.ServerPort), 5*time.Second) == nil {
		t.Fatal("no answer")
	}
	if e := await(t, events, conntrack.New); e.Conn.Status&conntrack.SeenReply != 0 {
		t.Error("answered before it began")
	}
	for {
		if e := await(t, events, conntrack.Updated); e.Conn.Status&conntrack.SeenReply != 0 {
			return
		}
	}
}

func TestListTellsOfOlderConnections(t *testing.T) {
	w := newWorld(t)
	w.Serve(t)
	c := w.Dial(t, netip.AddrPortFrom(tracktest.ServerAddr, tracktest.ServerPort), 5*time.Second)
	if c == nil {
		t.Fatal("no answer")
	}
	defer c.Close()
	var found []conntrack.Conn
	must(t, conntrack.List(t.Context(), w.Router, func(c conntrack.Conn) { found = append(found, c) }))
	if len(found) != 1 || found[0].Server() != tracktest.ServerAddr || found[0].Start.IsZero() || found[0].Sent.Bytes == 0 {
		t.Errorf("listed %+v", found)
	}
}

func TestListOfNothing(t *testing.T) {
	if err := conntrack.List(t.Context(), netnstest.New(t), func(c conntrack.Conn) { t.Errorf("listed %+v", c) }); err != nil {
		t.Error(err)
	}
}

// TestLossIsTold: events that nobody reads in time are dropped by the kernel, and the watcher says so and goes on.
func TestLossIsTold(t *testing.T) {
	w := newWorld(t)
	watcher, err := conntrack.Open(w.Router, conntrack.Options{})
	must(t, err)
	defer watcher.Close()
	must(t, watcher.Shrink())
	flood(t, w, 200)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lost, after := false, false
	err = watcher.Run(ctx, func(e conntrack.Event) {
		if e.Kind == conntrack.Lost {
			lost = true
			flood(t, w, 1)
		} else if lost && e.Kind == conntrack.New {
			after = true
			cancel()
		}
	})
	if !lost || !after {
		t.Errorf("lost told: %v, events after it: %v (%v)", lost, after, err)
	}
}

// flood begins n connections by datagrams that nobody answers.
func flood(t *testing.T, w world, n int) {
	t.Helper()
	if err := w.Client.Do(func() error {
		for i := range n {
			c, err := net.Dial("udp4", netip.AddrPortFrom(tracktest.ServerAddr, uint16(1000+i)).String())
			if err != nil {
				return err
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			c.Close()
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
