//go:build linux

package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Each test here holds one way past a fence of this kind that was found by trying. It fails if the rule against it
// is taken out.

var (
	podA, podB, podC, outside, node = dataplanetest.A, dataplanetest.B, dataplanetest.C, dataplanetest.Outside, dataplanetest.Node
)

const denyB = `
subject ingress 102
  default row 1
row 1
  else deny
`

func TestTypeOfServiceIsNoIdentity(t *testing.T) {
	l := newLab(t, false)
	// Were the scratch not cleared, its first value would be the packet's priority, which is a small number that its
	// type of service says: an identity of a peer that is allowed, or of a subject that is denied.
	r := l.rules(denyB + `
subject egress 0
  default row 3
row 2
  else allow
row 3
  else deny
`)
	for id := ruleset.Identity(1); id < 16; id++ {
		r.Pairs[ruleset.Pair{Subject: ruleset.Subject{Direction: flow.Ingress, Identity: 102}, Peer: id}] = 2
		r.Defaults[ruleset.Subject{Direction: flow.Egress, Identity: id}] = 3
	}
	d := l.open()
	defer d.Close()
	l.must(d.Replace(t.Context(), r))
	for v := range 2 {
		var toB, toA [][]byte
		for tos := range 256 {
			toB = append(toB, udpPacket(outside[v], podB[v], 80, byte(tos)))
			toA = append(toA, udpPacket(outside[v], podA[v], 9, byte(tos)))
		}
		l.drops("row_1", l.hosts[outside], l.hosts[podB], toB...)
		l.lets(l.hosts[outside], l.hosts[podA], toA...)
	}
}

func TestPacketsThatFitNoConnection(t *testing.T) {
	l := newLab(t, false)
	l.enforce(denyB)
	from, to := l.hosts[podC], l.hosts[podB]
	const fin, rst, psh, ack, urg = 1, 4, 8, 16, 32
	for v := range 2 {
		c, b := podC[v], podB[v]
		l.drops("invalid", from, to, icmpPacket(c, b, [2]byte{0, 129}, 64, 0, 7, 0, 7)) // the reply to no echo
		for _, flags := range []byte{0, fin | psh | urg, rst} {
			l.drops("invalid", from, to, tcpPacket(c, b, 1234, 80, flags))
		}
		l.drops("row_1", from, to, tcpPacket(c, b, 1234, 80, ack)) // tracking picks such a stream up as a new connection
		l.drops("invalid", to, from, tcpPacket(b, c, 80, 4321, rst))
	}
	for v := range 2 { // but what is not a pod's is none of our business
		l.lets(l.hosts[node], l.hosts[outside], tcpPacket(node[v], outside[v], 1234, 80, rst))
	}
}

func TestNeighbourDiscoveryLives(t *testing.T) {
	l := newLab(t, false)
	l.enforce(`
subject ingress 101
  default row 1
subject egress 101
  default row 1
row 1
  else deny
`)
	forget := func() {
		for _, s := range []*station{l.node, l.hosts[podA]} {
			h := netnstest.Links(l.t, s.ns)
			list, err := h.NeighList(0, unix.AF_INET6)
			l.must(err)
			for _, n := range list {
				if err := h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
					t.Fatal(err)
				}
			}
		}
	}
	for range 2 {
		forget()
		c := &conn{lab: l, tuple: flow.Tuple{Source: node[1], Destination: podA[1], Protocol: flow.TCP, Port: 80}, from: l.node}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		l.must(c.Send(ctx))
	}
}

func TestWhatOnlyLooksLikeNeighbourDiscovery(t *testing.T) {
	l := newLab(t, false)
	l.enforce(denyB)
	from, to := l.hosts[podC], l.hosts[podB]
	// Redirects are not valid where they fit nothing; the others are exempt from tracking.
	for kind, chain := range map[byte]string{133: "row_1", 134: "row_1", 135: "row_1", 136: "row_1", 137: "invalid"} {
		l.drops(chain, from, to, icmpPacket(podC[1], podB[1], [2]byte{0, kind}, 255, make([]byte, 20)...))
	}
}

func TestSpoofedSources(t *testing.T) {
	l := newLab(t, false)
	l.enforce(``)
	a := l.hosts[podA]
	for v := range 2 {
		for _, as := range []dataplanetest.Host{podC, node, outside} {
			l.drops("from_pod", a, l.hosts[podB], udpPacket(as[v], podB[v], 80, 0))
			l.drops("from_pod", a, l.node, udpPacket(as[v], node[v], 80, 0))
		}
		l.drops("antispoof", l.hosts[outside], l.hosts[podB], udpPacket(podA[v], podB[v], 80, 0))
		l.lets(a, l.hosts[podB], udpPacket(podA[v], podB[v], 9, 0))
	}
	linkLocal := netip.MustParseAddr("fe80::1234")
	l.drops("from_pod", a, l.node, udpPacket(linkLocal, node[1], 80, 0))
	l.drops("from_pod", a, l.node, udpPacket(netip.IPv6Unspecified(), node[1], 80, 0))
	before := l.counted(netfilter.Inet, "from_pod")
	for _, source := range []netip.Addr{linkLocal, netip.IPv6Unspecified()} {
		l.inject(a, icmpPacket(source, node[1], [2]byte{0, 135}, 255, append(make([]byte, 4), node[1].AsSlice()...)...))
	}
	l.drops("from_pod", a, l.node, udpPacket(linkLocal, node[1], 80, 0)) // sent after the others, and the only one to count
	if n := l.counted(netfilter.Inet, "from_pod") - before; n != 1 {
		t.Errorf("%d packets are counted, want 1: neighbour discovery is not for from_pod to drop", n)
	}
}

func TestFragments(t *testing.T) {
	l := newLab(t, false)
	l.enforce(`
subject ingress 102
  default row 1
row 1
  udp 9 allow
  else deny
`)
	for _, tuple := range append(both(flow.UDP, podA, podB, 9), both(flow.UDP, podA, podB, 81)...) {
		before := l.counted(netfilter.Inet, "row_1")
		c := &conn{lab: l, tuple: tuple, from: l.at(tuple.Source)}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		l.must(c.dial(ctx))
		big := bytes.Repeat(magic, 300) // three fragments
		s := l.sniff(l.at(tuple.Destination))
		if _, err := c.conn.Write(big); err != nil {
			t.Fatal(err)
		}
		if tuple.Port == 9 {
			n := 0
			l.wait(func() bool { n += s.count(); return n >= 3 }, "three fragments to %s arrive", tuple)
		} else {
			l.wait(func() bool { return l.counted(netfilter.Inet, "row_1") > before }, "a fragmented packet to %s is counted", tuple)
			if n := s.count(); n != 0 {
				t.Errorf("%d fragments to %s arrived", n, tuple)
			}
		}
		c.Close()
		cancel()
	}
}

func both(p flow.Protocol, from, to dataplanetest.Host, port uint16) []flow.Tuple {
	return []flow.Tuple{{Source: from[0], Destination: to[0], Protocol: p, Port: port},
		{Source: from[1], Destination: to[1], Protocol: p, Port: port}}
}

// unreachable is the ICMP error that a packet's destination port is closed.
func unreachable(about []byte) []byte {
	from, to := netip.AddrFrom4([4]byte(about[12:16])), netip.AddrFrom4([4]byte(about[16:20]))
	b := icmpPacket(to, from, [2]byte{3, 1}, 64, append([]byte{0, 0, 0, 0}, about...)...)
	b[21] = 3
	b[22], b[23] = 0, 0
	binary.BigEndian.PutUint16(b[22:], checksum(b[20:]))
	return b
}

func TestErrorsAboutConnections(t *testing.T) {
	l := newLab(t, false)
	text := denyB + `
subject egress 102
  default row 1
`
	l.enforce(text)
	b, c := l.hosts[podB], l.hosts[podC]
	request := udpPacket(podC[0], podB[0], 9, 0)
	l.drops("row_1", c, b, request)
	l.drops("invalid", b, c, unreachable(request)) // about no connection at all
	d := l.enforce(`
subject egress 102
  default row 1
row 1
  else deny
`)
	l.lets(c, b, request)
	l.lets(b, c, unreachable(request)) // B may say nothing, but this belongs to what C said
	next := l.rules(text)
	next.Generation = 2
	l.must(d.Apply(t.Context(), ruleset.Diff(mustRealize(t, d), next)))
	l.drops("stale", b, c, unreachable(request))
	for v := range 2 {
		allowed := &conn{lab: l, tuple: flow.Tuple{Source: podA[v], Destination: podC[v], Protocol: flow.UDP, Port: 999}, from: l.hosts[podA]}
		defer allowed.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := allowed.Send(ctx); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want %v", allowed.tuple, err, unix.ECONNREFUSED)
		}
	}
}

func mustRealize(t *testing.T, d *Dataplane) *ruleset.Ruleset {
	t.Helper()
	r, err := d.Realized(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A translated connection is asked for at one address and judged at others.
func TestTranslatedConnections(t *testing.T) {
	service := dataplanetest.Host{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:96::1")}
	for _, masquerade := range []string{"", "masquerade"} {
		t.Run("masquerade="+masquerade, func(t *testing.T) {
			l := newLab(t, false)
			l.nft(`table inet services {
				chain pre { type nat hook prerouting priority dstnat;
					ip daddr 10.96.0.1 tcp dport { 80, 81 } dnat ip to 10.0.1.2
					ip6 daddr fd00:96::1 tcp dport { 80, 81 } dnat ip6 to fd00:1::2
				}
				chain post { type nat hook postrouting priority srcnat; ct status dnat counter ` + masquerade + `
				}
			}`)
			w := watch(t, l.enforce(`
subject ingress 102
  from 101 row 2
  default row 1
row 1
  else deny
row 2
  tcp 80 allow
  else deny
`))
			for v := range 2 {
				l.reaches(podA, tcp(podA, service, 80)[v])
				for _, refused := range []struct {
					from dataplanetest.Host
					port uint16
					row  ruleset.RowID
				}{{podA, 81, 2}, {podC, 80, 1}, {outside, 80, 1}} {
					l.refused(w, refused.row, tcp(refused.from, service, refused.port)[v], tcp(refused.from, podB, refused.port)[v])
				}
			}
		})
	}
}

func TestHairpin(t *testing.T) {
	l := newLab(t, false)
	l.nft(`table ip services {
		chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 80 dnat to 10.0.1.2; }
		chain post { type nat hook postrouting priority srcnat; ip saddr 10.0.1.2 ip daddr 10.0.1.2 masquerade; }
	}`)
	service := flow.Tuple{Source: podB[0], Destination: netip.MustParseAddr("10.96.0.1"), Protocol: flow.TCP, Port: 80}
	itself := flow.Tuple{Source: podB[0], Destination: podB[0], Protocol: flow.TCP, Port: 80}
	d := l.enforce(denyB)
	w := watch(t, d)
	l.refused(w, 1, service, itself)
	next := l.rules(denyB + "row 2\n  tcp 80 allow\n  else deny")
	next.Generation = 2
	next.Pairs[ruleset.Pair{Subject: ruleset.Subject{Direction: flow.Ingress, Identity: 102}, Peer: 102}] = 2
	l.must(d.Apply(t.Context(), ruleset.Diff(mustRealize(t, d), next)))
	l.reaches(podB, service)
}

func tcp(from, to dataplanetest.Host, port uint16) []flow.Tuple {
	return both(flow.TCP, from, to, port)
}

// reaches checks that a connection works.
func (l *lab) reaches(from dataplanetest.Host, t flow.Tuple) *conn {
	l.t.Helper()
	c := &conn{lab: l, tuple: t, from: l.hosts[from]}
	l.t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	if err := c.Send(ctx); err != nil {
		l.t.Fatalf("%s: %v", t, err)
	}
	return c
}

// refused checks that a connection is dropped by a row, and under which addresses.
func (l *lab) refused(w <-chan dataplane.Denial, row ruleset.RowID, t, seen flow.Tuple) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	c := &conn{lab: l, tuple: t, from: l.at(t.Source)}
	sent := make(chan error, 1)
	go func() { sent <- c.Send(ctx) }()
	defer func() { cancel(); <-sent; c.Close() }()
	for {
		select {
		case d := <-w:
			if d.Tuple == seen {
				if d.Row != row {
					l.t.Errorf("%s is dropped by row %d, want %d", t, d.Row, row)
				}
				return
			}
		case err := <-sent:
			sent <- err
			l.t.Fatalf("%s is not dropped: %v", t, err)
		}
	}
}

// watch returns the denials of a dataplane.
func watch(t *testing.T, d *Dataplane) <-chan dataplane.Denial {
	events, denials := make(chan dataplane.Event, 1000), make(chan dataplane.Denial, 1000)
	stop := watchAll(t, d, events)
	go func() {
		for e := range events {
			if e.Denial != nil {
				denials <- *e.Denial
			}
		}
	}()
	t.Cleanup(func() { stop(); close(events) })
	return denials
}

// watchAll sends the events of a dataplane until it is stopped.
func watchAll(t *testing.T, d *Dataplane, events chan<- dataplane.Event) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Watch(ctx, func(e dataplane.Event) { events <- e }) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestTrackingFlushedInTheMiddle(t *testing.T) {
	l := newLab(t, false)
	l.enforce(`
subject ingress 102
  from 101 row 2
  default row 1
subject egress 102
  default row 1
row 1
  else deny
row 2
  tcp 80 allow
  else deny
`)
	for _, tuple := range tcp(podA, podB, 80) {
		c := l.reaches(podA, tuple)
		s, err := netfilter.Dial(l.node.ns.FD())
		l.must(err)
		const deleteConnection = 2 // IPCTNL_MSG_CT_DELETE: all of them if it names none
		_, err = s.Request(unix.NFNL_SUBSYS_CTNETLINK<<8|deleteConnection, unix.AF_UNSPEC, 4, nil)
		l.must(errors.Join(err, s.Close()))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		l.must(c.Send(ctx))
	}
}

func TestConnectionsOlderThanTheTable(t *testing.T) {
	l := newLab(t, false)
	l.nft(`table inet other { chain c { type filter hook forward priority 0; ct state new accept; }; }`)
	a, c := l.reaches(podA, tcp(podA, podB, 80)[0]), l.reaches(podC, tcp(podC, podB, 80)[0])
	d := l.enforce(`
subject ingress 102
  default row 2
row 1
  else deny
row 2
  else allow
`)
	w := watch(t, d)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 3 {
		l.must(errors.Join(a.Send(ctx), c.Send(ctx)))
	}
	now := mustRealize(t, d)
	next := now.Clone()
	next.Generation++
	next.Pairs[ruleset.Pair{Subject: ruleset.Subject{Direction: flow.Ingress, Identity: 102}, Peer: 103}] = 1
	l.must(d.Apply(ctx, ruleset.Diff(now, next)))
	l.must(a.Send(ctx))
	short, stop := context.WithCancel(ctx)
	go func() {
		for d := range w {
			if d.Row == 1 && d.Tuple == c.tuple {
				stop()
				return
			}
		}
	}()
	if err := c.Send(short); err == nil || ctx.Err() != nil {
		t.Errorf("an old connection goes on though it is denied now: %v", err)
	}
}

func TestUntrackedPackets(t *testing.T) {
	l := newLab(t, false)
	l.nft(`table inet other { chain c { type filter hook prerouting priority raw; udp dport { 9, 80, 81 } notrack; udp sport 80 notrack; }; }`)
	l.enforce(`
subject ingress 102
  from 101 row 2
  default row 1
subject egress 103
  default row 3
row 1
  else deny
row 2
  udp 80 allow
  else deny
row 3
  udp 9 allow
  else deny
`)
	for v := range 2 {
		l.reaches(podA, both(flow.UDP, podA, podB, 80)[v])
		l.drops("row_2", l.hosts[podA], l.hosts[podB], udpPacket(podA[v], podB[v], 81, 0))
		l.drops("row_1", l.hosts[outside], l.hosts[podB], udpPacket(outside[v], podB[v], 80, 0))
		l.drops("row_3", l.hosts[podC], l.hosts[podA], udpPacket(podC[v], podA[v], 80, 0))
		l.lets(l.hosts[podC], l.hosts[podA], udpPacket(podC[v], podA[v], 9, 0))
	}
}

func TestBridgeThatHidesItsPackets(t *testing.T) {
	l := newLab(t, true)
	l.must(CheckBridge(l.node.ns.FD()))
	d := l.enforce(denyB)
	for _, s := range bridgeSwitches {
		l.sysctls(l.node.ns, "net/bridge/"+s+"=0")
		if err := CheckBridge(l.node.ns.FD()); !errors.Is(err, dataplane.ErrNotSupported) {
			t.Errorf("with %s off: %v", s, err)
		}
		r := l.rules(denyB)
		if err := d.Replace(t.Context(), r); !errors.Is(err, dataplane.ErrNotSupported) {
			t.Errorf("replace with %s off: %v", s, err)
		}
		if _, err := d.Realized(t.Context()); !errors.Is(err, dataplane.ErrNotSupported) {
			t.Errorf("read back with %s off: %v", s, err)
		}
		l.sysctls(l.node.ns, "net/bridge/"+s+"=1")
	}
}

func TestSpoofingOnABridge(t *testing.T) {
	l := newLab(t, true)
	l.enforce(``)
	a := l.hosts[podA]
	for v := range 2 {
		for _, as := range []dataplanetest.Host{podC, node, outside} {
			l.dropsIn(netfilter.Bridge, "from_pod", a, l.hosts[podB], udpPacket(as[v], podB[v], 80, 0))
		}
		l.lets(a, l.hosts[podB], udpPacket(podA[v], podB[v], 9, 0))
	}
	l.drops("antispoof", l.hosts[outside], l.hosts[podB], udpPacket(podA[0], podB[0], 80, 0))
	s, before := l.sniff(l.hosts[podB]), l.counted(netfilter.Bridge, "from_pod")
	l.frame(a, unix.ETH_P_ARP, arpReply(podC[0], podB[0]))
	l.wait(func() bool { return l.counted(netfilter.Bridge, "from_pod") == before+1 }, "a false ARP reply is counted")
	if s.count() != 0 {
		t.Error("a false ARP reply arrived")
	}
	l.frame(a, unix.ETH_P_ARP, arpReply(podA[0], podB[0]))
	l.wait(func() bool { return s.count() == 1 }, "a true ARP reply arrives")
}

// arpReply says where an address is.
func arpReply(sender, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1}
	b = append(append(b, sender.AsSlice()...), 2, 0, 0, 0, 0, 2)
	return append(append(b, target.AsSlice()...), magic...)
}

// frame broadcasts an Ethernet frame out of a host's interface.
func (l *lab) frame(from *station, kind uint16, body []byte) {
	l.t.Helper()
	link, err := netnstest.Links(l.t, from.ns).LinkByName("eth0")
	l.must(err)
	l.must(from.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, body, 0, &unix.SockaddrLinklayer{Protocol: kind<<8 | kind>>8, Ifindex: link.Attrs().Index,
			Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}})
	}))
}

// What was accepted in one epoch is accepted in no other, however often the epochs come round, and whoever begins them.
func TestNobodyIsLabelledWhenAnEpochBegins(t *testing.T) {
	l := newLab(t, false)
	d := l.enforce(``)
	labelled := func() (n int) {
		list, err := d.conn.Dump(unix.NFNL_SUBSYS_CTNETLINK<<8|ctMessageGet, unix.AF_INET, nil)
		l.must(err)
		for _, m := range list {
			labels := netfilter.Parse(m.Data[netfilter.HeaderLen:])[ctaLabels]
			if len(labels) == labelBytes && bytes.ContainsFunc(and(labels, labelBit(d.state.epoch)), notZero) {
				n++
			}
		}
		return n
	}
	const cycle = lastEpoch - firstEpoch + 1
	for i := range 2*cycle + 5 {
		if l.lets(l.hosts[podA], l.hosts[podB], udpPacket(podA[0], podB[0], 9, 0)); labelled() == 0 {
			t.Fatalf("in epoch %d nobody is labelled, who was accepted", d.state.epoch)
		}
		if i%cycle == 20 {
			l.must(d.Close())
			d = l.open()
		}
		if l.must(d.Replace(t.Context(), l.rules(``))); labelled() != 0 {
			t.Errorf("epoch %d begins, after %d changes, and %d connections have its label", d.state.epoch, i+1, labelled())
		}
	}
	l.must(d.Close())
}
