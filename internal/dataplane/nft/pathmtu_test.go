//go:build linux

package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
)

// farAway are addresses behind the host outside, which is the last that a large packet to them reaches.
var farAway = [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:5::1")}

const narrowMTU = 1300

// narrow makes the host outside a router with a narrow link behind it.
func (l *lab) narrow() {
	l.t.Helper()
	router := l.hosts[outside]
	l.sysctls(router.ns, "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "narrow", narrowMTU
	h, nodes := netnstest.Links(l.t, router.ns), netnstest.Links(l.t, l.node.ns)
	l.must(h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "nowhere"}))
	netnstest.Up(l.t, router.ns, "nowhere")
	behind := netnstest.Up(l.t, router.ns, "narrow")
	before, err := nodes.LinkByName(router.port)
	l.must(err)
	for v, a := range farAway {
		to := netnstest.IPNet(netip.PrefixFrom(a, a.BitLen()))
		l.must(h.RouteAdd(&netlink.Route{LinkIndex: behind.Attrs().Index, Dst: to}))
		l.must(nodes.RouteAdd(&netlink.Route{LinkIndex: before.Attrs().Index, Dst: to, Gw: outside[v].AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
	}
}

// discoverMTU sends large packets that nobody may cut until the sender knows how large they may be.
func (l *lab) discoverMTU(v int) int {
	l.t.Helper()
	level, discover, known := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	if v == 1 {
		level, discover, known = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	}
	var c *net.UDPConn
	l.must(l.hosts[podA].ns.Do(func() (err error) {
		c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(podA[v], 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(farAway[v], 9)))
		return err
	}))
	defer c.Close()
	raw, err := c.SyscallConn()
	l.must(err)
	var mtu int
	option := func(f func(fd int) error) {
		l.t.Helper()
		var err error
		l.must(errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err))
	}
	option(func(fd int) error { return unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_DO) })
	l.wait(func() bool {
		_, err := c.Write(make([]byte, 1400))
		return errors.Is(err, unix.EMSGSIZE)
	}, "%s is told that packets to %s are too large", podA[v], farAway[v])
	option(func(fd int) (err error) { mtu, err = unix.GetsockoptInt(fd, level, known); return err })
	return mtu
}

// The sender may hear from nobody, but what a router says of its allowed packets is part of their connection. Were it
// dropped, large packets would vanish and small ones arrive.
func TestPathMTUIsDiscovered(t *testing.T) {
	for _, bridged := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridged=%t", bridged), func(t *testing.T) {
			l := newLab(t, bridged)
			l.narrow()
			l.enforce(`
subject ingress 101
  default row 1
row 1
  else deny
`)
			for v := range 2 {
				if got := l.discoverMTU(v); got != narrowMTU {
					t.Errorf("packets to %s may have %d bytes, want %d", farAway[v], got, narrowMTU)
				}
			}
		})
	}
}
