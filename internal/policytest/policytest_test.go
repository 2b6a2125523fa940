package policytest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

const manifests = `
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {env: prod}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {env: dev}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: a, labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: job, namespace: a, labels: {app: job}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: b, labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: a, labels: {app: db}}
spec: {containers: [{name: c, image: i, ports: [{name: sql, containerPort: 5432}, {name: admin, containerPort: 8080}]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: a}, spec: {selector: {app: db}, ports: [{port: 80, targetPort: sql}]}}
`

const policies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: a}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: sql}]
`

// change takes the database's policy away and closes the web.
const change = `
apiVersion: ringfence.dev/v1alpha1
kind: PolicyRollout
metadata: {name: r}
spec:
  policies:
  - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: a}, spec: {podSelector: {matchLabels: {app: web}}}}
  remove: [{kind: NetworkPolicy, namespace: a, name: db}]
`

// run runs a document in a folder with the manifests, the policies and the further files.
func run(t *testing.T, r Runner, doc string, files map[string]string) *Report {
	t.Helper()
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("k8s/manifests.yaml", manifests)
	write("k8s/policies.yaml", policies)
	for name, text := range files {
		write(name, text)
	}
	docs, problems := Read("k8s/x_test.yaml", []byte(doc))
	return r.Docs(docs, problems)
}

// told is everything that a report complains about.
func told(r *Report) string {
	var b strings.Builder
	for _, f := range r.Findings() {
		fmt.Fprintf(&b, "%s: %s; %s\n", f.Place, f.Message, f.Fix)
	}
	return b.String()
}

func TestWhatHoldsHolds(t *testing.T) {
	for _, test := range []string{
		`{cases: [{from: a/web, to: "a/db:sql", want: allow, by: "a/db ingress[0]"}]`,
		`{cases: [{from: a/web, to: "a/db:5432", want: allow, by: a/db}, {from: a/web, to: a/db, ports: [8080, 53/udp, icmp], want: deny}]`,
		`{cases: [{from: [a/job, b/web], to: "a/db:5432,8080", want: deny, by: a/db}]`,
		`{cases: [{from: "* !a/web", to: "a/db:5432", want: deny}]`,
		`{cases: [{from: a/web, to: "a/service/db:80", want: allow}]`,
		`{cases: [{from: a/db, to: "a/db:8080", via: service, want: deny}]`,
		`{cases: [{from: a/db, to: "a/web:80", want: allow, by: no policy}]`,
		`{cases: [{from: 10.244.77.7, to: "a/db:5432", want: unknown}, {from: 10.244.77.7, to: "a/db:8080", want: deny}, {from: 203.0.113.1, to: "a/db:5432", want: deny}]`,
		`{patch: [{pod: a/web, labels: {app: null}}], cases: [{from: a/web, to: "a/db:5432", want: deny}]`,
		`{patch: [{pod: a/job, labels: {app: web}}], cases: [{from: a/job, to: "a/db:5432", want: allow}, {from: a/app=web, to: "a/db:5432", want: allow}]`,
		`{patch: [{namespace: b, labels: {env: prod}}], invariants: [{never: "{env=prod}/* !a/* -> a/db"}]`,
		`{candidate: [a/db], cases: [{from: a/job, to: "a/db:5432", want: allow, candidate: deny}]`,
		`{candidate: ["!a/db"], cases: [{from: a/job, to: "a/db:5432", want: deny, candidate: allow}]`,
		`{candidate: [../new.yaml], cases: [{from: a/web, to: "a/db:8080", want: deny, candidate: allow}, {from: a/web, to: "a/db:sql", want: allow, candidate: deny}]`,
		`{candidate: [../rollout.yaml], cases: [{from: a/job, to: "a/db:5432", want: deny, candidate: allow}, {from: a/job, to: "a/web:80", want: allow, candidate: deny}]`,
		`{invariants: [{only: "a/web -> a/db:5432"}, {only: "a/* -> a/db"}, {never: "any !a/web -> a/db"}, {never: "world -> a/db"}, {never: "* -> a/db:8080"}]`,
		`{invariants: [{always: "a/web -> a/db:sql"}, {always: "a/web -> a/db"}, {always: "* -> world:all"}, {always: "a/db -> any"}, {never: "a/web -> a/db:all"}]`,
		`{invariants: [{always: "{env=prod}/app=web -> a/db:sql"}, {never: "{env=dev}/* -> {env=prod}/app=db"}, {never: "203.0.113.9 -> a/db"}]`,
	} {
		t.Run(test, func(t *testing.T) {
			r := run(t, Runner{}, "kind: PolicyTest\ntests:\n- "+strings.Replace(test, "{", "{name: x, ", 1)+"}\n",
				map[string]string{"new.yaml": strings.Replace(policies, "sql", "admin", 1), "rollout.yaml": change})
			if !r.OK() {
				t.Errorf("it fails:\n%s", told(r))
			}
			if _, _, checks, connections := r.Count(); connections < checks {
				t.Errorf("%d connections in %d checks", connections, checks)
			}
		})
	}
}

// Everything that is wrong fails, and says what came instead and who decided.
func TestWhatIsWrongFails(t *testing.T) {
	for _, test := range []struct{ test, want string }{
		{`cases: [{from: a/job, to: "a/db:5432", want: allow}]`, `k8s/x_test.yaml:4: x: a/job -> a/db:5432: want allow, got deny, by a/db ingress; nearest rule: a/db ingress[0] (k8s/policies.yaml:8): label app=web unmet: pod a/job has app=job`},
		{`cases: [{from: a/web, to: "a/db:8080", want: allow}]`, `nearest rule: a/db ingress[0] (k8s/policies.yaml:8): a/db calls port 5432/tcp "sql", not 8080`},
		{`cases: [{from: a/web, to: "a/db:5432", want: deny}]`, "want deny, got allow, by a/db ingress[0]"},
		{`cases: [{from: a/web, to: "a/job:80", want: deny}]`, "want deny, got allow; nearest policy, which does not select it: a/db ingress (k8s/policies.yaml:2): label app=db unmet: pod a/job has app=job"},
		{`cases: [{from: a/web, to: "a/db:5432", want: allow, by: "a/db ingress[1]"}]`, "want it by a/db ingress[1], got allow by a/db ingress[0]"},
		{`cases: [{from: a/web, to: "a/db:5432", want: allow, by: a/bd}]`, `by: no policy is called "a/bd"; did you mean "a/db"?`},
		{`cases: [{from: 10.244.77.7, to: "a/db:5432", want: deny}]`, "want deny, got unknown: it depends on the labels of a pod that nobody knows"},
		{`cases: [{from: a/weeb, to: "a/db:5432", want: deny}]`, "did you mean a/web?"},
		{`cases: [{from: app=none, to: "a/db:5432", want: deny}]`, `no pod matches "app=none"`},
		{`patch: [{namespace: b, labels: {env: prod}}], invariants: [{never: "{env=dev}/* -> a/db"}]`, "no pod or workload matches"},
		{`cases: [{from: "a/* !*", to: "a/db:5432", want: deny}]`, "nothing is left"},
		{`cases: [{from: a/db, to: "a/db:5432", want: allow}]`, "always allowed"},
		{`patch: [{pod: a/web, labels: {role: null}}], cases: [{from: a/web, to: "a/db:5432", want: allow}]`, "pod a/web has no label role to take away"},
		{`patch: [{pod: a/web, labels: {app: web}}], cases: [{from: a/web, to: "a/db:5432", want: allow}]`, "has these labels already"},
		{`patch: [{namespace: c, labels: {app: web}}], cases: [{from: a/web, to: "a/db:5432", want: allow}]`, `no namespace is called "c"`},
		{`candidate: [a/bd], cases: [{from: a/web, to: "a/db:5432", want: allow, candidate: allow}]`, `no policy is called "a/bd"; did you mean "a/db"?`},
		{`candidate: [a/db], cases: [{from: a/job, to: "a/db:5432", want: allow, candidate: allow}]`, "with the candidate: want allow, got deny"},
		{`candidate: [../rollout.yaml], cases: [{from: a/job, to: "a/db:5432", want: deny, candidate: deny}]`, "rollout r removes NetworkPolicy a/other, which is not there"},
		{`candidate: [manifests.yaml], cases: [{from: a/job, to: "a/db:5432", want: deny, candidate: deny}]`, "the file holds no policy"},
		{`invariants: [{only: "a/web -> a/db:8080"}]`, "x: a/web -> a/db: also allowed: 5432, by a/db ingress[0]"},
		{`invariants: [{only: "a/job -> a/db"}]`, "x: a/web -> a/db: allowed: 5432, by a/db ingress[0]"},
		{`invariants: [{never: "a/* -> a/db:sql"}]`, "x: a/web -> a/db: port sql is allowed, by a/db ingress[0]"},
		{`invariants: [{never: "* -> world:all"}]`, "x: a/web -> world: everything is allowed"},
		{`invariants: [{never: "any -> a/job"}]`, "x: world -> a/job: allowed: all"},
		{`invariants: [{always: "* -> a/db:sql"}]`, "x: a/job -> a/db: port sql is denied, by a/db ingress"},
		{`invariants: [{always: "a/db -> a/web:http"}]`, `it declares no port named "http"`},
		{`invariants: [{always: "a/job -> a/db"}]`, "x: a/job -> a/db: nothing is allowed"},
		{`invariants: [{always: "a/web -> a/db:all"}]`, "not everything is allowed, but 5432"},
		{`invariants: [{never: "a/db -> a/db"}]`, "is about no connection that a policy could allow or deny"},
		{`invariants: [{never: "app=none -> a/db"}]`, "no pod matches"},
		{`invariants: [{never: "10.244.77.7 -> a/db"}]`, "nobody knows whose address"},
		{`invariants: [{never: "any !any -> a/db"}]`, "nothing is left"},
	} {
		t.Run(test.test, func(t *testing.T) {
			r := run(t, Runner{}, "kind: PolicyTest\ntests:\n- name: x\n  "+strings.NewReplacer(", cases:", "\n  cases:", "], invariants:", "]\n  invariants:").Replace(test.test),
				map[string]string{"rollout.yaml": strings.Replace(change, "name: db", "name: other", 1)})
			if got := told(r); r.OK() || r.Broken() || !strings.Contains(got, test.want) {
				t.Errorf("ok %t, broken %t; got\n%swant %s", r.OK(), r.Broken(), got, test.want)
			}
		})
	}
}

func TestFilesThatMakeNoSense(t *testing.T) {
	const one = `cases: [{from: a/web, to: "a/db:5432", want: allow}]`
	for doc, want := range map[string]string{
		"":                                   "holds no PolicyTest",
		"kind: PolicyTest":                   "expects nothing",
		"kind: PolicyTests\ntests: []":       `want PolicyTest, found "PolicyTests"`,
		"[1]":                                "want a PolicyTest, found a list",
		"kind: PolicyTest\ntest: []":         `test: unknown field; did you mean "tests"?`,
		"apiVersion: v2\nkind: PolicyTest\n": `unknown apiVersion "v2"`,
		"kind: PolicyTest\ntests: [{" + one + "}]":                                                                "k8s/x_test.yaml:2: tests[0].name: required field is missing",
		"kind: PolicyTest\ntests: [{name: x}]":                                                                    "the test expects nothing",
		"kind: PolicyTest\ntests: [{name: x, candidate: [a/db], " + one + "}]":                                    "no case says what the candidate would do",
		"kind: PolicyTest\npolicies: [no*.yaml]\ntests: [{name: x, " + one + "}]":                                 `k8s/x_test.yaml:2: policies[0]: "no*.yaml" matches no file`,
		"kind: PolicyTest\nfamilies: [IPv5]\ntests: [{name: x, " + one + "}]":                                     `"IPv5" is no family`,
		"kind: PolicyTest\npolicies: [manifests.yaml]\ntests: [{name: x, " + one + "}]":                           "there is no policy to test",
		"kind: PolicyTest\npolicies: [../bad.yaml]\ntests: [{name: x, " + one + "}]":                              `did you mean "from"?`,
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{to: \"a:1\", want: allow}]":                              "x_test.yaml:4: tests[0].cases[0].from: required",
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: a, to: b, want: allow}]":                           "names no port",
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: a, to: \"b:1\", ports: [1], want: allow}]":         "write the ports in one place",
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: a, to: \"b:99999\", want: allow}]":                 "port",
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: a, to: \"b:1\", want: allowed}]":                   `unknown verdict "allowed"`,
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: a, to: \"b:1\", want: deny, candidate: deny}]":     "the test has no candidate",
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: a, to: \"b:1\", want: deny, via: magic}]":          `unknown way "magic"`,
		"kind: PolicyTest\ntests:\n- name: x\n  cases: [{from: {a: b}, to: \"b:1\", want: deny}]":                 "cannot be read",
		"kind: PolicyTest\ntests:\n- name: x\n  patch: [{labels: {a: b}}]\n  " + one:                              "names neither or both",
		"kind: PolicyTest\ntests:\n- name: x\n  patch: [{pod: a/b}]\n  " + one:                                    "changes nothing",
		"kind: PolicyTest\ninvariants: [{name: x}]":                                                               "sets none of never, only and always",
		"kind: PolicyTest\ninvariants: [{never: \"a -> b\", only: \"a -> b\"}]":                                   "sets never and only of",
		"kind: PolicyTest\ninvariants: [{never: a}]":                                                              "want A -> B",
		"kind: PolicyTest\ninvariants: [{never: \"a -> b:99999\"}]":                                               "port",
		"kind: PolicyTest\ninvariants: [{never: \"a -> b:all,80\"}]\nkind: x":                                     "is there twice",
		"kind: PolicyTest\ntests: [{name: x, " + one + "}]\n---\nkind: PolicyTest\nfixture: [x]":                  `did you mean "fixtures"?`,
		"kind: PolicyTest\ntests: [{name: x, candidate: [no.yaml], " + one[:len(one)-2] + ", candidate: deny}]}]": "matches no file",
	} {
		t.Run(doc, func(t *testing.T) {
			r := run(t, Runner{}, doc, map[string]string{"bad.yaml": strings.Replace(policies, "from", "form", 1)})
			if got := told(r); r.OK() || !strings.Contains(got, want) {
				t.Errorf("got\n%swant %s", got, want)
			}
		})
	}
}

func TestStdinStandsInForThePolicies(t *testing.T) {
	doc := "kind: PolicyTest\npolicies: [policies.yaml]\nfixtures: [manifests.yaml]\ntests: [{name: x, cases: [{from: a/web, to: \"a/db:admin\", want: allow}]}]"
	if r := run(t, Runner{}, doc, nil); r.OK() {
		t.Error("the file's own policies allow the admin port")
	}
	other := Runner{Manifests: []string{"-"}, Stdin: []byte(strings.Replace(policies, "sql", "admin", 1))}
	if r := run(t, other, doc, nil); !r.OK() {
		t.Errorf("the policies on stdin do not allow the admin port:\n%s", told(r))
	}
}

func TestRunChooses(t *testing.T) {
	doc := `{kind: PolicyTest, tests: [{name: good, cases: [{from: a/web, to: "a/db:sql", want: allow}]}, {name: bad, cases: [{from: a/web, to: "a/db:sql", want: deny}]}]}`
	r := run(t, Runner{Run: regexp.MustCompile("x_test.yaml: g")}, doc, nil)
	if tests, _, _, _ := r.Count(); !r.OK() || tests != 1 {
		t.Errorf("ran %d tests:\n%s", tests, told(r))
	}
}

func TestFamilies(t *testing.T) {
	block := `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: block, namespace: a}
spec: {podSelector: {matchLabels: {app: job}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}
`
	const test = "tests: [{name: x, cases: [{from: a/web, to: \"a/job:80\", want: allow}]}]"
	r := run(t, Runner{}, "kind: PolicyTest\n"+test, map[string]string{"k8s/block.yaml": block})
	if got := told(r); !strings.Contains(got, "a/web -> a/job:80 over IPv6: want allow, got deny") {
		t.Errorf("got %s", got)
	}
	if n := r.Files[0].Notes; len(n) != 1 || !strings.Contains(n[0], "pods without an address (4) are taken to be in 10.244.0.0/16 and fd00:10:244::/64") {
		t.Errorf("notes: %q", n)
	}
	if r := run(t, Runner{}, "kind: PolicyTest\nfamilies: [IPv4]\n"+test, map[string]string{"k8s/block.yaml": block}); !r.OK() {
		t.Error(told(r))
	}
}

func TestCoverage(t *testing.T) {
	c := run(t, Runner{}, `{kind: PolicyTest, tests: [{name: x, cases: [{from: a/web, to: "a/db:sql", want: allow}]}]}`, nil).Coverage
	if c.Rules != 2 || c.Exercised != 1 || c.Percent != 50 || len(c.Unexercised) != 1 || c.Unexercised[0] != (RuleRef{"a/db ingress", "k8s/policies.yaml:2"}) {
		t.Errorf("got %+v", c)
	}
	if c.Workloads != 4 || fmt.Sprint(c.Unselected) != "[a/job a/web b/web]" {
		t.Errorf("got %+v", c)
	}
	c = run(t, Runner{}, `{kind: PolicyTest, invariants: [{only: "a/web -> a/db:sql"}]}`, nil).Coverage
	if c.Percent != 100 {
		t.Errorf("an invariant exercises the rules that it holds by: %+v", c)
	}
}

// liar is a Judge in which everything is denied by nobody's rule, and that has moved all pods.
type liar struct{ state *cluster.State }

func (l liar) State() *cluster.State { return l.state }
func (l liar) Close() error          { return nil }

func (l liar) Connect(list []cluster.Connection) ([]Observed, error) {
	var all []Observed
	for _, c := range list {
		if !netip.MustParsePrefix("10.9.0.0/16").Contains(c.From.Addr) {
			all = append(all, Observed{Trouble: "asked from " + c.From.Addr.String()})
			continue
		}
		all = append(all, Observed{Verdict: Denied, Rule: flow.Rule{Kind: "NetworkPolicy", Namespace: "a", Name: "other"}})
	}
	return all, nil
}

func TestAJudgeIsBelieved(t *testing.T) {
	boot := func(o cluster.Objects, needs Needs) (Judge, error) {
		for i, e := range o.Endpoints {
			moved := *e
			moved.Addresses = nil
			o.Endpoints[i] = &moved
		}
		if err := cluster.AssignAddresses(&o, netip.MustParsePrefix("10.9.0.0/16"), netip.Prefix{}); err != nil {
			return nil, err
		}
		s, err := cluster.NewState(o)
		return liar{s}, err
	}
	doc := "{kind: PolicyTest, families: [IPv4], tests: [{name: x, cases: [{from: a/web, to: \"a/db:sql\", want: allow}, {from: a/job, to: \"a/db:sql\", want: deny}]}]}"
	got := told(run(t, Runner{Boot: boot}, doc, nil))
	for _, want := range []string{"a/web -> a/db:5432: want allow, got deny", "a/job -> a/db:5432: denied by a/other"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %s in\n%s", want, got)
		}
	}
}
