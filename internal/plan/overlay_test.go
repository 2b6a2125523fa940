package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/plan"
)

func objectsOf(t *testing.T, text string) cluster.Objects {
	t.Helper()
	b := manifest.NewBundle()
	b.Decode("x.yaml", []byte(text))
	r := b.Finish(manifest.Options{})
	for _, p := range r.Problems {
		t.Fatal(p)
	}
	return r.Objects
}

// told are policies, namespaces and pods in lines.
func told(o cluster.Objects) []string {
	var all []string
	for _, p := range o.Policies {
		all = append(all, fmt.Sprintf("policy %s/%s %s", p.Namespace, p.Name, p.Subject.Pods))
	}
	for _, n := range o.Namespaces {
		all = append(all, fmt.Sprintf("namespace %s %s", n.Name, n.Labels))
	}
	for _, e := range o.Endpoints {
		all = append(all, fmt.Sprintf("pod %s %s %v %v", e.Key, e.Labels, e.Addresses, e.Ports))
	}
	slices.Sort(all)
	return all
}

const liveCluster = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a, env: dev}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: {podSelector: {matchLabels: {app: old}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: other, namespace: shop}, spec: {podSelector: {}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: other, namespace: pay}, spec: {podSelector: {}}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: guard}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}}
`

const applied = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {env: prod}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: fresh}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: {podSelector: {matchLabels: {app: new}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: more, namespace: shop}, spec: {podSelector: {}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 5
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, role: new}}
    spec: {containers: [{name: c, image: i, ports: [{containerPort: 81}]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: shop, labels: {app: bare, v: new}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: first, namespace: fresh, labels: {app: first}}, spec: {containers: [{name: c, image: i}]}}
`

func TestApply(t *testing.T) {
	live := objectsOf(t, liveCluster)
	pod := func(name, owner, labels, address string) {
		e := &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: name}, Labels: set(labels), Addresses: []netip.Addr{netip.MustParseAddr(address)}}
		if owner != "" {
			e.Owner = cluster.Owner{Kind: "Deployment", Name: owner}
		}
		live.Endpoints = append(live.Endpoints, e)
	}
	pod("web-x1", "web", "app=web,gone=1,pod-template-hash=x", "10.0.0.1")
	pod("db-x1", "db", "app=db", "10.0.0.2")
	pod("bare", "", "app=bare,v=old", "10.0.0.3")
	before := told(live)
	got := told(plan.Apply(live, objectsOf(t, applied), false))
	want := []string{
		"namespace fresh kubernetes.io/metadata.name=fresh",
		"namespace shop env=prod,kubernetes.io/metadata.name=shop,team=a",
		"pod fresh/first app=first [] []",
		"pod shop/bare app=bare,v=new [10.0.0.3] []",
		"pod shop/db-x1 app=db [10.0.0.2] []",
		"pod shop/web-x1 app=web,pod-template-hash=x,role=new [10.0.0.1] [{ tcp 81}]",
		"policy /guard ",
		"policy pay/other ",
		"policy shop/more ",
		"policy shop/other ",
		"policy shop/web app=new",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want = slices.DeleteFunc(want, func(s string) bool { return s == "policy shop/other " })
	if diff := cmp.Diff(want, told(plan.Apply(live, objectsOf(t, applied), true))); diff != "" {
		t.Errorf("with prune: %s", diff)
	}
	if diff := cmp.Diff(before, told(live)); diff != "" {
		t.Errorf("it changed what is live: %s", diff)
	}
	if diff := cmp.Diff(before, told(plan.Apply(live, cluster.Objects{}, true))); diff != "" {
		t.Errorf("nothing applied: %s", diff)
	}
}

func set(text string) label.Set {
	labels := map[string]string{}
	for _, pair := range strings.Split(text, ",") {
		k, v, _ := strings.Cut(pair, "=")
		labels[k] = v
	}
	return label.MustSet(labels)
}
