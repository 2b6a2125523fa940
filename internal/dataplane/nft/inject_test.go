//go:build linux

package nft

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// What the tests of this package need to send packets that no honest host sends, and to see where they end.

// patience is how long something may take that should happen at once.
const patience = 10 * time.Second

// magic is in every packet that a test makes.
var magic = []byte("ringfence-test")

// ipPacket puts an IP header before a transport's packet. tos is also IPv6's traffic class.
func ipPacket(from, to netip.Addr, p flow.Protocol, tos, hops byte, body []byte) []byte {
	var b []byte
	if from.Is4() {
		b = []byte{0x45, tos, 0, 0, 0x12, 0x34, 0, 0, hops, byte(p), 0, 0}
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(body)))
		binary.BigEndian.PutUint16(b[10:], checksum(b))
	} else {
		b = []byte{0x60 | tos>>4, tos << 4, 0, 0, 0, 0, byte(p), hops}
		binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	}
	return append(b, body...)
}

// sum puts the transport's checksum, which covers the addresses, at an offset.
func sum(from, to netip.Addr, p flow.Protocol, body []byte, at int) []byte {
	pseudo := append(append(from.AsSlice(), to.AsSlice()...), 0, 0, byte(len(body)>>8), byte(len(body)), 0, byte(p))
	if p == flow.ICMP {
		pseudo = nil
	}
	binary.BigEndian.PutUint16(body[at:], checksum(pseudo, body))
	return body
}

func tcpPacket(from, to netip.Addr, sourcePort, port uint16, flags byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sourcePort), port)
	b = append(b, 0, 0, 0, 9, 0, 0, 0, 9, 0x50, flags, 4, 0, 0, 0, 0, 0)
	return ipPacket(from, to, flow.TCP, 0, 64, sum(from, to, flow.TCP, append(b, magic...), 16))
}

func udpPacket(from, to netip.Addr, port uint16, tos byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 5000+uint16(tos)), port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(magic)))
	return ipPacket(from, to, flow.UDP, tos, 64, sum(from, to, flow.UDP, append(append(b, 0, 0), magic...), 6))
}

// icmpPacket makes an ICMP message; its body ends in magic. The kinds are IPv4's and IPv6's.
func icmpPacket(from, to netip.Addr, kinds [2]byte, hops byte, body ...byte) []byte {
	v := version(from)
	p := []flow.Protocol{flow.ICMP, flow.ICMPv6}[v]
	b := append(append([]byte{kinds[v], 0, 0, 0}, body...), magic...)
	return ipPacket(from, to, p, 0, hops, sum(from, to, p, b, 2))
}

// inject sends packets as they are out of a host's namespace, to where its routes for their destination lead.
func (l *lab) inject(from *station, packets ...[]byte) {
	l.t.Helper()
	l.must(from.ns.Do(func() error {
		for _, p := range packets {
			if err := sendRaw(p); err != nil {
				return err
			}
		}
		return nil
	}))
}

func sendRaw(p []byte) error {
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if p[0]>>4 == 4 {
		to = &unix.SockaddrInet4{Addr: [4]byte(p[16:20])}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(p[24:40])}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // we write the IP header
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, p, 0, to)
}

// A sniffer sees what arrives at a host's interface.
type sniffer struct {
	t  testing.TB
	fd int
}

func (l *lab) sniff(at *station) *sniffer {
	l.t.Helper()
	s := &sniffer{t: l.t}
	l.must(at.ns.Do(func() (err error) {
		everything := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(everything))
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	}))
	l.t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// count returns how many packets with magic came in since the last call.
func (s *sniffer) count() int {
	s.t.Helper()
	n, b := 0, make([]byte, 65536)
	for {
		length, from, err := unix.Recvfrom(s.fd, b, 0)
		if err == unix.EAGAIN {
			return n
		}
		if err != nil {
			s.t.Fatal(err)
		}
		at, ok := from.(*unix.SockaddrLinklayer)
		if ok && at.Pkttype != unix.PACKET_OUTGOING && bytes.Contains(b[:length], magic) {
			n++
		}
	}
}

// counted adds up the counters of a chain: those in its rules, and the one of its name.
func (l *lab) counted(family byte, chain string) uint64 {
	l.t.Helper()
	s, err := netfilter.Dial(l.node.ns.FD())
	l.must(err)
	defer s.Close()
	rules, err := s.List(unix.NFT_MSG_GETRULE, family, DefaultTable, nil)
	l.must(err)
	total := uint64(0)
	counters, err := s.Counters(family, DefaultTable)
	l.must(err)
	for _, c := range counters {
		if c.Name == chain {
			total += c.Packets
		}
	}
	for _, r := range rules {
		if netfilter.Text(r[unix.NFTA_RULE_CHAIN]) != chain {
			continue
		}
		for _, step := range netfilter.Each(r[unix.NFTA_RULE_EXPRESSIONS]) {
			e := netfilter.Parse(step)
			var c expr.Counter
			if netfilter.Text(e[unix.NFTA_EXPR_NAME]) == "counter" {
				l.must(expr.Unmarshal(family, e[unix.NFTA_EXPR_DATA], &c))
				total += c.Packets
			}
		}
	}
	return total
}

// drops checks that packets from a host end at the counter of a chain, and that none of them arrives.
func (l *lab) drops(chain string, from, to *station, packets ...[]byte) {
	l.t.Helper()
	l.dropsIn(netfilter.Inet, chain, from, to, packets...)
}

func (l *lab) dropsIn(family byte, chain string, from, to *station, packets ...[]byte) {
	l.t.Helper()
	s, before := l.sniff(to), l.counted(family, chain)
	l.inject(from, packets...)
	l.wait(func() bool { return l.counted(family, chain) == before+uint64(len(packets)) },
		"chain %s counts %d packets", chain, len(packets))
	if n := s.count(); n != 0 && to != l.node { // the node's interfaces show what its tables drop
		l.t.Errorf("%d of %d packets arrived that chain %s dropped", n, len(packets), chain)
	}
}

// lets checks that packets from a host arrive.
func (l *lab) lets(from, to *station, packets ...[]byte) {
	l.t.Helper()
	s, n := l.sniff(to), 0
	l.inject(from, packets...)
	l.wait(func() bool { n += s.count(); return n >= len(packets) }, "%d packets arrive", len(packets))
	if n > len(packets) {
		l.t.Errorf("%d packets arrived of %d", n, len(packets))
	}
}

func (l *lab) wait(ready func() bool, format string, args ...any) {
	l.t.Helper()
	for start := time.Now(); !ready(); time.Sleep(time.Millisecond) {
		if time.Since(start) > patience {
			l.t.Fatalf("it does not come true that "+format, args...)
		}
	}
}

// nft runs a script with the nft tool in the node's namespace, or skips the test.
func (l *lab) nft(script string) string {
	l.t.Helper()
	return runNft(l.t, l.node, script)
}

func runNft(t testing.TB, at *station, script string) string {
	t.Helper()
	tool, err := exec.LookPath("nft")
	if err != nil {
		t.Skipf("the nft tool is not here: %v", err)
	}
	var out []byte
	err = at.ns.Do(func() (err error) {
		cmd := exec.Command(tool, "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, script, out)
	}
	return string(out)
}

// enforce puts a ruleset in force, given as the text of ruleset.Parse. Addresses can be written as A4, A6, B4 and so on;
// the three pods are local, and have the identities 101, 102 and 103.
func (l *lab) enforce(text string) *Dataplane {
	l.t.Helper()
	d := l.open()
	l.t.Cleanup(func() { d.Close() })
	l.must(d.Replace(l.t.Context(), l.rules(text)))
	return d
}

func (l *lab) rules(text string) *ruleset.Ruleset {
	l.t.Helper()
	var names []string
	for n, h := range map[string]dataplanetest.Host{"A": dataplanetest.A, "B": dataplanetest.B, "C": dataplanetest.C,
		"N": dataplanetest.Node, "O": dataplanetest.Outside} {
		names = append(names, n+"4", h[0].String()+"/32", n+"6", h[1].String()+"/128")
	}
	r, err := ruleset.Parse("ruleset 1\n" + strings.NewReplacer(names...).Replace(text))
	l.must(err)
	for i, h := range []dataplanetest.Host{dataplanetest.A, dataplanetest.B, dataplanetest.C} {
		for v, a := range h {
			r.Locals[a] = l.Attachment(a)
			r.Addresses[addresses32(h)[v]] = ruleset.Identity(101 + i)
		}
	}
	return r
}
