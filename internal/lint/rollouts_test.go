package lint

import (
	"fmt"
	"strings"
	"testing"
)

// base is a policy in force, and who is there.
const base = shop + `---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart, namespace: shop}
spec: {podSelector: {matchLabels: {app: cartservice}}, ingress: [{from: [{podSelector: {matchLabels: {app: frontend}}}]}]}
---
`

// roll is a rollout whose spec begins at its fifth line.
func roll(annotations, spec string) string {
	return base + "apiVersion: ringfence.dev/v1alpha1\nkind: PolicyRollout\nmetadata: {name: lockdown" + annotations + "}\nspec:\n" + spec
}

// places are the findings' lines, counted from the rollout's first one.
func places(t *testing.T, findings []Finding) string {
	t.Helper()
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%+d %s %s %s\n", f.Place.Line-strings.Count(base, "\n")-1, f.Level, f.Code, f.Message)
	}
	return b.String()
}

const carried = `  policies:
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: ledger, namespace: pay}
    spec:
      podSelector: {matchLabels: {app: legder}}
      ingress:
      - from:
        - podSelector: {matchLabels: {app: ledger}}
`

func TestRolloutFindings(t *testing.T) {
	for _, test := range []struct{ spec, want string }{
		{carried, "+5 error RF003 rollout lockdown: NetworkPolicy pay/ledger: "},
		{strings.Replace(carried, "legder", "ledger", 1), ""},
		{carried + "  steps:\n  - enforce: {percent: 100}\n", "+14 warning RF020 PolicyRollout lockdown: step 1 enforces, and nothing was audited before it"},
		{carried + "  analysis:\n    newlyDenied: {then: Ignore}\n", "+13 warning RF021 PolicyRollout lockdown: newly denied connections are ignored"},
		{strings.Replace(carried, "legder", "ledger", 1) + "  steps:\n  - audit: {}\n  - enforce: {percent: 10}\n  - enforce: {percent: 100}\n",
			"+15 note RF022 PolicyRollout lockdown: step 2 enforces 10% of the pods, which is all that the change selects: pay/ledger"},
		{strings.Replace(carried, "legder", "ledger", 1) + "  steps:\n  - audit: {}\n  - enforce: {selector: {matchLabels: {app: cartservice}}}\n  - enforce: {percent: 100}\n",
			"+15 warning RF023 PolicyRollout lockdown: step 2 enforces all pods app=cartservice, which are none of the pods that the change selects: pay/ledger"},
		{"  remove:\n  - {kind: NetworkPolicy, namespace: shop, name: cat}\n", "+5 warning RF024 PolicyRollout lockdown: removes NetworkPolicy shop/cat, which is not there"},
		{"  remove:\n  - {kind: NetworkPolicy, namespace: later, name: cat}\n", ""},
		{"  policies:\n  - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: cart, namespace: shop}, spec: {podSelector: {matchLabels: {app: cartservice}}, ingress: [{from: [{podSelector: {matchLabels: {app: frontend}}}]}]}}\n",
			"+5 note RF025 PolicyRollout lockdown: NetworkPolicy shop/cart says what is in force already"},
		{strings.Replace(carried, "legder", "ledger", 1) + "  steps:\n  - audit: {}\n  - enforce: {percent: 50}\n  - enforce: {percent: 10}\n  - enforce: {percent: 100}\n",
			"+16 warning RF026 PolicyRollout lockdown: step 3 enforces 10% of the pods, and a step before it 50%"},
		{"  remove:\n  - {kind: NetworkPolicy, namespace: shop, name: cart}\n---\n{apiVersion: ringfence.dev/v1alpha1, kind: PolicyRollout, metadata: {name: other}, spec: {remove: [{kind: NetworkPolicy, namespace: shop, name: cart}]}}\n",
			"+7 note RF027 PolicyRollout other: rollout lockdown touches NetworkPolicy shop/cart too"},
		// What the candidate makes of a policy that is in force: its place, and the rollout's name.
		{"  policies:\n  - apiVersion: policy.networking.k8s.io/v1alpha2\n    kind: ClusterNetworkPolicy\n    metadata: {name: guard}\n    spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {teem: alpha}}}]}]}\n",
			"RF003 rollout lockdown: ClusterNetworkPolicy guard: "},
	} {
		got := places(t, lint(t, roll("", test.spec)))
		if test.want != "" && !strings.Contains(got, test.want) {
			t.Errorf("%s\ngot\n%swant\n%s", test.spec, got, test.want)
		}
		if test.want == "" && strings.Contains(strings.ReplaceAll(got, "RF014", ""), "lockdown") && !strings.Contains(got, "RF022") {
			t.Errorf("%s\ngot\n%swant nothing of the rollout", test.spec, got)
		}
	}
}

// TestCandidateAgainstInForce: what is found of the policies in force only because of the candidate.
func TestCandidateAgainstInForce(t *testing.T) {
	in := "---\n{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: late}, spec: {tier: Admin, priority: 9, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}}\n"
	spec := "  policies:\n  - {apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: early}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}\n"
	got := places(t, lint(t, roll("", spec)+in))
	if want := "+7 warning RF004 rollout lockdown: ClusterNetworkPolicy late: ingress[0] is never reached: early ingress[0]"; !strings.Contains(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if n := strings.Count(got, "RF004"); n != 1 {
		t.Errorf("%d findings of what is not so now:\n%s", n, got)
	}
	if got := places(t, lint(t, base+strings.TrimPrefix(in, "---\n"))); strings.Contains(got, "RF004") {
		t.Errorf("without the rollout\n%s", got)
	}
}

// TestRolloutIgnores: the annotation of the rollout, and that of what it carries, accept what is found of that.
func TestRolloutIgnores(t *testing.T) {
	const reason = `"RF003: they come next week"`
	for _, text := range []string{
		roll(", annotations: {ringfence.dev/lint-ignore: "+reason+"}", carried),
		roll("", strings.Replace(carried, "namespace: pay}", "namespace: pay, annotations: {ringfence.dev/lint-ignore: "+reason+"}}", 1)),
	} {
		accepted := false
		for _, f := range lint(t, text) {
			accepted = accepted || f.Code == typo && f.Suppressed && f.Reason == "they come next week"
			if f.Code == badIgnore {
				t.Error(f.Message)
			}
		}
		if !accepted {
			t.Errorf("not accepted:\n%s", places(t, lint(t, text)))
		}
	}
}
