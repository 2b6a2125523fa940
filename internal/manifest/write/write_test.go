package write

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
)

func TestAnnotation(t *testing.T) {
	if alertAnnotation != manifest.AlertAnnotation {
		t.Errorf("%s is not %s", alertAnnotation, manifest.AlertAnnotation)
	}
}

func read(text []byte) ([]*policy.Policy, []manifest.Problem) {
	b := manifest.NewBundle()
	b.Decode("x.yaml", text)
	r := b.Finish(manifest.Options{})
	return r.Objects.Policies, r.Problems
}

// What is written is read as the same policy, whatever it says, or it is not written.
func TestReadsBack(t *testing.T) {
	written := 0
	rapid.Check(t, func(t *rapid.T) {
		for _, drawn := range clustertest.State(t).Policies() {
			text, err := YAML(drawn)
			if err != nil {
				continue
			}
			want := *drawn // rules of a direction that it does not isolate say nothing, and are not written
			if want.Tier == policy.Namespace && !want.IsolatesEgress {
				want.Egress = nil
			}
			if want.Tier == policy.Namespace && !want.IsolatesIngress {
				want.Ingress = nil
			}
			for _, rules := range []*[]policy.Rule{&want.Ingress, &want.Egress} {
				*rules = slices.Clone(*rules)
				for i := range *rules { // in the order and the number in which the reader keeps them
					peers := slices.Clone((*rules)[i].Peers)
					for k := range peers {
						except := slices.Clone(peers[k].Except)
						slices.SortFunc(except, netip.Prefix.Compare)
						peers[k].Except = slices.Compact(except)
					}
					(*rules)[i].Peers = peers
				}
			}
			got, problems := read(text)
			if len(problems) > 0 {
				if strings.Contains(problems[0].Message, "cannot be used with") || strings.Contains(problems[0].Message, "is not a smaller block") {
					continue // the generator draws what no API server takes
				}
				t.Fatalf("%s\n%v", text, problems)
			}
			if len(got) != 1 || generation.Of(got) != generation.Of([]*policy.Policy{&want}) {
				t.Fatalf("%s is read as\n%+v, want\n%+v", text, got[0], &want)
			}
			written++
		}
	})
	if written == 0 {
		t.Error("nothing was written")
	}
}

func TestForm(t *testing.T) {
	const text = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
  annotations:
    ringfence.dev/alert: somebody tried
spec:
  podSelector:
    matchLabels:
      app: db
  policyTypes:
  - Ingress
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: web
    - namespaceSelector:
        matchExpressions:
        - key: env
          operator: NotIn
          values:
          - dev
      podSelector: {}
    ports:
    - protocol: TCP
      port: 5432
    - protocol: UDP
      port: 8
      endPort: 9
`
	policies, problems := read([]byte(text))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got, err := YAML(policies[0])
	if diff := cmp.Diff(text, string(got)); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

// What no object can say is an error that names the policy.
func TestCannotBeWritten(t *testing.T) {
	for _, text := range []string{
		"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}, ingress: [{form: []}]}}",
		"{apiVersion: policy.networking.k8s.io/v1alpha1, kind: BaselineAdminNetworkPolicy, metadata: {name: default}, spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}",
		"{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}, spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{domainNames: [example.com]}]}]}}",
	} {
		policies, _ := read([]byte(text))
		if len(policies) != 1 {
			t.Fatalf("%s is read as %d policies", text, len(policies))
		}
		out, err := YAML(policies[0])
		if err == nil || !strings.HasPrefix(err.Error(), policies[0].Kind()+" ") || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%s is written as %s, %v", text, out, err)
		}
	}
}
