// Package examples_test holds every example to what its scenario expects.
package examples_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence-project/ringfence/internal/policytest"
	"github.com/ringfence-project/ringfence/internal/scenario"
)

var update = flag.Bool("update", false, "rewrite the expected outputs of the scenarios")

func TestExamples(t *testing.T) {
	folders, err := filepath.Glob("*/workloads.yaml")
	if err != nil || len(folders) == 0 {
		t.Fatal("no examples:", err)
	}
	for _, f := range folders {
		t.Run(filepath.Dir(f), func(t *testing.T) {
			r, err := scenario.RunFile(filepath.Join(filepath.Dir(f), "expected.txtar"), scenario.Options{Update: *update})
			if err != nil {
				t.Fatal(err)
			}
			for _, failure := range r.Failures {
				t.Error(failure)
			}
			t.Logf("%d connections judged by each engine", r.Judged)
		})
	}
}

// TestTestFiles runs the test files as `ringfence test` does.
func TestTestFiles(t *testing.T) {
	files, err := filepath.Glob("*/*_test.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test files:", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := (&policytest.Runner{}).Docs(policytest.Read(f, data))
		for _, x := range r.Findings() {
			t.Errorf("%s: %s", x.Place, x.Message)
		}
		if _, _, checks, _ := r.Count(); !r.OK() || checks == 0 {
			t.Errorf("%s: %d checks do not all hold", f, checks)
		}
	}
}
