package show_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/plan/show"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestGolden makes the plans of testdata and compares them with the files want.txt, want.md and want.json in it. A file of
// old/ that new/ does not have is in both; UPDATE_GOLDEN=1 writes them anew.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no plans", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := planOf(t, a)
			got := map[string]string{"want.txt": text(t, p), "want.md": comment(t, p), "want.json": indented(t, p)}
			changed := false
			for i := range a.Files {
				f := &a.Files[i]
				want, ok := got[f.Name]
				if !ok || string(f.Data) == want {
					continue
				}
				if os.Getenv("UPDATE_GOLDEN") == "" {
					t.Errorf("%s is\n%s\nwant\n%s", f.Name, want, f.Data)
				}
				f.Data, changed = []byte(want), true
			}
			if changed && os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func planOf(t *testing.T, a *txtar.Archive) *plan.Plan {
	t.Helper()
	bundles := [2]*manifest.Bundle{manifest.NewBundle(), manifest.NewBundle()}
	names := map[string]bool{}
	var o plan.Options
	for _, f := range a.Files {
		names[f.Name] = true
	}
	for _, f := range a.Files {
		name, old := strings.CutPrefix(f.Name, "old/")
		after, new := strings.CutPrefix(f.Name, "new/")
		switch {
		case old:
			bundles[0].Decode("old:"+name, f.Data)
			if !names["new/"+name] {
				bundles[1].Decode(name, f.Data)
			}
		case new && len(f.Data) > 0: // an empty one is removed
			bundles[1].Decode(after, f.Data)
		case f.Name == "flows":
			o.Flows = &plan.Recorded{Source: "flows.json", Records: records(t, string(f.Data))}
		}
	}
	o.Explain = "-f new"
	var sides [2]plan.Side
	for i, b := range bundles {
		r := b.Finish(manifest.Options{})
		state, err := cluster.NewState(r.Objects)
		if err != nil {
			t.Fatal(err)
		}
		sides[i] = plan.Side{Name: []string{"old", "new"}[i], State: state}
		for _, p := range r.Problems {
			sides[i].Problems = append(sides[i].Problems, p.Text())
		}
	}
	p, err := plan.Compute(sides[0], sides[1], o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// records reads lines of "number verdict from to port age".
func records(t *testing.T, lines string) []*flowlog.Record {
	t.Helper()
	var all []*flowlog.Record
	for line := range strings.Lines(lines) {
		var n int
		var verdict, from, to, port, age string
		if _, err := fmt.Sscan(line, &n, &verdict, &from, &to, &port, &age); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		ago, err := time.ParseDuration(age)
		if err != nil {
			t.Fatal(err)
		}
		number, name, _ := strings.Cut(port, "/")
		protocol, err := flow.ParseProtocol(name)
		if err != nil {
			t.Fatal(err)
		}
		r := flowlog.Record{Time: now.Add(-ago), Source: recorded(from), Destination: recorded(to), Protocol: protocol, Answered: true}
		if _, err := fmt.Sscan(number, &r.Port); err != nil {
			t.Fatal(err)
		}
		if verdict == "deny" {
			r.Answered, r.Packets, n = false, n, 1
		} else {
			r.Verdict = flow.Allow
		}
		for range n {
			all = append(all, &r)
		}
	}
	return all
}

// recorded reads "namespace/kind/workload/pod", "node/name" or an address.
func recorded(text string) flowlog.End {
	parts := strings.Split(text, "/")
	switch {
	case len(parts) == 4:
		kind := map[string]string{"deployment": "Deployment", "statefulset": "StatefulSet", "job": "Job"}[parts[1]]
		return flowlog.End{Address: netip.MustParseAddr("10.0.0.9"), Namespace: parts[0], Kind: kind, Workload: parts[2], Pod: parts[3]}
	case parts[0] == "node":
		return flowlog.End{Address: netip.MustParseAddr("10.9.0.9"), Node: parts[1]}
	}
	return flowlog.End{Address: netip.MustParseAddr(text)}
}

func text(t *testing.T, p *plan.Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := show.Text(&b, p, show.Options{Now: now}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func comment(t *testing.T, p *plan.Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := show.Markdown(&b, p, show.Options{Now: now}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func indented(t *testing.T, p *plan.Plan) string {
	t.Helper()
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data) + "\n"
}
