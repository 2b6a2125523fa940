package main

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/driver"
	"github.com/ringfence-project/ringfence/internal/up"
)

// rolloutTown is a shop whose web pods ask its database, and a stranger who may not.
const rolloutTown = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: other, labels: {app: stranger}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
`

// The candidates that issues are made of.
const (
	forgetsDNS = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop},
      spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress],
        egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]}]}}`
	allowsDNS = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop},
      spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress],
        egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 5432}]},
          {to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}]}}`
	wrongPort = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
      spec: {podSelector: {matchLabels: {app: db}},
        ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5433}]}]}}`
	forEveryone = `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
      spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}}`
)

// rolloutOf writes a rollout of one policy.
func rolloutOf(candidate, steps string) string {
	return "apiVersion: ringfence.dev/v1alpha1\nkind: PolicyRollout\nmetadata: {name: change}\nspec:\n  policies:\n  - " +
		candidate + "\n  steps: " + steps + "\n"
}

// town is a machine with traffic on it.
type town struct {
	*machine
	u      *upProcess
	spaces map[string]*netns.NS
	client *up.Rollouts
	ctx    context.Context
	work   *sync.WaitGroup
}

func newTown(t *testing.T) *town { t.Helper(); return townOf(t, rolloutTown) }

func townOf(t *testing.T, manifests string) *town {
	t.Helper()
	t.Parallel() // they mostly wait
	w := &town{machine: newMachine(t), spaces: map[string]*netns.NS{}, work: &sync.WaitGroup{}}
	if err := os.Chmod(filepath.Dir(w.manifests), 0o755); err != nil { // some pods run as users of their own
		t.Fatal(err)
	}
	w.write("town.yaml", manifests)
	w.u = w.up()
	w.u.await("pods started")
	var cancel context.CancelFunc
	w.ctx, cancel = context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		w.work.Wait()
		for _, ns := range w.spaces {
			ns.Close()
		}
	})
	return w
}

func (w *town) space(pod string) *netns.NS {
	w.t.Helper()
	if ns := w.spaces[pod]; ns != nil {
		return ns
	}
	c, err := w.Shim(key(pod))
	if err != nil {
		w.t.Fatal(err)
	}
	ns, err := c.NetNS()
	if err != nil {
		w.t.Fatal(err)
	}
	w.spaces[pod] = ns
	return ns
}

var webs = []string{"shop/web-1", "shop/web-2", "shop/web-3", "shop/web-4"}

// talk has somebody do something again and again until the test ends.
func (w *town) talk(do func()) {
	w.work.Go(func() {
		for w.ctx.Err() == nil {
			do()
			select {
			case <-w.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// asks has a pod connect to another, from now on.
func (w *town) asks(from, to string, port int) {
	w.t.Helper()
	ns, at := w.space(from), netip.AddrPortFrom(w.address(to), uint16(port)).String()
	w.talk(func() {
		_ = ns.Do(func() error {
			c, err := net.DialTimeout("tcp", at, 200*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return nil
		})
	})
}

// resolves has a pod look names up, from now on.
func (w *town) resolves(pod string) {
	w.t.Helper()
	ns := w.space(pod)
	dial := func(context.Context, string, string) (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = net.DialTimeout("udp", "10.96.0.10:53", time.Second); return err })
		return c, err
	}
	r := &net.Resolver{PreferGo: true, Dial: dial}
	w.talk(func() {
		ctx, cancel := context.WithTimeout(w.ctx, 200*time.Millisecond)
		defer cancel()
		_, _ = r.LookupHost(ctx, "kube-dns.kube-system.svc.cluster.local.")
	})
}

// traffic is all that the shop does.
func (w *town) traffic() {
	w.t.Helper()
	for _, pod := range webs {
		w.asks(pod, "shop/db", 5432)
		w.resolves(pod)
	}
	w.asks("other/stranger", "shop/db", 5432)
	w.asks("other/stranger", "shop/web-1", 80)
}

// change reads the rollout's status; the zero View if there is none.
func (w *town) change() driver.View {
	w.t.Helper()
	all, err := up.ReadRollouts(w.t.Context(), w.Instance)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, v := range all.Now {
		if v.Rollout == "change" {
			return v
		}
	}
	return driver.View{}
}

func (w *town) awaitPhase(p rollout.Phase) driver.View {
	w.t.Helper()
	var v driver.View
	w.mustAwait("the rollout is "+string(p), func() bool { v = w.change(); return v.Phase == p })
	return v
}

// findings is what a rollout found, each kind once.
func findings(v driver.View, about func(rollout.Finding) bool) []string {
	var all []string
	for _, f := range v.Evidence.Findings {
		if about == nil || about(f) {
			all = append(all, f.Key())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestAuditShowsExactlyTheRightConnections(t *testing.T) {
	w := newTown(t)
	var open []net.Conn
	for _, pod := range webs {
		open = append(open, w.mustReach(pod, "shop/db", 5432))
	}
	w.traffic()
	audit := "[{audit: {for: 2s}}, {enforce: {percent: 100}}]"
	for _, c := range []struct {
		what, candidate string
		phase           rollout.Phase
		want            []string
		live            bool
	}{
		{"a default deny that forgets DNS", forgetsDNS, rollout.RolledBack, []string{"NewlyDenied shop/web kube-system/dns 53/udp"}, true},
		{"a wrong port", wrongPort, rollout.RolledBack, []string{"NewlyDenied shop/web shop/db 5432/tcp"}, true},
		{"a rule for everyone", forEveryone, rollout.Paused, []string{"NewlyAllowed other/stranger shop/db 5432/tcp"}, false},
	} {
		w.write("rollout.yaml", rolloutOf(c.candidate, audit))
		w.mustAwait(c.what+" begins", func() bool { return w.change().Phase == rollout.Progressing })
		v := w.awaitPhase(c.phase)
		if got := findings(v, nil); !slices.Equal(got, c.want) {
			t.Errorf("%s: found %q, want %q", c.what, got, c.want)
		}
		if slices.ContainsFunc(v.Evidence.Findings, func(f rollout.Finding) bool { return f.Enforced }) || len(v.Cohort) > 0 {
			t.Errorf("%s: an audit enforces: %+v", c.what, v)
		}
		if live := slices.ContainsFunc(v.Evidence.Findings, func(f rollout.Finding) bool { return f.Live }); live != c.live {
			t.Errorf("%s: connections from before are told apart: %v, want %v", c.what, live, c.live)
		}
		filter := "--would-deny"
		if c.phase == rollout.Paused {
			filter = "--would-allow"
		}
		out, code := w.ringfence("flows", filter, "--rollout", "change", "-o", "json")
		var seen []map[string]any
		if err := json.Unmarshal([]byte(out), &seen); code != exitOK || err != nil || len(seen) == 0 {
			t.Errorf("%s: flows %s: code %d, %v, %d flows", c.what, filter, code, err, len(seen))
		}
		if _, code := w.ringfence("rollout", "status"); code != exitFailed {
			t.Errorf("%s: rollout status ends with %d", c.what, code)
		}
	}
	for _, c := range open {
		w.mustEcho(c)
	}
}

// bad candidates in a canary: rolled back by themselves, with no other pod touched than the cohort.
func TestCanaryRollsBack(t *testing.T) {
	w := newTown(t)
	for _, c := range []struct {
		what, candidate, denied string
		talk                    func(canary string)
	}{
		{"a default deny that forgets DNS", forgetsDNS, "NewlyDenied shop/web kube-system/dns 53/udp", w.resolves},
		{"a wrong port", wrongPort, "NewlyDenied shop/web shop/db 5432/tcp", func(string) { w.asks("shop/web-1", "shop/db", 5432) }},
	} {
		// Nobody talks when it begins, or what talks would show it before anything is enforced.
		w.write("rollout.yaml", rolloutOf(c.candidate, "[{enforce: {percent: 10, for: 1h}}, {enforce: {percent: 100}}]"))
		w.mustAwait("the canary is in force", func() bool { v := w.change(); return v.Digest != "" && v.InForce && len(v.Cohort) == 1 })
		canary := w.change().Cohort
		w.u.await("enforce 10%")
		began := time.Now()
		c.talk(canary[0])
		v := w.awaitPhase(rollout.RolledBack)
		t.Logf("%s: rolled back %s after the first connection: %s", c.what, time.Since(began).Round(time.Millisecond), v.Reason)
		if v.Since.Sub(began) > 5*time.Second {
			t.Errorf("%s: rolled back only after %s", c.what, v.Since.Sub(began))
		}
		for _, f := range v.Evidence.Findings {
			if !f.Enforced || !strings.Contains(f.Example, canary[0]) {
				t.Errorf("%s: %+v, and %s is the canary", c.what, f, canary)
			}
		}
		if got := findings(v, nil); !slices.Equal(got, []string{c.denied}) {
			t.Errorf("%s: found %q", c.what, got)
		}
		w.mustAwait("what was before is in force", func() bool { return w.change().InForce })
		for _, pod := range webs {
			conn, err := w.dial(pod, "shop/db", 5432, 5*time.Second)
			if err != nil {
				t.Fatalf("%s: %s does not reach the database: %v", c.what, pod, err)
			}
			conn.Close()
		}
		w.u.await("RolledBack")
		if out, code := w.ringfence("status"); code != exitFailed || !strings.Contains(out, "rollout change is rolled back") {
			t.Errorf("%s: status says nothing of it: %d\n%s", c.what, code, out)
		}
		if out, _ := w.ringfence("rollout", "history", "change"); !strings.Contains(out, "RolledBack") {
			t.Errorf("%s: its history is\n%s", c.what, out)
		}
		if err := os.Remove(filepath.Join(w.manifests, "rollout.yaml")); err != nil {
			t.Fatal(err)
		}
		w.mustAwait("the rollout is gone", func() bool { return w.change().Phase == "" })
	}
}

func TestCanaryThatOpensPauses(t *testing.T) {
	w := newTown(t)
	w.write("rollout.yaml", rolloutOf(forEveryone, "[{enforce: {percent: 10, for: 1h}}, {enforce: {percent: 100, for: 1s}}]"))
	w.mustAwait("the canary is in force", func() bool { v := w.change(); return v.InForce && len(v.Cohort) == 1 })
	w.mustReach("other/stranger", "shop/db", 5432)
	v := w.awaitPhase(rollout.Paused)
	if got := findings(v, nil); !slices.Equal(got, []string{"NewlyAllowed other/stranger shop/db 5432/tcp"}) || !v.Evidence.Findings[0].Enforced {
		t.Errorf("found %q", got)
	}
	if _, code := w.ringfence("rollout", "abort"); code != exitOK {
		t.Errorf("abort: code %d", code)
	}
	w.awaitPhase(rollout.Aborted)
	w.mustAwait("what was before is in force", func() bool { return w.change().InForce })
	w.mustNotReach("other/stranger", "shop/db", 5432)
}

func TestHarmlessRolloutGoesThrough(t *testing.T) {
	w := newTown(t)
	w.traffic()
	steps := "[{audit: {for: 1s}}, {enforce: {percent: 10, for: 1s}}, {pause: {for: 1s}}, {enforce: {percent: 100, for: 1s}}]"
	w.write("rollout.yaml", rolloutOf(allowsDNS, steps))
	out, code := w.ringfence("rollout", "status", "-w") // waits for it, too
	if code != exitOK || !strings.Contains(out, "change: complete") || !strings.Contains(out, "beyond the files") {
		t.Fatalf("code %d\n%s", code, out)
	}
	w.mustAwait("it is in force", func() bool { return w.change().InForce })
	w.mustNotReach("shop/web-1", "other/stranger", 80)
	w.mustReach("shop/web-1", "shop/db", 5432)

	w.u.kill() // what is complete is kept, whoever comes next
	w.u = w.up()
	w.u.await("in force")
	w.mustNotReach("shop/web-2", "other/stranger", 80)

	if _, code := w.ringfence("rollout", "undo", "change"); code != exitOK {
		t.Errorf("undo: code %d", code)
	}
	w.mustAwait("it is undone", func() bool { v := w.change(); return v.Phase == rollout.Undone && v.InForce })
	w.mustReach("shop/web-1", "other/stranger", 80)
	if out, code := w.ringfence("rollout", "undo", "change"); code != exitUsage {
		t.Errorf("a second undo: code %d, %s", code, out)
	}
}

// Edited after it was complete, the former revision is what the new one is compared with, and what it goes back to.
func TestEditedAfterCompletion(t *testing.T) {
	w := newTown(t)
	w.traffic()
	w.write("rollout.yaml", rolloutOf(allowsDNS, "[{enforce: {percent: 100, for: 1s}}]"))
	w.awaitPhase(rollout.Complete)
	w.u.kill()
	w.write("rollout.yaml", rolloutOf(forgetsDNS, "[{enforce: {percent: 100, for: 1h}}]"))
	w.u = w.up()
	v := w.awaitPhase(rollout.RolledBack)
	if !strings.Contains(v.Reason, "kube-system/dns 53/udp") {
		t.Errorf("rolled back because %s", v.Reason)
	}
	w.mustAwait("the former revision is in force", func() bool { return w.change().InForce })
	w.mustNotReach("shop/web-1", "other/stranger", 80)
	w.mustReach("shop/web-1", "shop/db", 5432)
	if err := os.Remove(filepath.Join(w.manifests, "rollout.yaml")); err != nil {
		t.Fatal(err)
	}
	w.mustAwait("the rollout is gone", func() bool { return w.change().Phase == "" })
	w.mustReach("shop/web-1", "other/stranger", 80)
}

// Killed at any moment, `up` goes on with the rollout, or leaves it where it was; and never is more enforced than the
// step says.
func TestKilledDuringRollout(t *testing.T) {
	w := newTown(t)
	w.traffic()
	w.write("rollout.yaml", rolloutOf(allowsDNS, "[{audit: {for: 2s}}, {enforce: {percent: 10, for: 3s}}, {pause: {until: Promoted}}, {enforce: {percent: 100, for: 1s}}]")+
		"  analysis: {newlyDenied: {then: Ignore}}\n") // as the test itself tries what is to be denied
	w.mustAwait("it begins", func() bool { return w.change().Phase != "" })
	step := 0
	for i := range 6 {
		time.Sleep(time.Duration(150+i*113) * time.Millisecond) // any moment
		w.u.kill()
		before := w.change()
		if before.Step < step || before.Phase == rollout.RolledBack {
			t.Fatalf("it went back: %+v", before)
		}
		step = before.Step
		enforced := w.fenced()
		if step == 0 && enforced > 0 || step < 3 && enforced > 1 {
			t.Fatalf("in step %d, %d pods are fenced", step+1, enforced)
		}
		if frozen := w.change(); frozen.Step != before.Step || frozen.Watched != before.Watched {
			t.Fatalf("nobody drives it, and it moves from %+v to %+v", before, frozen)
		}
		if out, code := w.ringfence("rollout", "status"); code != exitFailed || !strings.Contains(out, "nobody drives it") {
			t.Errorf("status without an up: code %d\n%s", code, out)
		}
		w.u = w.up()
		w.u.await("in force")
	}
	w.mustAwait("it pauses", func() bool { v := w.change(); return v.Phase == rollout.Paused && v.Step == 2 })
	if got := w.fenced(); got != 1 {
		t.Errorf("%d pods are fenced while it pauses", got)
	}
	if _, code := w.ringfence("rollout", "promote"); code != exitOK {
		t.Errorf("promote: code %d", code)
	}
	w.awaitPhase(rollout.Complete)
	w.mustAwait("all are fenced", func() bool { return w.fenced() == 4 })
}

// fenced counts the web pods that may not reach a stranger.
func (w *town) fenced() int {
	w.t.Helper()
	n := 0
	for _, pod := range webs {
		c, err := w.dial(pod, "other/stranger", 80, 300*time.Millisecond)
		if err != nil {
			n++
			continue
		}
		c.Close()
	}
	return n
}

// TestCanaryExample goes the way of the README, ten times as fast.
func TestCanaryExample(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("..", "..", "examples", "canary", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(data), "20s", "1s")
	}
	w := townOf(t, read("workloads.yaml")+"---\n"+read("policies.yaml"))
	for _, c := range []struct {
		name  string
		phase rollout.Phase
		why   string
	}{
		{"forgets-dns", rollout.RolledBack, "shop/web -> kube-system/dns 53/udp"},
		{"opens-database", rollout.Paused, "reports/job -> shop/db 5432/tcp"},
		{"with-dns", rollout.Complete, ""},
	} {
		w.write("change.yaml", read(filepath.Join("changes", c.name+".yaml")))
		w.mustAwait(c.name+" is "+string(c.phase), func() bool {
			all, err := up.ReadRollouts(t.Context(), w.Instance)
			if err != nil {
				t.Fatal(err)
			}
			return len(all.Now) == 1 && all.Now[0].Rollout == c.name && all.Now[0].Phase == c.phase && strings.Contains(all.Now[0].Reason, c.why)
		})
	}
}

// TestReturnToGeneration: what was in force once can be in force again, whatever the files say now and whoever is killed.
func TestReturnToGeneration(t *testing.T) {
	w := newTown(t)
	w.mustNotReach("other/stranger", "shop/db", 5432)
	// The second generation opens the database.
	w.write("town.yaml", strings.Replace(rolloutTown, "from: [{podSelector: {matchLabels: {app: web}}}], ", "", 1))
	w.mustAwait("the second generation is in force", func() bool { return w.reaches("other/stranger", "shop/db", 5432) })
	w.write("rollout.yaml", rolloutOf(allowsDNS, "[{audit: {for: 1h}}, {enforce: {percent: 100}}]"))
	w.awaitPhase(rollout.Progressing)

	if out, code := w.ringfence("rollout", "undo", "--to", "7"); code != exitUsage || out != "" {
		t.Errorf("a return to what never was: code %d, %s", code, out)
	}
	if out, code := w.ringfence("rollout", "undo", "--to", "1"); code != exitOK || !strings.Contains(out, "entry 1") || !strings.Contains(out, "; in force\n") {
		t.Fatalf("undo --to 1: code %d, %s", code, out)
	}
	returned := func() bool { return !w.reaches("other/stranger", "shop/db", 5432) }
	if !returned() {
		t.Error("the first generation is said to be in force, and is not")
	}
	if v := w.change(); v.Phase != rollout.Aborted {
		t.Errorf("a rollout is %s beside it", v.Phase)
	}
	if _, code := w.ringfence("rollout", "retry"); code != exitUsage {
		t.Errorf("a rollout can begin beside it: code %d", code)
	}

	w.u.kill()
	for _, command := range [][]string{{"status"}, {"rollout", "status"}} {
		if out, code := w.ringfence(command...); code != exitFailed || !strings.Contains(out, "returned to the policies of entry 1") {
			t.Errorf("%s: code %d\n%s", command, code, out)
		}
	}
	w.u = w.up()
	w.u.await("in force")
	w.write("rollout.yaml", rolloutOf(forEveryone, "[{enforce: {percent: 100, for: 1h}}]"))
	w.u.await("rollout.yaml: in force")
	if !returned() {
		t.Error("the next up does not know that somebody returned")
	}
	w.mustReach("shop/web-1", "shop/db", 5432)
	if err := os.Remove(filepath.Join(w.manifests, "rollout.yaml")); err != nil {
		t.Fatal(err)
	}
	w.u.await("rollout.yaml: in force")

	out, code := w.ringfence("generations")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitOK || len(lines) != 4 || !strings.Contains(lines[1], "returned to entry 1") || !strings.Contains(lines[2], "bad") ||
		!strings.Contains(lines[2], "~NetworkPolicy shop/db") || !strings.Contains(lines[3], "+NetworkPolicy shop/db") {
		t.Errorf("generations: code %d\n%s", code, out)
	}
	out, code = w.ringfence("generations", "2", "--manifests")
	if code != exitOK || !strings.HasPrefix(out, "# Generation 2 (") || !strings.Contains(out, "kind: NetworkPolicy\n") {
		t.Errorf("generations --manifests: code %d\n%s", code, out)
	}
	out, code = w.ringfence("plan", "generation:current", w.manifests, "--detailed-exitcode")
	if code != exitChanges || !strings.Contains(out, "~ NetworkPolicy shop/db") || !strings.Contains(out, "Newly allowed\n  other/stranger, ") {
		t.Errorf("plan: code %d\n%s", code, out)
	}
	if out, code := w.ringfence("plan", "generation:1", "generation:3", "--detailed-exitcode"); code != exitOK {
		t.Errorf("plan of a generation and itself: code %d\n%s", code, out)
	}

	if _, code := w.ringfence("rollout", "resume"); code != exitOK {
		t.Errorf("resume: code %d", code)
	}
	if !w.reaches("other/stranger", "shop/db", 5432) {
		t.Error("the files are said to rule, and do not")
	}
	if out, code := w.ringfence("status"); strings.Contains(out, "returned to") {
		t.Errorf("status after resume: code %d\n%s", code, out)
	}
	if _, code := w.ringfence("rollout", "resume"); code != exitUsage {
		t.Errorf("a second resume: code %d", code)
	}
}

// reaches tries once.
func (w *town) reaches(from, to string, port int) bool {
	w.t.Helper()
	c, err := w.dial(from, to, port, 300*time.Millisecond)
	if err == nil {
		c.Close()
	}
	return err == nil
}
