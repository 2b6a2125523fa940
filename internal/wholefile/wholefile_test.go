package wholefile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ringfence-project/ringfence/internal/wholefile"
)

func TestWriteReplacesAndLeavesNothingElse(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "f")
	for _, text := range []string{"first, which is longer", "second"} {
		if err := wholefile.Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestWriteFailsWhole(t *testing.T) {
	if err := wholefile.Write(filepath.Join(t.TempDir(), "none", "f"), nil); err == nil {
		t.Error("a folder that is not there was written to")
	}
}
