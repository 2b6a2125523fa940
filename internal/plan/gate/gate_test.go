package gate_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/plan/gate"
)

// plans are what each gate stops, and what it found; the empty plan passes all.
var plans = map[string]struct {
	plan  plan.Plan
	found string
}{
	"newly-denied":          {plan.Plan{Changes: []plan.Change{{Effect: plan.NewlyDenied, Pairs: 2}, {Effect: plan.NewlyDenied, Pairs: 1}}}, "newly-denied: 3 pairs"},
	"newly-allowed":         {plan.Plan{Changes: []plan.Change{{Effect: plan.NewlyAllowed, Pairs: 1}}}, "newly-allowed: 1 pair"},
	"newly-allowed-outside": {plan.Plan{Changes: []plan.Change{{Effect: plan.NewlyAllowed, Pairs: 4, Outside: true}}}, "newly-allowed-outside: 4 pairs"},
	"newly-denied-seen":     {plan.Plan{Flows: &plan.Effect{Breaks: []plan.Seen{{Connections: 1200}, {Connections: 3}}}}, "newly-denied-seen: 1,203 connections"},
	"newly-allowed-seen":    {plan.Plan{Flows: &plan.Effect{Opens: []plan.Seen{{Connections: 1}}}}, "newly-allowed-seen: 1 denial"},
	"uncertain":             {plan.Plan{Flows: &plan.Effect{Uncertain: []plan.Uncertain{{Connections: 1}, {Connections: 4}}, Lost: 9}}, "uncertain: 5 connections"},
	"bad-manifests":         {plan.Plan{Problems: []plan.Problem{{Side: "old", Text: "x"}, {Side: "new", Text: "y"}}}, "bad-manifests: 1 problem"},
	"medium":                {plan.Plan{Risk: plan.Medium, RiskWhy: []string{"a", "b"}}, "medium: risk MEDIUM, a, b"},
	"high":                  {plan.Plan{Risk: plan.High, RiskWhy: []string{"c"}}, "high: risk HIGH, c"},
}

func TestEachGateStops(t *testing.T) {
	for _, g := range gate.All {
		p, known := plans[g.Name]
		if !known || g.Means == "" {
			t.Errorf("gate %s has no test, or no meaning", g.Name)
			continue
		}
		got, err := gate.Fails(&p.plan, []string{g.Name})
		if diff := cmp.Diff([]string{p.found}, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", g.Name, err, diff)
		}
		if got, err := gate.Fails(&plan.Plan{Risk: plan.Low}, []string{g.Name}); len(got) > 0 || err != nil {
			t.Errorf("%s stops the plan that changes nothing: %v, %v", g.Name, got, err)
		}
		if got, err := gate.Fails(&p.plan, nil); len(got) > 0 || err != nil {
			t.Errorf("%s: stopped without being asked for: %v, %v", g.Name, got, err)
		}
	}
}

// TestGatesTellApart: what one gate is about does not close others.
func TestGatesTellApart(t *testing.T) {
	also := map[string]string{"newly-allowed-outside": "newly-allowed", "high": "medium"}
	for name, p := range plans {
		for _, g := range gate.All {
			got, err := gate.Fails(&p.plan, []string{g.Name})
			if err != nil {
				t.Fatal(err)
			}
			if want := g.Name == name || g.Name == also[name]; want != (len(got) == 1) {
				t.Errorf("the plan of %s at %s: %v", name, g.Name, got)
			}
		}
	}
}

func TestLostRecordsAreUncertain(t *testing.T) {
	got, err := gate.Fails(&plan.Plan{Flows: &plan.Effect{Lost: 1}}, []string{"uncertain"})
	if diff := cmp.Diff([]string{"uncertain: records were lost"}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

// TestOrder: found is what is asked for, once each, in the order of All.
func TestOrder(t *testing.T) {
	p := plans["newly-denied"].plan
	p.Risk, p.RiskWhy = plan.High, []string{"x"}
	got, err := gate.Fails(&p, []string{"high", "newly-denied", "high", "newly-allowed"})
	if diff := cmp.Diff([]string{"newly-denied: 3 pairs", "high: risk HIGH, x"}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestUnknownGate(t *testing.T) {
	_, err := gate.Fails(&plan.Plan{}, []string{"high", "newly-dinied"})
	if err == nil || !strings.Contains(err.Error(), `"newly-dinied" is no gate: want some of newly-denied, newly-allowed, `) {
		t.Error(err)
	}
}
