package generation

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// TestWhatIsKeptIsWhatWas draws policies of every form there is: they come back as they were, whatever their order.
func TestWhatIsKeptIsWhatWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		was := clustertest.State(t).Policies()
		text, err := encodePolicies(was)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodePolicies(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if want := sorted(was); len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v\nwant %+v\n%s", got, want, text)
		}
		backwards := slices.Clone(was)
		slices.Reverse(backwards)
		if Of(was) != Of(backwards) || Of(was) != Of(got) {
			t.Fatal("the ID depends on more than what the policies say")
		}
	})
}

// TestManifestsAreKept: policies of files keep their places, and those that could not be read their stand-ins.
func TestManifestsAreKept(t *testing.T) {
	typos := strings.ReplaceAll(onePolicy, "from:", "form:") + "---\n" + strings.Replace(onePolicy, "db", "db2", 1) + "  policyTypes: {\n---\n" + `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec: {tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Deni, from: [{namespaces: {}}]}]}
`
	for _, path := range []string{"../../examples/shop", "../../examples/ldap", "-"} {
		bundle, err := dir.Load([]string{path}, strings.NewReader(typos))
		if err != nil {
			t.Fatal(err)
		}
		was := bundle.Finish(manifest.Options{}).Objects.Policies
		defects := len(slices.DeleteFunc(slices.Clone(was), func(p *policy.Policy) bool { return p.Defect == "" }))
		if len(was) == 0 || path == dir.Stdin && defects != 3 {
			t.Fatalf("%s has %d policies, %d with a defect", path, len(was), defects)
		}
		text, err := encodePolicies(was)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodePolicies(text)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, sorted(was)) {
			t.Errorf("%s: policies did not come back as they were:\n%s", path, text)
		}
	}
}

func networkPolicies(t *testing.T, text string) []*policy.Policy {
	t.Helper()
	b := manifest.NewBundle()
	b.Decode("p.yaml", []byte(text))
	return b.Finish(manifest.Options{}).Objects.Policies
}

const onePolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
`

// TestIDIsWhatPoliciesSay: other lines and another order of labels are the same generation; another word is another.
func TestIDIsWhatPoliciesSay(t *testing.T) {
	id := Of(networkPolicies(t, onePolicy))
	if got := Of(networkPolicies(t, "# a comment\n"+onePolicy)); got != id {
		t.Error("a comment makes another generation")
	}
	for old, new := range map[string]string{"5432": "5433", "app: web": "app: api", "name: db": "name: db2", "ingress:": "egress:", "from:": "form:"} {
		if got := Of(networkPolicies(t, strings.Replace(onePolicy, old, new, 1))); got == id || got == "" {
			t.Errorf("%s in place of %s is no other generation", new, old)
		}
	}
	typo := strings.Replace(onePolicy, "from:", "form:", 1)
	if Of(networkPolicies(t, typo)) != Of(networkPolicies(t, "\n\n"+typo)) {
		t.Error("the place of a defect makes another generation")
	}
}

// TestSame: nothing is the same as nothing only.
func TestSame(t *testing.T) {
	p := func(text string) *policy.Policy { return networkPolicies(t, text)[0] }
	other := p(strings.Replace(onePolicy, "5432", "5433", 1))
	for _, c := range []struct {
		a, b *policy.Policy
		want bool
	}{{p(onePolicy), p("# a comment\n" + onePolicy), true}, {p(onePolicy), other, false}, {p(onePolicy), nil, false}, {nil, other, false}, {nil, nil, true}} {
		if got := Same(c.a, c.b); got != c.want {
			t.Errorf("%v and %v are the same: %v", c.a, c.b, got)
		}
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	text, err := encodePolicies(networkPolicies(t, onePolicy))
	if err != nil {
		t.Fatal(err)
	}
	for old, new := range map[string]string{`"peers"`: `"friends"`, `"Accept"`: `"Maybe"`, `"NetworkPolicy"`: `"Other"`, "app=db": "app=(", `"pods":"app=web"`: `"pods":5`} {
		changed := strings.Replace(string(text), old, new, 1)
		if changed == string(text) {
			t.Fatalf("%s is not in %s", old, text)
		}
		if _, err := decodePolicies([]byte(changed)); err == nil {
			t.Errorf("%s in place of %s was taken", new, old)
		}
	}
}
