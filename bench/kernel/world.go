//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// world is a node with two pods, routed to each other over it.
type world struct {
	name                 string
	node, client, server *netns.NS
	listener             int // sockets; client's are made in its namespace
	sender, receiver     int // of a connection that stays
	to                   unix.Sockaddr
	dataplane            *nft.Dataplane
	rules                string
	seen                 map[string]*samples // by kind of traffic
}

// newWorld makes the network, without rules.
func newWorld(ctx context.Context, name string, client, server netip.Addr) (w *world, err error) {
	w = &world{name: name, seen: map[string]*samples{}, to: &unix.SockaddrInet4{Port: port, Addr: server.As4()}}
	for _, ns := range []**netns.NS{&w.node, &w.client, &w.server} {
		if *ns, err = netns.New(); err != nil {
			return nil, err
		}
	}
	net := podnet.Net{Ranges: [2]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")},
		Address: [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	if err := net.SetUp(w.node); err != nil {
		return nil, err
	}
	for i, pod := range []*netns.NS{w.client, w.server} {
		p := podnet.Port{Veth: veth(i), Number: i + 1, Addresses: []netip.Addr{[]netip.Addr{client, server}[i]}}
		if err := net.Plug(w.node, pod, p); err != nil {
			return nil, err
		}
		if err := podnet.AwaitUp(ctx, pod, nil, podnet.PodInterface); err != nil {
			return nil, err
		}
	}
	if err := podnet.AwaitUp(ctx, w.node, nil, veth(0), veth(1)); err != nil {
		return nil, err
	}
	err = w.client.Do(func() error { return podnet.Sysctl("ipv4/ip_local_port_range=1024 65535") })
	return w, errors.Join(err, w.listen())
}

// track has the node track connections, as kube-proxy has it, and judge nothing.
func (w *world) track() error {
	w.rules = "drop what is invalid"
	conn, err := netfilter.Dial(w.node.FD())
	if err != nil {
		return err
	}
	defer conn.Close()
	b := &netfilter.Batch{Table: "tracking"}
	b.AddTable(netfilter.Inet)
	var steps []netfilter.Expression
	for _, e := range []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: host32(expr.CtStateBitINVALID), Xor: host32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: host32(0)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	} {
		data, err := expr.Marshal(netfilter.Inet, e)
		if err != nil {
			return err
		}
		steps = append(steps, data)
	}
	b.AddChain(netfilter.Chain{Ref: netfilter.Ref{Family: netfilter.Inet, Name: "forward"},
		Hook: &netfilter.Hook{Number: unix.NF_INET_FORWARD}, Rules: []netfilter.Rule{{Steps: steps}}})
	return conn.Commit(b.Messages(), 0)
}

func host32(v uint32) []byte {
	return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
}

// fence has the node enforce r.
func (w *world) fence(ctx context.Context, r *ruleset.Ruleset) (err error) {
	w.rules = elements(r)
	if w.dataplane, err = nft.New(nft.Options{NetNS: w.node.FD()}); err != nil {
		return err
	}
	return w.dataplane.Replace(ctx, r)
}

// listen opens the server's socket.
func (w *world) listen() error {
	return w.server.Do(func() (err error) {
		if w.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(w.listener, w.to); err != nil {
			return err
		}
		return unix.Listen(w.listener, 1024)
	})
}

// connect makes a connection that stays; the thread is in the client's namespace.
func (w *world) connect() (err error) {
	if w.sender, w.receiver, err = w.open(); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	return errors.Join(unix.SetsockoptInt(w.sender, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(w.receiver, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

func (w *world) close() {
	for _, fd := range []int{w.listener, w.sender, w.receiver} {
		if fd > 0 {
			unix.Close(fd)
		}
	}
	if w.dataplane != nil {
		w.dataplane.Close()
	}
	for _, ns := range []*netns.NS{w.node, w.client, w.server} {
		if ns != nil {
			ns.Close()
		}
	}
}

// worlds are one for each thing that traffic is measured with.
func (n node) worlds(ctx context.Context) (all []*world, err error) {
	client, server := n.locals[0], n.locals[1]
	fences, err := pair(client, server)
	if err != nil {
		return nil, err
	}
	add := func(name string) (*world, error) {
		w, err := newWorld(ctx, name, client.Addresses[0], server.Addresses[0])
		if err == nil {
			all = append(all, w)
		}
		return w, err
	}
	if _, err := add("no policy, no tracking"); err != nil {
		return all, err
	}
	w, err := add("tracking alone")
	if err == nil {
		err = w.track()
	}
	if err != nil {
		return all, err
	}
	for _, policies := range []int{0, 100, 1000, 10000} {
		if policies > len(n.w.Policies) {
			continue
		}
		w, err := add(fmt.Sprintf("Ringfence, %d policies", policies))
		if err != nil {
			return all, err
		}
		if err := w.fence(ctx, n.compiled(policies, fences)); err != nil {
			return all, err
		}
	}
	return all, nil
}
