package explain

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/query"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

const denyIngress = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
`

const webOnly = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-clients, namespace: shop}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/name: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: track, operator: DoesNotExist}]}}]
    ports: [{port: sql}, {port: 9187}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: elsewhere, namespace: lab}
spec: {podSelector: {}, ingress: [{}]}
`

const denyEgress = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-way-out, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
`

const prodFromDev = `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: prod-from-dev}
spec:
  tier: Admin
  priority: PRIORITY
  subject: {namespaces: {matchLabels: {env: prod}}}
  ingress:
  - {name: monitoring, action: Pass, from: [{namespaces: {matchLabels: {env: ops}}}]}
  - {name: no dev, action: Deny, from: [{namespaces: {matchLabels: {env: dev}}}]}
`

const baseline = `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: default}
spec:
  tier: Baseline
  priority: 100
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{nodes: {}}, {networks: [0.0.0.0/0]}]}]
`

// load makes the cluster of testdata/cluster.yaml with the given policies.
func load(t *testing.T, policies ...string) *cluster.State {
	t.Helper()
	base, err := os.ReadFile("testdata/cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b := manifest.NewBundle()
	b.Decode("cluster.yaml", base)
	b.Decode("policies.yaml", []byte(strings.Join(policies, "---")))
	r := b.Finish(manifest.Options{})
	for _, p := range r.Problems {
		t.Error(p)
	}
	s, err := cluster.NewState(r.Objects)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connection(t *testing.T, s *cluster.State, from, to, port string) cluster.Connection {
	t.Helper()
	scope := query.Scope{State: s}
	p, err := query.ParsePort(port)
	if err != nil {
		t.Fatal(err)
	}
	a, err := scope.Resolve(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := scope.Resolve(to)
	if err != nil {
		t.Fatal(err)
	}
	all, err := query.Connect(a[0], b[0], p)
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

var cases = []struct {
	name, from, to, port string
	policies             []string
	options              Options
}{
	{name: "no-policy", from: "shop/web", to: "shop/db", port: "5432"},
	{name: "allowed", from: "shop/web", to: "shop/db", port: "sql", policies: []string{denyIngress, webOnly}},
	{name: "narrow-policy-gets-a-rule", from: "lab/bare", to: "shop/db", port: "5432", policies: []string{denyIngress, webOnly}},
	{name: "canary-is-told-apart", from: "shop/web-canary", to: "shop/db", port: "5432", policies: []string{denyIngress, webOnly}, options: Options{All: true}},
	{name: "default-deny-gets-a-companion", from: "shop/db", to: "shop/web", port: "53/udp", policies: []string{denyIngress}},
	{name: "both-sides", from: "shop/web", to: "shop/db", port: "80", policies: []string{denyIngress, denyEgress}},
	{name: "admin-with-room-before", from: "lab/bare", to: "shop/db", port: "5432", policies: []string{strings.Replace(prodFromDev, "PRIORITY", "10", 1), denyIngress}},
	{name: "admin-with-no-room-before", from: "lab/bare", to: "shop/db", port: "5432", policies: []string{strings.Replace(prodFromDev, "PRIORITY", "0", 1), denyIngress}},
	{name: "baseline-to-node", from: "shop/web", to: "node/n1", port: "10250", policies: []string{baseline}},
	{name: "baseline-to-outside", from: "shop/db", to: "203.0.113.7", port: "icmp", policies: []string{baseline}},
	{name: "from-outside", from: "203.0.113.7", to: "shop/web", port: "443", policies: []string{denyIngress}},
	{name: "itself", from: "shop/db", to: "shop/db", port: "1", policies: []string{denyIngress}},
	{name: "colour", from: "lab/bare", to: "shop/db", port: "80", policies: []string{webOnly}, options: Options{Color: true}},
}

func TestText(t *testing.T) {
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			s := load(t, test.policies...)
			var b strings.Builder
			if err := Explain(s, eval.Evaluate(s, connection(t, s, test.from, test.to, test.port))).Write(&b, test.options); err != nil {
				t.Fatal(err)
			}
			golden(t, test.name, b.String())
			if strings.Contains(b.String(), "\x1b") != test.options.Color {
				t.Errorf("colour is %v, want %v", !test.options.Color, test.options.Color)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	s := load(t, denyIngress, webOnly)
	text, err := json.MarshalIndent(Explain(s, eval.Evaluate(s, connection(t, s, "lab/bare", "shop/db", "80"))), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "json", string(text)+"\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got); rewrite it with -update:\n%s", file, diff)
	}
}
