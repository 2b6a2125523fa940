package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var web, db = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")

// state has two pods; db is isolated if closed.
func state(t *testing.T, revision uint64, closed bool) *cluster.State {
	t.Helper()
	o := cluster.Objects{Revision: revision, Endpoints: []*cluster.Endpoint{
		{Key: cluster.Key{Namespace: "shop", Name: "web"}, Addresses: []netip.Addr{web}},
		{Key: cluster.Key{Namespace: "shop", Name: "db"}, Addresses: []netip.Addr{db}},
	}}
	if closed {
		o.Policies = append(o.Policies, &policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "closed",
			Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}, IsolatesIngress: true})
	}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func reaches(k *dataplane.FakeKernel) bool {
	return k.Connect(flow.Tuple{Source: web, Destination: db, Protocol: flow.TCP, Port: 80}).Send()
}

func TestSyncPutsStatesInForce(t *testing.T) {
	k := dataplane.NewFakeKernel()
	e := engine.New(k.Open(), compile.Options{})
	for i, closed := range []bool{false, true, true, false} {
		if err := e.Sync(t.Context(), engine.Input{State: state(t, uint64(i+1), closed)}); err != nil {
			t.Fatal(err)
		}
		if reaches(k) == closed {
			t.Errorf("state %d: closed is %v, reaches is %v", i, closed, reaches(k))
		}
		if s := e.Status(); s.Revision != uint64(i+1) || s.Err != nil || s.Since.IsZero() {
			t.Errorf("state %d: status %+v", i, s)
		}
	}
}

func TestNothingIsPutInForceBeforeAState(t *testing.T) {
	k := dataplane.NewFakeKernel()
	old := engine.New(k.Open(), compile.Options{})
	if err := old.Sync(t.Context(), engine.Input{State: state(t, 1, true)}); err != nil {
		t.Fatal(err)
	}
	young := engine.New(k.Open(), compile.Options{}) // the process was started anew
	if what, err := young.Repair(t.Context()); what != "" || err != nil {
		t.Errorf("Repair before any state did %q, %v", what, err)
	}
	if reaches(k) {
		t.Error("what was in force is not any more")
	}
	if err := young.Sync(t.Context(), engine.Input{State: state(t, 1, true)}); err != nil || reaches(k) {
		t.Errorf("after the restart: %v, reaches %v", err, reaches(k))
	}
}

func TestRepairUndoesWhatOthersDid(t *testing.T) {
	k := dataplane.NewFakeKernel()
	e := engine.New(k.Open(), compile.Options{})
	if err := e.Sync(t.Context(), engine.Input{State: state(t, 1, true)}); err != nil {
		t.Fatal(err)
	}
	if what, err := e.Repair(t.Context()); what != "" || err != nil {
		t.Errorf("Repair of nothing: %q, %v", what, err)
	}
	k.Edit("flushed", func(r *ruleset.Ruleset) { clear(r.Defaults); clear(r.Pairs) })
	if !reaches(k) {
		t.Fatal("the edit opened nothing, so that the test shows nothing")
	}
	if what, err := e.Repair(t.Context()); what == "" || err != nil {
		t.Errorf("Repair: %q, %v", what, err)
	}
	if reaches(k) || e.Status().Repairs != 1 {
		t.Errorf("after the repair: reaches %v, %d repairs", reaches(k), e.Status().Repairs)
	}
}

// TestFaultsNeverLeaveLessInForce: however often the dataplane fails, what is in force is the newest state or an
// older one, and it is the newest as soon as a Sync succeeds.
func TestFaultsNeverLeaveLessInForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := dataplane.NewFakeKernel()
		k.Fail(0.4, rapid.Uint64().Draw(t, "seed"))
		e := engine.New(k.Open(), compile.Options{})
		s := clustertest.State(t)
		for range 5 {
			err := errors.New("not tried")
			for attempt := 0; err != nil && attempt < 100; attempt++ {
				err = e.Sync(context.Background(), engine.Input{State: s})
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				tuple := clustertest.Tuple(t, s)
				want := e.Ruleset().Judge(tuple).Verdict == flow.Allow
				if got := k.Connect(tuple).Send(); got != want {
					t.Fatalf("%s: arrives %v, want %v", tuple, got, want)
				}
			}
			s = clustertest.Mutate(t, s)
		}
	})
}

func TestAttributeRemembersRowsThatAreGone(t *testing.T) {
	k := dataplane.NewFakeKernel()
	e := engine.New(k.Open(), compile.Options{})
	if err := e.Sync(t.Context(), engine.Input{State: state(t, 1, true)}); err != nil {
		t.Fatal(err)
	}
	tuple := flow.Tuple{Source: web, Destination: db, Protocol: flow.TCP, Port: 80}
	denial := dataplane.Denial{Row: e.Ruleset().Judge(tuple).Row, Tuple: tuple}
	if err := e.Sync(t.Context(), engine.Input{State: state(t, 2, false)}); err != nil {
		t.Fatal(err)
	}
	if rule, ok := e.Attribute(denial); !ok || rule.Policy() != "shop/closed" {
		t.Errorf("the denial is by %v, %v", rule, ok)
	}
	if _, ok := e.Attribute(dataplane.Denial{Row: 1 << 20}); ok {
		t.Error("a row that never was is explained")
	}
}

// source puts each state when told to.
type source struct {
	states chan *cluster.State
	err    error
}

func (s source) Run(ctx context.Context, put func(engine.Input)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case st, ok := <-s.states:
			if !ok {
				return s.err
			}
			put(engine.Input{State: st})
		}
	}
}

func TestRunFollowsItsSourceAndRepairsDrift(t *testing.T) {
	k := dataplane.NewFakeKernel()
	e := engine.New(k.Open(), compile.Options{})
	src := source{states: make(chan *cluster.State)}
	events, done := make(chan engine.Event, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- e.Run(ctx, src, func(ev engine.Event) { events <- ev }) }()

	src.states <- state(t, 1, true)
	if ev := next(t, events); ev.Synced == nil || ev.Synced.Revision != 1 || reaches(k) {
		t.Errorf("first event %+v, reaches %v", ev, reaches(k))
	}
	if ev := next(t, events); ev.Seen.Denial == nil { // that of reaches above
		t.Errorf("no denial was seen, but %+v", ev)
	}
	k.Edit("flushed", func(r *ruleset.Ruleset) { clear(r.Defaults); clear(r.Pairs) })
	for ev := next(t, events); ev.Repaired == ""; ev = next(t, events) {
	}
	if reaches(k) {
		t.Error("drift was not repaired")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func TestRunEndsWithItsSource(t *testing.T) {
	k := dataplane.NewFakeKernel()
	src := source{states: make(chan *cluster.State), err: errors.New("no more files")}
	close(src.states)
	err := engine.New(k.Open(), compile.Options{}).Run(t.Context(), src, func(engine.Event) {})
	if !errors.Is(err, src.err) {
		t.Errorf("Run ended with %v, want %v", err, src.err)
	}
}

func next(t *testing.T, events <-chan engine.Event) engine.Event {
	t.Helper()
	select {
	case ev := <-events:
		return ev
	case <-time.After(10 * time.Second):
		t.Fatal("no event came")
		return engine.Event{}
	}
}

func ExampleEngine_Status() {
	k := dataplane.NewFakeKernel()
	e := engine.New(k.Open(), compile.Options{})
	fmt.Println(e.Status().Generation)
	// Output: 0
}
