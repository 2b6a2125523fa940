//go:build linux

package nft

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// blocked denies what comes from outside to pod A by the block that it is in, whose identity is given. There are other
// blocks, so that the kernel takes its time.
func (l *lab) blocked(generation uint64, block ruleset.Identity) *ruleset.Ruleset {
	var b strings.Builder
	fmt.Fprintf(&b, "address 192.0.2.0/24 %d\naddress 2001:db8::/32 %d\n", block, block)
	for i := range 200 {
		fmt.Fprintf(&b, "address 172.16.%d.0/24 %d\n", i, 300+i%2)
	}
	fmt.Fprintf(&b, "subject ingress 101\n  default row 1\n  from %d row 2\nrow 1\n  else allow\nrow 2\n  else deny\n", block)
	r := l.rules(b.String())
	r.Generation = generation
	return r
}

// What is denied before a change and after it is denied at all times between, though the kernel shows the new content of
// maps with intervals a moment after the rules and data that go with it.
func TestNothingComesThroughWhileBlocksChange(t *testing.T) {
	l := newLab(t, false)
	l.opts.Closed = podRanges
	d := l.open()
	defer d.Close()
	l.must(d.Replace(t.Context(), l.blocked(1, 200)))

	var arrived, sent atomic.Int64
	l.must(l.hosts[podA].ns.Do(func() error {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 9999})
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 8); ; arrived.Add(1) {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}()
		return nil
	}))
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for v := range 2 {
		l.must(l.hosts[outside].ns.Do(func() error {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(podA[v], 9999)))
			if err != nil {
				return err
			}
			flood.Go(func() {
				defer c.Close()
				for ; ctx.Err() == nil; time.Sleep(10 * time.Microsecond) { // the processor is not ours alone
					if _, err := c.Write([]byte("in")); err == nil {
						sent.Add(1)
					}
				}
			})
			return nil
		}))
	}
	for i := range 60 {
		next := l.blocked(uint64(i+2), ruleset.Identity(200+i%2))
		if i%3 == 0 {
			l.must(d.Replace(t.Context(), next))
			continue
		}
		delta := ruleset.Diff(mustRealize(t, d), next)
		delta.Tightens = i%3 == 1 // it is not always known that something gets tighter
		l.must(d.Apply(t.Context(), delta))
	}
	stop()
	flood.Wait()
	if n := arrived.Load(); n > 0 || sent.Load() == 0 {
		t.Errorf("%d of %d packets arrived that are denied before and after every change", n, sent.Load())
	}
}
