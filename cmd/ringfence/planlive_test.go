package main

import (
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/plan/show"
)

const lockdownOfDB = `
apiVersion: ringfence.dev/v1alpha1
kind: PolicyRollout
metadata: {name: lockdown}
spec:
  remove: [{kind: ClusterNetworkPolicy, name: guard}]
`

// What a cluster has is compared with what it has once manifests are applied.
func TestPlanAgainstACluster(t *testing.T) {
	f := newFakeCluster(t)
	bundle := manifest.NewBundle()
	bundle.Decode("db.yaml", []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: db}}\n  ingress: [{from: [{podSelector: {matchLabels: {app: we}}}]}]\n---"+lockdownOfDB))
	applied := bundle.Finish(manifest.Options{})
	there, err := f.api.readCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rollout string
		want    []string
	}{
		{"", []string{"~ NetworkPolicy shop/db", "No connection between what stays fares otherwise."}}, // the guard accepts all
		{"lockdown", []string{"- ClusterNetworkPolicy guard", "Newly denied", "denied by shop/db ingress (db.yaml:1)"}},
	} {
		sides, err := there.sides(applied, "k8s/", c.rollout, false)
		if err != nil {
			t.Fatal(err)
		}
		p, err := plan.Compute(sides[0], sides[1], plan.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := show.Text(&text, p, show.Options{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(text.String(), want) {
				t.Errorf("rollout %q: no %q in\n%s", c.rollout, want, &text)
			}
		}
	}
	if _, err := there.sides(applied, "k8s/", "other", false); err == nil || !strings.Contains(err.Error(), "no such PolicyRollout, but lockdown") {
		t.Errorf("a rollout that is not there: %v", err)
	}
}
