package clustertest

import (
	"net/netip"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Selectors of everything are there more than once: where both ends and two selectors each have to match, narrow ones
// would leave most connections to no policy at all.
var podSelectors = []string{"", "", "app!=a", "", "app=a", "app in (a,b)", "app", "app=b", "!app", "app=a,role=x", "role notin (x,y)", "hash=1", "app=none"}

var namespaceSelectors = []string{"", "", "env!=x", cluster.NameLabel + "=a", "", cluster.NameLabel + "=b", cluster.NameLabel + " in (a,c)", "env=x", "!env"}

var nodeSelectors = []string{"", "zone=x", "zone!=x", "!zone"}

// selector draws one of texts; one in many is the zero Selector, which selects nothing.
func selector(t *rapid.T, what string, texts []string) label.Selector {
	i := rapid.IntRange(0, 3*len(texts)).Draw(t, what)
	if i == 3*len(texts) {
		return label.Selector{}
	}
	return label.MustParse(texts[i%len(texts)])
}

// drawPolicy draws a policy of any tier. Names are unique if name is, whatever the tier and namespace.
func drawPolicy(t *rapid.T, name string) *policy.Policy {
	return drawPolicyIn(t, name, []policy.Tier{policy.Namespace, policy.Admin, policy.Admin, policy.Baseline}, namespaceNames)
}

// drawPolicyIn draws a policy of one of tiers and, for a NetworkPolicy, of one of namespaces.
func drawPolicyIn(t *rapid.T, name string, tiers []policy.Tier, namespaces []string) *policy.Policy {
	p := policy.Policy{Name: name, Tier: rapid.SampledFrom(tiers).Draw(t, "tier of "+name)}
	p.Subject.Pods = selector(t, "subject pods", podSelectors)
	if p.Tier == policy.Namespace {
		p.Namespace = rapid.SampledFrom(namespaces).Draw(t, "namespace of "+name)
		p.Subject.Namespaces = label.MustParse(cluster.NameLabel + "=" + p.Namespace)
		way := rapid.IntRange(0, 3).Draw(t, "isolates")
		p.IsolatesIngress, p.IsolatesEgress = way != 1, way == 1 || way == 2
	} else {
		p.Priority = int32(rapid.IntRange(0, 2).Draw(t, "priority"))
		p.Subject.Namespaces = selector(t, "subject namespaces", namespaceSelectors)
	}
	// A NetworkPolicy's rules in a direction that it does not isolate must have no effect: they are drawn as well.
	p.Ingress = rules(t, p.Tier, flow.Ingress)
	p.Egress = rules(t, p.Tier, flow.Egress)
	made, err := policy.New(p)
	if err != nil {
		t.Fatalf("the generator drew a bad policy: %v", err)
	}
	return made
}

func rules(t *rapid.T, tier policy.Tier, d flow.Direction) []policy.Rule {
	actions := map[policy.Tier][]policy.Action{
		policy.Admin:     {policy.Accept, policy.Pass, policy.Deny},
		policy.Namespace: {policy.Accept},
		policy.Baseline:  {policy.Accept, policy.Deny, policy.Pass},
	}[tier]
	var all []policy.Rule
	for range rapid.SampledFrom([]int{1, 3, 2, 5, 0}).Draw(t, d.String()+" rules") {
		r := policy.Rule{Action: rapid.SampledFrom(actions).Draw(t, "action")}
		for range rapid.SampledFrom([]int{1, 2, 1, 2, 0}).Draw(t, "peers") {
			r.Peers = append(r.Peers, peer(t, d))
		}
		// Mostly no ports: with ports on every rule, hardly anything would match.
		for range rapid.SampledFrom([]int{0, 1, 0, 0, 2}).Draw(t, "rule ports") {
			r.Ports = append(r.Ports, port(t))
		}
		all = append(all, r)
	}
	return all
}

func peer(t *rapid.T, d flow.Direction) policy.Peer {
	kinds := []policy.PeerKind{policy.PeerPods, policy.PeerAnyone, policy.PeerPods, policy.PeerBlock, policy.PeerBlock, policy.PeerNone}
	if d == flow.Egress {
		kinds = append(kinds, policy.PeerNodes)
	}
	p := policy.Peer{Kind: rapid.SampledFrom(kinds).Draw(t, "peer kind")}
	switch p.Kind {
	case policy.PeerPods:
		p.Pods = policy.Pods{Namespaces: selector(t, "peer namespaces", namespaceSelectors), Pods: selector(t, "peer pods", podSelectors)}
	case policy.PeerNodes:
		p.Nodes = selector(t, "peer nodes", nodeSelectors)
	case policy.PeerBlock:
		p.Block = prefix(t, blockAddress(t), 0)
		for range max(0, rapid.IntRange(-1, 2).Draw(t, "exceptions")) {
			if e := prefix(t, blockAddress(t), p.Block.Bits()); p.Block.Contains(e.Addr()) && e.Bits() >= p.Block.Bits() {
				p.Except = append(p.Except, e)
			}
		}
	}
	return p
}

// blockAddress draws an address that something may have: a pod, a node, or the world.
func blockAddress(t *rapid.T) netip.Addr {
	all := append([]netip.Addr{}, outside...)
	for n := range hosts {
		all = append(all, podAddress4(n), podAddress6(n))
	}
	all = append(all, netip.MustParseAddr("10.0.1.0"), netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00::1:0"))
	return rapid.SampledFrom(all).Draw(t, "block around")
}

// prefix draws a prefix around a of at least the given length: the whole, wide ones, and some with few addresses.
func prefix(t *rapid.T, a netip.Addr, least int) netip.Prefix {
	left := rapid.SampledFrom([]int{1, 0, 2, 3, 4, 9, 24, 32, 64, 128}).Draw(t, "host bits")
	return netip.PrefixFrom(a, max(a.BitLen()-left, min(least, a.BitLen()), 0)).Masked()
}

func port(t *rapid.T) policy.Port {
	p := policy.Port{Protocol: rapid.SampledFrom(protocols).Draw(t, "protocol")}
	first := rapid.SampledFrom(portNumbers).Draw(t, "first port")
	switch rapid.IntRange(0, 7).Draw(t, "form of port") {
	case 0, 1:
		p.First, p.Last = first, first
	case 2:
		last := rapid.SampledFrom(portNumbers).Draw(t, "last port")
		p.First, p.Last = min(first, last), max(first, last)
	case 3:
		p.First, p.Last = 0, 65535
	case 4, 6:
		p.Name = rapid.SampledFrom(portNames).Draw(t, "port name")
	case 5, 7:
		p.Name, p.Protocol = rapid.SampledFrom(portNames).Draw(t, "port name"), 0
	}
	return p
}
