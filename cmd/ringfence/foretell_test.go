package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// TestAuditForetellsEnforcement: on random changes, what an audit says of real connections is what happens to them once
// the change is in force, and the rest fares as before.
func TestAuditForetellsEnforcement(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := clustertest.Texts{Rand: rand.New(rand.NewPCG(seed, 1)), Namespace: "a", Apps: []string{"red", "blue"}}
	w := townOf(t, manyPods+strings.Join(random.Policies("policy"), "---\n"))
	const rounds = 3
	differences := 0
	for round := range rounds {
		text := fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: PolicyRollout\nmetadata: {name: change}\nspec:\n"+
			"  policies:\n%s  remove: [{kind: NetworkPolicy, namespace: a, name: policy%d}]\n"+
			"  steps: [{audit: {for: 1h}}, {enforce: {percent: 100, for: 1h}}]\n"+
			"  analysis: {newlyDenied: {then: Ignore}, newlyAllowed: {then: Ignore}, failedConnects: {then: Ignore}}\n",
			items(random.Policies("new")), round)
		w.write("rollout.yaml", text)
		w.mustAwait("the audit", func() bool { v := w.change(); return v.Phase == rollout.Progressing && v.InForce })
		began := time.Now()
		before := w.dialAll()
		foretold := w.foretold(began, len(before))
		if _, code := w.ringfence("rollout", "promote"); code != exitOK {
			t.Fatalf("promote: code %d", code)
		}
		w.mustAwait("the change", func() bool { v := w.change(); return v.Step == 1 && v.InForce })
		for c, now := range w.dialAll() {
			if want := before[c] != foretold[c]; now != want {
				t.Errorf("%s: was let through %v, an audit foretold another verdict %v, and then it was let through: %v\n%s", c, before[c], foretold[c], now, text)
			}
		}
		differences += len(foretold)
		if err := os.Remove(filepath.Join(w.manifests, "rollout.yaml")); err != nil {
			t.Fatal(err)
		}
		w.mustAwait("the change is gone", func() bool { return w.change().Phase == "" })
	}
	t.Logf("%d rounds, %d connections that the changes changed", rounds, differences)
}

// manyPods are four pods of two namespaces, each with two ports.
const manyPods = `
{apiVersion: v1, kind: Pod, metadata: {name: p1, namespace: a, labels: {app: red}}, spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 81}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p2, namespace: a, labels: {app: blue}}, spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 81}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p3, namespace: b, labels: {app: red}}, spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 81}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: p4, namespace: b, labels: {app: green}}, spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}, {containerPort: 81}]}]}}
---
`

var manyNames = []string{"a/p1", "a/p2", "b/p3", "b/p4"}

// connection is one that is tried.
type connection struct {
	from, to string
	port     uint16
}

func (c connection) String() string { return fmt.Sprintf("%s -> %s:%d", c.from, c.to, c.port) }

// dialAll tries every connection at once, and says which are let through.
func (w *town) dialAll() map[connection]bool {
	w.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	through := map[connection]bool{}
	for _, from := range manyNames {
		w.space(from)
		for _, to := range manyNames {
			for _, port := range []uint16{80, 81} {
				if from == to {
					continue
				}
				all.Go(func() {
					c, err := w.dial(from, to, int(port), time.Second)
					if err == nil {
						c.Close()
					}
					mu.Lock()
					defer mu.Unlock()
					through[connection{from, to, port}] = err == nil
				})
			}
		}
	}
	all.Wait()
	return through
}

// foretold are the connections since a time of which the audit says that they would fare otherwise. All of count are
// waited for.
func (w *town) foretold(since time.Time, count int) map[connection]bool {
	w.t.Helper()
	var differ map[connection]bool
	w.mustAwait("all connections are seen", func() bool {
		out, code := w.ringfence("flows", "-o", "json")
		var records []flowlog.Record
		if err := json.Unmarshal([]byte(out), &records); err != nil || code != exitOK {
			w.t.Fatalf("flows: code %d, %v", code, err)
		}
		seen := map[connection]bool{}
		differ = map[connection]bool{}
		for _, r := range records {
			c := connection{r.Source.Namespace + "/" + r.Source.Pod, r.Destination.Namespace + "/" + r.Destination.Pod, r.Port}
			if r.Source.Pod == "" || r.Destination.Pod == "" || r.Destination.Pod == "dns" || r.Time.Before(since) {
				continue
			}
			if seen[c] = true; r.Beside != nil {
				if !r.Beside.Candidate || r.Beside.Verdict == r.Verdict {
					w.t.Errorf("an audit says %s of what fared %s", r.Beside, r.Verdict)
				}
				differ[c] = true
			}
		}
		return len(seen) >= count
	})
	return differ
}

// items indents documents of one line as the items of a list.
func items(docs []string) string { return "  - " + strings.Join(docs, "  - ") }
