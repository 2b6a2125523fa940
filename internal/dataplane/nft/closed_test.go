//go:build linux

package nft

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var podRanges = []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("fd00:1::/64")}

// without takes a pod out of a ruleset, as if nobody knew it.
func withoutPod(r *ruleset.Ruleset, h dataplanetest.Host) *ruleset.Ruleset {
	for _, a := range h {
		delete(r.Locals, a)
		delete(r.Addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	return r
}

// An unknown pod neither sends nor is reached, but by its node, whoever is at the other end and whatever the packet is.
func TestUnknownPodsAreClosed(t *testing.T) {
	for _, bridged := range []bool{false, true} {
		l := newLab(t, bridged)
		l.opts.Closed = podRanges
		d := l.open()
		defer d.Close()
		l.must(d.Replace(t.Context(), withoutPod(l.rules(``), podC)))
		c, a, o := l.hosts[podC], l.hosts[podA], l.hosts[outside]
		for v := range 2 {
			l.drops("closed", c, a, udpPacket(podC[v], podA[v], 9, 0), tcpPacket(podC[v], podA[v], 1, 80, 2))
			l.drops("closed", c, o, udpPacket(podC[v], outside[v], 9, 0))
			l.drops("closed", c, l.node, udpPacket(podC[v], node[v], 9, 0))
			l.drops("closed", a, c, udpPacket(podA[v], podC[v], 9, 0))
			l.drops("closed", o, c, udpPacket(outside[v], podC[v], 9, 0))
			l.drops("closed", o, c, tcpPacket(outside[v], podC[v], 1, 80, 0)) // fits no connection
			l.lets(a, o, udpPacket(podA[v], outside[v], 9, 0))
		}
		for _, t := range tcp(node, podC, 80) {
			l.reaches(node, t)
		}
		// Once it is known it is open, and once it is forgotten its connections are cut.
		l.must(d.Apply(t.Context(), ruleset.Diff(mustRealize(t, d), l.rules(``))))
		open := l.reaches(podA, tcp(podA, podC, 80)[0])
		l.must(d.Apply(t.Context(), ruleset.Diff(mustRealize(t, d), withoutPod(l.rules(``), podC))))
		before := l.counted(netfilter.Inet, "closed")
		open.conn.Write(open.message())
		l.wait(func() bool { return l.counted(netfilter.Inet, "closed") > before }, "the connection is cut")
	}
}

// The node's own address may be in the range of its pods: it is no pod.
func TestTheNodeIsNoUnknownPod(t *testing.T) {
	l := newLab(t, false)
	l.opts.Closed = append(slices.Clone(podRanges), addresses32(dataplanetest.Node)...)
	d := l.open()
	defer d.Close()
	l.must(d.Replace(t.Context(), l.rules(``)))
	for _, to := range []dataplanetest.Host{node, podA, outside} {
		for _, t := range tcp(node, to, 80) {
			l.reaches(node, t)
		}
	}
	for _, t := range tcp(podA, node, 80) {
		l.reaches(podA, t)
	}
}

// An address that is given to another pod is of no use to it before it is known: not by what the pod that had it was
// allowed, nor by that pod's connections. Nobody has to be there to notice.
func TestAReusedAddressInheritsNothing(t *testing.T) {
	for _, bridged := range []bool{false, true} {
		l := newLab(t, bridged)
		l.opts.Closed = podRanges
		l.enforce(``)
		family, chain := byte(netfilter.Inet), "closed"
		if bridged {
			family, chain = netfilter.Bridge, "moved"
		}
		var conns []*conn
		for _, t := range both(flow.UDP, podA, podC, 80) {
			conns = append(conns, l.reaches(podA, t))
		}
		l.move(podC, podB)
		for v := range 2 {
			b := l.hosts[podB]
			l.dropsIn(family, chain, l.hosts[outside], b, udpPacket(outside[v], podC[v], 9, 0))
			before := l.counted(family, chain)
			conns[v].conn.Write(conns[v].message())
			l.wait(func() bool { return l.counted(family, chain) > before }, "a packet of the old connection is dropped")
			from := byte(netfilter.Inet)
			if bridged {
				from = netfilter.Bridge
			}
			l.dropsIn(from, "from_pod", b, l.hosts[outside], udpPacket(podC[v], outside[v], 9, 0))
		}
	}
}

// move gives one host's addresses to another.
func (l *lab) move(from, to dataplanetest.Host) {
	l.t.Helper()
	h := netnstest.Links(l.t, l.node.ns)
	old, err := h.LinkByName(l.hosts[from].port)
	l.must(err)
	l.must(h.LinkDel(old))
	netnstest.Up(l.t, l.hosts[to].ns, "eth0", addresses32(from)...)
	link, err := h.LinkByName(l.hosts[to].port)
	l.must(err)
	if l.bridged { // as if the node had been told by the new one, whose false claims are dropped
		bridge, err := h.LinkByName(bridgeName)
		l.must(err)
		eth, err := netnstest.Links(l.t, l.hosts[to].ns).LinkByName("eth0")
		l.must(err)
		for _, a := range from {
			l.must(h.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(),
				HardwareAddr: eth.Attrs().HardwareAddr}))
		}
		return
	}
	for v := range from {
		l.must(h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: netnstest.IPNet(addresses32(from)[v])}))
	}
}

func TestEnsureClosed(t *testing.T) {
	d, s := bare(t)
	d.opts.Closed = podRanges[:1]
	if err := d.CheckClosed(t.Context()); err == nil {
		t.Error("without a table, all is said to be closed")
	}
	for i, want := range []bool{false, true} {
		if was, err := d.EnsureClosed(t.Context()); was != want || err != nil {
			t.Fatalf("attempt %d: the table was there: %v, %v", i+1, was, err)
		}
	}
	other, err := New(Options{NetNS: s.ns.FD(), Closed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/15"), podRanges[1]}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if was, err := other.EnsureClosed(t.Context()); !was || err != nil {
		t.Errorf("closing more: %v, %v", was, err)
	}
	for _, x := range []*Dataplane{d, other} {
		if err := x.CheckClosed(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// Who drives the table notices, and puts in force what it was told.
	if _, err := d.Realized(t.Context()); !errors.Is(err, dataplane.ErrDrift) {
		t.Errorf("what was added is no drift, but %v", err)
	}
	replace(t, d, parseRuleset(t, small))
	if err := other.CheckClosed(t.Context()); err == nil {
		t.Error("Replace left what was added")
	}
	if was, err := d.EnsureClosed(t.Context()); !was || err != nil {
		t.Errorf("beside a ruleset: %v, %v", was, err)
	}
	if got := mustRealize(t, d); !got.Equal(parseRuleset(t, small).Stripped()) {
		t.Errorf("the ruleset is now\n%s", got)
	}
}

func TestSetClosedTakesEffectWithTheNextChange(t *testing.T) {
	d, _ := bare(t)
	r := parseRuleset(t, small)
	replace(t, d, r)
	d.SetClosed(podRanges)
	if err := d.Apply(t.Context(), ruleset.Delta{From: r.Generation, To: r.Generation}); !errors.Is(err, dataplane.ErrDrift) {
		t.Fatalf("Apply says %v, want drift", err)
	}
	replace(t, d, r)
	if err := d.CheckClosed(t.Context()); err != nil {
		t.Error(err)
	}
	d.SetClosed(podRanges)
	if err := d.Apply(t.Context(), ruleset.Delta{From: r.Generation, To: r.Generation}); err != nil {
		t.Errorf("setting the same again is a change: %v", err)
	}
}

func TestUncovered(t *testing.T) {
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	have := []addressRange{{first: a("10.0.0.4"), last: a("10.0.0.5")}, {first: a("10.0.0.8"), last: a("10.0.0.9")}}
	for text, want := range map[string][]addressRange{
		"10.0.0.0/29":   {{first: a("10.0.0.0"), last: a("10.0.0.3")}, {first: a("10.0.0.6"), last: a("10.0.0.7")}},
		"10.0.0.4/31":   nil,
		"10.0.0.8/30":   {{first: a("10.0.0.10"), last: a("10.0.0.11")}},
		"10.0.0.128/32": {{first: a("10.0.0.128"), last: a("10.0.0.128")}},
	} {
		p := netip.MustParsePrefix(text)
		if got := uncovered(addressRange{first: p.Addr(), last: lastAddress(p)}, have); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	everything := addressRange{first: a("0.0.0.0"), last: a("255.255.255.255")}
	if got := uncovered(everything, []addressRange{everything}); len(got) != 0 {
		t.Errorf("all of all: %v", got)
	}
}
