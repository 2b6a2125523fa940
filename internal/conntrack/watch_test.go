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

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/conntrack"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// The world of these tests: a client and a server, each behind a router that tracks, translates service:80 to
// server:8080, and denies the server's port 9.
var (
	clientAddr  = netip.MustParseAddr("10.1.0.2")
	serverAddr  = netip.MustParseAddr("10.2.0.2")
	serviceAddr = netip.MustParseAddr("10.96.0.1")
)

const (
	servicePort = 80
	serverPort  = 8080
	deniedPort  = 9
)

type world struct{ router, client, server *netns.NS }

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("no right to make network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{newNS(t), newNS(t), newNS(t)}
	must(t, w.router.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
	plug(t, w.router, w.client, "c", clientAddr)
	plug(t, w.router, w.server, "s", serverAddr)
	rules(t, w.router)
	if err := conntrack.Prepare(w.router); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else {
		must(t, err)
	}
	return w
}

// plug joins a host to the router; the router's address is the host's with .1 at its end.
func plug(t *testing.T, router, host *netns.NS, name string, addr netip.Addr) {
	t.Helper()
	gateway := netip.AddrFrom4([4]byte{addr.As4()[0], addr.As4()[1], addr.As4()[2], 1})
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(router.FD()), unix.NETLINK_ROUTE)
	must(t, err)
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(host.FD())}))
	up(t, h, name, gateway)
	inside, err := netlink.NewHandleAt(vishnetns.NsHandle(host.FD()), unix.NETLINK_ROUTE)
	must(t, err)
	defer inside.Close()
	up(t, inside, "eth0", addr)
	must(t, inside.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}))
}

func up(t *testing.T, h *netlink.Handle, name string, addr netip.Addr) {
	t.Helper()
	link, err := h.LinkByName(name)
	must(t, err)
	must(t, h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}))
	must(t, h.LinkSetUp(link))
}

// rules make the router track and translate.
func rules(t *testing.T, ns *netns.NS) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	must(t, err)
	table := c.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyIPv4})
	nat := c.AddChain(&nftables.Chain{Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: append(toPort(servicePort),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: serviceAddr.AsSlice()},
		&expr.Immediate{Register: 1, Data: serverAddr.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(serverPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2})})
	filter := c.AddChain(&nftables.Chain{Name: "filter", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: filter, Exprs: append(toPort(deniedPort), &expr.Verdict{Kind: expr.VerdictDrop})})
	must(t, c.Flush())
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers ten bytes to everybody and hangs up.
func (w world) serve(t *testing.T) {
	t.Helper()
	var l net.Listener
	must(t, w.server.Do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(serverAddr, serverPort).String())
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("0123456789"))
			_ = c.(*net.TCPConn).SetLinger(0) // a reset ends the tracking soon
			buf := make([]byte, 1)
			_, _ = c.Read(buf)
			c.Close()
		}
	}()
}

// dial opens a connection from the client; nil if nothing answers in the time given.
func (w world) dial(t *testing.T, to netip.AddrPort, wait time.Duration) net.Conn {
	t.Helper()
	var c net.Conn
	err := w.client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", to.String(), wait)
		return err
	})
	if err != nil {
		return nil
	}
	return c
}

// watch collects events until the test ends.
func (w world) watch(t *testing.T, o conntrack.Options) <-chan conntrack.Event {
	t.Helper()
	watcher, err := conntrack.Open(w.router, o)
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
	must(t, w.router.Do(func() error { // the end of a reset connection is told when it is forgotten
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", []byte("1"), 0)
	}))
	events := w.watch(t, conntrack.Options{})
	w.serve(t)
	before := time.Now()
	c := w.dial(t, netip.AddrPortFrom(serviceAddr, servicePort), 5*time.Second)
	if c == nil {
		t.Fatal("the service does not answer")
	}
	begin := await(t, events, conntrack.New)
	want := flow.Tuple{Source: clientAddr, Destination: serverAddr, Protocol: flow.TCP, Port: serverPort, Translated: true}
	if begin.Conn.Tuple() != want {
		t.Errorf("tuple %s, want %s", begin.Conn.Tuple(), want)
	}
	if asked, other := begin.Conn.Asked(); !other || asked != netip.AddrPortFrom(serviceAddr, servicePort) {
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
				_ = conntrack.List(ctx, w.router, func(conntrack.Conn) {})
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
	w.serve(t)
	c := w.dial(t, netip.AddrPortFrom(serviceAddr, servicePort), 5*time.Second)
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
	lookup, err := conntrack.OpenLookup(w.router)
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
	w.serve(t)
	if w.dial(t, netip.AddrPortFrom(serverAddr, deniedPort), 200*time.Millisecond) != nil {
		t.Fatal("the denied port answers")
	}
	if w.dial(t, netip.AddrPortFrom(serverAddr, serverPort), 5*time.Second) == nil {
		t.Fatal("the allowed port does not answer")
	}
	if e := await(t, events, conntrack.New); e.Conn.Port() != serverPort {
		t.Errorf("first event is %s", e.Conn.Tuple())
	}
}

func TestUpdatesTellOfTheFirstAnswer(t *testing.T) {
	w := newWorld(t)
	events := w.watch(t, conntrack.Options{Updates: true})
	w.serve(t)
	if w.dial(t, netip.AddrPortFrom(serverAddr, serverPort), 5*time.Second) == nil {
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
	w.serve(t)
	c := w.dial(t, netip.AddrPortFrom(serverAddr, serverPort), 5*time.Second)
	if c == nil {
		t.Fatal("no answer")
	}
	defer c.Close()
	var found []conntrack.Conn
	must(t, conntrack.List(t.Context(), w.router, func(c conntrack.Conn) { found = append(found, c) }))
	if len(found) != 1 || found[0].Server() != serverAddr || found[0].Start.IsZero() || found[0].Sent.Bytes == 0 {
		t.Errorf("listed %+v", found)
	}
}

func TestListOfNothing(t *testing.T) {
	if err := conntrack.List(t.Context(), newNS(t), func(c conntrack.Conn) { t.Errorf("listed %+v", c) }); err != nil {
		t.Error(err)
	}
}

// TestLossIsTold: events that nobody reads in time are dropped by the kernel, and the watcher says so and goes on.
func TestLossIsTold(t *testing.T) {
	w := newWorld(t)
	watcher, err := conntrack.Open(w.router, conntrack.Options{})
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
	if err := w.client.Do(func() error {
		for i := range n {
			c, err := net.Dial("udp4", netip.AddrPortFrom(serverAddr, uint16(1000+i)).String())
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
