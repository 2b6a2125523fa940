//go:build linux

package nft

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var (
	v4a, v4b = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	v6a, v6b = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

// ports is the start of a transport's header: from 1000 to 80.
var ports = []byte{0x03, 0xe8, 0, 80, 0, 0, 0, 0}

func TestParsePacket(t *testing.T) {
	ip4 := func(p flow.Protocol, body ...byte) []byte { return ipPacket(v4a, v4b, p, 0, 64, body) }
	ip6 := func(p flow.Protocol, body ...byte) []byte { return ipPacket(v6a, v6b, p, 0, 64, body) }
	to := func(v int, p flow.Protocol, port uint16) flow.Tuple {
		return flow.Tuple{Source: []netip.Addr{v4a, v6a}[v], Destination: []netip.Addr{v4b, v6b}[v], Protocol: p, Port: port}
	}
	laterFragment := ip4(flow.UDP, ports...)
	binary.BigEndian.PutUint16(laterFragment[6:], 185)
	options := slices.Insert(ip4(flow.TCP, ports...), 20, 1, 1, 1, 1)
	options[0] = 0x46
	tests := map[string]struct {
		packet []byte
		want   flow.Tuple
	}{
		"tcp":                    {ip4(flow.TCP, ports...), to(0, flow.TCP, 80)},
		"options":                {options, to(0, flow.TCP, 80)},
		"sctp":                   {ip4(flow.SCTP, ports...), to(0, flow.SCTP, 80)},
		"icmp":                   {ip4(flow.ICMP, 8, 0, 0, 80), to(0, flow.ICMP, 0)},
		"gre":                    {ip4(47, ports...), to(0, 47, 0)},
		"later fragment":         {laterFragment, to(0, flow.UDP, 0)},
		"cut before ports":       {ip4(flow.TCP, ports[:3]...), to(0, flow.TCP, 0)},
		"cut in options":         {options[:22], to(0, flow.TCP, 0)},
		"udp6":                   {ip6(flow.UDP, ports...), to(1, flow.UDP, 80)},
		"icmp6":                  {ip6(flow.ICMPv6, 128, 0, 0, 80), to(1, flow.ICMPv6, 0)},
		"extensions":             {ip6(hopByHop, slices.Concat([]byte{destOptions, 0, 0, 0, 0, 0, 0, 0}, []byte{routing, 1}, make([]byte, 14), []byte{6, 0, 0, 0, 0, 0, 0, 0}, ports)...), to(1, flow.TCP, 80)},
		"authentication":         {ip6(authHeader, slices.Concat([]byte{17, 4}, make([]byte, 22), ports)...), to(1, flow.UDP, 80)},
		"first fragment6":        {ip6(fragment, slices.Concat([]byte{17, 0, 0, 1, 0, 0, 0, 9}, ports)...), to(1, flow.UDP, 80)},
		"later fragment6":        {ip6(fragment, slices.Concat([]byte{17, 0, 0, 8, 0, 0, 0, 9}, ports)...), to(1, flow.UDP, 0)},
		"extension that is long": {ip6(hopByHop, 6, 255, 0, 0), to(1, hopByHop, 0)},
		"nothing behind":         {ip6(destOptions), to(1, destOptions, 0)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, ok := parsePacket(test.packet)
			if got := p.tuple(false); !ok || got != test.want {
				t.Errorf("parsed as %s (%t), want %s", got, ok, test.want)
			}
		})
	}
	for _, bad := range [][]byte{nil, {0x45}, {0x60, 0}, ip4(flow.TCP)[:19], ip6(flow.TCP)[:39], {0x44, 19: 0}, make([]byte, 60)} {
		if p, ok := parsePacket(bad); ok {
			t.Errorf("%x was parsed as %s", bad, p.tuple(false))
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(ipPacket(v4a, v4b, flow.TCP, 0, 64, ports))
	f.Add(ipPacket(v6a, v6b, hopByHop, 0, 64, append([]byte{6, 0, 0, 0, 0, 0, 0, 0}, ports...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parsePacket(b)
		if !ok {
			return
		}
		there, back := p.tuple(false), p.tuple(true)
		if there.Source != back.Destination || there.Destination != back.Source || there.Protocol != back.Protocol {
			t.Errorf("%s is not the other direction of %s", back, there)
		}
		if !there.Source.IsValid() || there.Source.Is4() != there.Destination.Is4() {
			t.Errorf("%s is no tuple", there)
		}
		// A packet that is cut short says less, never something else.
		for n := range b {
			if q, ok := parsePacket(b[:n]); ok && (q.source != p.source || q.destination != p.destination) {
				t.Fatalf("the first %d bytes have other addresses", n)
			}
		}
	})
}

func FuzzParseDenial(f *testing.F) {
	f.Add("rf:3:17:o", ipPacket(v4a, v4b, flow.TCP, 0, 64, ports))
	f.Add("rf:3:17:r", ipPacket(v6a, v6b, flow.UDP, 0, 64, ports))
	f.Add("rf:-3:0:x", []byte{})
	f.Fuzz(func(t *testing.T, prefix string, payload []byte) {
		datagram := netfilter.Attrs(nil).Text(nfulaPrefix, prefix[:min(len(prefix), 127)]).Bytes(nfulaPayload, payload[:min(len(payload), copyBytes)])
		d, ok := parseDenial(netfilter.Parse(datagram))
		if ok && (d.Row == 0 || d.Row >= ruleset.RowBase || !d.Tuple.Source.IsValid()) {
			t.Errorf("%q gave %+v", prefix, d)
		}
		for n := range datagram {
			netfilter.Parse(datagram[:n])
		}
	})
}

func TestParseDenial(t *testing.T) {
	packet := ipPacket(v4a, v4b, flow.TCP, 0, 64, ports)
	for prefix, want := range map[string]flow.Tuple{
		"rf:3:17:o": {Source: v4a, Destination: v4b, Protocol: flow.TCP, Port: 80},
		"rf:3:17:r": {Source: v4b, Destination: v4a, Protocol: flow.TCP, Port: 1000},
	} {
		d, ok := parseDenial(netfilter.Parse(netfilter.Attrs(nil).Text(nfulaPrefix, prefix).Bytes(nfulaPayload, packet)))
		if !ok || d.Generation != 3 || d.Row != 17 || d.Tuple != want {
			t.Errorf("%s: %+v, want %s", prefix, d, want)
		}
	}
	for _, prefix := range []string{"", "DROP", "rf:3", "rf:3:4294967296:o", "rf:3:17"} {
		if d, ok := parseDenial(netfilter.Parse(netfilter.Attrs(nil).Text(nfulaPrefix, prefix).Bytes(nfulaPayload, packet))); ok {
			t.Errorf("%q was read as %+v", prefix, d)
		}
	}
}

func TestGapsInTheLogAreCounted(t *testing.T) {
	l := &denialLog{}
	var lost []int
	for _, n := range []uint32{7, 8, 12, 13, 0xffffffff, 0, 2} {
		lost = append(lost, l.gap(binary.BigEndian.AppendUint32(nil, n)))
	}
	if want := []int{0, 0, 3, 0, 0xffffffff - 14, 0, 1}; !slices.Equal(lost, want) {
		t.Errorf("lost %v, want %v", lost, want)
	}
}

// Watch reports what the kernel had no room for.
func TestLostDenialsAreReported(t *testing.T) {
	l := newLab(t, false)
	d := l.enforce(denyB)
	if err := d.denials.socket.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	const sent = 200
	for i := range sent {
		l.inject(l.hosts[podC], udpPacket(podC[0], podB[0], uint16(i+1), 0))
	}
	l.wait(func() bool { return l.counted(netfilter.Inet, "row_1") == sent }, "%d packets are dropped", sent)
	if err := d.denials.socket.SetReadBuffer(64 << 20); err != nil {
		t.Fatal(err)
	}
	events := make(chan dataplane.Event, 2*sent)
	defer watchAll(t, d, events)()
	// A log that overran takes nothing until it is empty; the number of the first packet after that tells of all that
	// were lost before it.
	seen, lost, last := 0, 0, sent
	for start := time.Now(); ; {
		select {
		case e := <-events:
			lost += e.Lost
			if e.Denial == nil {
				continue
			}
			if seen++; e.Denial.Tuple.Port <= sent {
				continue
			}
			if n := int(e.Denial.Tuple.Port); lost == 0 || seen+lost != n {
				t.Errorf("%d seen and %d lost of %d", seen, lost, n)
			}
			return
		case <-time.After(20 * time.Millisecond):
			last++
			l.inject(l.hosts[podC], udpPacket(podC[0], podB[0], uint16(last), 0))
		}
		if time.Since(start) > patience {
			t.Fatalf("no event after %d seen and %d lost", seen, lost)
		}
	}
}

func TestFlatten(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		r := randomRuleset(random)
		for v, first := range []netip.Addr{netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("fd00::")} {
			ranges := flatten(r.Addresses, v)
			for i, x := range ranges {
				if x.last.Less(x.first) || i > 0 && !ranges[i-1].last.Less(x.first) {
					t.Fatalf("%v is not in order", ranges)
				}
			}
			for p := range r.Addresses {
				if p.IsSingleIP() {
					delete(r.Addresses, p) // they have another map
				}
			}
			for _, a := range around(first) {
				if got, want := inRanges(ranges, a), r.IdentityOf(a); got != want {
					t.Fatalf("%s has identity %d in %v, want %d of %v", a, got, ranges, want, r.Addresses)
				}
			}
		}
	}
}

func around(first netip.Addr) []netip.Addr {
	list := []netip.Addr{first.Prev(), netip.IPv6Unspecified(), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}
	if first.Is4() {
		list = []netip.Addr{first.Prev(), netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255")}
	}
	for range 40 {
		list, first = append(list, first), first.Next()
	}
	return list
}

func inRanges(ranges []addressRange, a netip.Addr) ruleset.Identity {
	for _, r := range ranges {
		if a.Compare(r.first) >= 0 && a.Compare(r.last) <= 0 {
			return r.identity
		}
	}
	return 0
}
