package wholefile_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
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

func TestCopyKeepsTheModeAndWhoReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := wholefile.Copy(path, strings.NewReader("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := wholefile.Copy(path, strings.NewReader("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if old, err := io.ReadAll(reader); err != nil || string(old) != "old" {
		t.Errorf("who had it open reads %q, %v", old, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
