package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestImage(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	var archives [2][]byte
	for i := range archives {
		out := filepath.Join(dir, "image.tar")
		if err := build("ringfence:1.2.3", program, "arm64", "1.2.3", out); err != nil {
			t.Fatal(err)
		}
		var err error
		if archives[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same program gives two different archives")
	}

	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archives[0])), nil }
	manifest, err := tarball.LoadManifest(open)
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].RepoTags) != 1 || manifest[0].RepoTags[0] != "ringfence:1.2.3" {
		t.Errorf("the archive is called %v, not ringfence:1.2.3", manifest)
	}
	img, err := tarball.Image(open, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.OS != "linux" || config.Config.User != nobody ||
		len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/ringfence" || !config.Created.Time.Equal(epoch) {
		t.Errorf("config: %+v", config)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(content)
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	inside, err := io.ReadAll(files)
	if header.Name != "ringfence" || header.Mode != 0o555 || header.Uid != 0 || !header.ModTime.Equal(epoch) || string(inside) != "a program" || err != nil {
		t.Errorf("%+v holds %q, %v", header, inside, err)
	}
	if _, err := files.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("there is more than the program in the image: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := build("not a name", os.Args[0], "amd64", "", out); err == nil {
		t.Error("a wrong name is taken")
	}
	if err := build("ringfence:1", filepath.Join(t.TempDir(), "missing"), "amd64", "", out); err == nil {
		t.Error("a missing binary is taken")
	}
}
