package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
)

// family is what a probe of IPv4 or IPv6 is made of. A probe sends a packet as a pod would: out of a veth, from an address
// that is routed to it, to another that the node would have to forward it to. The table counts it where connections are
// judged, and drops it. Both addresses are routed to the probe's own interface, so that without the table the packet would
// go nowhere either.
//
// Each family has a probe of its own: they have their own switches, hooks and other people's rules.
type family struct {
	name       string
	from, to   netip.Addr
	routed     netip.Prefix
	forwarding string // the kernel's setting
}

// The families: IPv4 with link-local addresses, and IPv6 with unique local ones, as IPv6 forwards no link-local ones.
var families = [2]family{
	{"IPv4", netip.MustParseAddr("169.254.93.1"), netip.MustParseAddr("169.254.93.2"), netip.MustParsePrefix("169.254.93.0/30"), "net.ipv4.ip_forward"},
	{"IPv6", netip.MustParseAddr("fd93:7266:7072:6f62::1"), netip.MustParseAddr("fd93:7266:7072:6f62::2"),
		netip.MustParsePrefix("fd93:7266:7072:6f62::/126"), "net.ipv6.conf.all.forwarding"},
}

// probePeer is the end of the veth that the packet is sent out of.
const probePeer = nft.ProbeInterface + "1"

const (
	probeWait  = 3 * time.Second // for one probe
	probeAgain = 5 * time.Minute // after all were seen
	probeRetry = 10 * time.Second
)

// keepProbing probes again and again, and says whether packets pass.
func (a *Agent) keepProbing(ctx context.Context, dp *nft.Dataplane) error {
	if !a.awaitInForce(ctx) {
		return nil
	}
	var seen time.Time
	for {
		wanted := a.families()
		if time.Since(seen) >= probeAgain || a.unproven(wanted) != "" {
			seen = time.Time{}
			if a.probeAll(ctx, dp, wanted) {
				seen = time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(probeRetry):
		}
	}
}

// probeAll probes each of the families, and reports whether all pass.
func (a *Agent) probeAll(ctx context.Context, dp *nft.Dataplane, wanted []family) bool {
	var failed []string
	for _, f := range wanted {
		err := f.probe(ctx, a.net, dp.Probes)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			failed = append(failed, f.name+": "+err.Error())
			continue
		}
		a.mu.Lock()
		first := !a.proven[f.name]
		a.proven[f.name] = true
		a.mu.Unlock()
		if first {
			a.log.Info("a probe showed that packets of pods pass the table", "family", f.name)
		}
	}
	a.setCondition(OffPath, strings.Join(failed, "; "))
	a.wakeReporter()
	return len(failed) == 0
}

// families are those that pods of this node have addresses of, as far as is known; IPv4 if nothing is.
func (a *Agent) families() []family {
	has := a.feed.families()
	ranges := a.options.PodCIDRs
	if len(ranges) == 0 {
		ranges = a.source.NodeRanges(a.options.Node)
	}
	for _, p := range ranges {
		has[familyOf(p.Addr())] = true
	}
	has[0] = has[0] || !has[1]
	var all []family
	for i, f := range families {
		if has[i] {
			all = append(all, f)
		}
	}
	return all
}

// familyOf is an index of families.
func familyOf(x netip.Addr) int {
	if x.Is6() {
		return 1
	}
	return 0
}

// unproven names the first of the families of which no probe was ever seen to pass, "" if there is none.
func (a *Agent) unproven(wanted []family) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range wanted {
		if !a.proven[f.name] {
			return f.name
		}
	}
	return ""
}

// probe sends packets until count grows. It returns an error if it does not.
func (f family) probe(ctx context.Context, n nodeNet, count func() (uint64, error)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	h, err := n.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := unplugProbe(h); err != nil { // and with it what is on its way from an earlier probe
		return err
	}
	defer func() { err = errors.Join(err, unplugProbe(h)) }()
	before, err := count()
	if err != nil {
		return err
	}
	to, from, err := f.plug(h)
	if err != nil {
		return fmt.Errorf("plug a probe in: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := send(n, from.Attrs().Index, f.frame(to, from)); err != nil {
			return fmt.Errorf("send a probe: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a probe packet that came from a veth did not pass the table: "+
				"is forwarding on (%s=1), and is netfilter where this node's pods send through?", f.forwarding)
		case <-tick.C:
		}
		now, err := count()
		if err != nil {
			return err
		}
		if now > before {
			return nil
		}
		before = now // less: the counter was made again
	}
}

func unplugProbe(h *netlink.Handle) error {
	link, err := h.LinkByName(nft.ProbeInterface)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("unplug the probe: %w", err)
	}
	return nil
}

// plug makes a veth, of which one end is like a pod's on the node. Neither has a link-local address, for which the kernel would
// send packets of its own.
func (f family) plug(h *netlink.Handle) (to, from netlink.Link, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nft.ProbeInterface
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: probePeer}); err != nil {
		return nil, nil, err
	}
	for name, link := range map[string]*netlink.Link{nft.ProbeInterface: &to, probePeer: &from} {
		if *link, err = h.LinkByName(name); err == nil {
			_ = h.LinkSetIP6AddrGenMode(*link, nl.IN6_ADDR_GEN_MODE_NONE) // fails where there is no IPv6
			err = h.LinkSetUp(*link)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return to, from, h.RouteReplace(&netlink.Route{LinkIndex: to.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: f.routed.Addr().AsSlice(), Mask: net.CIDRMask(f.routed.Bits(), f.routed.Addr().BitLen())}, Table: unix.RT_TABLE_MAIN})
}

// hops is how far a probe may go: to be forwarded once.
const hops = 2

// frame is an Ethernet frame with a packet with an empty UDP datagram to the discard port.
func (f family) frame(to, from netlink.Link) []byte {
	b := append(append([]byte{}, to.Attrs().HardwareAddr...), from.Attrs().HardwareAddr...)
	ends := append(f.from.AsSlice(), f.to.AsSlice()...)
	udp := []byte{0, 9, 0, 9, 0, 8, 0, 0}
	if f.from.Is4() {
		ip := append([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, hops, unix.IPPROTO_UDP, 0, 0}, ends...)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return slices.Concat(b, []byte{0x08, 0x00}, ip, udp) // without a checksum of its own
	}
	binary.BigEndian.PutUint16(udp[6:], checksum(slices.Concat(ends, []byte{0, 0, 0, 8, 0, 0, 0, unix.IPPROTO_UDP}, udp)))
	return slices.Concat(b, []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, unix.IPPROTO_UDP, hops}, ends, udp)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func send(n nodeNet, index int, frame []byte) error {
	return n.do(func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
	})
}
