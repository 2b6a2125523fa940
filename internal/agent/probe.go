package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
)

// A probe sends a packet as a pod would: out of a veth, from an address that is routed to it, to another that the node
// would have to forward it to. The table counts it where connections are judged, and drops it. Both addresses are
// link-local and routed to the probe's own interface, so that without the table the packet would go nowhere either.
var (
	probeFrom = netip.MustParseAddr("169.254.93.1")
	probeTo   = netip.MustParseAddr("169.254.93.2")
	probeNet  = netip.MustParsePrefix("169.254.93.0/30")
)

// probePeer is the end of the veth that the packet is sent out of.
const probePeer = nft.ProbeInterface + "1"

const (
	probeWait  = 3 * time.Second // for one probe
	probeAgain = 5 * time.Minute // after one that was seen
	probeRetry = 10 * time.Second
)

// keepProbing probes again and again, and says whether packets pass.
func (a *Agent) keepProbing(ctx context.Context, dp *nft.Dataplane) error {
	if !a.awaitInForce(ctx) {
		return nil
	}
	for {
		wait := probeAgain
		switch err := probe(ctx, a.net, dp.Probes); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			a.setCondition(OffPath, err.Error())
			wait = probeRetry
		default:
			a.mu.Lock()
			first := !a.probed
			a.probed = true
			a.mu.Unlock()
			a.setCondition(OffPath, "")
			a.wakeReporter()
			if first {
				a.log.Info("a probe showed that packets of pods pass the table")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// probe sends packets until count grows. It returns an error if it does not.
func probe(ctx context.Context, n nodeNet, count func() (uint64, error)) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	before, err := count()
	if err != nil {
		return err
	}
	h, err := n.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := unplugProbe(h); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unplugProbe(h)) }()
	to, from, err := plugProbe(h)
	if err != nil {
		return fmt.Errorf("plug a probe in: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := send(n, from.Attrs().Index, frame(to, from)); err != nil {
			return fmt.Errorf("send a probe: %w", err)
		}
		select {
		case <-ctx.Done():
			return errors.New("a probe packet that came from a veth did not pass the table: " +
				"is forwarding on (net.ipv4.ip_forward=1), and is netfilter where this node's pods send through?")
		case <-tick.C:
		}
		now, err := count()
		if err != nil {
			return err
		}
		if now != before { // or the counter was made again, and has seen it
			return nil
		}
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

// plugProbe makes a veth, of which one end is like a pod's on the node.
func plugProbe(h *netlink.Handle) (to, from netlink.Link, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nft.ProbeInterface
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: probePeer}); err != nil {
		return nil, nil, err
	}
	for name, link := range map[string]*netlink.Link{nft.ProbeInterface: &to, probePeer: &from} {
		if *link, err = h.LinkByName(name); err == nil {
			err = h.LinkSetUp(*link)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return to, from, h.RouteReplace(&netlink.Route{LinkIndex: to.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: probeNet.Addr().AsSlice(), Mask: net.CIDRMask(probeNet.Bits(), 32)}, Table: unix.RT_TABLE_MAIN})
}

// frame is an Ethernet frame with an IPv4 packet with an empty UDP datagram to the discard port.
func frame(to, from netlink.Link) []byte {
	b := append(append([]byte{}, to.Attrs().HardwareAddr...), from.Attrs().HardwareAddr...)
	b = append(b, 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 2, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, probeFrom.AsSlice()...), probeTo.AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(append(b, ip...), 0, 9, 0, 9, 0, 8, 0, 0)
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
