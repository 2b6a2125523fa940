package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/up"
)

const changingPod = `
apiVersion: v1
kind: Pod
metadata: {name: p%d, namespace: shop, labels: {app: app%d}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: %d}]}]}
`

const changingPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: n%d, namespace: shop}
spec:
  podSelector: {matchLabels: {app: app%d}}
  policyTypes: [%s]
  ingress:
  - from: [{podSelector: {matchLabels: {app: app%d}}}]
    ports: [{port: %d}]
`

// changer makes changes of manifests at random.
type changer struct {
	m *machine
	r *rand.Rand
}

func (c *changer) change() {
	i := c.r.IntN(6)
	pod, policy := fmt.Sprintf("p%d.yaml", i), fmt.Sprintf("n%d.yaml", i)
	switch c.r.IntN(9) {
	case 0:
		_ = os.Remove(filepath.Join(c.m.manifests, pod)) // it may not be there
	case 1:
		_ = os.Remove(filepath.Join(c.m.manifests, policy))
	case 2:
		c.m.write(policy, "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: [\n")
	case 3:
		c.m.write(pod, "kind: Pod\nspec: }")
	case 4, 5:
		c.good(i, pod, policy)
	case 6:
		c.m.write(pod, fmt.Sprintf(changingPod, i, c.r.IntN(3), 80))
	default:
		direction := []string{"Ingress", "Ingress, Egress"}[c.r.IntN(2)]
		c.m.write(policy, fmt.Sprintf(changingPolicy, i, c.r.IntN(3), direction, c.r.IntN(3), 80+c.r.IntN(2)))
	}
}

func (c *changer) good(i int, pod, policy string) {
	c.m.write(pod, fmt.Sprintf(changingPod, i, c.r.IntN(3), 80+c.r.IntN(2)))
	c.m.write(policy, fmt.Sprintf(changingPolicy, i, c.r.IntN(3), "Ingress", c.r.IntN(3), 80))
}

// TestChangesEndAsAFreshStart makes changes in random order under traffic; 1,000 of them with RINGFENCE_LONG. What is in
// force in the end is what a fresh start puts in force, and a connection that no change was about has never stopped.
func TestChangesEndAsAFreshStart(t *testing.T) {
	changes := 150
	if os.Getenv("RINGFENCE_LONG") != "" {
		changes = 1000
	}
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up()
	u.await("in force")
	stop := traffic(t, m.mustReach("shop/web", "shop/db", 5432))
	c := &changer{m, rand.New(rand.NewPCG(7, 7))}
	for i := range changes {
		c.change()
		time.Sleep(time.Duration(c.r.IntN(30)) * time.Millisecond)
		if i == changes/2 {
			u.kill()
			u = m.up()
		}
	}
	for i := range 3 { // a bad file's last good version is not the same for a fresh start
		c.good(i, fmt.Sprintf("p%d.yaml", i), fmt.Sprintf("n%d.yaml", i))
	}
	for i := 3; i < 6; i++ {
		_ = os.Remove(filepath.Join(m.manifests, fmt.Sprintf("p%d.yaml", i)))
		_ = os.Remove(filepath.Join(m.manifests, fmt.Sprintf("n%d.yaml", i)))
	}
	m.mustAwait("it is quiet", m.settled())
	if echoes := stop(); echoes == 0 {
		t.Error("no traffic")
	}

	fresh, err := runtime.NewInstance("fresh", m.folders[1], m.folders[3])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := fresh.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	m.up("--name", "fresh").await("in force")
	if err := ruleset.CheckEquivalent(inForce(t, m.Instance), inForce(t, fresh)); err != nil {
		t.Error(err)
	}
	took := u.latencies()
	if len(took) == 0 {
		t.Fatal("no change came in force")
	}
	t.Logf("%d changes came in force in %d steps: event to kernel p50 %s, p99 %s", changes, len(took), took[len(took)/2], took[len(took)*99/100])
}

// traffic keeps a connection busy until it is stopped, and returns how often it was answered.
func traffic(t *testing.T, c net.Conn) (stop func() int64) {
	t.Helper()
	var echoes atomic.Int64
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1)
		for {
			select {
			case <-quit:
				return
			case <-time.After(5 * time.Millisecond):
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, err := c.Write(buf)
			if err == nil {
				_, err = c.Read(buf)
			}
			if err != nil {
				t.Errorf("a connection that no change was about broke: %v", err)
				return
			}
			echoes.Add(1)
		}
	}()
	return func() int64 { close(quit); <-done; return echoes.Load() }
}

// settled tells when the manifests that are in force are those on disk, by a change that is made last.
func (m *machine) settled() func() bool {
	m.write("last.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: last, namespace: shop}\nspec: {containers: [{name: c, image: c}]}\n")
	return func() bool {
		s, err := statusOf(m.t.Context(), m.Instance)
		return err == nil && len(s.Bad) == 0 && slices.ContainsFunc(s.Pods, func(p podStatus) bool { return p.Pod == "shop/last" })
	}
}

// inForce reads back what an instance's kernel enforces.
func inForce(t *testing.T, i runtime.Instance) *ruleset.Ruleset {
	t.Helper()
	c, err := i.NodeShim()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := c.NetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	dp, err := nft.New(nft.Options{NetNS: ns.FD(), LogGroup: up.LogGroup, LogRate: up.LogRate})
	if err != nil {
		t.Fatal(err)
	}
	defer dp.Close()
	r, err := dp.Realized(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// latencies are the times from event to kernel that `up` has printed, sorted.
func (u *upProcess) latencies() []time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []time.Duration
	for _, line := range u.lines {
		_, rest, ok := strings.Cut(line, "in force after ")
		text, _, _ := strings.Cut(rest, ",")
		if d, err := time.ParseDuration(text); ok && err == nil {
			all = append(all, d)
		}
	}
	slices.Sort(all)
	return all
}
