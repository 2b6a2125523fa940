package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/cni"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// errNotHere says that a pod's address leads to nowhere on this node, yet.
var errNotHere = errors.New("the node has no route to it yet")

// A place is where a pod of this node is plugged in.
type place struct {
	at    ruleset.Attachment
	index int // of the interface that only this pod sends through
}

// locator finds where pods are plugged in.
type locator interface {
	// locate returns an error for a pod that is plugged in nowhere on this node, as far as can be told now.
	locate(*kube.Pod) (place, error)
	// exists reports whether an interface is there.
	exists(index int) bool
	// addresses returns the addresses that were given out, whether their pods are known or not.
	addresses() []netip.Addr
	// ranges returns the prefixes that the node routes to its pods as a whole, as far as can be told.
	ranges() []netip.Prefix
	// watch has a value when locate or exists may answer otherwise than before, until ctx ends.
	watch(ctx context.Context) (<-chan struct{}, error)
}

// kernel finds places by what the CNI plugin wrote down when it plugged a pod in and, of pods without a record, by the
// routes of the node: an address that leads straight to an interface is plugged in there. Where that is a bridge, it is
// the port behind which the bridge has seen the address.
type kernel struct {
	node    nodeNet
	handle  *netlink.Handle
	records string // folder of cni.Records

	mu      sync.Mutex
	links   map[int]bool // that were there when last looked; nil if something changed since
	read    time.Time    // when the folder had last changed when it was read
	written map[netip.Addr]cni.Record
}

func newKernel(n nodeNet, records string) (*kernel, error) {
	h, err := n.handle()
	if err != nil {
		return nil, err
	}
	return &kernel{node: n, handle: h, records: records}, nil
}

func (k *kernel) close() { k.handle.Close() }

func (k *kernel) locate(p *kube.Pod) (place, error) {
	a := p.Addresses[0]
	if r, ok := k.recorded()[a]; ok {
		if r.Pod != "" && (r.Namespace != p.Namespace || r.Pod != p.Name || r.UID != "" && p.UID != "" && r.UID != p.UID) {
			return place{}, fmt.Errorf("%s was given to another pod, %s/%s", a, r.Namespace, r.Pod)
		}
		return k.pluggedInto(r.Interface)
	}
	found, err := k.handle.RouteGet(a.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EINVAL) || err == nil && len(found) == 0 {
		return place{}, errNotHere
	}
	if err != nil {
		return place{}, fmt.Errorf("find the route to %s: %w", a, err)
	}
	route := found[0]
	if route.Gw != nil || route.Via != nil || route.Type != unix.RTN_UNICAST {
		return place{}, errNotHere
	}
	link, err := k.handle.LinkByIndex(route.LinkIndex)
	if err != nil {
		return place{}, errNotHere
	}
	if up, err := k.isUplink(link.Attrs().Index); err != nil || up {
		return place{}, errors.Join(errNotHere, err)
	}
	if link.Type() == "bridge" {
		return k.behind(link, a)
	}
	return place{at: ruleset.Attachment{Interface: link.Attrs().Name}, index: link.Attrs().Index}, nil
}

// recorded returns the records by address.
func (k *kernel) recorded() map[netip.Addr]cni.Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	info, err := os.Stat(k.records)
	if err != nil {
		return nil
	}
	if info.ModTime().Equal(k.read) && time.Since(k.read) > time.Second { // clocks of file systems are coarse
		return k.written
	}
	records, _ := cni.ReadRecords(k.records) // one that cannot be read is none: then the routes say it
	k.read, k.written = info.ModTime(), map[netip.Addr]cni.Record{}
	for _, r := range records {
		for _, a := range r.Addresses {
			k.written[a] = r
		}
	}
	return k.written
}

func (k *kernel) addresses() []netip.Addr {
	var all []netip.Addr
	for a := range k.recorded() {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// ranges returns what is routed to a bridge that has ports, as to those of pods, and what is routed to nowhere, as networks
// do with what of a node's range no pod has.
func (k *kernel) ranges() []netip.Prefix {
	routes, err := k.handle.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil
	}
	bridges := k.podBridges()
	var found []netip.Prefix
	for _, r := range routes {
		p, ok := prefixOf(r.Dst)
		hole := r.Type == unix.RTN_BLACKHOLE || r.Type == unix.RTN_UNREACHABLE
		if ok && !p.IsSingleIP() && p.Bits() > 0 && !p.Addr().IsLinkLocalUnicast() && (hole || r.Gw == nil && bridges[r.LinkIndex]) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, netip.Prefix.Compare)
	return slices.Compact(found)
}

// podBridges returns the bridges with a veth as a port and without a default route.
func (k *kernel) podBridges() map[int]bool {
	links, err := k.handle.LinkList()
	if err != nil {
		return nil
	}
	bridges := map[int]bool{}
	for _, l := range links {
		if master := l.Attrs().MasterIndex; master != 0 && l.Type() == "veth" && !bridges[master] {
			up, err := k.isUplink(master)
			bridges[master] = err == nil && !up
		}
	}
	return bridges
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones).Masked(), ok
}

// pluggedInto is the place of the pod behind an interface: of its own, or of a bridge.
func (k *kernel) pluggedInto(name string) (place, error) {
	link, err := k.handle.LinkByName(name)
	if err != nil {
		return place{}, errNotHere
	}
	p := place{at: ruleset.Attachment{Interface: name}, index: link.Attrs().Index}
	if master := link.Attrs().MasterIndex; master != 0 {
		bridge, err := k.handle.LinkByIndex(master)
		if err != nil {
			return place{}, errNotHere
		}
		p.at = ruleset.Attachment{Interface: bridge.Attrs().Name, Port: name}
	}
	return p, nil
}

// isUplink reports whether a default route uses an interface: then others than a pod are behind it.
func (k *kernel) isUplink(index int) (bool, error) {
	list, err := k.handle.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("list routes: %w", err)
	}
	return slices.ContainsFunc(list, func(r netlink.Route) bool {
		if r.Dst == nil {
			return true
		}
		ones, _ := r.Dst.Mask.Size()
		return ones == 0
	}), nil
}

// behind finds the port of a bridge. Where the node does not know the address's neighbour yet, it asks for it, and a
// later call finds it.
func (k *kernel) behind(bridge netlink.Link, a netip.Addr) (place, error) {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	neighbors, err := k.handle.NeighList(bridge.Attrs().Index, family)
	if err != nil {
		return place{}, fmt.Errorf("list neighbours: %w", err)
	}
	mac := ""
	for _, n := range neighbors {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			mac = n.HardwareAddr.String()
		}
	}
	if mac == "" {
		ask := &netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: family, State: netlink.NUD_NONE, Flags: netlink.NTF_USE, IP: a.AsSlice()}
		return place{}, errors.Join(errNotHere, k.handle.NeighSet(ask))
	}
	seen, err := k.handle.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return place{}, fmt.Errorf("list what bridges have seen: %w", err)
	}
	for _, n := range seen {
		if n.MasterIndex != bridge.Attrs().Index || n.HardwareAddr.String() != mac || n.State&netlink.NUD_PERMANENT != 0 {
			continue
		}
		port, err := k.handle.LinkByIndex(n.LinkIndex)
		if err != nil {
			return place{}, errNotHere
		}
		return place{at: ruleset.Attachment{Interface: bridge.Attrs().Name, Port: port.Attrs().Name}, index: n.LinkIndex}, nil
	}
	return place{}, errNotHere
}

func (k *kernel) exists(index int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.links == nil {
		list, err := k.handle.LinkList()
		if err != nil {
			return true // a wrong yes costs nothing: nothing can be sent through an interface that is gone
		}
		k.links = make(map[int]bool, len(list))
		for _, l := range list {
			k.links[l.Attrs().Index] = true
		}
	}
	return k.links[index]
}

func (k *kernel) moved(wake chan<- struct{}) {
	k.mu.Lock()
	k.links = nil
	k.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (k *kernel) watch(ctx context.Context) (<-chan struct{}, error) {
	wake := make(chan struct{}, 1)
	routes, links := make(chan netlink.RouteUpdate, 64), make(chan netlink.LinkUpdate, 64)
	// An overrun of the socket is told as an error, and says no more than that something changed.
	overrun := func(error) { k.moved(wake) }
	err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(),
		netlink.RouteSubscribeOptions{Namespace: k.node.subscription(), ErrorCallback: overrun})
	if err == nil {
		err = netlink.LinkSubscribeWithOptions(links, ctx.Done(),
			netlink.LinkSubscribeOptions{Namespace: k.node.subscription(), ErrorCallback: overrun})
	}
	if err != nil {
		return nil, fmt.Errorf("listen to changes of routes: %w", err)
	}
	go func() {
		for range routes {
			k.moved(wake)
		}
	}()
	go func() {
		for range links {
			k.moved(wake)
		}
	}()
	return wake, nil
}
