//go:build linux

package podnet_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

func must(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, dataplane.ErrNotSupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func testNet(bridge bool) podnet.Net {
	return podnet.Net{Bridge: bridge,
		Ranges:  [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")},
		Address: [2]netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8::10")}}
}

func port(n int) podnet.Port {
	return podnet.Port{Veth: fmt.Sprint("v", n), Number: n, Addresses: []netip.Addr{
		netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", n))}}
}

// say sends a word from inside ns over both protocols and returns the first error.
func say(ns *netns.NS, to netip.Addr) error {
	for _, network := range []string{"tcp", "udp"} {
		var c net.Conn
		err := ns.Do(func() (err error) {
			c, err = net.DialTimeout(network, netip.AddrPortFrom(to, 80).String(), time.Second)
			return err
		})
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 2)
		if _, err := c.Write([]byte("hi")); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hi" {
			return fmt.Errorf("%s to %s: got %q, %v", network, to, buf, err)
		}
	}
	return nil
}

func TestPlug(t *testing.T) {
	for _, bridge := range []bool{false, true} {
		t.Run(fmt.Sprint("bridge ", bridge), func(t *testing.T) {
			n, node, one, two := testNet(bridge), netnstest.New(t), netnstest.New(t), netnstest.New(t)
			for range 2 { // all of it can be done again
				must(t, n.SetUp(node))
				must(t, n.Plug(node, one, port(5)))
				must(t, n.Plug(node, two, port(6)))
			}
			for i, ns := range []*netns.NS{one, two} {
				must(t, podnet.AwaitUp(t.Context(), ns, port(5+i).Addresses, podnet.PodInterface))
			}
			var servers echo.Servers
			defer servers.Close()
			for ns, addresses := range map[*netns.NS][]netip.Addr{two: port(6).Addresses, node: n.Address[:]} {
				must(t, ns.Do(func() error {
					var errs []error
					for _, a := range addresses {
						errs = append(errs, servers.Listen(a, cluster.Port{Protocol: flow.TCP, Number: 80}), servers.Listen(a, cluster.Port{Protocol: flow.UDP, Number: 80}))
					}
					return errors.Join(errs...)
				}))
			}
			for _, a := range append(port(6).Addresses, n.Address[:]...) {
				must(t, say(one, a))
			}
			plugged, err := podnet.Plugged(node)
			must(t, err)
			peer, err := podnet.Peer(two)
			must(t, err)
			if len(plugged) != 2 || peer == 0 || peer != plugged["v6"] {
				t.Errorf("plugged in are %v, and the pod's peer is %d", plugged, peer)
			}
			must(t, podnet.Unplug(node, "v6", "v6", "none"))
			if err := say(one, port(6).Addresses[0]); err == nil {
				t.Error("a pod that is unplugged is reached")
			}
			if err := say(two, n.Address[0]); err == nil {
				t.Error("a pod that is unplugged reaches the node")
			}
			if plugged, err := podnet.Plugged(node); err != nil || len(plugged) != 1 || plugged["v5"] == 0 {
				t.Errorf("plugged in are %v, %v, want v5", plugged, err)
			}
			if peer, err := podnet.Peer(two); err != nil || peer == 0 {
				t.Errorf("unplugging took the interface away, which takes long: peer %d, %v", peer, err)
			}
			must(t, n.Plug(node, two, port(6)))
			must(t, podnet.AwaitUp(t.Context(), two, port(6).Addresses, podnet.PodInterface))
			must(t, say(two, n.Address[0]))
		})
	}
}

// A pod that claims another's link-layer address does not get that one's packets.
func TestBridgeBelievesNobody(t *testing.T) {
	n, node, one, two, three := testNet(true), netnstest.New(t), netnstest.New(t), netnstest.New(t), netnstest.New(t)
	must(t, n.SetUp(node))
	for i, ns := range []*netns.NS{one, two, three} {
		must(t, n.Plug(node, ns, port(5+i)))
		must(t, podnet.AwaitUp(t.Context(), ns, port(5+i).Addresses, podnet.PodInterface))
	}
	var servers echo.Servers
	defer servers.Close()
	must(t, two.Do(func() error {
		a := port(6).Addresses[0]
		return errors.Join(servers.Listen(a, cluster.Port{Protocol: flow.TCP, Number: 80}), servers.Listen(a, cluster.Port{Protocol: flow.UDP, Number: 80}))
	}))
	must(t, say(one, port(6).Addresses[0]))
	must(t, podnet.WithHandle(three, func(h *netlink.Handle) error {
		link, err := h.LinkByName(podnet.PodInterface)
		if err != nil {
			return err
		}
		return h.LinkSetHardwareAddr(link, port(6).MAC())
	}))
	for _, a := range n.Gateways() { // to show the address to the bridge
		_ = say(three, a)
	}
	must(t, say(one, port(6).Addresses[0]))
}
