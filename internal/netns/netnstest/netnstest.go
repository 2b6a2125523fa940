//go:build linux

// Package netnstest makes network namespaces for tests, and what is in them. All of it is gone when the test ends.
package netnstest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// New makes an empty namespace, or skips the test where that is not allowed.
func New(t testing.TB) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("no right to make network namespaces: %v", err)
	}
	Must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// Must ends the test if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Sysctl sets what is under /proc/sys in a namespace, each like "net/ipv4/ip_forward=1".
func Sysctl(t testing.TB, ns *netns.NS, settings ...string) {
	t.Helper()
	Must(t, ns.Do(func() error {
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Links returns what changes the interfaces, addresses and routes of a namespace.
func Links(t testing.TB, ns *netns.NS) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(vishnetns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	Must(t, err)
	t.Cleanup(h.Close)
	return h
}

// Pair makes a pair of interfaces: name in one namespace, and eth0 in another.
func Pair(t testing.TB, ns *netns.NS, name string, other *netns.NS) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	Must(t, Links(t, ns).LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(other.FD())}))
}

// Up brings an interface up with addresses, which are used at once, without looking for duplicates.
func Up(t testing.TB, ns *netns.NS, name string, addresses ...netip.Prefix) netlink.Link {
	t.Helper()
	h := Links(t, ns)
	link, err := h.LinkByName(name)
	Must(t, err)
	Must(t, h.LinkSetUp(link))
	for _, p := range addresses {
		a := &netlink.Addr{IPNet: IPNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, a); err != nil {
			t.Fatalf("address %s on %s: %v", p, name, err)
		}
	}
	return link
}

// IPNet is p as netlink wants it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
