package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var plain = Entry{}.json()

const list = `{
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "bridge",
      "ipam": {"type": "host-local", "plugins": []}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ],
  "name": "pods", "note": "1e3 stays 1e3, \u0041 stays \u0041"
}
`

func TestChained(t *testing.T) {
	got, err := chained([]byte(list), Entry{Records: "/run/x"}.json())
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(list, `true}}`, "true}},\n    "+`{"records":"/run/x","type":"ringfence"}`, 1)
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Another setting replaces the entry, and one that somebody put something behind moves back to the end.
	behind := bytes.Replace(got, []byte(`"type":"ringfence"}`), []byte(`"type":"ringfence"}, {"type": "tuning"}`), 1)
	got, err = chained(behind, plain)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(list, `true}}`, `true}}, {"type": "tuning"}, {"type":"ringfence"}`, 1); string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestChainedRefuses(t *testing.T) {
	for _, text := range []string{
		"", "null", "[]", "{", `{"plugins": {}}`, `{"plugins": []}`, `{"type": "bridge"}`, `{"plugins": [{"type": "ringfence"}]}`,
		`{"plugins": [{"type": "bridge"}`, `{"plugins": [{"type": "bridge"}]`,
	} {
		if got, err := chained([]byte(text), plain); err == nil {
			t.Errorf("%s becomes %s", text, got)
		}
	}
}

// TestChainingKeepsOthers: whatever the list and however it is written, it comes back when we leave it.
func TestChainingKeepsOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(anyList(t))
		in, err := chained(text, plain)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var parsed struct{ Plugins []map[string]any }
		if err := json.Unmarshal(in, &parsed); err != nil {
			t.Fatalf("%s is no JSON: %v", in, err)
		}
		if last := parsed.Plugins[len(parsed.Plugins)-1]; last["type"] != PluginType {
			t.Fatalf("not the last plugin of %s", in)
		}
		if again, err := chained(in, plain); err != nil || !bytes.Equal(again, in) {
			t.Fatalf("chaining twice makes %s of %s, %v", again, in, err)
		}
		if out, err := unchained(in); err != nil || !bytes.Equal(out, text) {
			t.Fatalf("unchaining makes %s, not %s, %v", out, text, err)
		}
	})
}

func anyList(t *rapid.T) string {
	space := rapid.SampledFrom([]string{"", " ", "\n", "\n    ", "\t", "\r\n  "})
	value := rapid.SampledFrom([]string{`{"plugins": [{"type": "ringfence"}]}`, `"]}"`, `[1, 2]`, `null`, `1.50`, `"\"plugins\": ["`})
	var plugins []string
	for i := range rapid.IntRange(1, 4).Draw(t, "plugins") {
		plugins = append(plugins, fmt.Sprintf(`%s{"type":%s"p%d", "x": %s}%s`, space.Draw(t, "before"), space.Draw(t, "inside"), i,
			value.Draw(t, "value"), space.Draw(t, "after")))
	}
	return fmt.Sprintf(`%s{"a": %s,%s"plugins"%s:%s[%s]%s, "name": "pods"}%s`, space.Draw(t, "start"), value.Draw(t, "a"),
		space.Draw(t, "key"), space.Draw(t, "colon"), space.Draw(t, "array"), strings.Join(plugins, ","),
		space.Draw(t, "end"), space.Draw(t, "rest"))
}
