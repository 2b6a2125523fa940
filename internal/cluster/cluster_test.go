package cluster_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

var (
	a1 = netip.MustParseAddr("10.244.0.1")
	a2 = netip.MustParseAddr("10.244.0.2")
	n1 = netip.MustParseAddr("192.0.2.1")
)

func pod(name string, addresses ...netip.Addr) *cluster.Endpoint {
	return &cluster.Endpoint{Key: cluster.Key{Namespace: "ns", Name: name}, Addresses: addresses, Node: "one"}
}

func state(t *testing.T, o cluster.Objects) *cluster.State {
	t.Helper()
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhoseAddress(t *testing.T) {
	host := pod("host", n1)
	host.HostNetwork = true
	s := state(t, cluster.Objects{
		Nodes:     []cluster.Node{{Name: "one", Addresses: []netip.Addr{n1}}},
		Endpoints: []*cluster.Endpoint{pod("a", a1), host},
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
	})
	for addr, want := range map[netip.Addr]string{
		a1:                                 "ns/a",
		a2:                                 "unknown pod 10.244.0.2",
		n1:                                 "node/one", // a pod on the host's network is its node
		netip.MustParseAddr("203.0.113.1"): "203.0.113.1",
	} {
		if got := s.At(addr).String(); got != want {
			t.Errorf("%s is %q, want %q", addr, got, want)
		}
	}
	if p := s.PartyOf(host, n1); p.Node == nil || p.Endpoint != nil {
		t.Errorf("a host-network pod is %+v, want its node", p)
	}
}

func TestReusedAddressBelongsToTheNewest(t *testing.T) {
	old, young := pod("old", a1), pod("young", a1)
	old.Created, young.Created = time.Unix(1, 0), time.Unix(2, 0)
	for _, order := range [][]*cluster.Endpoint{{old, young}, {young, old}} {
		s := state(t, cluster.Objects{Endpoints: order})
		if got := s.At(a1).Endpoint; got != young {
			t.Errorf("the address belongs to %s", got.Name)
		}
	}
}

func TestNamespacesHaveTheirName(t *testing.T) {
	s := state(t, cluster.Objects{Namespaces: []cluster.Namespace{{Name: "shop", Labels: label.MustSet(map[string]string{"env": "prod"})}}})
	if got := s.Namespace("shop").Labels.String(); got != "env=prod,kubernetes.io/metadata.name=shop" {
		t.Errorf("shop has %q", got)
	}
	if got := s.Namespace("undeclared").Labels.String(); got != "kubernetes.io/metadata.name=undeclared" {
		t.Errorf("undeclared has %q", got)
	}
}

func TestTwiceIsAnError(t *testing.T) {
	np, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "ns", Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for what, o := range map[string]cluster.Objects{
		"pod":       {Endpoints: []*cluster.Endpoint{pod("a"), pod("a")}},
		"namespace": {Namespaces: []cluster.Namespace{{Name: "x"}, {Name: "x"}}},
		"policy":    {Policies: []*policy.Policy{np, np}},
	} {
		if _, err := cluster.NewState(o); err == nil {
			t.Errorf("a %s that is there twice was taken", what)
		}
	}
}

func TestFromOwnNode(t *testing.T) {
	s := state(t, cluster.Objects{
		Nodes:     []cluster.Node{{Name: "one", Addresses: []netip.Addr{n1}}, {Name: "two", Addresses: []netip.Addr{a2}}},
		Endpoints: []*cluster.Endpoint{pod("a", a1)},
	})
	for source, want := range map[netip.Addr]bool{n1: true, a2: false, a1: false} {
		c := s.Resolve(flow.Tuple{Source: source, Destination: a1, Protocol: flow.TCP, Port: 80})
		if c.FromOwnNode() != want || c.Tuple().Local != want {
			t.Errorf("from %s: own node %v, want %v", c.From, c.FromOwnNode(), want)
		}
	}
}

func TestPortsNamed(t *testing.T) {
	e := pod("a")
	e.Ports = []cluster.Port{{"dns", flow.UDP, 53}, {"dns", flow.TCP, 5353}, {"dns", flow.UDP, 54}, {"web", flow.TCP, 80}}
	if got := e.PortsNamed("dns", flow.UDP); len(got) != 1 || got[0].Number != 53 {
		t.Errorf("dns/udp is %v, want the first that is declared", got)
	}
	if got := e.PortsNamed("dns", 0); len(got) != 2 {
		t.Errorf("dns is %v, want one a protocol", got)
	}
	if got := e.PortsNamed("web", flow.SCTP); got != nil {
		t.Errorf("web/sctp is %v, want none", got)
	}
}
