package policytest

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/report"
)

// live is a cluster that has what the given manifests say, and a judge in which everything answers but what silent says.
func live(t *testing.T, text string, silent func(cluster.Connection) Observed) (*Cluster, func(cluster.Objects, Needs) (Judge, error), *[]string) {
	t.Helper()
	b := manifest.NewBundle()
	b.Decode("live.yaml", []byte(text))
	r := b.Finish(manifest.Options{})
	if len(r.Problems) > 0 {
		t.Fatal(r.Problems)
	}
	for i, p := range r.Objects.Policies {
		q := *p
		q.File, q.Line = "", 0
		r.Objects.Policies[i] = &q
	}
	if err := cluster.AssignAddresses(&r.Objects, netip.MustParsePrefix("10.1.0.0/16"), netip.Prefix{}); err != nil {
		t.Fatal(err)
	}
	made := &[]string{}
	boot := func(o cluster.Objects, needs Needs) (Judge, error) {
		s, err := cluster.NewState(o)
		return liveJudge{s, func(c cluster.Connection) Observed {
			if needs.Hypothetical {
				return Observed{Skip: "not in force"}
			}
			*made = append(*made, fmt.Sprintf("%s %s %d", c.From, c.To, c.Port))
			return silent(c)
		}}, err
	}
	return &Cluster{r.Objects, r.Services}, boot, made
}

type liveJudge struct {
	state *cluster.State
	fare  func(cluster.Connection) Observed
}

func (j liveJudge) State() *cluster.State { return j.state }

func (j liveJudge) Connect(list []cluster.Connection) ([]Observed, error) {
	var all []Observed
	for _, c := range list {
		all = append(all, j.fare(c))
	}
	return all, nil
}

func (liveJudge) Close() error { return nil }

const webOnly = `
kind: PolicyTest
tests:
- name: the web only
  cases:
  - {from: a/web, to: "a/db:sql", want: allow, by: a/db}
  - {from: a/job, to: "a/db:sql", want: deny}
invariants:
- {name: mine, only: "a/web -> a/db:sql"}
- {never: "a/job -> a/db"}
`

func onlyWeb(c cluster.Connection) Observed {
	if c.From.Endpoint.Key.String() == "a/web" && c.To.Endpoint.Name == "db" && c.Port == 5432 {
		return Observed{Verdict: Allowed}
	}
	return Observed{Verdict: Denied}
}

// What runs is what is judged: the cluster's pods, its namespaces and its policies, which have their places in files where
// they are the same there.
func TestCluster(t *testing.T) {
	c, boot, made := live(t, manifests+"---"+policies, onlyWeb)
	r := run(t, Runner{Cluster: c, Boot: boot, Invariants: true}, webOnly, nil)
	var text bytes.Buffer
	if err := r.Text(&text, Options{}); err != nil || !r.OK() {
		t.Fatalf("%v\n%s", err, &text)
	}
	if want := "not made, evaluated only (1 connection): no connection between two pods"; !strings.Contains(text.String(), want) {
		t.Errorf("no %q in\n%s", want, &text)
	}
	if len(r.Files[0].Notes) > 0 {
		t.Errorf("notes: %q", r.Files[0].Notes)
	}
	slices.Sort(*made)
	want := []string{"a/job a/db 5432", "a/job a/db 5432", "a/job a/db 5432", "a/job a/db 8080", "a/web a/db 5432", "b/web a/db 5432"}
	if got := slices.Compact(slices.Clone(*made)); !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("made %q", got)
	}
}

// Which namespaces a document is about decides where probe pods may be made.
func TestNamedNamespaces(t *testing.T) {
	c, boot, _ := live(t, manifests+"---"+policies, onlyWeb)
	var named []string
	spy := func(o cluster.Objects, needs Needs) (Judge, error) {
		named = needs.Namespaces
		return boot(o, needs)
	}
	for _, x := range []struct{ doc, want string }{
		{`{kind: PolicyTest, policies: [policies.yaml], tests: [{name: x, cases: [{from: "* !b/web", to: "app=db:8080", want: deny}]}]}`, "a b"},
		{`{kind: PolicyTest, policies: [policies.yaml], tests: [{name: x, cases: [{from: "*", to: "app=db:8080", want: deny}]}]}`, "a"},
		{`{kind: PolicyTest, policies: [policies.yaml], tests: [{name: x, cases: [{from: "{env=dev}/*", to: "app=db:8080", want: deny}]}], invariants: [{never: "q/app=x -> b/*"}]}`, "a b q"},
	} {
		named = nil
		run(t, Runner{Cluster: c, Boot: spy}, x.doc, nil)
		if got := strings.Join(named, " "); got != x.want {
			t.Errorf("%s: %s, want %s", x.doc, got, x.want)
		}
	}
}

// What fares otherwise than policies say fails, with the rule, whatever was wanted.
func TestNotEnforced(t *testing.T) {
	c, boot, _ := live(t, manifests+"---"+policies, func(cluster.Connection) Observed { return Observed{Verdict: Allowed} })
	r := run(t, Runner{Cluster: c, Boot: boot, Invariants: true}, webOnly, nil)
	var text bytes.Buffer
	if err := r.Text(&text, Options{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a/job -> a/db:5432: want deny, got allow; the policies deny it, so they are not enforced",
		"decided by a/db ingress (k8s/policies.yaml:2)",
		"1 more connection like it",
		"FAILED: 0 of 2 tests",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	c, boot, _ = live(t, manifests+"---"+policies, func(cluster.Connection) Observed { return Observed{Verdict: Denied} })
	r = run(t, Runner{Cluster: c, Boot: boot}, strings.Replace(webOnly, "want: allow, by: a/db", "want: deny", 1), nil)
	if want := "a/web -> a/db:5432: want deny, got deny; the policies allow it"; !strings.Contains(told(r), want) {
		t.Errorf("no %q in\n%s", want, told(r))
	}
}

// What files say beside the cluster: workloads join it, other policies are told, and candidates are not made.
func TestClusterAndFiles(t *testing.T) {
	less := strings.Replace(manifests, "{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: a", "{apiVersion: v1, kind: Pod, metadata: {name: other, namespace: a", 1)
	c, boot, made := live(t, less+"---"+strings.Replace(policies, "port: sql", "port: admin", 1), func(x cluster.Connection) Observed {
		if x.Port == 53 {
			return Observed{Skip: "no such port"}
		}
		if x.Port == 8080 && x.From.Endpoint.Name == "web" {
			return Observed{Verdict: Allowed}
		}
		return Observed{Verdict: Denied}
	})
	r := run(t, Runner{Cluster: c, Boot: boot}, `
kind: PolicyTest
tests:
- name: what the cluster has
  cases:
  - {from: a/web, to: "a/db:admin", want: allow}
  - {from: a/job, to: "a/db:admin", want: deny}
  - {from: a/job, to: "a/web:53", want: allow}
- name: what it will have
  candidate: [change.yaml]
  cases: [{from: a/web, to: "a/db:8080", want: allow, candidate: allow}, {from: a/job, to: "a/db:8080", want: deny, candidate: allow}]
- name: without it
  candidate: [a/db]
  cases: [{from: a/job, to: "a/db:8080", want: allow, candidate: deny}]
`, map[string]string{"k8s/change.yaml": change})
	if told(r) != "" {
		t.Fatal(told(r))
	}
	want := []string{"a/web a/db 8080", "a/job a/db 8080", "a/job a/web 53", "a/web a/db 8080", "a/job a/db 8080", "a/job a/db 8080"}
	if !slices.Equal(*made, want) {
		t.Errorf("made %q", *made)
	}
	if n := r.Files[0].Notes; len(n) != 1 || !strings.HasPrefix(n[0], "NetworkPolicy a/db is another one in the cluster than in k8s/policies.yaml:") {
		t.Errorf("notes: %q", n)
	}
	if made, skipped := r.Made(); made != 5 || skipped != 4 {
		t.Errorf("%d made, %d not", made, skipped)
	}
	// Without a policy that the cluster has, what would be is what is.
	if c := r.Files[0].Tests[2].Checks[0]; c.Made != 1 || len(c.Skipped) != 1 || c.Skipped[0] != (Skipped{"not in force", 1}) {
		t.Errorf("not made: %+v", c)
	}
	var tap strings.Builder
	if err := report.TAP(&tap, r.Suites()); err != nil || !strings.Contains(tap.String(), "SKIP judged by the evaluator only: no such port") {
		t.Errorf("%v\n%s", err, &tap)
	}
}
