package eval_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// What an unknown pod is allowed, every pod that could be there is allowed: so we put one there and ask again.
func TestUnknownPodsAreAllowedOnlyWhatAllAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		for range 10 {
			checkUnknown(t, s, s.Resolve(clustertest.Tuple(t, s)))
		}
	})
}

func checkUnknown(t *rapid.T, s *cluster.State, c cluster.Connection) {
	d := eval.Evaluate(s, c)
	side, unknown := d.Egress, c.To
	if c.From.Unknown {
		side, unknown = d.Ingress, c.From
	}
	if !unknown.Unknown || side == nil || side.Verdict == flow.Deny {
		return
	}
	someState := clustertest.State(t) // its pods are as good as any that s does not know yet
	for _, e := range someState.Endpoints() {
		if e.HostNetwork {
			continue
		}
		newcomer := *e
		newcomer.Name, newcomer.Addresses = "newcomer", []netip.Addr{unknown.Addr}
		o := s.Objects()
		o.Endpoints = append(o.Endpoints, &newcomer)
		known, err := cluster.NewState(o)
		if err != nil {
			t.Fatal(err)
		}
		then := eval.Evaluate(known, known.Resolve(c.Tuple()))
		side := then.Egress
		if c.From.Unknown {
			side = then.Ingress
		}
		if side.Verdict == flow.Deny {
			t.Errorf("%s is allowed for an unknown pod, but %s denies it to one with %q in namespace %s",
				c.Tuple(), side.Rule, newcomer.Labels, newcomer.Namespace)
		}
	}
}

// The trace must tell the same story as the verdict: the deciding rule was looked at and matched, and nothing
// was looked at after it.
func TestTraceHoldsTheDecidingRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		for range 10 {
			d := eval.Evaluate(s, clustertest.Connection(t, s))
			for _, side := range []*eval.Side{d.Egress, d.Ingress} {
				if side != nil && !side.Rule.IsZero() && !traced(side) {
					t.Errorf("the trace does not hold %s", side.Rule)
				}
			}
			if (d.Egress == nil) == (d.EgressUnjudged == "") || (d.Ingress == nil) == (d.IngressUnjudged == "") {
				t.Errorf("a side is judged, or it says why not: %+v", d)
			}
		}
	})
}

func traced(side *eval.Side) bool {
	for _, tier := range side.Tiers {
		for _, p := range tier.Policies {
			if side.Rule.Index == flow.Isolation && p.Applies && p.Policy.RuleAt(side.Direction, flow.Isolation) == side.Rule {
				return tier.Outcome == eval.Denied
			}
			for _, r := range p.Rules {
				if r.Rule == side.Rule {
					return tier.Rule == r.Rule && r.Match != eval.No
				}
			}
		}
	}
	return false
}
