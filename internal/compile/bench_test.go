package compile_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// town makes a cluster of namespaces with 100 pods of five apps each, on nodes of 100 pods, and policies that each
// admit an app of the same namespace, a tier of a team's namespaces, or a block outside.
func town(b *testing.B, pods, policies int) *cluster.State {
	b.Helper()
	var o cluster.Objects
	spaces := max(1, pods/100)
	for i := range spaces {
		o.Namespaces = append(o.Namespaces, cluster.Namespace{Name: fmt.Sprintf("ns%d", i),
			Labels: label.MustSet(map[string]string{"team": fmt.Sprint("t", i%10)})})
	}
	for i := range pods {
		o.Endpoints = append(o.Endpoints, &cluster.Endpoint{
			Key:  cluster.Key{Namespace: fmt.Sprintf("ns%d", i%spaces), Name: fmt.Sprintf("p%d", i)},
			Node: fmt.Sprintf("n%d", i/100), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
			Labels: label.MustSet(map[string]string{"app": fmt.Sprint("a", i/spaces%5), "tier": fmt.Sprint("x", i/spaces%3), "hash": fmt.Sprint(i)})})
	}
	for i := range policies {
		ns := label.MustParse(fmt.Sprintf("%s=ns%d", cluster.NameLabel, i%spaces))
		app := func(n int) policy.Pods {
			return policy.Pods{Namespaces: ns, Pods: label.MustParse(fmt.Sprint("app=a", n%5))}
		}
		team := policy.Pods{Namespaces: label.MustParse(fmt.Sprint("team=t", i%7)), Pods: label.MustParse(fmt.Sprint("tier=x", i%3))}
		peers := []policy.Peer{{Kind: policy.PeerPods, Pods: app(i + 1)}, {Kind: policy.PeerPods, Pods: team},
			{Kind: policy.PeerBlock, Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i >> 8), byte(i), 0}), 24)}}
		p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: fmt.Sprintf("ns%d", i%spaces), Name: fmt.Sprintf("p%d", i),
			Subject: app(i / spaces), IsolatesIngress: true,
			Ingress: []policy.Rule{{Action: policy.Accept, Peers: peers[i%3 : i%3+1], Ports: []policy.Port{{Protocol: flow.TCP, First: 80, Last: 80 + uint16(i%9)}}}}})
		if err != nil {
			b.Fatal(err)
		}
		o.Policies = append(o.Policies, p)
	}
	s, err := cluster.NewState(o)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkUpdate(b *testing.B) {
	for _, size := range []struct{ pods, policies int }{{100, 10}, {1000, 100}, {10000, 1000}, {100000, 10000}} {
		for _, node := range []string{"", "n0"} {
			if node == "" && size.pods > 10000 {
				continue // nobody compiles such a cluster as a whole
			}
			b.Run(fmt.Sprintf("pods=%d/policies=%d/node=%s", size.pods, size.policies, node), func(b *testing.B) {
				s := town(b, size.pods, size.policies)
				b.ReportAllocs()
				for b.Loop() {
					compile.New(compile.Options{Node: node}).Update(s, nil)
				}
			})
		}
	}
}
