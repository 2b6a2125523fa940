package workload

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// sizes are pods and policies.
var sizes = map[string][2]int{"tiny": {100, 100}, "small": {1000, 100}, "small1k": {1000, 1000}, "medium": {10000, 1000}, "large": {100000, 10000}, "xpol": {10000, 10000}}

// generator makes clusters like those of the common workload: namespaces of 100 pods in five workloads, nodes of 100
// pods, and policies that admit an app of their namespace, a tier of a team, a zone, or a block.
type generator struct {
	r          *rand.Rand
	w          *Workload
	spaces     int
	pods, seen int
}

func generate(size string) (*Workload, error) {
	n, ok := sizes[size]
	if !ok {
		return nil, fmt.Errorf("size %q is not known: want tiny, small, small1k, medium, large or xpol", size)
	}
	g := &generator{r: rand.New(rand.NewPCG(42, uint64(n[0]+n[1]))), w: &Workload{}, spaces: max(5, n[0]/100), pods: n[0]}
	for i := range g.spaces {
		g.w.Namespaces = append(g.w.Namespaces, g.namespace(i))
	}
	for i := range n[0] {
		g.w.Pods = append(g.w.Pods, g.pod(i, fmt.Sprintf("p%d", i), g.r.IntN(max(1, n[0]/100)), "v1"))
	}
	for i := range n[1] {
		g.w.Policies = append(g.w.Policies, g.policy(fmt.Sprintf("p%d", i)))
	}
	g.updates()
	for range 10000 {
		a, b := g.w.Pods[g.r.IntN(n[0])], g.w.Pods[g.r.IntN(n[0])]
		g.w.Connections = append(g.w.Connections, flow.Tuple{Source: a.Addresses[0], Destination: b.Addresses[0], Protocol: flow.TCP, Port: g.port()})
	}
	return g.w, nil
}

func (g *generator) namespace(i int) cluster.Namespace {
	return cluster.Namespace{Name: fmt.Sprint("ns", i), Labels: label.MustSet(map[string]string{cluster.NameLabel: fmt.Sprint("ns", i),
		"team": fmt.Sprint("t", g.r.IntN(max(3, g.spaces/10))), "zone": fmt.Sprint("z", g.r.IntN(20))})}
}

func (g *generator) pod(i int, name string, node int, version string) *cluster.Endpoint {
	g.seen++
	workload := i / g.spaces % 5
	return &cluster.Endpoint{Key: cluster.Key{Namespace: fmt.Sprint("ns", i%g.spaces), Name: name}, Node: fmt.Sprint("node-", node),
		Owner:     cluster.Owner{Kind: "ReplicaSet", Name: fmt.Sprint("w", workload)},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(g.seen >> 16), byte(g.seen >> 8), byte(g.seen)})},
		Labels: label.MustSet(map[string]string{"app": fmt.Sprint("a", (i%g.spaces*5+workload)%max(20, g.pods/500)),
			"tier": fmt.Sprint("x", workload), "version": version})}
}

func (g *generator) port() uint16 {
	return []uint16{80, 443, 8080, 8443, 9090, 5432, 6379, 3306, 9200, 53}[g.r.IntN(10)]
}

func (g *generator) policy(name string) *policy.Policy {
	i := g.r.IntN(g.spaces)
	own := label.MustParse(fmt.Sprint(cluster.NameLabel, "=ns", i))
	app := func() label.Selector {
		return label.MustParse(fmt.Sprint("app=a", (i*5+g.r.IntN(5))%max(20, g.pods/500)))
	}
	peer := func() policy.Peer {
		switch x := g.r.IntN(100); {
		case x < 45:
			return policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: own, Pods: app()}}
		case x < 70:
			return policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{
				Namespaces: label.MustParse(fmt.Sprint("team=t", g.r.IntN(max(3, g.spaces/10)))), Pods: label.MustParse(fmt.Sprint("tier=x", g.r.IntN(5)))}}
		case x < 85:
			return policy.Peer{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: label.MustParse(fmt.Sprint("zone=z", g.r.IntN(20))), Pods: label.Everything()}}
		}
		return policy.Peer{Kind: policy.PeerBlock, Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + g.r.IntN(180)), byte(g.r.IntN(256))}), 16)}
	}
	p := policy.Policy{Tier: policy.Namespace, Namespace: fmt.Sprint("ns", i), Name: name, Subject: policy.Pods{Namespaces: own, Pods: app()}}
	p.IsolatesIngress, p.IsolatesEgress = g.r.IntN(10) < 8, g.r.IntN(10) < 4
	for range 1 + g.r.IntN(3) {
		port := g.port()
		r := policy.Rule{Action: policy.Accept, Peers: []policy.Peer{peer()}, Ports: []policy.Port{{Protocol: flow.TCP, First: port, Last: port}}}
		p.Ingress, p.Egress = append(p.Ingress, r), append(p.Egress, r)
	}
	made, err := policy.New(p)
	if err != nil {
		panic(err) // the generator's own mistake
	}
	return made
}

// updates makes pods and policies that come, change and go, and namespaces that change.
func (g *generator) updates() {
	const n = 200
	set := func(kind string, e *cluster.Endpoint) {
		g.w.Updates = append(g.w.Updates, Update{Kind: kind, Apply: func(c *compile.Compiler) { c.SetPod(e, ruleset.Attachment{}) }})
	}
	for _, where := range []string{"remote", "local"} {
		var added []*cluster.Endpoint
		for i := range n {
			node := 0
			if where == "remote" {
				node = 1 + g.r.IntN(max(1, g.pods/100-1))
			}
			added = append(added, g.pod(g.r.IntN(g.pods), fmt.Sprint("new-", where, i), node, "v1"))
			set("pod-add-"+where, added[i])
		}
		for i, e := range added {
			changed := *e
			labels, err := e.Labels.With("version", fmt.Sprint("canary-", where, i))
			if err != nil {
				panic(err)
			}
			changed.Labels = labels
			set("pod-relabelnew-"+where, &changed)
		}
		for _, e := range added {
			g.w.Updates = append(g.w.Updates, Update{Kind: "pod-remove-" + where, Apply: func(c *compile.Compiler) { c.DeletePod(e.Key) }})
		}
	}
	var added []*policy.Policy
	for i := range n {
		p := g.policy(fmt.Sprint("new", i))
		added = append(added, p)
		g.w.Updates = append(g.w.Updates, Update{Kind: "policy-add", Apply: func(c *compile.Compiler) { c.SetPolicy(p) }})
	}
	for _, p := range added {
		g.w.Updates = append(g.w.Updates, Update{Kind: "policy-remove", Apply: func(c *compile.Compiler) { c.DeletePolicy(p.Namespace, p.Name) }})
	}
	for range 20 {
		o := g.namespace(g.r.IntN(g.spaces))
		g.w.Updates = append(g.w.Updates, Update{Kind: "ns-relabel", Apply: func(c *compile.Compiler) { c.SetNamespace(o) }})
	}
}
