//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A station is a host of the lab: its namespace, and its interface on the node's side.
type station struct {
	ns   *netns.NS
	port string // "" for the node
}

// A lab is a node with three pods and a host outside, each in a network namespace.
type lab struct {
	t       *testing.T
	node    *station
	hosts   map[dataplanetest.Host]*station
	bridged bool
	opts    Options
}

const bridgeName = "br0"

func newLab(t *testing.T, bridged bool) *lab {
	l := &lab{t: t, node: &station{ns: netnstest.New(t)}, hosts: map[dataplanetest.Host]*station{}, bridged: bridged}
	l.opts = Options{NetNS: l.node.ns.FD(), LogGroup: 7}
	l.hosts[dataplanetest.Node] = l.node
	l.sysctls(l.node.ns, "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	netnstest.Up(l.t, l.node.ns, "lo", addresses32(dataplanetest.Node)...)
	if bridged {
		l.makeBridge()
	}
	for i, h := range []dataplanetest.Host{dataplanetest.A, dataplanetest.B, dataplanetest.C, dataplanetest.Outside} {
		l.plug(h, "v"+string("abco"[i]))
	}
	for h, s := range l.hosts {
		l.serve(h, s)
	}
	return l
}

func addresses32(h dataplanetest.Host) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(h[0], 32), netip.PrefixFrom(h[1], 128)}
}

func (l *lab) must(err error) {
	l.t.Helper()
	if errors.Is(err, os.ErrPermission) {
		l.t.Skipf("not allowed here: %v", err)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// sysctls sets what is under /proc/sys in a namespace. Addresses are used at once, without looking for duplicates, and
// source addresses are checked by nobody but us.
func (l *lab) sysctls(ns *netns.NS, more ...string) {
	l.t.Helper()
	netnstest.Sysctl(l.t, ns, append(more, "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0",
		"net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0", "net/ipv4/icmp_ratelimit=0",
		"net/ipv6/icmp/ratelimit=0")...)
}

// gateways are the node's addresses at the far end of each link.
var gateways = [2]netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}

func (l *lab) makeBridge() {
	l.sysctls(l.node.ns, "net/bridge/bridge-nf-call-iptables=1", "net/bridge/bridge-nf-call-ip6tables=1")
	h := netnstest.Links(l.t, l.node.ns)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	l.must(h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	netnstest.Up(l.t, l.node.ns, bridgeName, netip.PrefixFrom(gateways[0], 32), netip.PrefixFrom(gateways[1], 64))
}

// plug adds a host: a pod, behind a link of its own or on the bridge, or the host outside.
func (l *lab) plug(host dataplanetest.Host, port string) {
	l.t.Helper()
	s := &station{netnstest.New(l.t), port}
	l.hosts[host] = s
	l.sysctls(s.ns)
	h := netnstest.Links(l.t, l.node.ns)
	netnstest.Pair(l.t, l.node.ns, port, s.ns)
	netnstest.Up(l.t, s.ns, "lo")
	eth := netnstest.Up(l.t, s.ns, "eth0", addresses32(host)...)
	via := port
	if l.bridged && host != dataplanetest.Outside {
		via = bridgeName
		l.join(port, s, host)
	} else {
		netnstest.Up(l.t, l.node.ns, port, netip.PrefixFrom(gateways[0], 32), netip.PrefixFrom(gateways[1], 64))
	}
	link, err := h.LinkByName(via)
	l.must(err)
	peers := netnstest.Links(l.t, s.ns)
	for v, a := range host {
		l.must(h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: netnstest.IPNet(addresses32(host)[v])}))
		_ = a
		everywhere := netnstest.IPNet(netip.PrefixFrom([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[v], 0))
		l.must(peers.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: everywhere, Gw: gateways[v].AsSlice(),
			Flags: int(netlink.FLAG_ONLINK)}))
	}
}

// join puts a pod's link into the bridge; the pods reach each other through it without the node's help.
func (l *lab) join(port string, s *station, host dataplanetest.Host) {
	l.t.Helper()
	h := netnstest.Links(l.t, l.node.ns)
	bridge, err := h.LinkByName(bridgeName)
	l.must(err)
	link := netnstest.Up(l.t, l.node.ns, port)
	l.must(h.LinkSetMaster(link, bridge))
	pods := netnstest.Links(l.t, s.ns)
	eth, err := pods.LinkByName("eth0")
	l.must(err)
	for _, p := range []string{"10.0.1.0/24", "fd00:1::/64"} {
		l.must(pods.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: netnstest.IPNet(netip.MustParsePrefix(p))}))
	}
}

// serve answers on ports 80 and 81 of TCP and UDP, and takes what comes to port 9 of UDP.
func (l *lab) serve(h dataplanetest.Host, s *station) {
	l.t.Helper()
	l.must(s.ns.Do(func() error {
		for _, a := range h {
			silent, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
			if err != nil {
				return err
			}
			l.t.Cleanup(func() { silent.Close() })
			for _, port := range []uint16{80, 81} {
				at := netip.AddrPortFrom(a, port)
				ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
				if err != nil {
					return err
				}
				pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
				if err != nil {
					return err
				}
				l.t.Cleanup(func() { ln.Close(); pc.Close() })
				go serveTCP(ln)
				go serveUDP(pc)
			}
		}
		return nil
	}))
}

func serveTCP(ln *net.TCPListener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func serveUDP(pc *net.UDPConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		pc.WriteToUDPAddrPort(b[:n], from)
	}
}

// at returns the station that has an address.
func (l *lab) at(a netip.Addr) *station {
	l.t.Helper()
	for h, s := range l.hosts {
		if h[0] == a || h[1] == a {
			return s
		}
	}
	l.t.Fatalf("nobody in the lab has address %s", a)
	return nil
}

func (l *lab) Open() (dataplane.Dataplane, error) { return l.open(), nil }

func (l *lab) open() *Dataplane {
	l.t.Helper()
	d, err := New(l.opts)
	l.must(err)
	return d
}

func (l *lab) Attachment(a netip.Addr) ruleset.Attachment {
	port := l.at(a).port
	if l.bridged {
		return ruleset.Attachment{Interface: bridgeName, Port: port}
	}
	return ruleset.Attachment{Interface: port}
}

// Edit flushes a chain, as somebody could with nft.
func (l *lab) Edit() error {
	s, err := netfilter.Dial(l.node.ns.FD())
	if err != nil {
		return err
	}
	defer s.Close()
	b := &netfilter.Batch{Table: DefaultTable}
	b.FlushRules(named("judge"))
	return s.Commit(b.Messages(), 0)
}

func (l *lab) Connect(t flow.Tuple) (dataplanetest.Conn, error) {
	return &conn{lab: l, tuple: t, from: l.at(t.Source)}, nil
}

// A conn is a connection of any protocol. It is opened by the first Send.
type conn struct {
	*lab
	tuple flow.Tuple
	from  *station
	conn  net.Conn
	count uint16
}

// retryAfter is how long an answer may take before a datagram is sent again.
const retryAfter = 500 * time.Millisecond

func (c *conn) Close() error {
	if c.conn == nil {
		return nil
	}
	if t, ok := c.conn.(*net.TCPConn); ok {
		t.SetLinger(0) // no packets that linger until the next test
	}
	return c.conn.Close()
}

func (c *conn) dial(ctx context.Context) error {
	network, local := map[flow.Protocol]string{flow.TCP: "tcp", flow.UDP: "udp", flow.ICMP: "ip4:icmp", flow.ICMPv6: "ip6:ipv6-icmp"}[c.tuple.Protocol], net.Addr(nil)
	at := c.tuple.Destination.String()
	switch c.tuple.Protocol {
	case flow.TCP:
		local = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.tuple.Source, 0))
	case flow.UDP:
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.tuple.Source, 0))
	default:
		local = &net.IPAddr{IP: c.tuple.Source.AsSlice()}
	}
	if c.tuple.Protocol.HasPorts() {
		at = net.JoinHostPort(at, strconv.Itoa(int(c.tuple.Port)))
	}
	return c.from.ns.Do(func() (err error) {
		c.conn, err = (&net.Dialer{LocalAddr: local}).DialContext(ctx, network, at)
		return err
	})
}

// Send implements dataplanetest.Conn.
func (c *conn) Send(ctx context.Context) error {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		c.count++
		if _, err := c.conn.Write(c.message()); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		err := c.answer(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

func (c *conn) message() []byte {
	switch c.tuple.Protocol {
	case flow.ICMP, flow.ICMPv6:
		return echoRequest(c.tuple.Protocol, uint16(os.Getpid()), c.count)
	}
	return binary.BigEndian.AppendUint16(nil, c.count)
}

// answer reads until the answer to the last message came.
func (c *conn) answer(ctx context.Context) error {
	deadline := time.Time{}
	if c.tuple.Protocol != flow.TCP {
		deadline = time.Now().Add(retryAfter)
	}
	c.conn.SetReadDeadline(deadline)
	b := make([]byte, 1500)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := c.read(b)
		if err != nil {
			return err
		}
		switch c.tuple.Protocol {
		case flow.ICMP, flow.ICMPv6:
			if n >= 8 && (b[0] == 0 || b[0] == 129) && binary.BigEndian.Uint16(b[6:]) == c.count {
				return nil
			}
		default:
			if n%2 == 0 && binary.BigEndian.Uint16(b[n-2:]) == c.count {
				return nil
			}
		}
	}
}

// read returns what came, without the header of IPv4.
func (c *conn) read(b []byte) (int, error) {
	if ip, ok := c.conn.(*net.IPConn); ok {
		n, _, err := ip.ReadFromIP(b)
		return n, err
	}
	return io.ReadAtLeast(c.conn, b, 2)
}

// echoRequest is an ICMP message; the kernel fills in the checksum of IPv6.
func echoRequest(p flow.Protocol, id, sequence uint16) []byte {
	b := []byte{8, 0, 0, 0, byte(id >> 8), byte(id), byte(sequence >> 8), byte(sequence)}
	if p == flow.ICMPv6 {
		b[0] = 128
		return b
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// checksum is the internet checksum.
func checksum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i]) << 8
			if i+1 < len(b) {
				sum += uint32(b[i+1])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
