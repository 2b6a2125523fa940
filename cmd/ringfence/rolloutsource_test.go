package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"

	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// rolloutsOf are a cluster's, with one rollout that a controller watched last at a time; zero is never.
func rolloutsOf(t *testing.T, seen time.Time) clusterRollouts {
	t.Helper()
	return clusterRollouts{&api{dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{record.Resource: "PolicyRolloutList"}, rolloutObject(t, "old", seen))}}
}

// rolloutObject is a rollout that removes a policy in namespace shop.
func rolloutObject(t *testing.T, removes string, seen time.Time) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(`{apiVersion: ringfence.dev/v1alpha1, kind: PolicyRollout, metadata: {name: lockdown},
spec: {remove: [{kind: NetworkPolicy, namespace: shop, name: ` + removes + `}], steps: [{audit: {for: 1m}}, {enforce: {percent: 100}}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	u := new(unstructured.Unstructured)
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	if !seen.IsZero() {
		r, err := record.Read(u)
		if err != nil {
			t.Fatal(err)
		}
		r = r.With(rollout.Status{}.Follow(r.Spec, "", seen), seen)
		r.Nodes, r.Selected, r.Cohort = "2/3, not n3", 12, 0
		if u, err = r.Object(); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// shown is what people see of all rollouts, and whether all is well.
func shown(t *testing.T, c clusterRollouts) (string, bool) {
	t.Helper()
	all, chosen, err := chooseRollouts(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printRollouts(&out, chosen, c.drivenBy(all.Driven)); err != nil {
		t.Fatal(err)
	}
	return out.String(), allWell(chosen, c.drivenBy(all.Driven))
}

func TestRolloutsOfACluster(t *testing.T) {
	for _, c := range []struct {
		what string
		seen time.Time
		well bool
		want []string
	}{
		{"new", time.Time{}, true, []string{"lockdown: waiting\n", "no controller has begun it yet"}},
		{"driven", time.Now(), true, []string{"lockdown: progressing, step 1 of 2: audit for 1m\n", "0 of 12 pods", "2/3, not n3"}},
		{"left alone", time.Now().Add(-time.Hour), false, []string{"nobody drives it; a controller goes on"}},
	} {
		text, well := shown(t, rolloutsOf(t, c.seen))
		if well != c.well {
			t.Errorf("%s: all is well: %v", c.what, well)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in\n%s", c.what, want, text)
			}
		}
	}
}

// People's commands need no controller, and not even one that has begun the rollout.
func TestSteeringACluster(t *testing.T) {
	for _, seen := range []time.Time{{}, time.Now().Add(-time.Hour)} {
		c := rolloutsOf(t, seen)
		if err := c.do(t.Context(), "lockdown", rollout.Abort); err != nil {
			t.Fatal(err)
		}
		if text, well := shown(t, c); well || !strings.Contains(text, "lockdown: aborted\n  why") || strings.Contains(text, "nodes") {
			t.Errorf("it shows\n%s", text)
		}
		if err := c.do(t.Context(), "lockdown", rollout.Promote); err == nil || !strings.Contains(err.Error(), "nothing to promote") {
			t.Errorf("what is over is promoted: %v", err)
		}
		if err := c.do(t.Context(), "lockdown", rollout.Retry); err != nil {
			t.Fatal(err)
		}
	}
	if err := rolloutsOf(t, time.Now()).do(t.Context(), "other", rollout.Abort); err == nil || !strings.Contains(err.Error(), "rollout other: no such rollout") {
		t.Errorf("what is not there is aborted: %v", err)
	}
}
