//go:build linux

package nft_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/service"
	"github.com/ringfence-project/ringfence/internal/service/nft"
)

// A world is a node with hosts around it, each in a namespace of its own, all routed by the node.
type world struct {
	t      *testing.T
	node   *netns.NS
	kernel *nft.Kernel
	hosts  map[string]*host
}

// A host is a pod or a machine outside.
type host struct {
	t        *testing.T
	name     string
	ns       *netns.NS
	addr     [2]netip.Addr // IPv4 and IPv6
	endpoint *cluster.Endpoint
}

var gateways = [2]netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}

var options = service.Options{Range4: netip.MustParsePrefix("10.96.0.0/16"), Range6: netip.MustParsePrefix("fd00:96::/108")}

var nodeAddr = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

func newWorld(t *testing.T, pods ...string) *world {
	t.Helper()
	w := &world{t: t, node: newNS(t), hosts: map[string]*host{}}
	w.kernel = nft.New(w.node)
	netnstest.Sysctl(t, w.node, "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv6/conf/default/forwarding=1",
		"net/ipv6/conf/all/addr_gen_mode=1", "net/ipv6/conf/default/addr_gen_mode=1")
	lo := netnstest.Up(t, w.node, "lo", single(nodeAddr[0]), single(nodeAddr[1]), single(gateways[0]))
	for i, r := range []netip.Prefix{options.Range4, options.Range6} {
		netnstest.Must(t, netnstest.Links(t, w.node).RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: netnstest.IPNet(r), Src: nodeAddr[i].AsSlice()}))
	}
	for i, name := range pods {
		w.plug(name, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 2)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+2)))
	}
	w.plug("outside", netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7"))
	return w
}

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	ns := netnstest.New(t)
	netnstest.Sysctl(t, ns, "net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0", "net/ipv4/conf/all/rp_filter=0",
		"net/ipv4/conf/default/rp_filter=0", "net/ipv6/conf/all/disable_ipv6=0", "net/ipv6/conf/default/disable_ipv6=0")
	return ns
}

func do(t *testing.T, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// single is an address alone, or a link-local one of IPv6 in its network.
func single(a netip.Addr) netip.Prefix {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return netip.PrefixFrom(a, 64)
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// plug makes a host and the veth to it.
func (w *world) plug(name string, v4, v6 netip.Addr) {
	w.t.Helper()
	x := &host{t: w.t, name: name, ns: newNS(w.t), addr: [2]netip.Addr{v4, v6}}
	x.endpoint = &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: name}, Addresses: x.addr[:],
		Labels: label.MustSet(map[string]string{"app": strings.TrimRight(name, "0123456789")}),
		Ports:  []cluster.Port{{Name: "web", Protocol: flow.TCP, Number: 8080}, {Name: "dns", Protocol: flow.UDP, Number: 5353}}}
	w.hosts[name] = x
	veth := "v" + name
	netnstest.Pair(w.t, w.node, veth, x.ns)
	link := netnstest.Up(w.t, w.node, veth, single(gateways[1]))
	for i, a := range x.addr {
		netnstest.Must(w.t, netnstest.Links(w.t, w.node).RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Dst: netnstest.IPNet(single(a)), Src: nodeAddr[i].AsSlice()}))
	}
	netnstest.Up(w.t, x.ns, "lo")
	eth0 := netnstest.Up(w.t, x.ns, "eth0", single(v4), single(v6))
	for _, gw := range gateways {
		netnstest.Must(w.t, netnstest.Links(w.t, x.ns).RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
	}
}

// serve answers connections and datagrams with the host's name and the client's address.
func (x *host) serve() {
	x.t.Helper()
	do(x.t, x.ns, func() error {
		l, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		x.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go x.converse(c)
			}
		}()
		for _, addr := range x.addr {
			p, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 5353)))
			if err != nil {
				return err
			}
			x.t.Cleanup(func() { p.Close() })
			go func() {
				buffer := make([]byte, 1500)
				for {
					_, from, err := p.ReadFromUDPAddrPort(buffer)
					if err != nil {
						return
					}
					p.WriteToUDPAddrPort([]byte(x.greeting(from.Addr())), from)
				}
			}()
		}
		return nil
	})
}

func (x *host) greeting(client netip.Addr) string {
	return x.name + " " + client.Unmap().String() + "\n"
}

// converse greets, and again for each byte that comes.
func (x *host) converse(c net.Conn) {
	defer c.Close()
	client := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
	buffer := make([]byte, 1)
	for {
		if _, err := io.WriteString(c, x.greeting(client)); err != nil {
			return
		}
		if _, err := c.Read(buffer); err != nil {
			return
		}
	}
}

// patience is for what is denied, which is silent; everything else answers at once.
const patience = time.Second

// dial connects from a namespace; a datagram socket sends its first byte at once.
func dial(ns *netns.NS, network string, to netip.AddrPort) (net.Conn, error) {
	return dialFor(patience, ns, network, to)
}

func dialFor(wait time.Duration, ns *netns.NS, network string, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := ns.Do(func() (err error) {
		d := net.Dialer{Timeout: wait, FallbackDelay: -1}
		if c, err = d.Dial(network, to.String()); err == nil && network == "udp" {
			_, err = c.Write([]byte("?"))
		}
		return err
	})
	return c, err
}

// hear reads one greeting: who answered, and whom it saw.
func hear(c net.Conn) (server, client string, err error) {
	buffer := make([]byte, 200)
	c.SetReadDeadline(time.Now().Add(patience))
	n, err := c.Read(buffer)
	if err != nil {
		return "", "", err
	}
	server, client, _ = strings.Cut(strings.TrimSpace(string(buffer[:n])), " ")
	return server, client, nil
}

// ask makes one connection: who answered, and whom it saw.
func ask(ns *netns.NS, network string, to netip.AddrPort) (server, client string, err error) {
	return askFor(patience, ns, network, to)
}

func askFor(wait time.Duration, ns *netns.NS, network string, to netip.AddrPort) (server, client string, err error) {
	c, err := dialFor(wait, ns, network, to)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	return hear(c)
}

// mustAsk is ask where an answer is wanted.
func (w *world) mustAsk(ns *netns.NS, network string, to netip.AddrPort) (server, client string) {
	w.t.Helper()
	server, client, err := askFor(10*patience, ns, network, to) // a busy machine is no answer
	if err != nil {
		w.t.Fatalf("%s %s: %v", network, to, err)
	}
	return server, client
}

// refused checks that a connection is refused at once.
func (w *world) refused(ns *netns.NS, network string, to netip.AddrPort) {
	w.t.Helper()
	start := time.Now()
	server, _, err := ask(ns, network, to)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		w.t.Errorf("%s %s: answered by %q, %v; want it refused", network, to, server, err)
	}
	if took := time.Since(start); took > time.Second {
		w.t.Errorf("%s %s: refused after %s, want at once", network, to, took)
	}
}

// apply computes and applies; pods named in unready are not ready.
func (w *world) apply(services []service.Service, unready ...string) (*service.Table, nft.Change) {
	w.t.Helper()
	var pods []*cluster.Endpoint
	for _, x := range w.hosts {
		if x.name != "outside" {
			pods = append(pods, x.endpoint)
		}
	}
	ready := func(k cluster.Key) bool { return !strings.Contains(" "+strings.Join(unready, " ")+" ", " "+k.Name+" ") }
	table := service.Compute(services, pods, ready, options)
	for _, p := range table.Problems {
		w.t.Fatal(p)
	}
	change, err := w.kernel.Apply(table)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EPROTONOSUPPORT) {
		w.t.Skipf("no nftables here: %v", err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return table, change
}

// webService is TCP and UDP in front of the pods web*.
func webService() service.Service {
	return service.Service{Key: cluster.Key{Namespace: "shop", Name: "web"}, Selector: label.MustParse("app=web"), Ports: []service.Port{
		{Name: "http", Protocol: flow.TCP, Port: 80, TargetName: "web"},
		{Name: "dns", Protocol: flow.UDP, Port: 53, Target: 5353},
	}}
}

// at is the address of a port of the Service shop/web, IPv4 or IPv6.
func at(table *service.Table, family int, port string) netip.AddrPort {
	for _, f := range table.Frontends {
		if f.Service.Name == "web" && f.PortName == port && f.Address.Is4() == (family == 0) {
			return netip.AddrPortFrom(f.Address, f.Port)
		}
	}
	return netip.AddrPort{}
}
