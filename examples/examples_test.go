// Package examples_test holds every example to what its scenario expects.
package examples_test

import (
	"flag"
	"path/filepath"
	"testing"

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
