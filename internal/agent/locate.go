package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	vnetns "github.com/vishvananda/netns"
)

// routes finds places by the routes of a network namespace: an address that leads straight to an interface is plugged in
// there. Where that is a bridge, it is the port behind which the bridge has seen the address.
type routes struct {
	ns     *netns.NS
	handle *netlink.Handle

	mu    sync.Mutex
	links map[int]bool // that were there when last looked; nil if something changed since
}

func newRoutes(ns *netns.NS) (*routes, error) {
	h, err := netlink.NewHandleAt(vnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("ask for routes: %w", err)
	}
	return &routes{ns: ns, handle: h}, nil
}

func (r *routes) close() { r.handle.Close() }

func (r *routes) locate(a netip.Addr) (place, error) {
	found, err := r.handle.RouteGet(a.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EINVAL) || len(found) == 0 {
		return place{}, errNotHere
	}
	if err != nil {
		return place{}, fmt.Errorf("find the route to %s: %w", a, err)
	}
	route := found[0]
	if route.Gw != nil || route.Via != nil || route.Type != unix.RTN_UNICAST {
		return place{}, errNotHere
	}
	link, err := r.handle.LinkByIndex(route.LinkIndex)
	if err != nil {
		return place{}, errNotHere
	}
	if up, err := r.isUplink(link.Attrs().Index); err != nil || up {
		return place{}, errors.Join(errNotHere, err)
	}
	if link.Type() == "bridge" {
		return r.behind(link, a)
	}
	return place{at: ruleset.Attachment{Interface: link.Attrs().Name}, index: link.Attrs().Index}, nil
}

// isUplink reports whether a default route uses an interface: then others than a pod are behind it.
func (r *routes) isUplink(index int) (bool, error) {
	list, err := r.handle.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range list {
		if ones := 0; route.Dst != nil {
			if ones, _ = route.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		return true, nil
	}
	return false, nil
}

// behind finds the port of a bridge. Where the node does not know the address's neighbour yet, it asks for it, and a
// later call finds it.
func (r *routes) behind(bridge netlink.Link, a netip.Addr) (place, error) {
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	neighbors, err := r.handle.NeighList(bridge.Attrs().Index, family)
	if err != nil {
		return place{}, fmt.Errorf("list neighbours: %w", err)
	}
	var mac string
	for _, n := range neighbors {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			mac = n.HardwareAddr.String()
		}
	}
	if mac == "" {
		ask := &netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: family, State: netlink.NUD_NONE, Flags: netlink.NTF_USE, IP: a.AsSlice()}
		return place{}, errors.Join(errNotHere, r.handle.NeighSet(ask))
	}
	seen, err := r.handle.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return place{}, fmt.Errorf("list what bridges have seen: %w", err)
	}
	for _, n := range seen {
		if n.MasterIndex == bridge.Attrs().Index && n.HardwareAddr.String() == mac && n.State&netlink.NUD_PERMANENT == 0 {
			port, err := r.handle.LinkByIndex(n.LinkIndex)
			if err != nil {
				return place{}, errNotHere
			}
			return place{at: ruleset.Attachment{Interface: bridge.Attrs().Name, Port: port.Attrs().Name}, index: n.LinkIndex}, nil
		}
	}
	return place{}, errNotHere
}

func (r *routes) exists(index int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.links == nil {
		list, err := r.handle.LinkList()
		if err != nil {
			return true // a wrong yes costs nothing: nothing can be sent through an interface that is gone
		}
		r.links = make(map[int]bool, len(list))
		for _, l := range list {
			r.links[l.Attrs().Index] = true
		}
	}
	return r.links[index]
}

func (r *routes) moved(wake chan<- struct{}) {
	r.mu.Lock()
	r.links = nil
	r.mu.Unlock()
	select {
	case wake <- struct{}{}:
	default:
	}
}

func (r *routes) watch(ctx context.Context) (<-chan struct{}, error) {
	wake, ns := make(chan struct{}, 1), vnetns.NsHandle(r.ns.FD())
	routes, links := make(chan netlink.RouteUpdate, 64), make(chan netlink.LinkUpdate, 64)
	// An overrun of the socket is told as an error, and says no more than that something changed.
	overrun := func(error) { r.moved(wake) }
	err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{Namespace: &ns, ErrorCallback: overrun})
	if err == nil {
		err = netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{Namespace: &ns, ErrorCallback: overrun})
	}
	if err != nil {
		return nil, fmt.Errorf("listen to changes of routes: %w", err)
	}
	go func() {
		for range routes {
			r.moved(wake)
		}
	}()
	go func() {
		for u := range links {
			if u.Header.Type == syscall.RTM_DELLINK || u.Header.Type == syscall.RTM_NEWLINK {
				r.moved(wake)
			}
		}
	}()
	return wake, nil
}
