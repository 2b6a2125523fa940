package main

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/lint"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// lint lints the fake cluster, with the flags of a command, and returns what it prints.
func (f *fakeCluster) lint(flags lintFlags) string {
	f.t.Helper()
	c, err := f.api.readCluster(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	findings, err := lint.Run(c.withRollouts())
	if err != nil {
		f.t.Fatal(err)
	}
	var out strings.Builder
	flags.level = "note"
	if err := flags.write(&out, flags.of(findings)); err != nil {
		f.t.Fatal(err)
	}
	return out.String()
}

// policy puts a NetworkPolicy for pods app=APP into the cluster.
func (f *fakeCluster) policy(name, app string, annotations map[string]string) {
	f.t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: annotations},
		Spec: networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
	if _, err := f.api.client.NetworkingV1().NetworkPolicies("shop").Create(f.t.Context(), p, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

// What a cluster has is looked at as manifests are, and objects are named in the stead of lines.
func TestLintOfACluster(t *testing.T) {
	f := newFakeCluster(t)
	f.policy("cache", "cache", nil)
	f.policy("queue", "queue", map[string]string{"ringfence.dev/lint-ignore": "RF001: it comes next week"})
	f.put(`{apiVersion: ringfence.dev/v1alpha1, kind: PolicyRollout, metadata: {name: later, annotations: {ringfence.dev/lint-ignore: "RF001: the pods come first"}}, spec: {policies: [
  {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: more}, spec: {podSelector: {matchLabels: {app: more}}}}],
  steps: [{audit: {}}, {enforce: {percent: 100}}]}}`)
	text := f.lint(lintFlags{})
	for _, want := range []string{
		"warning RF001: NetworkPolicy shop/cache: ",
		"2 accepted\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it says nothing of %q:\n%s", want, text)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		if strings.HasPrefix(line, ":") || strings.HasPrefix(line, "    : ") {
			t.Errorf("there is a place that is none: %q", line)
		}
	}
	for _, none := range []string{"shop/queue", "shop/more", "RF019"} {
		if strings.Contains(text, none) {
			t.Errorf("it speaks of %s:\n%s", none, text)
		}
	}
	if text := f.lint(lintFlags{namespace: "shop"}); !strings.Contains(text, "shop/cache") {
		t.Errorf("of the namespace it says\n%s", text)
	}
	if text := f.lint(lintFlags{namespace: "sho"}); text != "nothing found\n" {
		t.Errorf("of another namespace it says\n%s", text)
	}
	if text := f.lint(lintFlags{output: "json"}); strings.Contains(text, `"line"`) || !strings.Contains(text, `"object": "NetworkPolicy shop/cache"`) {
		t.Errorf("programs read\n%s", text)
	}
}

// A rollout that is over is not looked at; what one has in force is, and one that cannot be used is found.
func TestLintOfRolloutsOfACluster(t *testing.T) {
	const eager = `{apiVersion: ringfence.dev/v1alpha1, kind: PolicyRollout, metadata: {name: eager},
spec: {remove: [{kind: ClusterNetworkPolicy, name: guard}], steps: [{enforce: {percent: 50}}, {enforce: {percent: 100}}]}}`
	for name, c := range map[string]struct {
		text     string
		commands []rollout.Command
		want     string
	}{
		"under way": {eager, nil, "warning RF020: PolicyRollout eager: "},
		"complete":  {eager, []rollout.Command{rollout.Promote, rollout.Promote}, "warning RF020: PolicyRollout eager: "},
		"aborted":   {eager, []rollout.Command{rollout.Abort}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster(t)
			f.put(c.text, c.commands...)
			text := f.lint(lintFlags{})
			if c.want == "" && strings.Contains(text, "eager") || !strings.Contains(text, c.want) {
				t.Errorf("it says\n%s", text)
			}
		})
	}
}
