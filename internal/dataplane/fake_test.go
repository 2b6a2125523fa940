package dataplane_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func TestFakeConforms(t *testing.T) {
	dataplanetest.Run(t, func(*testing.T) dataplanetest.Harness { return fakeHarness{dataplane.NewFakeKernel()} })
}

type fakeHarness struct{ kernel *dataplane.FakeKernel }

func (h fakeHarness) Open() (dataplane.Dataplane, error)       { return h.kernel.Open(), nil }
func (h fakeHarness) Attachment(netip.Addr) ruleset.Attachment { return ruleset.Attachment{} }
func (h fakeHarness) Connect(t flow.Tuple) (dataplanetest.Conn, error) {
	return fakeConn{h.kernel.Connect(t)}, nil
}

func (h fakeHarness) Edit() error {
	h.kernel.Edit("somebody flushed pairs", func(r *ruleset.Ruleset) { clear(r.Pairs) })
	return nil
}

type fakeConn struct{ *dataplane.FakeConn }

func (c fakeConn) Close() error { return nil }

func (c fakeConn) Send(ctx context.Context) error {
	if c.FakeConn.Send() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestFakeFaults(t *testing.T) {
	k := dataplane.NewFakeKernel()
	k.Fail(0.5, 1)
	d := k.Open()
	done, undone := 0, 0
	for generation := uint64(1); generation <= 200; generation++ {
		r := ruleset.New()
		r.Generation = generation
		before := k.String()
		err := d.Replace(t.Context(), r)
		if err == nil {
			continue
		}
		if !errors.Is(err, dataplane.ErrInjected) {
			t.Fatal(err)
		}
		if k.String() == before {
			undone++
		} else {
			done++
		}
	}
	if done < 20 || undone < 20 {
		t.Errorf("of 200 operations that fail half of the time, %d failed after their work and %d before it", done, undone)
	}
}

func TestFakeLosesEventsLikeAKernel(t *testing.T) {
	k := dataplane.NewFakeKernel()
	d := k.Open()
	pod, id := netip.MustParseAddr("10.0.0.1"), ruleset.Subject{Direction: flow.Ingress, Identity: 1}
	r := ruleset.New()
	r.Locals[pod] = ruleset.Attachment{}
	r.Addresses[netip.PrefixFrom(pod, 32)] = 1
	r.Rows[1] = ruleset.Uniform(ruleset.Cell{})
	r.Defaults[id] = 1
	if err := d.Replace(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	const sent = 5000
	c := k.Connect(flow.Tuple{Source: netip.MustParseAddr("10.0.0.2"), Destination: pod, Protocol: flow.TCP, Port: 80})
	for range sent {
		if c.Send() {
			t.Fatal("a denied packet passed")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	seen, lost, asked := 0, 0, false
	if err := d.Watch(ctx, func(e dataplane.Event) {
		if e.Denial != nil {
			seen++
		}
		lost += e.Lost
		if !asked { // the kernel says what was lost before the next event that there is room for
			asked = true
			c.Send()
		}
		if seen+lost >= sent {
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if lost == 0 || seen+lost < sent {
		t.Errorf("of %d denials %d were seen and %d reported as lost", sent, seen, lost)
	}
}
