//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// The node's address on every routed veth: link-local, as it is the same on all of them.
var linkGateways = [2]netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}

// Interface indices that the lab gives out itself, so that nothing has to be looked up.
const (
	loopbackIndex  = 1
	bridgeIndex    = 2
	firstVethIndex = 10
)

// hostSysctls are set in every namespace of the lab before it has an interface. No duplicate address detection: it
// takes seconds, and nobody else is here. No reverse path filter: addresses are the dataplane's business.
var hostSysctls = []string{
	"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
	"ipv4/ping_group_range=0 2147483647",
	"ipv6/conf/all/disable_ipv6=0", "ipv6/conf/default/disable_ipv6=0",
	"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
	"ipv6/conf/all/accept_ra=0", "ipv6/conf/default/accept_ra=0",
}

// nodeSysctls make the node a router without link-local addresses of its own making: fe80::1 is enough.
var nodeSysctls = []string{
	"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/forwarding=1",
	"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
	"ipv6/conf/all/addr_gen_mode=1", "ipv6/conf/default/addr_gen_mode=1",
}

// trackingSysctls are of connection tracking, which may not be there yet. Probes' connections are forgotten soon:
// a large lab makes more of them in half a minute than the table holds.
var trackingSysctls = []string{
	"netfilter/nf_conntrack_acct=1", "netfilter/nf_conntrack_timestamp=1",
	"netfilter/nf_conntrack_tcp_timeout_close=2", "netfilter/nf_conntrack_tcp_timeout_time_wait=2",
	"netfilter/nf_conntrack_udp_timeout=5", "netfilter/nf_conntrack_udp_timeout_stream=5",
	"netfilter/nf_conntrack_icmp_timeout=5", "netfilter/nf_conntrack_icmpv6_timeout=5",
}

var bridgeSysctls = []string{"bridge/bridge-nf-call-iptables=1", "bridge/bridge-nf-call-ip6tables=1"}

// sysctl writes "path=value" below /proc/sys/net, of the calling thread's namespace.
func sysctl(settings ...string) error {
	for _, s := range settings {
		path, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
			return fmt.Errorf("set net/%s to %s: %w", path, value, err)
		}
	}
	return nil
}

// newHostNS makes the namespace of a host that is no router.
func newHostNS() (*netns.NS, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	if err := ns.Do(func() error { return sysctl(hostSysctls...) }); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// newNodeNS makes the node: a router with its own addresses, and the bridge if there is one.
func newNodeNS(p *plan) (*netns.NS, error) {
	ns, err := newHostNS()
	if err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		if err := sysctl(nodeSysctls...); err != nil {
			return err
		}
		if err := sysctl(trackingSysctls...); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if p.topology == Bridge {
			if err := sysctl(bridgeSysctls...); err != nil {
				return fmt.Errorf("bridge topology: %w: %w: load the module br_netfilter", dataplane.ErrNotSupported, err)
			}
		}
		return nil
	})
	if err == nil {
		err = withHandle(ns, func(h *netlink.Handle) error { return wireNode(h, p) })
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

func withHandle(ns *netns.NS, f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink: %w", err)
	}
	defer h.Close()
	return f(h)
}

func wireNode(h *netlink.Handle, p *plan) error {
	own := append([]netip.Addr{linkGateways[0]}, p.node.addresses...) // on lo, the node answers for them on every veth
	if err := setUp(h, loopbackIndex, own); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if p.topology == Routed {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.HardwareAddr = bridgeName, bridgeIndex, nodeMAC(bridgeIndex)
	snooping := false
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	if err := setUp(h, bridgeIndex, nil); err != nil {
		return err
	}
	for i, a := range p.gateways() {
		if err := addAddress(h, bridgeIndex, netip.PrefixFrom(a, p.ranges[i].Bits())); err != nil {
			return err
		}
	}
	return nil
}

// wire plugs hosts into the node.
func wire(ctx context.Context, p *plan, node *station, hosts []*station) error {
	err := inParallel(ctx, len(hosts), func(next <-chan int) error {
		return withHandle(node.ns, func(h *netlink.Handle) error {
			for i := range next {
				if err := plug(h, p, hosts[i], firstVethIndex+i); err != nil {
					return fmt.Errorf("wire %s: %w", hosts[i].name(), err)
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := introduce(ctx, p, node.ns, hosts); err != nil {
		return err
	}
	return awaitLinks(ctx, p, node, hosts)
}

// inParallel runs several of worker, which share the numbers below n among them.
func inParallel(ctx context.Context, n int, worker func(next <-chan int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	group.Go(func() error {
		defer close(next)
		for i := range n {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range 4 {
		group.Go(func() error { return worker(next) })
	}
	return group.Wait()
}

// plug makes the namespace of one host and the veth between it and the node.
func plug(node *netlink.Handle, p *plan, s *station, index int) (err error) {
	if s.ns, err = newHostNS(); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index, attrs.Flags, attrs.HardwareAddr = s.veth, index, net.FlagUp, nodeMAC(index)
	bridged := s.bridged(p)
	if bridged {
		attrs.MasterIndex = bridgeIndex
	}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: hostMAC(index), PeerNamespace: netlink.NsFd(s.ns.FD())}
	if err := node.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	if err := withHandle(s.ns, func(h *netlink.Handle) error { return wireHost(h, p, s.addresses, bridged) }); err != nil {
		return err
	}
	if bridged {
		return nil
	}
	if err := addAddress(node, index, netip.PrefixFrom(linkGateways[1], 64)); err != nil {
		return err
	}
	for _, a := range s.addresses {
		route := netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Src: p.nodeAddress(a).AsSlice()}
		if err := node.RouteReplace(&route); err != nil {
			return fmt.Errorf("route to %s: %w", a, err)
		}
	}
	return nil
}

// hostMAC and nodeMAC are the two ends of the veth with that index.
func hostMAC(index int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'r', 'f', 0, byte(index >> 8), byte(index)}
}

func nodeMAC(index int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'r', 'f', 1, byte(index >> 8), byte(index)}
}

// wireHost gives a host its addresses and a way out: through the bridge's address, or a link-local one.
func wireHost(h *netlink.Handle, p *plan, addresses []netip.Addr, bridged bool) error {
	if err := setUp(h, loopbackIndex, nil); err != nil {
		return err
	}
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	index := eth0.Attrs().Index
	if err := setUp(h, index, nil); err != nil {
		return err
	}
	gateways := linkGateways
	if bridged {
		gateways = p.gateways()
	}
	for _, a := range addresses {
		bits := a.BitLen()
		if bridged {
			bits = p.ranges[familyOf(a)].Bits()
		}
		if err := addAddress(h, index, netip.PrefixFrom(a, bits)); err != nil {
			return err
		}
	}
	for family, gw := range gateways {
		if hasFamily(addresses, family) {
			route := netlink.Route{LinkIndex: index, Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
			if err := h.RouteReplace(&route); err != nil {
				return fmt.Errorf("route by %s: %w", gw, err)
			}
		}
	}
	return nil
}

func setUp(h *netlink.Handle, index int, addresses []netip.Addr) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set interface %d up: %w", index, err)
	}
	for _, a := range addresses {
		if err := addAddress(h, index, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	return nil
}

func addAddress(h *netlink.Handle, index int, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	if err := h.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give interface %d address %s: %w", index, p, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
