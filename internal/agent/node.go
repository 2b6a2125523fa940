package agent

import (
	"fmt"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// nodeNet is the node's network namespace: nil is the process's own, which needs none of the rights that entering one
// does.
type nodeNet struct{ ns *netns.NS }

// fd is the namespace's file descriptor, 0 for the process's own.
func (n nodeNet) fd() int {
	if n.ns == nil {
		return 0
	}
	return n.ns.FD()
}

// handle opens a route netlink socket. The caller closes it.
func (n nodeNet) handle() (*netlink.Handle, error) {
	ns := vnetns.None()
	if n.ns != nil {
		ns = vnetns.NsHandle(n.ns.FD())
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route socket: %w", err)
	}
	return h, nil
}

// subscription is what subscriptions of package netlink want to be told.
func (n nodeNet) subscription() *vnetns.NsHandle {
	if n.ns == nil {
		return nil
	}
	ns := vnetns.NsHandle(n.ns.FD())
	return &ns
}

// do runs f in the namespace.
func (n nodeNet) do(f func() error) error {
	if n.ns == nil {
		return f()
	}
	return n.ns.Do(f)
}
