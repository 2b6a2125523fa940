package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// flood sends datagrams from a namespace to a pod without a pause, until stop is called.
func (m *machine) flood(from *netns.NS, to string, sent *atomic.Int64) (stop func()) {
	m.t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(m.t.Context())
	for _, a := range port(to).Addresses {
		must(m.t, from.Do(func() error {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
			if err != nil {
				return err
			}
			wg.Go(func() {
				defer c.Close()
				for ctx.Err() == nil {
					if _, err := c.Write([]byte("in")); err == nil {
						sent.Add(1)
					}
					time.Sleep(20 * time.Microsecond) // the processor is not ours alone
				}
			})
			return nil
		}))
	}
	return func() { cancel(); wg.Wait() }
}

// listen counts what arrives at a pod's port 9.
func (m *machine) listen(pod string) *atomic.Int64 {
	m.t.Helper()
	var got atomic.Int64
	must(m.t, m.pods[pod].Do(func() error {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: 9})
		if err != nil {
			return err
		}
		m.t.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 8); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
				got.Add(1)
			}
		}()
		return nil
	}))
	return &got
}

// An agent that starts replaces what it finds by what it would put there, in one transaction. Nothing that is denied
// comes through before, at or after that, and connections that are allowed go on.
func TestRestartsLeaveNoGap(t *testing.T) {
	for _, bridge := range []bool{false, true} {
		t.Run(fmt.Sprint("bridge ", bridge), func(t *testing.T) {
			m := newMachine(t, bridge)
			o, _ := options(apiNode(m.net.Ranges[:]...), onlyFrom("db", "web"),
				apiPod("web", "1", "n1", port("web").Addresses...), apiPod("db", "2", "n1", port("db").Addresses...))
			a, stop := m.start(o)
			m.awaitReady(a)
			m.reaches(m.pods["web"], "db")
			kept, err := m.dial(m.pods["web"], "db", 0, patience)
			must(t, err)
			defer kept.Close()

			var sent atomic.Int64
			arrived := []*atomic.Int64{m.listen("db"), m.listen("web")}
			defer m.flood(m.pods["unknown"], "db", &sent)()  // closed, and not allowed either
			defer m.flood(m.pods["unknown"], "web", &sent)() // closed
			for range 10 {
				before := sent.Load()
				stop()
				talk(t, kept)
				eventually(t, "it is flooded while no agent runs", func() bool { return sent.Load() > before+100 })
				a, stop = m.start(o)
				m.awaitReady(a)
				talk(t, kept)
			}
			stop()
			for _, n := range arrived {
				if n.Load() > 0 {
					t.Errorf("%d of %d packets arrived that are denied", n.Load(), sent.Load())
				}
			}
		})
	}
}

// What the restart asks of the kernel is one transaction: whoever cannot have it changes nothing.
func TestARestartThatFailsLeavesWhatIsInForce(t *testing.T) {
	m := newMachine(t, false)
	o, _ := options(apiNode(m.net.Ranges[:]...), onlyFrom("db", "web"),
		apiPod("web", "1", "n1", port("web").Addresses...), apiPod("db", "2", "n1", port("db").Addresses...))
	a, stop := m.start(o)
	m.awaitReady(a)
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	places, err := newKernel(nodeNet{m.node}, t.TempDir())
	must(t, err)
	defer places.close()
	if err := newAgent(o, nodeNet{m.node}, places).run(ctx); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
	m.reaches(m.pods["web"], "db")
	m.fails(m.pods["unknown"], "db")
}
