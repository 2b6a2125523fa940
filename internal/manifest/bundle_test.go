package manifest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// What files say together does not depend on the order in which they are read, if nothing is there twice.
func TestOrderOfFilesDoesNotMatter(t *testing.T) {
	archive, err := txtar.ParseFile(filepath.Join("testdata", "workloads.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	forward, back := NewBundle(), NewBundle()
	for _, f := range archive.Files {
		forward.Decode(f.Name, f.Data)
	}
	slices.Reverse(archive.Files)
	for _, f := range archive.Files {
		back.Decode(f.Name, f.Data)
	}
	a, b := dump(t, forward.Finish(Options{})), dump(t, back.Finish(Options{}))
	if !bytes.Equal(a, b) {
		t.Errorf("forward:\n%s\nback:\n%s", a, b)
	}
	if again := dump(t, forward.Finish(Options{})); !bytes.Equal(a, again) {
		t.Errorf("finished again:\n%s\nbefore:\n%s", again, a)
	}
}

func TestDefaultBoundOfReplicas(t *testing.T) {
	r := decode(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 10001, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}}}\n", 1)
	if len(r.Objects.Endpoints) != 10_000 {
		t.Errorf("%d pods, want 10,000", len(r.Objects.Endpoints))
	}
}

func TestDaemonSetWithoutNodesHasOnePod(t *testing.T) {
	r := decode(t, "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}}}\n", 0)
	if len(r.Objects.Endpoints) != 1 || r.Objects.Endpoints[0].Name != "a-1" {
		t.Errorf("%v, want a-1", r.Objects.Endpoints)
	}
}

// FuzzDecode holds what Decode promises of any bytes: no panic, a state that can be made, and for every policy that is
// replaced a problem that says so.
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(data).Files {
			if file.Name == "want" {
				continue
			}
			f.Add(file.Data)
			for doc := range strings.SplitSeq(string(file.Data), "\n---\n") {
				f.Add([]byte(doc))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := NewBundle()
		b.Decode("f", data)
		r := b.Finish(Options{MaxReplicas: 10})
		if _, err := cluster.NewState(r.Objects); err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Objects.Policies {
			if p.Defect != "" && len(r.Problems) == 0 {
				t.Errorf("%s is a stand-in, and no problem says why", p.Name)
			}
		}
		lines := 1
		for _, mark := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} { // what YAML takes for a line break
			lines += bytes.Count(data, []byte(mark))
		}
		for _, p := range r.Problems {
			if p.Line < 0 || p.Line > lines {
				t.Errorf("%v: there is no such line", p)
			}
		}
	})
}
