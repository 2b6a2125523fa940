//go:build linux

package names_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ringfence-project/ringfence/internal/names"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
)

// newNS is a namespace whose loopback is up. With loopback alone, the C library would not even ask for addresses.
func newNS(t *testing.T) *netns.NS {
	t.Helper()
	ns := netnstest.New(t)
	netnstest.Up(t, ns, "lo", netip.MustParsePrefix("192.0.2.1/32"))
	return ns
}

// listen opens both sockets on one port of loopback.
func listen(t *testing.T, ns *netns.NS) (packets net.PacketConn, streams net.Listener) {
	t.Helper()
	err := ns.Do(func() (err error) {
		if packets, err = net.ListenPacket("udp", "127.0.0.1:0"); err == nil {
			streams, err = net.Listen("tcp", packets.LocalAddr().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return packets, streams
}

// serve runs a server until the test ends, and returns its address.
func serve(t *testing.T, ns *netns.NS, s *names.Server) string {
	t.Helper()
	packets, streams := listen(t, ns)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, packets, streams) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Serve did not end with its context")
		}
	})
	return packets.LocalAddr().String()
}

// dialIn dials from a namespace.
func dialIn(ns *netns.NS) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = ns.Do(func() (err error) {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, address)
			return err
		})
		return c, err
	}
}

// resolver is Go's own, which asks address in place of what the machine says.
func resolver(ns *netns.NS, address string) *net.Resolver {
	dial := dialIn(ns)
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) { return dial(ctx, network, address) }}
}

func TestRealResolver(t *testing.T) {
	ns := newNS(t)
	s := names.NewServer(zone(t), names.Upstreams{})
	address := serve(t, ns, s)
	r, ctx := resolver(ns, address), context.Background()
	if got, err := r.LookupHost(ctx, "web.shop.svc.cluster.local."); err != nil || !slices.Contains(got, "10.96.0.5") || !slices.Contains(got, "fd00:96::5") {
		t.Errorf("host: %v, %v", got, err)
	}
	if _, srv, err := r.LookupSRV(ctx, "http", "tcp", "db.shop.svc.cluster.local."); err != nil || len(srv) != 2 || srv[0].Port != 8080 {
		t.Errorf("SRV: %v, %v", srv, err)
	}
	if got, err := r.LookupAddr(ctx, "10.0.0.20"); err != nil || len(got) != 1 || got[0] != "db-0.db.shop.svc.cluster.local." {
		t.Errorf("address: %v, %v", got, err)
	}
	var lookup *net.DNSError
	if _, err := r.LookupHost(ctx, "gone.shop.svc.cluster.local."); !errors.As(err, &lookup) || !lookup.IsNotFound {
		t.Errorf("a name that is not: %v, want not found", err)
	}
	s.Swap(manyPods(t, 500)) // too many for a datagram: the resolver comes back over TCP
	if got, err := r.LookupHost(ctx, "db.shop.svc.cluster.local."); err != nil || len(got) != 500 {
		t.Errorf("500 pods: %d addresses, %v", len(got), err)
	}
}

// upstream serves one name, slowly if asked to, and counts what it was asked.
func upstream(t *testing.T, ns *netns.NS, answer dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	packets, streams := listen(t, ns)
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: answer}, {Listener: streams, Handler: answer}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe()
		<-started
		t.Cleanup(func() { server.Shutdown() })
	}
	return netip.MustParseAddrPort(packets.LocalAddr().String())
}

func example(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	switch name := q.Question[0].Name; {
	case dns.CanonicalName(name) == "db.example.com.":
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 9)}}
	case dns.CanonicalName(name) == "big.example.com.":
		for i := range 200 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, byte(i))})
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(512)
		}
	default:
		m.Rcode = dns.RcodeNameError
	}
	w.WriteMsg(m)
}

func TestUpstreams(t *testing.T) {
	ns := newNS(t)
	good := upstream(t, ns, example)
	bad := upstream(t, ns, func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)) })
	liar := upstream(t, ns, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Question[0].Name = "other.example.com."
		w.WriteMsg(m)
	})
	nobody := netip.MustParseAddrPort("127.0.0.1:1")
	with := func(servers ...netip.AddrPort) *names.Server {
		return names.NewServer(zone(t), names.Upstreams{Servers: servers, Dial: dialIn(ns)})
	}
	s := with(nobody, bad, liar, good)
	for _, c := range []struct{ name, want string }{
		{"db.example.com.", "192.0.2.9"},
		{"outside.shop.svc.cluster.local.", "192.0.2.9, db.example.com."},
		{"gone.example.com.", "NXDOMAIN"},
		{"gone.shop.svc.cluster.local.", "NXDOMAIN, " + soa},
	} {
		if got := ask(s, c.name, "A"); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	m := s.Answer(context.Background(), new(dns.Msg).SetQuestion("big.example.com.", dns.TypeA), true)
	if len(m.Answer) != 200 || m.Authoritative || !m.RecursionAvailable {
		t.Errorf("a long answer: %d records, want 200 that are not ours", len(m.Answer))
	}
	if got := ask(with(nobody, bad, liar), "db.example.com.", "A"); got != "SERVFAIL" {
		t.Errorf("no upstream that answers: %s, want SERVFAIL", got)
	}
	q := new(dns.Msg).SetQuestion("db.example.com.", dns.TypeA)
	q.RecursionDesired = false
	if got := text(s.Answer(context.Background(), q, true)); got != "REFUSED" {
		t.Errorf("not asked to ask others: %s, want REFUSED", got)
	}
}

// TestWaitingIsBounded: an upstream that does not answer holds so many questions, and no more; the cluster's own names
// are answered meanwhile.
func TestWaitingIsBounded(t *testing.T) {
	ns := newNS(t)
	release := make(chan struct{})
	var asked atomic.Int32
	slow := upstream(t, ns, func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		<-release
		example(w, q)
	})
	s := names.NewServer(zone(t), names.Upstreams{Servers: []netip.AddrPort{slow}, Dial: dialIn(ns)})
	var group sync.WaitGroup
	var refused atomic.Int32
	const bound, n = 256, 300
	full := make(chan struct{})
	for range n {
		group.Go(func() {
			if ask(s, "db.example.com.", "A") == "SERVFAIL" && refused.Add(1) == n-bound {
				close(full)
			}
		})
	}
	<-full // the first of those that wait give up only after two seconds
	if got := ask(s, "web.shop.svc.cluster.local.", "A"); got != "10.96.0.5" {
		t.Errorf("meanwhile: %s", got)
	}
	close(release)
	group.Wait()
	if int(asked.Load()) > bound {
		t.Errorf("the upstream was asked %d questions at once, want at most %d", asked.Load(), bound)
	}
}

// TestSwapWhileServing: every answer is of one zone or the other, never of half of one. Run with -race.
func TestSwapWhileServing(t *testing.T) {
	ns := newNS(t)
	one, other := zone(t), manyPods(t, 3)
	s := names.NewServer(one, names.Upstreams{})
	client := &dns.Client{Timeout: 5 * time.Second}
	address := serve(t, ns, s)
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.Swap(other)
				s.Swap(one)
			}
		}
	})
	conn, err := dialIn(ns)(context.Background(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 200 {
		m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA), &dns.Conn{Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(m.Answer); got != 2 && got != 3 {
			t.Fatal(fmt.Errorf("%d addresses, want 2 or 3", got))
		}
	}
	close(stop)
	group.Wait()
}
