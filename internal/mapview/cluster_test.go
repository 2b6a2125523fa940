package mapview_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/mapview"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/reach"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// example is the map of one of the repository's examples. Paths are as a user at the repository's root sees them.
func example(t *testing.T, name string) mapview.View {
	t.Helper()
	t.Chdir("../..")
	bundle, err := dir.Load([]string{"examples/" + name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cluster.NewState(bundle.Finish(manifest.Options{}).Objects)
	if err != nil {
		t.Fatal(err)
	}
	return view(t, s, "examples/"+name)
}

func view(t *testing.T, s *cluster.State, title string) mapview.View {
	t.Helper()
	m, err := reach.Compute(s, reach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return mapview.View{Map: m, Title: title}
}

// hostile is a name that would end the element it stands in, were it not escaped. No API server takes such a name, but
// a map is made of files.
const hostile = `</script><img src=x onerror="window.broken=1"><!--`

// teams is a cluster of n workloads in namespaces of 20: in each a chain of services behind a gateway, which the next
// team may call; everybody asks one resolver, and the last workload of each team has no policy.
func teams(t *testing.T, n int) *cluster.State {
	t.Helper()
	o := cluster.Objects{}
	add := func(ns, name string, ports ...cluster.Port) *cluster.Endpoint {
		e := &cluster.Endpoint{Key: cluster.Key{Namespace: ns, Name: name}, Owner: cluster.Owner{Kind: "Deployment", Name: name},
			Labels: label.MustSet(map[string]string{"app": name, "team": ns}), Ports: ports, File: ns + ".yaml", Line: 10}
		o.Endpoints = append(o.Endpoints, e)
		return e
	}
	allow := func(ns, name, fromNS, from string, port uint16) {
		rule := policy.Rule{Action: policy.Accept, Line: 20, Ports: []policy.Port{{Protocol: flow.TCP, First: port, Last: port}}, Peers: []policy.Peer{
			{Kind: policy.PeerPods, Pods: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=" + fromNS), Pods: label.MustParse("app=" + from)}}}}
		p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: ns, Name: name, IsolatesIngress: true, File: ns + "/policies.yaml", Line: 12,
			Subject: policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=" + ns), Pods: label.MustParse("app=" + name)}, Ingress: []policy.Rule{rule}})
		if err != nil {
			t.Fatal(err)
		}
		o.Policies = append(o.Policies, p)
	}
	size := min(20, n)
	for i := range n {
		team, k := i/size, i%size
		ns, name := fmt.Sprintf("team-%02d", team), fmt.Sprintf("service-%02d", k)
		switch {
		case k == 0:
			add(ns, "gateway", cluster.Port{Name: "https", Protocol: flow.TCP, Number: 443})
			allow(ns, "gateway", fmt.Sprintf("team-%02d", max(team-1, 0)), "service-03", 443)
		case k == size-1:
			add(ns, name, cluster.Port{Name: "http", Protocol: flow.TCP, Number: 8080})
		default:
			add(ns, name, cluster.Port{Name: "http", Protocol: flow.TCP, Number: 8080}, cluster.Port{Protocol: flow.UDP, Number: 53})
			from := "gateway"
			if k > 4 {
				from = fmt.Sprintf("service-%02d", k/3)
			}
			allow(ns, name, ns, from, 8080)
		}
	}
	o.Namespaces = append(o.Namespaces, cluster.Namespace{Name: "team-00", Labels: label.MustSet(map[string]string{"env": "prod", "tier": "front"})})
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seenIn adds connections that were seen to a view: one that is allowed, one that is denied.
func seenIn(v mapview.View) mapview.View {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v.Seen = []mapview.Seen{{From: 1, To: 0, Protocol: flow.TCP, Port: 389, Allowed: 1200, Last: at},
		{From: 2, To: 0, Protocol: flow.TCP, Port: 636, Denied: 1, Last: at}, {From: 2, To: 0, Protocol: flow.TCP, Port: 389, Denied: 7, Last: at.Add(-time.Hour)},
		{From: 2, To: 99, Denied: 1}}
	return v
}
