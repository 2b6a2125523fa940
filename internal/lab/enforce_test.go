//go:build linux

package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// withNFT enforces with the kernel's nftables and logs every denial.
func withNFT(node *netns.NS) (dataplane.Dataplane, error) {
	return nft.New(nft.Options{NetNS: node.FD(), LogGroup: 1})
}

func pods(selector string) policy.Pods {
	return policy.Pods{Namespaces: label.Everything(), Pods: label.MustParse(selector)}
}

func mustPolicy(t testing.TB, p policy.Policy) *policy.Policy {
	t.Helper()
	checked, err := policy.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return checked
}

// shop is a small application: the web may reach the database on 5432 and one block of the world, everything else is
// denied in both directions; an admin policy keeps one address out of the block.
func shop(t testing.TB) cluster.Objects {
	t.Helper()
	tcp := func(n uint16) cluster.Port { return cluster.Port{Protocol: flow.TCP, Number: n} }
	pod := func(name, app string, ports ...cluster.Port) *cluster.Endpoint {
		return &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: name}, Labels: label.MustSet(map[string]string{"app": app}),
			Owner: cluster.Owner{Kind: "Deployment", Name: app}, Ports: ports}
	}
	accept := func(peer policy.Peer, ports ...policy.Port) []policy.Rule {
		return []policy.Rule{{Action: policy.Accept, Peers: []policy.Peer{peer}, Ports: ports}}
	}
	db, web := policy.Peer{Kind: policy.PeerPods, Pods: pods("app=db")}, policy.Peer{Kind: policy.PeerPods, Pods: pods("app=web")}
	postgres := policy.Port{Protocol: flow.TCP, First: 5432, Last: 5432}
	world := policy.Peer{Kind: policy.PeerBlock, Block: netip.MustParsePrefix("192.0.2.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}}
	world6 := policy.Peer{Kind: policy.PeerBlock, Block: netip.MustParsePrefix("2001:db8:1::/64")}
	https := policy.Port{Protocol: flow.TCP, First: 443, Last: 443}
	return cluster.Objects{
		Endpoints: []*cluster.Endpoint{pod("web-0", "web", tcp(80)), pod("web-1", "web", tcp(80)), pod("db-0", "db", tcp(5432), cluster.Port{Protocol: flow.UDP, Number: 5432}),
			pod("other-0", "other"), {Key: cluster.Key{Namespace: "shop", Name: "agent"}, HostNetwork: true, Ports: []cluster.Port{tcp(9100)}}},
		Policies: []*policy.Policy{
			mustPolicy(t, policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "deny-all", Subject: pods(""), IsolatesEgress: true, IsolatesIngress: true, File: "deny.yaml", Line: 1}),
			mustPolicy(t, policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "web", Subject: pods("app=web"), IsolatesEgress: true,
				Egress: append(accept(db, postgres), accept(world, https)...), File: "web.yaml", Line: 1}),
			mustPolicy(t, policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "web6", Subject: pods("app=web"), IsolatesEgress: true, Egress: accept(world6), File: "web.yaml", Line: 20}),
			mustPolicy(t, policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "db", Subject: pods("app=db"), IsolatesIngress: true, Ingress: accept(web, postgres), File: "db.yaml", Line: 1}),
			mustPolicy(t, policy.Policy{Tier: policy.Admin, Name: "guard", Subject: pods("app=web"), File: "guard.yaml", Line: 1,
				Egress: []policy.Rule{{Name: "last", Action: policy.Deny, Line: 9, Peers: []policy.Peer{{Kind: policy.PeerBlock, Block: netip.MustParsePrefix("192.0.2.255/32")}}}}}),
		},
	}
}

func TestPacketsDoWhatPoliciesSay(t *testing.T) {
	for _, topology := range []Topology{Routed, Bridge} {
		t.Run(topology.String(), func(t *testing.T) {
			l := boot(t, Spec{Objects: shop(t), Topology: topology, Dataplane: withNFT})
			r := probeAll(t, l, Selection{})
			if r.Count(Denied) == 0 || r.Count(Answered) == 0 {
				t.Errorf("a matrix of one kind proves nothing")
			}
		})
	}
}

// load reads manifests as users give them.
func load(t testing.TB, paths ...string) cluster.Objects {
	t.Helper()
	b, err := dir.Load(paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := b.Finish(manifest.Options{})
	for _, p := range r.Problems {
		t.Error(p)
	}
	return r.Objects
}

func TestExamples(t *testing.T) {
	const root = "../../examples"
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	booted := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		booted++
		t.Run(e.Name(), func(t *testing.T) {
			path := filepath.Join(root, e.Name())
			l := boot(t, Spec{Objects: load(t, path), Dataplane: withNFT})
			probeAll(t, l, Selection{})
		})
	}
	if booted == 0 {
		t.Error("there are no examples")
	}
}

// Redis of the Online Boutique is for its cart service, its node and itself.
func TestOnlineBoutique(t *testing.T) {
	path := "../../../shared/data/online-boutique"
	if _, err := os.Stat(path); err != nil {
		t.Skipf("not here: %v", err)
	}
	l := boot(t, Spec{Objects: load(t, path), Dataplane: withNFT})
	r := probeAll(t, l, Selection{})
	reached := map[string]bool{}
	for _, x := range r.Results {
		if x.To.Group == "default/redis-cart" && x.Tuple.Port == 6379 && x.Outcome == Answered {
			reached[x.From.Group] = true
		}
	}
	want := map[string]bool{"default/cartservice": true, "default/redis-cart": true, "node/lab-node": true}
	if diff := cmp.Diff(want, reached); diff != "" {
		t.Errorf("who reaches redis (- want, + got):\n%s", diff)
	}
}

func TestPoliciesCanChangeUnderARunningLab(t *testing.T) {
	o := shop(t)
	policies := o.Policies
	o.Policies = nil
	l := boot(t, Spec{Objects: o, Dataplane: withNFT})
	for i, want := range [][]*policy.Policy{nil, policies, policies[:1], nil} {
		if err := l.SetPolicies(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if r := probeAll(t, l, Selection{}); (r.Count(Denied) > 0) != (want != nil) {
			t.Errorf("change %d: %d of %d denied", i, r.Count(Denied), len(r.Results))
		}
	}
}

// A dataplane that enforces but logs nothing proves no denial, and the lab does not try for ever.
func TestDenialsThatNobodyLoggedAreLost(t *testing.T) {
	o := somePods(20)
	o.Policies = shop(t).Policies[:1]
	l := boot(t, Spec{Objects: o, Dataplane: func(node *netns.NS) (dataplane.Dataplane, error) {
		return nft.New(nft.Options{NetNS: node.FD()})
	}})
	l.patience = time.Second
	r, err := l.Probe(t.Context(), Selection{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() || r.Count(Denied) != 0 || r.Count(Lost) < maxLost || r.Count(Lost) >= maxLost+maxFlights {
		t.Errorf("%d denied, %d lost", r.Count(Denied), r.Count(Lost))
	}
	if len(r.Skipped) != 1 || r.Skipped[0].Count == 0 {
		t.Errorf("skipped: %v", r.Skipped)
	}
}

// TestRandomClusters: whatever the policies are, packets do what they say.
func TestRandomClusters(t *testing.T) {
	for seed := range 15 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			state := rapid.Custom(clustertest.State).Example(seed)
			l := boot(t, Spec{Objects: state.Objects(), Topology: Topology(seed % 2), Dataplane: withNFT})
			probeAll(t, l, Selection{MaxProbes: 3000})
		})
	}
}
