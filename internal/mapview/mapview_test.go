package mapview_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/mapview"
)

var update = flag.Bool("update", false, "rewrite testdata")

func render(t *testing.T, v mapview.View, format string) string {
	t.Helper()
	var out bytes.Buffer
	if err := v.Write(&out, format); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// golden compares with a file of testdata. Its folder is told before a test changes the working directory.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", filepath.Base(file), d)
	}
}

func testdata(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestExamples(t *testing.T) {
	for name, formats := range map[string]string{"ldap": "text json csv dot mermaid", "silos": "text csv dot mermaid", "shop": "text csv dot mermaid"} {
		t.Run(name, func(t *testing.T) {
			folder := testdata(t)
			v := example(t, name)
			for _, f := range strings.Fields(formats) {
				golden(t, filepath.Join(folder, name+"."+f), render(t, v, f))
			}
		})
	}
}

func TestSeenIsTold(t *testing.T) {
	folder := testdata(t)
	v := seenIn(example(t, "ldap"))
	golden(t, filepath.Join(folder, "seen.csv"), render(t, v, "csv"))
	var doc struct {
		Pairs []struct {
			From, To string
			Seen     *struct {
				Allowed, Denied uint64
				Last            string
				Ports           []struct{ Port string }
			}
		}
	}
	if err := json.Unmarshal([]byte(render(t, v, "json")), &doc); err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, p := range doc.Pairs {
		if p.Seen == nil {
			continue
		}
		found++
		if p.From == "orders/credit-check-copy" && (p.Seen.Denied != 8 || len(p.Seen.Ports) != 2 || p.Seen.Last != "2026-01-02T03:04:05Z") {
			t.Errorf("seen: %+v", p.Seen)
		}
	}
	if found != 2 {
		t.Errorf("%d pairs were seen, want 2", found)
	}
}

func TestTextFitsItsWidth(t *testing.T) {
	v := example(t, "ldap")
	if got := render(t, v, "text"); !strings.HasPrefix(strings.TrimLeft(got, " "), "FROM") {
		t.Errorf("want a matrix:\n%s", got)
	}
	v.Width = 40
	if got := render(t, v, "text"); !strings.HasPrefix(got, "customers/ldap") {
		t.Errorf("want a list:\n%s", got)
	}
}

func TestManyBoxesAreNamespaces(t *testing.T) {
	v := view(t, teams(t, 320), "")
	for format, want := range map[string]string{"text": "team-00  (20 boxes)", "dot": `label="team-00\n20 boxes"`, "mermaid": `["team-00 · 20 boxes"]`} {
		if got := render(t, v, format); !strings.Contains(got, want) || strings.Contains(got, "service-") {
			t.Errorf("%s: want %s and no single box:\n%.600s", format, want, got)
		}
	}
	lines, err := csv.NewReader(strings.NewReader(render(t, v, "csv"))).ReadAll()
	if err != nil || len(lines) < 320*320 {
		t.Errorf("csv has %d lines, %v", len(lines), err)
	}
}

func TestNamesCannotEndTheirElement(t *testing.T) {
	o := cluster.Objects{Endpoints: []*cluster.Endpoint{{Key: cluster.Key{Namespace: hostile, Name: hostile}}}}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	page := render(t, view(t, s, hostile), "html")
	if strings.Contains(page, "<img") || strings.Count(page, "</script>") != 2 {
		t.Error("a name is part of the markup")
	}
	for format, bad := range map[string]string{"dot": `"</script><img src=x onerror="`, "mermaid": `<img`} {
		if got := render(t, view(t, s, ""), format); strings.Contains(got, bad) {
			t.Errorf("%s holds a name as it is:\n%s", format, got)
		}
	}
}

func TestUnknownFormat(t *testing.T) {
	if err := (mapview.View{}).Write(nil, "svg"); err == nil || !strings.Contains(err.Error(), "want one of text") {
		t.Errorf("got %v", err)
	}
}
