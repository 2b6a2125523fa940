package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/generation/configmaps"
	"github.com/ringfence-project/ringfence/internal/generation/mapstest"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// keeping is a cluster that keeps generations: the first of what it has in force, the second with another policy in the
// stead of guard, which is bad now, and the third with one that could not be read.
func keeping(t *testing.T) *fakeCluster {
	t.Helper()
	f := newFakeCluster(t)
	mapstest.Versioned(f.client.(*fake.Clientset))
	there, err := f.readCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	state, err := there.with(there.Objects)
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) []*policy.Policy {
		b := manifest.NewBundle()
		b.Decode("p.yaml", []byte(text))
		return b.Finish(manifest.Options{}).Objects.Policies
	}
	np := slices.DeleteFunc(slices.Clone(state.Policies()), func(p *policy.Policy) bool { return p.Name == "guard" })
	store := configmaps.Open(f.client, "ringfence-system")
	for i, c := range []struct {
		policies []*policy.Policy
		why      string
		mark     generation.Mark
	}{
		{state.Policies(), "the first that was seen", generation.Good},
		{append(np, read("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Egress]}\n")...), "policies changed", generation.Bad},
		{read("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: bad, namespace: shop}\nspec: {podSelectr: {}}\n"), "policies changed: +shop/bad", ""},
	} {
		at := time.Date(2026, 11, 22, 12, i, 0, 0, time.UTC)
		e, err := store.Put(t.Context(), c.policies, at, c.why)
		if err == nil && c.mark != "" {
			err = store.SetMark(t.Context(), e.Number, c.mark, at, "")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestGenerationsOfACluster(t *testing.T) {
	f := keeping(t)
	k, err := f.kept(t.Context(), "ringfence-system")
	if err != nil {
		t.Fatal(err)
	}
	views, err := k.views(t.Context(), nil, 20)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := printGenerations(&b, views); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{"3       ", "current", "-NetworkPolicy shop/db, +NetworkPolicy shop/bad", "bad ", "-ClusterNetworkPolicy guard, +NetworkPolicy shop/web", "good "} {
		if !strings.Contains(strings.ReplaceAll(text, "+NetworkPolicy shop/bad, -NetworkPolicy shop/db", "-NetworkPolicy shop/db, +NetworkPolicy shop/bad"), want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	b.Reset()
	if err := k.writeManifests(t.Context(), &b, "good"); err != nil || !strings.Contains(b.String(), "kind: ClusterNetworkPolicy") {
		t.Errorf("%v:\n%s", err, &b)
	}
	if _, err := f.kept(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "namespace other of the cluster has no history of generations") {
		t.Errorf("of another namespace: %v", err)
	}
}

// has has all nodes report of a return what they should.
func (f *fakeCluster) has(r *record.Record) {
	f.t.Helper()
	for _, n := range []string{"n1", "n2"} {
		u := f.report(n, "10", "20")
		if r != nil {
			u.Object["status"].(map[string]any)["rollouts"] = []any{map[string]any{"name": r.Name, "digest": r.Digest, "phase": string(rollout.Complete),
				"revision": int64(1), "stepIndex": int64(1), "inForce": true, "evidence": map[string]any{}}}
		}
		f.watcher.Modify(u)
	}
}

// A return is waited for on every node, says what it is, and is taken back.
func TestReturnOfACluster(t *testing.T) {
	f := keeping(t)
	f.add(f.report("n1", "10", "20"))
	f.add(f.report("n2", "10", "20"))
	c := clusterRollouts{f.api}
	type answer struct {
		to      *generation.Return
		inForce bool
		err     error
	}
	returned := make(chan answer, 1)
	go func() {
		s, err := c.returnTo(t.Context(), "ringfence-system", "2", 20*time.Second)
		returned <- answer{s.To, s.InForce, err}
	}()
	f.has(nil) // which is none of it
	r, err := record.Get(t.Context(), f.wide, record.ReturnName)
	if err != nil {
		t.Fatal(err)
	}
	f.has(&r)
	if a := <-returned; a.err != nil || !a.inForce || a.to.Number != 2 {
		t.Fatalf("returned: %+v", a)
	}
	there, err := f.readCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := there.with(there.Objects); err != nil || generation.Of(s.Policies()) != r.Returned().ID {
		t.Errorf("something else is in force, %v", err)
	}
	all, err := c.read(t.Context())
	if err != nil || all.Returned == nil || all.Returned.Number != 2 {
		t.Fatalf("the status says %+v, %v", all.Returned, err)
	}
	text := returnedText(all.Returned, c.drivenBy(true))
	if !strings.HasPrefix(text, "returned to the policies of entry 2 (") || !strings.HasSuffix(text, `rollouts wait, until "ringfence rollout resume"`) {
		t.Errorf("the status says %q", text)
	}
	if _, err := c.returnTo(t.Context(), "ringfence-system", "1", time.Second); err == nil || !strings.Contains(err.Error(), `"ringfence rollout resume" puts it in force`) {
		t.Errorf("to what is beneath: %v", err)
	}
	if s, err := c.resume(t.Context(), 20*time.Second); err != nil || !s.InForce || s.To != nil { // as the reports have nothing of it
		t.Fatalf("resumed: %+v, %v", s, err)
	}
	if _, err := c.resume(t.Context(), time.Second); !errors.Is(err, record.ErrNotReturned) {
		t.Errorf("once more: %v", err)
	}
}

// A policy that is applied while the return is made is in it.
func TestReturnAroundChanges(t *testing.T) {
	f := keeping(t)
	policies := f.client.NetworkingV1().NetworkPolicies("shop")
	applied := 0
	f.wide.PrependReactor("create", "policyrollouts", func(k8stesting.Action) (bool, runtime.Object, error) {
		applied++
		_, err := policies.Create(t.Context(), &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", applied), Namespace: "shop"}}, metav1.CreateOptions{})
		return false, nil, err
	})
	c := clusterRollouts{f.api}
	if _, err := c.returnTo(t.Context(), "ringfence-system", "2", time.Millisecond); err != nil {
		t.Fatal(err)
	}
	r, err := record.Get(t.Context(), f.wide, record.ReturnName)
	if err != nil || applied != 1 {
		t.Fatalf("%d were applied, %v", applied, err)
	}
	if !slices.Contains(r.Complete.Remove, rollout.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "p1"}) {
		t.Errorf("it is in force beside the return, which removes %v", r.Complete.Remove)
	}
}

func TestReturnsOfAClusterThatFail(t *testing.T) {
	f := keeping(t)
	c := clusterRollouts{f.api}
	for ref, want := range map[string]string{
		"1":  "generation 1 cannot be returned to: it is what policies and rollouts say, and in force",
		"3":  "generation 3 cannot be returned to: NetworkPolicy shop/bad: it could not be read",
		"99": "generation 99: not kept",
	} {
		if _, err := c.returnTo(t.Context(), "ringfence-system", ref, time.Second); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("to %s: %v, want %s", ref, err, want)
		}
	}
	if all, err := record.List(t.Context(), f.wide); err != nil || len(all) != 0 {
		t.Errorf("there are %+v, %v", all, err)
	}
	f.add(f.report("n1", "10", "20"))
	s, err := c.returnTo(t.Context(), "ringfence-system", "2", 100*time.Millisecond) // nobody reports it
	if err != nil || s.InForce || s.To == nil {
		t.Errorf("it is %+v, %v", s, err)
	}
}

// A generation is compared with another one, with what is in force, and with what manifests make of that.
func TestPlanOfClusterGenerations(t *testing.T) {
	f := keeping(t)
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "web.yaml"), []byte("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Egress]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args         []string
		names        string
		before, then bool // is the database reached
	}{
		{[]string{"generation:1", "generation:2"}, "generation 1, generation 2", true, false},
		{[]string{"generation:2"}, "generation 2, the cluster", false, true},
		{[]string{"generation:good", folder}, "generation 1, the cluster with " + folder, true, false},
		{[]string{folder, "generation:good"}, "the cluster with " + folder + ", generation 1", false, true},
	} {
		o := planOptions{}
		o.recorded.cluster.agents = "ringfence-system"
		cmd := newPlan()
		cmd.SetContext(t.Context())
		sides, err := o.generationSidesOf(cmd, f.api, c.args)
		if err != nil {
			t.Fatal(err)
		}
		if names := sides[0].Name + ", " + sides[1].Name; names != c.names {
			t.Errorf("%v: it is of %s", c.args, names)
		}
		if before, then := reachesDB(sides[0].State), reachesDB(sides[1].State); before != c.before || then != c.then {
			t.Errorf("%v: it is allowed before: %v, then: %v", c.args, before, then)
		}
	}
}
