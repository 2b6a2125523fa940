package engine_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// all is an edit that brings a whole state, to a compiler that has none.
func all(s *cluster.State, done func()) engine.Edit {
	return engine.Edit{Done: done, Apply: func(c *compile.Compiler) {
		for _, n := range s.Namespaces() {
			c.SetNamespace(n)
		}
		for _, n := range s.Nodes() {
			c.SetNode(n)
		}
		for _, e := range s.Endpoints() {
			c.SetPod(e, ruleset.Attachment{})
		}
		for _, p := range s.Policies() {
			c.SetPolicy(p)
		}
		c.SetPodRanges(s.PodRanges())
	}}
}

// TestChangesAreInForceWhenDone: whatever fails on the way, what is done is in force, in order, and is what whole states
// lead to.
func TestChangesAreInForceWhenDone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		whole := engine.New(dataplane.NewFakeKernel().Open(), compile.Options{})
		if err := whole.Sync(context.Background(), engine.Input{State: s}); err != nil {
			t.Fatal(err)
		}
		k := dataplane.NewFakeKernel()
		k.Fail(0.5, rapid.Uint64().Draw(t, "seed"))
		e := engine.New(k.Open(), compile.Options{})
		var done []int
		edits := []engine.Edit{all(s, func() { done = append(done, 0) })}
		for i, p := range s.Policies() {
			edits = append(edits, engine.Edit{Apply: func(c *compile.Compiler) { c.DeletePolicy(p.Namespace, p.Name) }},
				engine.Edit{Apply: func(c *compile.Compiler) { c.SetPolicy(p) }, Done: func() { done = append(done, i+1) }})
		}
		for _, edit := range edits {
			if err := e.Change(context.Background(), edit); err == nil && e.Status().Err != nil {
				t.Fatal("a change went well, and the status says that it did not")
			}
		}
		err := errors.New("not tried")
		for attempt := 0; err != nil && attempt < 100; attempt++ {
			err = e.Change(context.Background(), engine.Edit{})
		}
		if err != nil || len(done) != len(s.Policies())+1 || !slices.IsSorted(done) {
			t.Fatalf("done are %v of %d, error %v", done, len(s.Policies())+1, err)
		}
		for range 10 {
			tuple := clustertest.Tuple(t, s)
			want := whole.Decide(tuple).Verdict == flow.Allow
			if got := k.Connect(tuple).Send(); got != want {
				t.Fatalf("%s: arrives %v, want %v", tuple, got, want)
			}
			if got, want := e.At(tuple.Source).String(), s.At(tuple.Source).String(); got != want {
				t.Fatalf("%s is %s, want %s", tuple.Source, got, want)
			}
		}
	})
}

func TestDeniesNamesTheRuleOfARow(t *testing.T) {
	e := engine.New(dataplane.NewFakeKernel().Open(), compile.Options{})
	if err := e.Change(t.Context(), all(state(t, 1, true), nil)); err != nil {
		t.Fatal(err)
	}
	row := e.Ruleset().Judge(flow.Tuple{Source: web, Destination: db, Protocol: flow.TCP, Port: 80}).Row
	if rule, ok := e.Denies(row); !ok || rule.Policy() != "shop/closed" {
		t.Errorf("row %d denies by %v, %v", row, rule, ok)
	}
	if rule, ok := e.Denies(0); ok {
		t.Errorf("no row denies by %v", rule)
	}
}
