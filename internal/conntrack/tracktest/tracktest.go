//go:build linux

// Package tracktest makes a small world for tests of what looks at connection tracking: a client and a server, each
// in a network namespace behind a router that tracks, translates and denies. It is gone when the test ends.
package tracktest

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
)

// The addresses: connections to ServiceAddr:ServicePort arrive at ServerAddr:ServerPort.
var (
	ClientAddr  = netip.MustParseAddr("10.1.0.2")
	ServerAddr  = netip.MustParseAddr("10.2.0.2")
	ServiceAddr = netip.MustParseAddr("10.96.0.1")
)

// SilentAddr is behind the router, and nobody's.
var SilentAddr = netip.MustParseAddr("10.2.0.99")

// The ports: packets to DeniedPort are dropped, and at ShutPort nobody listens.
const (
	ServicePort = 80
	ServerPort  = 8080
	PolitePort  = 8081
	DeniedPort  = 9
	ShutPort    = 10
)

// World is the three namespaces.
type World struct{ Router, Client, Server *netns.NS }

// New makes a world.
func New(t *testing.T) World {
	t.Helper()
	w := World{netnstest.New(t), netnstest.New(t), netnstest.New(t)}
	netnstest.Sysctl(t, w.Router, "net/ipv4/ip_forward=1")
	plug(t, w.Router, w.Client, "c", ClientAddr)
	plug(t, w.Router, w.Server, "s", ServerAddr)
	rules(t, w.Router)
	return w
}

// plug joins a host to the router; the router's address is the host's with .1 at its end.
func plug(t *testing.T, router, host *netns.NS, name string, addr netip.Addr) {
	t.Helper()
	gateway := netip.AddrFrom4([4]byte{addr.As4()[0], addr.As4()[1], addr.As4()[2], 1})
	netnstest.Pair(t, router, name, host)
	netnstest.Up(t, router, name, netip.PrefixFrom(gateway, 24))
	netnstest.Up(t, host, "eth0", netip.PrefixFrom(addr, 24))
	netnstest.Must(t, netnstest.Links(t, host).RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}))
}

// rules make the router track and translate.
func rules(t *testing.T, ns *netns.NS) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	netnstest.Must(t, err)
	table := c.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyIPv4})
	nat := c.AddChain(&nftables.Chain{Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: append(toPort(ServicePort),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ServiceAddr.AsSlice()},
		&expr.Immediate{Register: 1, Data: ServerAddr.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(ServerPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2})})
	filter := c.AddChain(&nftables.Chain{Name: "filter", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: filter, Exprs: append(toPort(DeniedPort), &expr.Verdict{Kind: expr.VerdictDrop})})
	netnstest.Must(t, c.Flush())
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// Serve answers ten bytes to everybody at ServerPort, and hangs up with a reset when the client said something or is gone: the
// kernel soon forgets the connection.
func (w World) Serve(t *testing.T) {
	t.Helper()
	w.serve(t, ServerPort, true)
}

// ServePolitely is Serve at PolitePort, without the reset.
func (w World) ServePolitely(t *testing.T) {
	t.Helper()
	w.serve(t, PolitePort, false)
}

func (w World) serve(t *testing.T, port uint16, reset bool) {
	t.Helper()
	var l net.Listener
	netnstest.Must(t, w.Server.Do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(ServerAddr, port).String())
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
			if reset {
				_ = c.(*net.TCPConn).SetLinger(0)
			}
			buf := make([]byte, 1)
			_, _ = c.Read(buf)
			c.Close()
		}
	}()
}

// Dial opens a connection from the client; nil if nothing answers in the time given.
func (w World) Dial(t *testing.T, to netip.AddrPort, wait time.Duration) net.Conn {
	t.Helper()
	var c net.Conn
	err := w.Client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", to.String(), wait)
		return err
	})
	if err != nil {
		return nil
	}
	return c
}
