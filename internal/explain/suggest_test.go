package explain

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// What is suggested works, takes nothing away, and can be written in a manifest. A denial without a suggestion has a
// reason that has to do with what policies cannot say.
func TestSuggestionsWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		for range 10 {
			c := clustertest.Connection(t, s)
			if eval.Evaluate(s, c).Verdict == flow.Deny {
				checkSuggestion(t, s, c)
			}
		}
	})
}

func checkSuggestion(t *rapid.T, s *cluster.State, c cluster.Connection) {
	suggestion := Suggest(s, c)
	if len(suggestion.Changes) == 0 {
		checkReason(t, s, c, suggestion.Reason)
		return
	}
	after := s
	for _, change := range suggestion.Changes {
		checkYAML(t, change)
		next, err := change.Apply(after)
		if err != nil {
			t.Fatalf("%s cannot be applied: %v", change.Summary(), err)
		}
		after = next
	}
	if d := eval.Evaluate(after, c); d.Verdict != flow.Allow {
		t.Fatalf("%s is still denied by %s after %v", c.Tuple(), d.Flow().Rule, suggestion)
	}
	for range 5 {
		other := clustertest.Connection(t, s)
		if eval.Evaluate(s, other).Verdict == flow.Allow && eval.Evaluate(after, other).Verdict == flow.Deny {
			t.Fatalf("%v denies %s, which was allowed", suggestion, other.Tuple())
		}
	}
}

func checkReason(t *rapid.T, s *cluster.State, c cluster.Connection, reason string) {
	known := c.From.Endpoint != nil && c.To.Endpoint != nil
	if known {
		t.Fatalf("no suggestion between two known pods: %s", reason)
	}
	if reason == "" {
		t.Fatalf("neither a suggestion nor a reason for %s", c.Tuple())
	}
	if c.From.Endpoint != nil && !c.To.Unknown && c.To.Addr.IsValid() {
		t.Fatalf("no suggestion to %s: %s", c.To, reason)
	}
}

// checkYAML reads the text of a change back and compares it with the policy that was tried.
func checkYAML(t *rapid.T, c Change) {
	direction := flow.Egress
	if c.Direction == flow.Ingress.String() {
		direction = flow.Ingress
	}
	text, want := c.YAML, []policy.Rule{c.policy.Rules(direction)[c.Index]}
	if !c.Create {
		text = wrap(c)
	}
	b := manifest.NewBundle()
	b.Decode("suggested.yaml", []byte(text))
	r := b.Finish(manifest.Options{})
	if len(r.Problems) > 0 || len(r.Notices) > 0 || len(r.Objects.Policies) != 1 {
		t.Fatalf("the suggested manifest is not good: %v %v\n%s", r.Problems, r.Notices, text)
	}
	got := r.Objects.Policies[0]
	rules := append([]policy.Rule{}, got.Rules(direction)...)
	for i := range rules {
		rules[i].Line = 0
	}
	if diff := cmp.Diff(want, rules, byText...); diff != "" {
		t.Fatalf("the manifest means other rules (-tried +written):\n%s\n%s", diff, text)
	}
	if c.Create && (got.Subject.String() != c.policy.Subject.String() || got.Priority != c.policy.Priority || got.Tier != c.policy.Tier ||
		got.IsolatesEgress != c.policy.IsolatesEgress || got.IsolatesIngress != c.policy.IsolatesIngress) {
		t.Fatalf("the manifest means %+v, but %+v was tried\n%s", got, c.policy, text)
	}
}

// wrap makes a policy around a rule that is to be added to one.
func wrap(c Change) string {
	head := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x, namespace: " + c.Namespace + "}\nspec:\n  podSelector: {}\n"
	if c.Kind == "NetworkPolicy" {
		head += "  policyTypes: [" + strings.ToUpper(c.Direction[:1]) + c.Direction[1:] + "]\n"
	} else {
		head = fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: x}\nspec:\n  tier: %s\n  priority: 1\n  subject: {namespaces: {}}\n", c.policy.Tier)
	}
	return head + "  " + c.Direction + ":\n" + indent(c.YAML)
}

func indent(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		b.WriteString("  " + l)
	}
	return b.String()
}

// Selectors and prefixes are compared by their text.
var byText = []cmp.Option{cmp.Comparer(func(a, b policy.Peer) bool { return a.Kind == b.Kind && a.String() == b.String() })}
