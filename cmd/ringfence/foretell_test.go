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

	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// TestAuditForetellsEnforcement: on random changes, what an audit says of real connections is what happens to them once
// the change is in force, and the rest fares as before.
func TestAuditForetellsEnforcement(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := changes{rand.New(rand.NewPCG(seed, 1))}
	w := townOf(t, manyPods+strings.Join(random.policies("policy"), "---\n"))
	const rounds = 3
	differences := 0
	for round := range rounds {
		text := fmt.Sprintf("apiVersion: ringfence.dev/v1alpha1\nkind: PolicyRollout\nmetadata: {name: change}\nspec:\n"+
			"  policies:\n%s  remove: [{kind: NetworkPolicy, namespace: a, name: policy%d}]\n"+
			"  steps: [{audit: {for: 1h}}, {enforce: {percent: 100, for: 1h}}]\n"+
			"  analysis: {newlyDenied: {then: Ignore}, newlyAllowed: {then: Ignore}, failedConnects: {then: Ignore}}\n",
			items(random.policies("new")), round)
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

// changes draws policies as text.
type changes struct{ *rand.Rand }

func (r changes) one(of ...string) string { return of[r.IntN(len(of))] }

// policies draws a few policies, named by prefix and number.
func (r changes) policies(prefix string) []string {
	var all []string
	for i := range 2 + r.IntN(3) {
		name := fmt.Sprintf("%s%d", prefix, i)
		if r.IntN(3) == 0 {
			all = append(all, r.clusterPolicy(name))
		} else {
			all = append(all, r.networkPolicy(name))
		}
	}
	return all
}

func (r changes) selector() string {
	return r.one("{}", "{matchLabels: {app: red}}", "{matchLabels: {app: blue}}", "{matchExpressions: [{key: app, operator: NotIn, values: [red]}]}")
}

func (r changes) networkPolicy(name string) string {
	direction, peers := "Ingress", "from"
	if r.IntN(2) == 0 {
		direction, peers = "Egress", "to"
	}
	peer := r.one("{podSelector: "+r.selector()+"}", "{namespaceSelector: {}, podSelector: "+r.selector()+"}", "{ipBlock: {cidr: 10.244.0.0/17}}")
	ports := r.one("", ", ports: [{port: 80}]", ", ports: [{port: 80, endPort: 81}]")
	return fmt.Sprintf("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: a}, spec: {podSelector: %s, "+
		"policyTypes: [%s], %s: [{%s: [%s]%s}]}}\n", name, r.selector(), direction, strings.ToLower(direction), peers, peer, ports)
}

func (r changes) clusterPolicy(name string) string {
	direction, peers := "ingress", "from"
	if r.IntN(2) == 0 {
		direction, peers = "egress", "to"
	}
	ports := r.one("", ", protocols: [{tcp: {destinationPort: {number: 81}}}]")
	return fmt.Sprintf("{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: %s}, spec: {tier: %s, priority: %d, "+
		"subject: {pods: {namespaceSelector: {}, podSelector: %s}}, %s: [{action: %s, %s: [{pods: {namespaceSelector: {}, podSelector: %s}}]%s}]}}\n",
		name, r.one("Admin", "Baseline"), r.IntN(3), r.selector(), direction, r.one("Accept", "Deny", "Pass"), peers, r.selector(), ports)
}

// items indents documents of one line as the items of a list.
func items(docs []string) string { return "  - " + strings.Join(docs, "  - ") }
