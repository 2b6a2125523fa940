package manifest

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// TestEveryTypoCloses misspells every field of the good policies in testdata, one at a time. Each must be a problem, and
// the stand-in must deny all that the policy was about.
func TestEveryTypoCloses(t *testing.T) {
	tried := 0
	for _, name := range []string{"networkpolicy-defaults", "clusterpolicy", "adminpolicy"} {
		archive, err := txtar.ParseFile(filepath.Join("testdata", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range document.Split(archive.Files[0].Data) {
			good := policiesOf(c.Text)
			if len(good) != 1 || good[0].Defect != "" {
				continue // the invalid ones of adminpolicy
			}
			for _, typo := range []func(string) string{swapFirst, func(s string) string { return s + "s" }, func(s string) string { return "X" + s[1:] }} {
				tried += misspellEach(t, c.Text, typo, good[0])
			}
		}
	}
	if tried < 400 {
		t.Errorf("only %d typos were tried", tried)
	}
}

func swapFirst(s string) string { return s[1:2] + s[:1] + s[2:] }

func policiesOf(text []byte) []*policy.Policy {
	b := NewBundle()
	b.Decode("f", text)
	return b.Finish(Options{}).Objects.Policies
}

// misspellEach returns how many keys it tried.
func misspellEach(t *testing.T, text []byte, typo func(string) string, good *policy.Policy) int {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	keys := fieldKeys(doc.Content[0])
	for _, key := range keys {
		right := key.Value
		key.Value = typo(right)
		bad, err := yaml.Marshal(&doc)
		if err != nil {
			t.Fatal(err)
		}
		b := NewBundle()
		b.Decode("f", bad)
		r := b.Finish(Options{})
		if len(r.Problems) == 0 {
			t.Errorf("%q for %q is no problem:\n%s", key.Value, right, bad)
		}
		for _, p := range r.Objects.Policies {
			if !closes(p, good) {
				t.Errorf("%q for %q leaves more open than the policy meant: %+v\n%s", key.Value, right, p, bad)
			}
		}
		if len(r.Objects.Policies) != 1 && !slices.Contains([]string{"kind"}, right) {
			t.Errorf("%q for %q: %d policies, want a stand-in", key.Value, right, len(r.Objects.Policies))
		}
		key.Value = right
	}
	return len(keys)
}

// fieldKeys returns the keys that are names of fields: all but those of labels and of the status.
func fieldKeys(n *yaml.Node) []*yaml.Node {
	var keys []*yaml.Node
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			keys = append(keys, fieldKeys(c)...)
		}
		return keys
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value == "status" {
			continue
		}
		keys = append(keys, key)
		if key.Value != "matchLabels" {
			keys = append(keys, fieldKeys(value)...)
		}
	}
	return keys
}

// closes reports whether p is a stand-in that denies at least wherever good has a say.
func closes(p, good *policy.Policy) bool {
	wider := func(a, b label.Selector) bool { return a.IsEverything() || a.Equal(b) }
	ok := p.Defect != "" && wider(p.Subject.Namespaces, good.Subject.Namespaces) && wider(p.Subject.Pods, good.Subject.Pods)
	ok = ok && (p.Tier == good.Tier || p.Tier == policy.Admin) && (p.Priority == good.Priority || p.Priority == 0 || good.Tier == policy.Baseline)
	for _, d := range flow.Directions {
		if good.Tier == policy.Namespace {
			ok = ok && len(p.Rules(d)) == 0 && (p.Isolates(d) || !good.Isolates(d))
			continue
		}
		rules := p.Rules(d)
		denies := len(rules) == 1 && rules[0].Action == policy.Deny && rules[0].Peers[0].Kind == policy.PeerAnyone && len(rules[0].Ports) == 0
		ok = ok && (denies || len(good.Rules(d)) == 0)
	}
	return ok
}
