package dir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
)

// shared returns a folder beside the project, or skips: a user's clone has none.
func shared(t *testing.T, name string) string {
	t.Helper()
	at, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			break
		}
		if at == filepath.Dir(at) {
			t.Fatal("no go.mod above the test")
		}
	}
	path := filepath.Join(at, "..", "shared", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("not here: %v", err)
	}
	return path
}

// loadGood loads a folder and expects no problem.
func loadGood(t *testing.T, path string) manifest.Result {
	t.Helper()
	b, err := Load([]string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := b.Finish(manifest.Options{})
	for _, p := range r.Problems {
		t.Errorf("%v", p)
	}
	return r
}

func TestOracleManifestsHaveNoProblem(t *testing.T) {
	root := shared(t, "oracles")
	cases, err := filepath.Glob(filepath.Join(root, "*", "*", "manifests"))
	if err != nil {
		t.Fatal(err)
	}
	policies := 0
	for _, c := range cases {
		r := loadGood(t, c)
		policies += len(r.Objects.Policies)
		if _, err := cluster.NewState(r.Objects); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	if len(cases) < 335 || policies < 400 {
		t.Errorf("%d cases with %d policies are too few", len(cases), policies)
	}
}

func TestOnlineBoutiqueHasNoProblem(t *testing.T) {
	r := loadGood(t, shared(t, filepath.Join("data", "online-boutique")))
	if got := len(r.Objects.Policies); got != 13 {
		t.Errorf("%d policies, want 13", got)
	}
	if got := len(r.Objects.Workloads); got != 12 {
		t.Errorf("%d workloads, want 12", got)
	}
	if _, err := cluster.NewState(r.Objects); err != nil {
		t.Error(err)
	}
}
