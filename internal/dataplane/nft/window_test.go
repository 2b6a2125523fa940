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

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
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

// renamed denies what comes from outside to pod A by an identity that the rules before and after do not know, and by a row of
// its own.
func (l *lab) renamed(generation uint64) *ruleset.Ruleset {
	id, row := 200+generation%3, 2+generation%3
	r := l.rules(fmt.Sprintf("address O4 %[1]d\naddress O6 %[1]d\nsubject ingress 101\n  default row 1\n  from %[1]d row %[2]d\n"+
		"row 1\n  else allow\nrow %[2]d\n  else deny\n", id, row))
	r.Generation = generation
	return r
}

// resubjected denies pod A everything, by an identity that the rules before and after do not know.
func (l *lab) resubjected(generation uint64) *ruleset.Ruleset {
	id := ruleset.Identity(300 + generation%3)
	r := l.rules(fmt.Sprintf("subject ingress %d\n  default row 2\nrow 2\n  else deny\n", id))
	for _, a := range addresses32(podA) {
		r.Addresses[a] = id
	}
	r.Generation = generation
	return r
}

// What is denied before a change and after it is denied at all times between, though the kernel shows the new content of
// maps with intervals a moment after the rules and data that go with it, and a packet may be under way while it commits.
func TestNothingComesThroughChanges(t *testing.T) {
	for name, rules := range map[string]func(l *lab, generation uint64) *ruleset.Ruleset{
		"of blocks":     func(l *lab, g uint64) *ruleset.Ruleset { return l.blocked(g, ruleset.Identity(200+g%2)) },
		"of identities": (*lab).renamed, "of subjects": (*lab).resubjected,
	} {
		t.Run(name, func(t *testing.T) { floodChanges(t, rules) })
	}
}

func floodChanges(t *testing.T, rules func(l *lab, generation uint64) *ruleset.Ruleset) {
	l := newLab(t, false)
	l.opts.Closed = podRanges
	d := l.open()
	defer d.Close()
	l.must(d.Replace(t.Context(), rules(l, 1)))

	arrived, sent := l.floods(func() {
		for i := range 60 {
			next := rules(l, uint64(i+2))
			if i%5 == 0 {
				l.must(d.Replace(t.Context(), next))
				continue
			}
			delta := ruleset.Diff(mustRealize(t, d), next)
			delta.Tightens = i%5 == 1 // it is not always known that something gets tighter
			l.must(d.Apply(t.Context(), delta))
		}
	})
	if arrived > 0 || sent == 0 {
		t.Errorf("%d of %d packets arrived that are denied before and after every change", arrived, sent)
	}
}

// What is allowed before and after a change is refused at no time between. Its connections are judged anew after each.
func TestNothingIsRefusedWhilePortsChange(t *testing.T) {
	l := newLab(t, false)
	d := l.open()
	defer d.Close()
	rules := func(generation uint64) *ruleset.Ruleset {
		r := l.rules(fmt.Sprintf("subject ingress 101\n  default row %[1]d\nrow %[1]d\n  udp %[2]d allow\n  udp 9999 allow\n  else deny\n", 1+generation%2, 100+generation%2))
		r.Generation = generation
		return r
	}
	l.must(d.Replace(t.Context(), rules(1)))
	ctx, stop := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	var refused atomic.Int64
	watcher.Go(func() {
		if err := d.Watch(ctx, func(e dataplane.Event) {
			if e.Denial != nil {
				refused.Add(1)
			}
		}); ctx.Err() == nil {
			t.Error(err)
		}
	})
	arrived, sent := l.floods(func() {
		for i := range 60 {
			delta := ruleset.Diff(mustRealize(t, d), rules(uint64(i+2)))
			delta.Tightens = true
			l.must(d.Apply(t.Context(), delta))
		}
	})
	stop()
	watcher.Wait()
	if n := refused.Load(); n > 0 || arrived < sent/2 {
		t.Errorf("%d packets of %d were refused that are allowed before and after every change, %d arrived", n, sent, arrived)
	}
}

// While a table is replaced, as an agent does that starts, new connections are let in as before. Only one that is being judged
// just as the next table comes in force may lose its packet.
func TestNothingNewIsLateWhileATableIsReplaced(t *testing.T) {
	l := newLab(t, false)
	l.opts.Closed = podRanges
	d := l.open()
	defer d.Close()
	rules := func(generation uint64) *ruleset.Ruleset {
		r := l.blocked(generation, 200)
		r.Rows[2] = ruleset.Uniform(ruleset.Cell{}).With(flow.UDP, 9999, 9999, ruleset.Cell{Verdict: flow.Allow})
		return r
	}
	l.must(d.Replace(t.Context(), rules(1)))
	const clients = 32
	lost, sent := l.newcomers(clients, func() {
		for i := range 20 {
			l.must(d.Replace(t.Context(), rules(uint64(i+2))))
		}
	})
	if lost > clients/2 || sent < clients {
		t.Errorf("%d new connections of %d lost their packet: some of %d clients, which each wait for an answer", lost, sent, clients)
	}
}

// newcomers has clients outside ask pod A something while f runs, by a new connection each time, and returns how many got no
// answer, and how many there were.
func (l *lab) newcomers(clients int, f func()) (lost, sent int64) {
	to := make(chan *net.UDPConn, 1)
	l.must(l.hosts[podA].ns.Do(func() error {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 9999})
		if err == nil {
			l.t.Cleanup(func() { c.Close() })
			to <- c
		}
		return err
	}))
	go serveUDP(<-to)
	ctx, stop := context.WithCancel(l.t.Context())
	var all sync.WaitGroup
	var in, out atomic.Int64
	for range clients {
		all.Go(func() {
			if err := l.hosts[outside].ns.Do(func() error {
				for ; ctx.Err() == nil; out.Add(1) {
					answered, err := asked(netip.AddrPortFrom(podA[0], 9999))
					if err != nil {
						return err
					}
					if answered {
						in.Add(1)
					}
				}
				return nil
			}); err != nil {
				l.t.Error(err)
			}
		})
	}
	f()
	stop()
	all.Wait()
	return out.Load() - in.Load(), out.Load()
}

// asked asks an echo server by a new connection, and reports whether it answered.
func asked(to netip.AddrPort) (answered bool, err error) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return false, err
	}
	if _, err := c.Write([]byte("in")); err != nil {
		return false, err
	}
	_, err = c.Read(make([]byte, 8))
	return err == nil, nil
}

// floods sends packets from outside to port 9999 of pod A while f runs, and returns how many arrived and were sent.
func (l *lab) floods(f func()) (arrived, sent int64) {
	var in, out atomic.Int64
	l.must(l.hosts[podA].ns.Do(func() error {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 9999})
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 8); ; in.Add(1) {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		}()
		return nil
	}))
	ctx, stop := context.WithCancel(l.t.Context())
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
						out.Add(1)
					}
				}
			})
			return nil
		}))
	}
	f()
	stop()
	flood.Wait()
	return in.Load(), out.Load()
}
