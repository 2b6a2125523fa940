package clustertest_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

type sample struct {
	state, next *cluster.State
	tuples      []flow.Tuple
}

var samples = rapid.Custom(func(t *rapid.T) sample {
	s := sample{state: clustertest.State(t)}
	s.next = clustertest.Mutate(t, s.state)
	for range 10 {
		s.tuples = append(s.tuples, clustertest.Tuple(t, s.state))
	}
	return s
})

// A generator that never draws what matters makes every property hold. So what matters is counted.
func TestGeneratorsReachWhatMatters(t *testing.T) {
	seen := map[string]int{}
	for seed := range 2500 {
		s := samples.Example(seed)
		for _, tuple := range s.tuples {
			for _, state := range []*cluster.State{s.state, s.next} {
				count(seen, state, tuple)
			}
		}
	}
	t.Log(seen)
	for _, want := range wanted {
		if seen[want] < 5 {
			t.Errorf("%q was drawn %d times, want at least 5", want, seen[want])
		}
	}
}

var wanted = []string{
	"allow", "deny by egress", "deny by ingress", "ipv6", "local", "translated", "itself", "through a Service to itself",
	"unknown source", "unknown destination", "node destination", "outside source", "no ports", "named port decides", "isolation decides",
	"Admin no effect", "Admin passed", "Admin accepted", "Admin denied", "Admin accepted unless a later tier denies",
	"stands against a later denial",
	"NetworkPolicy no effect", "NetworkPolicy accepted", "NetworkPolicy denied",
	"Baseline no effect", "Baseline accepted", "Baseline denied",
}

func count(seen map[string]int, s *cluster.State, tuple flow.Tuple) {
	c := s.Resolve(tuple)
	d := eval.Evaluate(s, c)
	f := d.Flow()
	note := func(what string, when bool) {
		if when {
			seen[what]++
		}
	}
	note("allow", f.Verdict == flow.Allow)
	note("deny by "+f.Direction.String(), f.Verdict == flow.Deny)
	note("ipv6", tuple.Source.Is6())
	note("local", c.Tuple().Local)
	note("translated", tuple.Translated)
	itself := c.From.Endpoint != nil && c.From.Endpoint == c.To.Endpoint
	note("itself", itself && !tuple.Translated)
	note("through a Service to itself", itself && tuple.Translated)
	note("unknown source", c.From.Unknown)
	note("unknown destination", c.To.Unknown)
	note("node destination", c.To.Node != nil)
	note("outside source", !c.From.Unknown && c.From.Node == nil && c.From.Endpoint == nil)
	note("no ports", !tuple.Protocol.HasPorts())
	note("isolation decides", f.Rule.Index == flow.Isolation)
	for _, side := range []*eval.Side{d.Egress, d.Ingress} {
		if side != nil {
			countSide(seen, side)
		}
	}
}

func countSide(seen map[string]int, side *eval.Side) {
	for _, tier := range side.Tiers {
		seen[tier.Tier.String()+" "+tier.Outcome.String()]++
		if tier.Outcome == eval.Stands && side.Verdict == flow.Deny {
			seen["stands against a later denial"]++
		}
		for _, p := range tier.Policies {
			for _, r := range p.Rules {
				for _, port := range r.Ports {
					if r.Rule == side.Rule && port.Port.Name != "" && port.Match == eval.Yes {
						seen["named port decides"]++
					}
				}
			}
		}
	}
}

func TestTuplesAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		tuple := clustertest.Tuple(t, s)
		for _, a := range []netip.Addr{tuple.Source, tuple.Destination} {
			if !a.IsValid() || a.Is4In6() || a.Is4() != tuple.Source.Is4() {
				t.Errorf("tuple %s holds a bad address or two families", tuple)
			}
		}
		if c := s.Resolve(tuple); c.Tuple() != tuple {
			t.Errorf("tuple %s resolves to %s", tuple, c.Tuple())
		}
		if tuple.Port != 0 && !tuple.Protocol.HasPorts() {
			t.Errorf("tuple %s has a port", tuple)
		}
	})
}

func TestMutateLeavesTheOriginal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		tuple := clustertest.Tuple(t, s)
		before := eval.Evaluate(s, s.Resolve(tuple)).Flow()
		next := clustertest.Mutate(t, s)
		if after := eval.Evaluate(s, s.Resolve(tuple)).Flow(); after != before {
			t.Errorf("%s was %+v and is %+v after Mutate", tuple, before, after)
		}
		if next.Revision() <= s.Revision() {
			t.Errorf("revision %d does not follow %d", next.Revision(), s.Revision())
		}
	})
}
