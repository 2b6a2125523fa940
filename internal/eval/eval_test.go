package eval

import (
	"net/netip"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// The cluster of these tests: two pods of namespace shop on node n1, one of namespace lab on node n2, all with
// both families, and a range in which everything else is an unknown pod.
func testObjects() cluster.Objects {
	pod := func(ns, name, node, labels, a4, a6 string, ports ...cluster.Port) *cluster.Endpoint {
		return &cluster.Endpoint{Key: cluster.Key{Namespace: ns, Name: name}, Labels: set(labels), Node: node,
			Addresses: []netip.Addr{netip.MustParseAddr(a4), netip.MustParseAddr(a6)}, Ports: ports}
	}
	return cluster.Objects{
		Namespaces: []cluster.Namespace{{Name: "shop", Labels: set("env=prod")}, {Name: "lab", Labels: set("env=dev")}},
		Nodes: []cluster.Node{
			{Name: "n1", Labels: set("zone=a"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			{Name: "n2", Labels: set("zone=b"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}},
		},
		Endpoints: []*cluster.Endpoint{
			pod("shop", "web", "n1", "app=web", "10.0.0.1", "fd00::1", cluster.Port{Name: "http", Protocol: flow.TCP, Number: 8080}),
			pod("shop", "db", "n1", "app=db", "10.0.0.2", "fd00::2",
				cluster.Port{Name: "http", Protocol: flow.TCP, Number: 80}, cluster.Port{Name: "http", Protocol: flow.UDP, Number: 81}),
			pod("lab", "test", "n2", "app=test", "10.0.1.1", "fd00::1:1"),
			{Key: cluster.Key{Namespace: "shop", Name: "agent"}, Labels: set("app=web"), Node: "n2", HostNetwork: true},
		},
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/64")},
	}
}

func set(text string) label.Set {
	m := map[string]string{}
	for _, r := range label.MustParse(text).Requirements() {
		m[r.Key] = r.Values[0]
	}
	return label.MustSet(m)
}

func state(t *testing.T, policies ...policy.Policy) *cluster.State {
	t.Helper()
	o := testObjects()
	for _, p := range policies {
		made, err := policy.New(p)
		if err != nil {
			t.Fatal(err)
		}
		o.Policies = append(o.Policies, made)
	}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func pods(namespaces, pods string) policy.Pods {
	return policy.Pods{Namespaces: label.MustParse(namespaces), Pods: label.MustParse(pods)}
}

func everyPod() policy.Pods { return pods("", "") }

var anyone = policy.Peer{Kind: policy.PeerAnyone}

func podPeer(namespaces, labels string) policy.Peer {
	return policy.Peer{Kind: policy.PeerPods, Pods: pods(namespaces, labels)}
}

func block(cidr string, except ...string) policy.Peer {
	p := policy.Peer{Kind: policy.PeerBlock, Block: netip.MustParsePrefix(cidr)}
	for _, e := range except {
		p.Except = append(p.Except, netip.MustParsePrefix(e))
	}
	return p
}

func rule(a policy.Action, peer policy.Peer, ports ...policy.Port) policy.Rule {
	return policy.Rule{Action: a, Peers: []policy.Peer{peer}, Ports: ports}
}

func tcp(first, last uint16) policy.Port {
	return policy.Port{Protocol: flow.TCP, First: first, Last: last}
}

func TestNoPolicyAllows(t *testing.T) {
	s := state(t)
	d := Evaluate(s, s.Resolve(flow.Tuple{Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.1.1"),
		Protocol: flow.TCP, Port: 80})).Flow()
	if want := (flow.Decision{Verdict: flow.Allow}); d != want {
		t.Errorf("got %+v, want %+v", d, want)
	}
}

func TestZeroDecisionDenies(t *testing.T) {
	if (Decision{}).Flow().Verdict != flow.Deny || (Side{}).Verdict != flow.Deny {
		t.Error("the zero value allows")
	}
}
