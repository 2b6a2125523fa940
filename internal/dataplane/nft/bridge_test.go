//go:build linux

package nft

import (
	"testing"

	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
	"github.com/ringfence-project/ringfence/internal/netfilter"
)

// A tag of 0 means no VLAN: the receiver takes the packet as if there were none, but the bridge does not show it to IP's
// hooks.
func TestTagsOnABridge(t *testing.T) {
	l := newLab(t, true)
	l.enforce(denyB)
	for v, kind := range []uint16{0x0800, 0x86dd} {
		for _, tag := range []uint16{0x8100, 0x88a8} {
			s, before := l.sniff(l.hosts[podB]), l.counted(netfilter.Bridge, "from_pod")
			packet := udpPacket(podA[v], podB[v], 80, 0)
			l.frame(l.hosts[podA], tag, append([]byte{0, 0, byte(kind >> 8), byte(kind)}, packet...))
			l.wait(func() bool { return l.counted(netfilter.Bridge, "from_pod") == before+1 }, "a frame with tag %#x is counted", tag)
			if s.count() != 0 {
				t.Errorf("a frame with tag %#x arrived", tag)
			}
		}
	}
}

// A pod may say where it is, but not that it is where another address is, nor that it is a router.
func TestFalseNeighborsOnABridge(t *testing.T) {
	l := newLab(t, true)
	l.enforce(``)
	a, b, to := l.hosts[podA], l.hosts[podB], podB[1]
	claim := func(kind byte, of dataplanetest.Host) []byte {
		target := of[1].As16()
		return icmpPacket(podA[1], to, [2]byte{0, kind}, 255, append([]byte{0x60, 0, 0, 0}, target[:]...)...)
	}
	l.dropsIn(netfilter.Bridge, "from_pod", a, b, claim(134, podA), claim(136, podC), claim(136, node), claim(137, podA))
	l.lets(a, b, claim(136, podA))
}
