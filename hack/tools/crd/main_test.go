package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestDefinitionsAreFresh(t *testing.T) {
	files, err := generate("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range files {
		have, err := os.ReadFile(filepath.Join("../../..", path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, want) {
			t.Errorf("%s is not what api/v1alpha1 says: run make manifests", path)
		}
	}
}
