package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/manifest/document"
)

// decode decodes one file and expects the given number of problems.
func decode(t *testing.T, text string, problems int) Result {
	t.Helper()
	b := NewBundle()
	b.Decode("f.yaml", []byte(text))
	r := b.Finish(Options{})
	if len(r.Problems) != problems {
		t.Fatalf("%d problems, want %d: %v", len(r.Problems), problems, r.Problems)
	}
	return r
}

func wantMessage(t *testing.T, r Result, part string) {
	t.Helper()
	if got := r.Problems[0].Error(); !strings.Contains(got, part) {
		t.Errorf("%q does not say %q", got, part)
	}
}

func TestBounds(t *testing.T) {
	wantMessage(t, decode(t, strings.Repeat("#", MaxFile+1), 1), "larger than 64 MiB")

	deep := strings.Repeat("[", document.MaxDepth+2) + strings.Repeat("]", document.MaxDepth+2)
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: "
	wantMessage(t, decode(t, namespace+deep+"}", 1), "f.yaml:3: nested deeper than 200 levels")
	wantMessage(t, decode(t, `{"kind": "Namespace", "x": `+deep+"}", 1), "nested deeper than 200 levels")

	bomb := "apiVersion: v1\nkind: Namespace\na: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ","))
	}
	wantMessage(t, decode(t, bomb, 1), "holds more than")
	merges := "apiVersion: v1\nkind: Namespace\na: &a {x: 1}\n"
	for c := 'b'; c <= 'z'; c++ {
		merges += fmt.Sprintf("%c: &%c {<<: [*%c, *%c]}\n", c, c, c-1, c-1)
	}
	wantMessage(t, decode(t, merges, 1), "holds more than")
}

// A policy with more problems than are kept is still denied wherever it may have been about.
func TestProblemsBeyondTheBoundStillClose(t *testing.T) {
	text := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: a}\nspec:\n" +
		"  policyTypes: [Egress]\n  ingress:\n" + strings.Repeat("  - {form: []}\n", document.MaxProblems+10) +
		"  podSelector: {matchLabels: {app: web, tier: yes}}\n"
	r := decode(t, text, document.MaxProblems)
	p := r.Objects.Policies[0]
	if p.Defect == "" || !p.Subject.Pods.IsEverything() || !p.IsolatesIngress || !p.IsolatesEgress {
		t.Errorf("%+v does not isolate all pods in both directions", p)
	}
}

// The numbers of rules, peers, ports and networks that the CRDs allow.
func TestClusterPolicyLimits(t *testing.T) {
	many := func(item string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+", ", n), ", ") + "]"
	}
	const head = "apiVersion: policy.networking.k8s.io/%s\nkind: %s\nmetadata: {name: a}\nspec:\n  priority: 1\n  subject: {namespaces: {}}\n"
	cnp := fmt.Sprintf(head, "v1alpha2", "ClusterNetworkPolicy") + "  tier: Admin\n"
	anp := fmt.Sprintf(head, "v1alpha1", "AdminNetworkPolicy")
	const rule, peer = "{action: Deny, from: [{namespaces: {}}]}", "{namespaces: {}}"
	const port, older = "{tcp: {destinationPort: {number: 1}}}", "{portNumber: {port: 1}}"
	long := strings.Repeat("é", 100)
	for _, c := range []struct{ good, bad, field string }{
		{cnp + "  ingress: " + many(rule, 25), cnp + "  ingress: " + many(rule, 26), "spec.ingress"},
		{anp + "  ingress: " + many(rule, 100), anp + "  ingress: " + many(rule, 101), "spec.ingress"},
		{cnp + "  ingress: [{action: Deny, from: " + many(peer, 25) + "}]", cnp + "  ingress: [{action: Deny, from: " + many(peer, 26) + "}]", "spec.ingress[0].from"},
		{anp + "  ingress: [{action: Deny, from: " + many(peer, 100) + "}]", anp + "  ingress: [{action: Deny, from: " + many(peer, 101) + "}]", "spec.ingress[0].from"},
		{cnp + "  egress: [{action: Deny, to: [{networks: " + many("10.0.0.0/8", 25) + "}]}]", cnp + "  egress: [{action: Deny, to: [{networks: " + many("10.0.0.0/8", 26) + "}]}]", "spec.egress[0].to[0].networks"},
		{cnp + "  ingress: [{action: Deny, from: [{namespaces: {}}], protocols: " + many(port, 25) + "}]",
			cnp + "  ingress: [{action: Deny, from: [{namespaces: {}}], protocols: " + many(port, 26) + "}]", "spec.ingress[0].protocols"},
		{anp + "  ingress: [{action: Deny, from: [{namespaces: {}}], ports: " + many(older, 100) + "}]",
			anp + "  ingress: [{action: Deny, from: [{namespaces: {}}], ports: " + many(older, 101) + "}]", "spec.ingress[0].ports"},
		{cnp + "  ingress: [{action: Deny, name: " + long + ", from: [{namespaces: {}}]}]", cnp + "  ingress: [{action: Deny, name: " + long + "x, from: [{namespaces: {}}]}]", "spec.ingress[0].name"},
	} {
		if p := decode(t, c.good, 0).Objects.Policies[0]; p.Defect != "" {
			t.Errorf("%s: a stand-in", c.field)
		}
		if r := decode(t, c.bad, 1); r.Problems[0].Field != c.field || r.Objects.Policies[0].Defect == "" {
			t.Errorf("problem at %q, want %q", r.Problems[0].Field, c.field)
		}
	}
}
