package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func mustPlan(t *testing.T, o cluster.Objects, topology Topology, extra ...cluster.Port) *plan {
	t.Helper()
	p, err := newPlan(o, topology, extra)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// egressTo is a policy that lets pods out to a block, on some ports.
func egressTo(t *testing.T, peer policy.Peer, ports ...policy.Port) *policy.Policy {
	t.Helper()
	everyPod := policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}
	peer.Kind = policy.PeerBlock
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "out", Subject: everyPod, IsolatesEgress: true,
		Egress: []policy.Rule{{Action: policy.Accept, Peers: []policy.Peer{peer}, Ports: ports}}, File: "out.yaml", Line: 3})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanGivesEverybodyAPlace(t *testing.T) {
	o := somePods(2)
	o.Nodes = []cluster.Node{{Name: "z"}, {Name: "a", Addresses: addrs("192.168.7.1", "10.244.0.9")}}
	p := mustPlan(t, o, Routed)
	var got []string
	for _, h := range p.pods {
		got = append(got, fmt.Sprint(h.endpoint.Key, " on ", h.endpoint.Node, h.addresses, h.veth))
	}
	want := []string{"shop/web-0 on a[10.244.0.2 fd00:10:244::2]veth0", "shop/web-1 on a[10.244.0.3 fd00:10:244::3]veth1"}
	if !slices.Equal(got, want) {
		t.Errorf("pods\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// The node keeps an address that is its own, and gets one in the stead of one that pods may have; the other
	// node is a host outside.
	if want := addrs("192.168.7.1", "2001:db8:0:a::10"); !slices.Equal(p.node.addresses, want) {
		t.Errorf("node has %v, want %v", p.node.addresses, want)
	}
	if want := addrs("198.51.100.10", "2001:db8:0:a::11", "203.0.113.10", "2001:db8:0:f::10"); !slices.Equal(p.outside.addresses, want) {
		t.Errorf("outside has %v, want %v", p.outside.addresses, want)
	}
	if got := p.state.At(p.outside.addresses[0]).String(); got != "node/z" {
		t.Errorf("the address of the other node belongs to %s", got)
	}
	if got := p.state.At(p.node.addresses[0]).String(); got != "node/a" {
		t.Errorf("the address of the node belongs to %s", got)
	}
	if len(o.Endpoints[0].Addresses) != 0 {
		t.Error("the caller's pods were changed")
	}
}

func TestPlanKeepsAddressesThatArePossible(t *testing.T) {
	for _, c := range []struct {
		topology Topology
		want     string
	}{
		{Routed, "[10.1.2.3 fd00:10:244::2] [10.244.7.7 fd00:10:244::3] [10.244.0.2 fd00:10:244::4]"},
		{Bridge, "[10.244.0.2 fd00:10:244::2] [10.244.7.7 fd00:10:244::3] [10.244.0.3 fd00:10:244::4]"},
	} {
		o := somePods(3)
		o.Endpoints[0].Addresses = addrs("10.1.2.3")
		o.Endpoints[1].Addresses = addrs("10.244.7.7", "10.244.7.8") // one of a family is enough
		o.Endpoints[2].Addresses = addrs("127.0.0.1", "10.244.7.7")  // neither is free
		p := mustPlan(t, o, c.topology)
		got := fmt.Sprint(p.pods[0].addresses, p.pods[1].addresses, p.pods[2].addresses)
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.topology, got, c.want)
		}
		if len(p.notices) == 0 {
			t.Errorf("%s: addresses were changed without a word", c.topology)
		}
	}
}

func TestPlanAttachesPodsWhereTheyArePluggedIn(t *testing.T) {
	web := cluster.Key{Namespace: "shop", Name: "web-0"}
	if got, want := mustPlan(t, somePods(1), Routed).attachments()[web], (ruleset.Attachment{Interface: "veth0"}); got != want {
		t.Errorf("routed: %v, want %v", got, want)
	}
	if got, want := mustPlan(t, somePods(1), Bridge).attachments()[web], (ruleset.Attachment{Interface: bridgeName, Port: "veth0"}); got != want {
		t.Errorf("bridge: %v, want %v", got, want)
	}
	for key := range mustPlan(t, somePods(1), Routed).attachments() {
		if key != web {
			t.Errorf("%s, which is on the node's network, is plugged in", key)
		}
	}
}

func TestPlanListensWherePoliciesSpeak(t *testing.T) {
	tcp := func(n uint16) cluster.Port { return cluster.Port{Protocol: flow.TCP, Number: n} }
	o := somePods(1)
	o.Endpoints[0].Ports = []cluster.Port{{Name: "web", Protocol: flow.TCP, Number: 80}, tcp(65000), tcp(80)}
	o.Policies = []*policy.Policy{egressTo(t, policy.Peer{Block: netip.MustParsePrefix("10.0.0.0/8")},
		policy.Port{Protocol: flow.TCP, First: 443, Last: 445}, policy.Port{Protocol: flow.UDP, Last: 65535}, policy.Port{Name: "web"})}
	p := mustPlan(t, o, Routed, tcp(7))
	if want := []cluster.Port{tcp(7), tcp(80), tcp(64999), tcp(65000)}; !slices.Equal(p.pods[0].listen, want) {
		t.Errorf("the pod listens on %v, want %v", p.pods[0].listen, want)
	}
	if want := []cluster.Port{tcp(7), tcp(443), tcp(445), tcp(64999)}; !slices.Equal(p.outside.listen, want) {
		t.Errorf("outside listens on %v, want %v", p.outside.listen, want)
	}
	if want := []cluster.Port{tcp(7), tcp(443), tcp(445), tcp(10256), tcp(64999)}; !slices.Equal(p.node.listen, want) {
		t.Errorf("the node listens on %v, want %v", p.node.listen, want)
	}
}

func TestOutsideIsOnBothSidesOfEveryBlock(t *testing.T) {
	for _, c := range []struct {
		block, except string
		want          string // IPv4, then IPv6
	}{
		{"192.0.2.0/24", "", "203.0.113.10 192.0.2.255 192.0.3.0 2001:db8:0:f::10"},
		{"203.0.113.0/24", "203.0.113.64/26", "192.0.2.10 203.0.113.255 203.0.114.0 203.0.113.64 2001:db8:0:f::10"},
		{"0.0.0.0/0", "", "203.0.113.10 223.255.255.255 2001:db8:0:f::10"},
		{"10.0.0.0/8", "10.244.0.0/16", "203.0.113.10 10.255.255.255 11.0.0.0 2001:db8:0:f::10"},
		{"10.244.0.0/16", "", "203.0.113.10 10.245.0.0 2001:db8:0:f::10"},
		{"203.0.113.10/32", "", "192.0.2.10 203.0.113.10 203.0.113.11 2001:db8:0:f::10"},
		{"::/0", "2001:db8::/32", "203.0.113.10 2001:db8:0:f::10 fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8::"},
	} {
		o := somePods(1)
		peer := policy.Peer{Block: netip.MustParsePrefix(c.block)}
		if c.except != "" {
			peer.Except = []netip.Prefix{netip.MustParsePrefix(c.except)}
		}
		o.Policies = []*policy.Policy{egressTo(t, peer)}
		got := strings.Trim(fmt.Sprint(mustPlan(t, o, Routed).outside.addresses), "[]")
		if got != c.want {
			t.Errorf("%s except %s: outside has %s, want %s", c.block, c.except, got, c.want)
		}
	}
}

func TestOutsideIsBounded(t *testing.T) {
	o := somePods(1)
	for i := range 40 {
		pol := *egressTo(t, policy.Peer{Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i), 0, 0}), 24)})
		pol.Name = fmt.Sprint("p", i)
		o.Policies = append(o.Policies, &pol)
	}
	p := mustPlan(t, o, Routed)
	if got := len(p.outside.addresses); got != maxOutside+1 {
		t.Errorf("outside has %d addresses, want %d of IPv4 and one of IPv6", got, maxOutside)
	}
	if len(p.notices) != 1 || !strings.Contains(p.notices[0], "81 outside addresses") {
		t.Errorf("notices: %q", p.notices)
	}
}
