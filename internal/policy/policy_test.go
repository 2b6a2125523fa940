package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestNewRefuses(t *testing.T) {
	admin := func(r policy.Rule) policy.Policy {
		return policy.Policy{Tier: policy.Admin, Name: "p", Egress: []policy.Rule{r}}
	}
	block := func(b string, except ...netip.Prefix) policy.Rule {
		return policy.Rule{Peers: []policy.Peer{{Kind: policy.PeerBlock, Block: prefix(b), Except: except}}}
	}
	for what, p := range map[string]policy.Policy{
		"no tier":                     {Name: "p"},
		"no name":                     {Tier: policy.Admin},
		"no namespace":                {Tier: policy.Namespace, Name: "p"},
		"namespace in a tier":         {Tier: policy.Admin, Namespace: "ns", Name: "p"},
		"isolation in a tier":         {Tier: policy.Baseline, Name: "p", IsolatesEgress: true},
		"priority":                    {Tier: policy.Admin, Name: "p", Priority: 1001},
		"deny in a NetworkPolicy":     {Tier: policy.Namespace, Namespace: "ns", Name: "p", Egress: []policy.Rule{{Action: policy.Deny}}},
		"invalid action":              admin(policy.Rule{Action: policy.Pass + 1}),
		"nodes as ingress peers":      {Tier: policy.Admin, Name: "p", Ingress: []policy.Rule{{Peers: []policy.Peer{{Kind: policy.PeerNodes}}}}},
		"unmasked block":              admin(block("10.0.0.1/8")),
		"exception outside":           admin(block("10.0.0.0/8", prefix("11.0.0.0/16"))),
		"exception around":            admin(block("10.0.0.0/16", prefix("10.0.0.0/8"))),
		"range upside down":           admin(policy.Rule{Ports: []policy.Port{{Protocol: flow.TCP, First: 2, Last: 1}}}),
		"port of a portless protocol": admin(policy.Rule{Ports: []policy.Port{{Protocol: flow.ICMP}}}),
	} {
		if _, err := policy.New(p); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

func TestCompareIsTheOrderOfAsking(t *testing.T) {
	want := []policy.Policy{
		{Tier: policy.Admin, Name: "z", Priority: 1}, {Tier: policy.Admin, Name: "a", Priority: 2}, {Tier: policy.Admin, Name: "b", Priority: 2},
		{Tier: policy.Namespace, Namespace: "a", Name: "y"}, {Tier: policy.Namespace, Namespace: "b", Name: "x"},
		{Tier: policy.Baseline, Name: "a"},
	}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, func(a, b policy.Policy) int { return policy.Compare(&a, &b) })
	for i := range want {
		if got[i].Name != want[i].Name {
			t.Fatalf("at %d: %s, want %s", i, got[i].Name, want[i].Name)
		}
	}
}

func TestBlockContains(t *testing.T) {
	p := policy.Peer{Kind: policy.PeerBlock, Block: prefix("10.0.0.0/8"), Except: []netip.Prefix{prefix("10.1.0.0/16")}}
	for addr, want := range map[string]bool{"10.0.0.1": true, "10.1.0.1": false, "10.2.0.0": true, "11.0.0.0": false, "::ffff:10.0.0.1": false} {
		if got := p.Contains(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s in %s: %v", addr, p, got)
		}
	}
	if p.Contains(netip.Addr{}) || (policy.Peer{}).Contains(netip.MustParseAddr("10.0.0.1")) {
		t.Error("no address, or no block, must not match")
	}
}

func TestRuleAtNamesThePlace(t *testing.T) {
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "ns", Name: "p", File: "f.yaml", Line: 3,
		IsolatesIngress: true, Ingress: []policy.Rule{{Action: policy.Accept, Line: 9}, {Action: policy.Accept}}})
	if err != nil {
		t.Fatal(err)
	}
	for index, want := range map[int]string{0: "f.yaml:9", 1: "f.yaml:3", flow.Isolation: "f.yaml:3"} {
		if got := p.RuleAt(flow.Ingress, index).Place(); got != want {
			t.Errorf("rule %d is at %s, want %s", index, got, want)
		}
	}
}
