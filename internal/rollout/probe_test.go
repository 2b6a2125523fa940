package rollout_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// TestProbes: every pod that the change selects wants DNS, and who has a token of its own the API, in its own families.
func TestProbes(t *testing.T) {
	pod := func(namespace, name, app string, usesAPI bool, addresses ...string) *cluster.Endpoint {
		e := &cluster.Endpoint{Key: cluster.Key{Namespace: namespace, Name: name}, Owner: cluster.Owner{Kind: "Deployment", Name: app}, UsesAPI: usesAPI,
			Labels: label.MustSet(map[string]string{"app": app, "k8s-app": app})}
		for _, a := range addresses {
			e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
		}
		return e
	}
	objects := cluster.Objects{
		Endpoints: []*cluster.Endpoint{
			pod("kube-system", "dns-1", "kube-dns", true, "10.0.0.53"),
			pod("shop", "web-1", "web", false, "10.0.0.1", "fd00::1"),
			pod("shop", "operator-1", "operator", true, "10.0.0.2", "fd00::2"),
			pod("other", "operator-1", "operator", true, "10.0.0.3"),
		},
		APIServers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("[2001:db8::1]:443")},
	}
	shop, err := label.MatchLabels(map[string]string{cluster.NameLabel: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(policy.Policy{Tier: policy.Admin, Name: "p", Subject: policy.Pods{Namespaces: shop, Pods: label.Everything()}})
	if err != nil {
		t.Fatal(err)
	}
	probes := func() (all []string) {
		s, err := cluster.NewState(objects)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range rollout.Probes(s, rollout.Change{Policies: []*policy.Policy{p}}) {
			all = append(all, fmt.Sprint(p, ": ", p.Tuple))
		}
		return all
	}
	want := []string{
		"DNS of shop/operator: 10.0.0.2 -> 10.0.0.53:53/udp (translated)",
		"API server of shop/operator: 10.0.0.2 -> 192.0.2.1:6443/tcp (translated)",
		"API server of shop/operator: fd00::2 -> [2001:db8::1]:443/tcp (translated)",
		"DNS of shop/web: 10.0.0.1 -> 10.0.0.53:53/udp (translated)",
	}
	if got := probes(); !slices.Equal(got, want) {
		t.Errorf("probes are %q", got)
	}
	objects.APIServers = nil
	if got := probes(); !slices.Equal(got, []string{want[0], want[3]}) {
		t.Errorf("without an API they are %q", got)
	}
}
