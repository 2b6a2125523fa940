//go:build linux

// Package podnet connects network namespaces as a node connects its pods: a router with a veth to each pod, routed or
// on one bridge. It knows no policy; who plugs a pod in has put its policies in force before.
//
// Everything can be done again: what is there already and right is left alone.
package podnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// BridgeName is the node's interface that pods are plugged into in the bridge topology.
const BridgeName = "pods0"

// PodInterface is what a pod's interface is called inside of it.
const PodInterface = "eth0"

// LinkGateways are the node's addresses on every routed veth: link-local, as they are the same on all of them.
var LinkGateways = [2]netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}

const loopbackIndex = 1

// sticky is the kernel's NTF_STICKY: an entry of a bridge that is never moved to another port.
const sticky = 1 << 6

// hostSysctls are set in every namespace before it has an interface. No duplicate address detection: it takes seconds,
// and addresses are given out here. No reverse path filter: whose address is whose is the dataplane's business. No
// redirects: nobody but the node says where packets go.
var hostSysctls = []string{
	"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
	"ipv4/ping_group_range=0 2147483647",
	"ipv6/conf/all/disable_ipv6=0", "ipv6/conf/default/disable_ipv6=0",
	"ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
	"ipv6/conf/all/accept_ra=0", "ipv6/conf/default/accept_ra=0",
	"ipv6/conf/all/accept_redirects=0", "ipv6/conf/default/accept_redirects=0",
	"ipv4/conf/all/accept_redirects=0", "ipv4/conf/default/accept_redirects=0",
}

// nodeSysctls make the node a router without link-local addresses of its own making: fe80::1 is enough.
var nodeSysctls = []string{
	"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/forwarding=1",
	"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
	"ipv6/conf/all/addr_gen_mode=1", "ipv6/conf/default/addr_gen_mode=1",
}

// trackingSysctls are of connection tracking, which may not be there yet: bytes and times of connections.
var trackingSysctls = []string{"netfilter/nf_conntrack_acct=1", "netfilter/nf_conntrack_timestamp=1"}

var bridgeSysctls = []string{"bridge/bridge-nf-call-iptables=1", "bridge/bridge-nf-call-ip6tables=1"}

// Settings are the names of all settings that are made in namespaces, as below /proc/sys/net.
func Settings() []string {
	var names []string
	for _, s := range slices.Concat(hostSysctls, nodeSysctls, trackingSysctls, bridgeSysctls) {
		name, _, _ := strings.Cut(s, "=")
		names = append(names, name)
	}
	return names
}

// Net is a node's network.
type Net struct {
	Bridge  bool            // pods are on one bridge; else each has a routed veth
	Ranges  [2]netip.Prefix // of pods, IPv4 and IPv6
	Address [2]netip.Addr   // the node's own
}

// Port is where one pod is plugged in.
type Port struct {
	Veth      string // the node's interface
	Number    int    // of the pod, below 65536: its link-layer address
	Addresses []netip.Addr
	Routed    bool // not on the bridge, even if there is one
}

// BridgeMAC is the link-layer address of the bridge.
var BridgeMAC = net.HardwareAddr{0x02, 'r', 'f', 2, 0, 0}

func (n Net) bridged(p Port) bool { return n.Bridge && !p.Routed }

// Gateways are the bridge's own addresses: the first of each range.
func (n Net) Gateways() [2]netip.Addr {
	return [2]netip.Addr{n.Ranges[0].Addr().Next(), n.Ranges[1].Addr().Next()}
}

// SetUp makes ns the node: a router with its addresses, and the bridge if there is one.
func (n Net) SetUp(ns *netns.NS) error {
	err := ns.Do(func() error {
		if err := Sysctl(slices.Concat(hostSysctls, nodeSysctls)...); err != nil {
			return err
		}
		if err := Sysctl(trackingSysctls...); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if n.Bridge {
			if err := Sysctl(bridgeSysctls...); err != nil {
				return fmt.Errorf("bridge topology: %w: %w: load the module br_netfilter", dataplane.ErrNotSupported, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WithHandle(ns, n.setUp)
}

func (n Net) setUp(h *netlink.Handle) error {
	own := []netip.Addr{LinkGateways[0], n.Address[0], n.Address[1]} // on lo, the node answers for them on every veth
	if err := up(h, loopbackIndex, own); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if !n.Bridge {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = BridgeName, BridgeMAC
	snooping := false
	err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make bridge: %w", err)
	}
	bridge, err := h.LinkByName(BridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	if err := up(h, bridge.Attrs().Index, nil); err != nil {
		return err
	}
	for i, a := range n.Gateways() {
		if err := addAddress(h, bridge.Attrs().Index, netip.PrefixFrom(a, n.Ranges[i].Bits())); err != nil {
			return err
		}
	}
	return nil
}

// ownTable is the routing table of what only the node's own processes send.
const ownTable = 96

// SendOwn lets the node's own processes send to ranges that are nobody's, with the node's addresses, so that a translation
// meets what they send. For what pods send there is no such route: it would go round.
func (n Net) SendOwn(node *netns.NS, ranges ...netip.Prefix) error {
	return WithHandle(node, func(h *netlink.Handle) error {
		for _, r := range ranges {
			family := [2]int{netlink.FAMILY_V4, netlink.FAMILY_V6}[familyOf(r.Addr())]
			route := netlink.Route{LinkIndex: loopbackIndex, Table: ownTable, Dst: ipNet(r), Src: n.Address[familyOf(r.Addr())].AsSlice()}
			if err := h.RouteReplace(&route); err != nil {
				return fmt.Errorf("route to %s: %w", r, err)
			}
			rule := netlink.NewRule()
			rule.Family, rule.IifName, rule.Table, rule.Priority = family, "lo", ownTable, ownTable // what it made itself
			if err := h.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("rule for %s: %w", r, err)
			}
		}
		return nil
	})
}

// Prepare makes ns the network of a pod that is not plugged in: it reaches itself.
func Prepare(ns *netns.NS) error {
	if err := ns.Do(func() error { return Sysctl(hostSysctls...) }); err != nil {
		return err
	}
	return WithHandle(ns, func(h *netlink.Handle) error { return up(h, loopbackIndex, nil) })
}

// Plug connects the pod whose namespace is pod with the node. AwaitUp waits until packets get through.
func (n Net) Plug(node, pod *netns.NS, p Port) error {
	if err := Prepare(pod); err != nil {
		return err
	}
	return WithHandle(node, func(h *netlink.Handle) error {
		index, err := n.veth(h, pod, p)
		if err != nil {
			return err
		}
		if err := WithHandle(pod, func(h *netlink.Handle) error { return n.inside(h, p) }); err != nil {
			return err
		}
		if n.bridged(p) {
			return nil
		}
		return n.route(h, index, p)
	})
}

// veth makes the pair of interfaces, up on the node's side, and returns the node's index.
func (n Net) veth(h *netlink.Handle, pod *netns.NS, p Port) (int, error) {
	if err := takeAway(h, p.Veth); err != nil {
		return 0, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags, attrs.HardwareAddr = p.Veth, net.FlagUp, p.nodeMAC()
	if n.bridged(p) {
		bridge, err := h.LinkByName(BridgeName)
		if err != nil {
			return 0, fmt.Errorf("find bridge: %w", err)
		}
		attrs.MasterIndex = bridge.Attrs().Index
	}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: PodInterface, PeerHardwareAddr: p.MAC(), PeerNamespace: netlink.NsFd(pod.FD())}
	if err := h.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("make veth: %w", err)
	}
	made, err := h.LinkByName(p.Veth)
	if err != nil {
		return 0, fmt.Errorf("find veth: %w", err)
	}
	if n.bridged(p) {
		return made.Attrs().Index, pin(h, made, p)
	}
	return made.Attrs().Index, nil
}

// pin tells the bridge behind which port the pod is, and to believe no other: it would send one pod's packets to whoever
// claims its link-layer address.
func pin(h *netlink.Handle, port netlink.Link, p Port) error {
	if err := h.LinkSetLearning(port, false); err != nil {
		return fmt.Errorf("have the bridge learn nothing from %s: %w", p.Veth, err)
	}
	err := h.NeighSet(&netlink.Neigh{LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_MASTER | sticky,
		State: unix.NUD_NOARP, HardwareAddr: p.MAC()})
	if err != nil {
		return fmt.Errorf("tell the bridge where %s is: %w", p.MAC(), err)
	}
	return nil
}

// MAC is the link-layer address of the pod.
func (p Port) MAC() net.HardwareAddr {
	return net.HardwareAddr{0x02, 'r', 'f', 0, byte(p.Number >> 8), byte(p.Number)}
}

// nodeMAC is that of the node's end of its veth.
func (p Port) nodeMAC() net.HardwareAddr {
	return net.HardwareAddr{0x02, 'r', 'f', 1, byte(p.Number >> 8), byte(p.Number)}
}

// route leads from the node to the pod.
func (n Net) route(h *netlink.Handle, index int, p Port) error {
	if err := addAddress(h, index, netip.PrefixFrom(LinkGateways[1], 64)); err != nil {
		return err
	}
	if err := AddNeighbors(h, index, p.Addresses, p.MAC()); err != nil {
		return err
	}
	for _, a := range p.Addresses {
		route := netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())),
			Src: n.Address[familyOf(a)].AsSlice()}
		if err := h.RouteReplace(&route); err != nil {
			return fmt.Errorf("route to %s: %w", a, err)
		}
	}
	return nil
}

// inside gives a pod its addresses and a way out: through the bridge's address, or a link-local one.
func (n Net) inside(h *netlink.Handle, p Port) error {
	eth0, err := h.LinkByName(PodInterface)
	if err != nil {
		return fmt.Errorf("find %s: %w", PodInterface, err)
	}
	index := eth0.Attrs().Index
	if err := up(h, index, nil); err != nil {
		return err
	}
	gateways := LinkGateways
	if n.bridged(p) {
		gateways = n.Gateways()
	} else if err := AddNeighbors(h, index, gateways[:], p.nodeMAC()); err != nil {
		return err
	}
	for _, a := range p.Addresses {
		bits := a.BitLen()
		if n.bridged(p) {
			bits = n.Ranges[familyOf(a)].Bits()
		}
		if err := addAddress(h, index, netip.PrefixFrom(a, bits)); err != nil {
			return err
		}
		route := netlink.Route{LinkIndex: index, Gw: gateways[familyOf(a)].AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := h.RouteReplace(&route); err != nil {
			return fmt.Errorf("route by %s: %w", gateways[familyOf(a)], err)
		}
	}
	return nil
}

// Unplug cuts pods off: the node's interfaces go down, so that nothing comes or goes over them any more. That takes a
// tenth of a millisecond for each, where the kernel needs 35 to take one away. An interface goes with its pod's namespace,
// or when its name is plugged in again. It is no error if there is none.
func Unplug(node *netns.NS, veths ...string) error {
	return WithHandle(node, func(h *netlink.Handle) error {
		for _, v := range veths {
			link, err := h.LinkByName(v)
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				continue
			}
			if err == nil {
				err = h.LinkSetDown(link)
			}
			if err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("unplug %s: %w", v, err)
			}
		}
		return nil
	})
}

// takeAway removes an interface, and the pod's with it. It is no error if there is none.
func takeAway(h *netlink.Handle, veth string) error {
	link, err := h.LinkByName(veth)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("take away %s: %w", veth, err)
	}
	return nil
}

// Plugged lists the node's veths that lead to pods which are plugged in, with their indices.
func Plugged(node *netns.NS) (map[string]int, error) {
	found := map[string]int{}
	err := WithHandle(node, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			if l.Type() == "veth" && l.Attrs().Flags&net.FlagUp != 0 {
				found[l.Attrs().Name] = l.Attrs().Index
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return found, nil
}

// Peer is the index of the node's interface that the pod's leads to, or 0 if there is none. Plugged says whether it is
// plugged in.
func Peer(pod *netns.NS) (int, error) {
	index := 0
	err := WithHandle(pod, func(h *netlink.Handle) error {
		l, err := h.LinkByName(PodInterface)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err == nil {
			index = l.Attrs().ParentIndex
		}
		return err
	})
	return index, err
}

// AwaitUp returns when interfaces of ns carry packets and addresses are in use. The kernel does both some time after it
// was told to: until then it drops what is sent over a veth, and looks for a new IPv6 address on the link. It asks again
// and again: that takes milliseconds, and what a subscription says can be lost.
func AwaitUp(ctx context.Context, ns *netns.NS, addresses []netip.Addr, interfaces ...string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("interfaces do not come up"))
	defer cancel()
	return WithHandle(ns, func(h *netlink.Handle) error {
		again := time.NewTicker(2 * time.Millisecond)
		defer again.Stop()
		for {
			ready, err := allUp(h, interfaces)
			if err == nil && ready {
				ready, err = allLocal(h, addresses)
			}
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) || err == nil && ready {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-again.C:
			}
		}
	})
}

func allUp(h *netlink.Handle, interfaces []string) (bool, error) {
	links, err := h.LinkList()
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	up := 0
	for _, l := range links {
		if slices.Contains(interfaces, l.Attrs().Name) && l.Attrs().OperState == netlink.OperUp {
			up++
		}
	}
	return up == len(interfaces), nil
}

// allLocal reports whether packets to all the addresses stay in the namespace.
func allLocal(h *netlink.Handle, addresses []netip.Addr) (bool, error) {
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("list local routes: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, r := range routes {
		if r.Dst == nil || r.Type != unix.RTN_LOCAL {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			local[a.Unmap()] = true
		}
	}
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return !local[a] }), nil
}

// WithHandle calls f with a route netlink socket in ns.
func WithHandle(ns *netns.NS, f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink: %w", err)
	}
	defer h.Close()
	return f(h)
}

// Sysctl writes "path=value" below /proc/sys/net, of the calling thread's namespace.
func Sysctl(settings ...string) error {
	for _, s := range settings {
		path, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
			return fmt.Errorf("set net/%s to %s: %w", path, value, err)
		}
	}
	return nil
}

func up(h *netlink.Handle, index int, addresses []netip.Addr) error {
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}); err != nil {
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
	if err := h.AddrReplace(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, addr); err != nil {
		return fmt.Errorf("give interface %d address %s: %w", index, p, err)
	}
	return nil
}

// AddNeighbors tells an interface the link-layer address of others, for good: nobody has to ask, and the kernel's table of
// those it has learned does not fill up.
func AddNeighbors(h *netlink.Handle, index int, addresses []netip.Addr, mac net.HardwareAddr) error {
	for _, a := range addresses {
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		n := netlink.Neigh{LinkIndex: index, Family: family, State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
		if err := h.NeighSet(&n); err != nil {
			return fmt.Errorf("add neighbour %s: %w", a, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
