package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// unguard is a rollout that removes the policy which accepts everything, at its step of half of the pods.
const unguard = `{apiVersion: ringfence.dev/v1alpha1, kind: PolicyRollout, metadata: {name: unguard},
spec: {remove: [{kind: ClusterNetworkPolicy, name: guard}], steps: [{enforce: {percent: 50}}, {enforce: {percent: 100}}]}}`

// put has a rollout in the cluster, after some commands.
func (f *fakeCluster) put(text string, commands ...rollout.Command) {
	f.t.Helper()
	must := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	data, err := yaml.YAMLToJSON([]byte(text))
	must(err)
	u := new(unstructured.Unstructured)
	must(u.UnmarshalJSON(data))
	r, err := record.Read(u)
	must(err)
	now := time.Unix(1, 0)
	r = r.With(rollout.Status{}.Follow(r.Spec, "", now), now)
	for _, c := range commands {
		next, err := r.Status.Do(r.Spec, c, rollout.Health{}, now)
		must(err)
		r = r.With(next, now)
	}
	u, err = r.Object()
	must(err)
	rollouts := f.wide.Resource(record.Resource)
	if err := rollouts.Delete(f.t.Context(), r.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		f.t.Fatal(err)
	}
	_, err = rollouts.Create(f.t.Context(), u, metav1.CreateOptions{})
	must(err)
}

// Questions to a cluster are answered by what is in force there, which is not only what its policies say.
func TestRolloutsOfAClusterCount(t *testing.T) {
	promote := []rollout.Command{rollout.Promote}
	for name, c := range map[string]struct {
		put       bool
		commands  []rollout.Command
		candidate string
		allowed   bool
		note, err string
	}{
		"none":         {allowed: true},
		"under way":    {put: true, allowed: true, note: "rollout unguard is under way (enforce 50%"},
		"its cohort":   {put: true, candidate: "unguard"},
		"complete":     {put: true, commands: append(promote, promote...), note: "rollout unguard has in force what the API says otherwise (ClusterNetworkPolicy guard): it counts as the rollout has it"},
		"another one":  {put: true, candidate: "lockdown", err: "no such PolicyRollout, but unguard"},
		"none of that": {candidate: "lockdown", err: "the cluster has no PolicyRollout"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster(t)
			if c.put {
				f.put(unguard, c.commands...)
			}
			var stderr strings.Builder
			loaded, err := f.api.load(t.Context(), &stderr, c.candidate)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := reachesDB(loaded.state); got != c.allowed {
				t.Errorf("it is allowed: %v, want %v", got, c.allowed)
			}
			if (stderr.Len() > 0) != (c.note != "") || !strings.Contains(stderr.String(), c.note) {
				t.Errorf("it says %q, want %q", &stderr, c.note)
			}
		})
	}
}

func reachesDB(s *cluster.State) bool {
	pod := func(name string) cluster.Party {
		e := s.Endpoint(cluster.Key{Namespace: "shop", Name: name})
		return cluster.Party{Endpoint: e, Addr: e.Addresses[0]}
	}
	return eval.Evaluate(s, cluster.Connection{From: pod("web"), To: pod("db-1"), Protocol: flow.TCP, Port: 5432}).Verdict == flow.Allow
}

// Who may not read rollouts is told that what they have in force does not count.
func TestRolloutsThatMayNotBeRead(t *testing.T) {
	f := newFakeCluster(t)
	f.wide.PrependReactor("list", "policyrollouts", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(record.Resource.GroupResource(), "", nil)
	})
	var stderr strings.Builder
	loaded, err := f.api.load(t.Context(), &stderr, "")
	if err != nil || !reachesDB(loaded.state) || !strings.Contains(stderr.String(), "what rollouts have in force does not count: ") {
		t.Errorf("%v, and it says %q", err, &stderr)
	}
	if _, err := f.api.load(t.Context(), &stderr, "unguard"); err == nil || !strings.Contains(err.Error(), "--rollout unguard: ") {
		t.Errorf("with a candidate: %v", err)
	}
}

// A plan begins with what is in force, and says which policies would stay without effect.
func TestPlanCountsCompleteRollouts(t *testing.T) {
	f := newFakeCluster(t)
	f.put(unguard, rollout.Promote, rollout.Promote)
	there, err := f.api.readCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bundle := manifest.NewBundle()
	bundle.Decode("guard.yaml", []byte("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: guard}\n"+
		"spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}\n"))
	applied := bundle.Finish(manifest.Options{})
	sides, err := there.sides(applied, "k8s/", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if before, after := reachesDB(sides[0].State), reachesDB(sides[1].State); before || after {
		t.Errorf("it is allowed before: %v, after: %v", before, after)
	}
	want := "ClusterNetworkPolicy guard stays without effect as long as rollout unguard is there, which is complete and has it removed"
	if u := there.unheeded(applied.Objects); len(u) != 1 || u[0] != want {
		t.Errorf("%q", u)
	}
}

// Of policies that a complete rollout has in force only those are spoken of that others say otherwise.
func TestOnlyWhatDiffersIsSpokenOf(t *testing.T) {
	spec := func(priority int) string {
		return fmt.Sprintf("{tier: Admin, priority: %d, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}", priority)
	}
	const head = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: guard}, spec: "
	for name, c := range map[string]struct {
		carried, applied int // priorities; the cluster's own is 1
		note, unheeded   string
	}{
		"all the same":           {1, 1, "", ""},
		"another is applied":     {1, 2, "", "has its own version in force"},
		"the cluster's is other": {2, 2, "what the API says otherwise (ClusterNetworkPolicy guard)", ""},
		"all others":             {2, 1, "what the API says otherwise (ClusterNetworkPolicy guard)", "has its own version in force"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster(t)
			f.put("{apiVersion: ringfence.dev/v1alpha1, kind: PolicyRollout, metadata: {name: again}, spec: {policies: ["+head+spec(c.carried)+"}], steps: [{enforce: {percent: 100}}]}}",
				rollout.Promote)
			there, err := f.api.readCluster(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			bundle := manifest.NewBundle()
			bundle.Decode("guard.yaml", []byte(head+spec(c.applied)+"}"))
			for _, x := range []struct {
				got  []string
				want string
			}{{there.notes(""), c.note}, {there.unheeded(bundle.Finish(manifest.Options{}).Objects), c.unheeded}} {
				if (len(x.got) > 0) != (x.want != "") || !strings.Contains(strings.Join(x.got, "\n"), x.want) {
					t.Errorf("it says %q, want %q", x.got, x.want)
				}
			}
		})
	}
}
