//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// bash is what the suites start the program with.
const bash = "#!/bin/sh\nexec /bin/sh \"$@\"\n"

// addTo writes the image again, under its own name, with this program in the real one's stead.
func addTo(args []string) error {
	if len(args) != 4 || args[2] != "-o" {
		return errors.New("usage: agnhost -add-to IMAGE.tar -o OUT.tar")
	}
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(args[1]) })
	if err != nil {
		return err
	}
	if len(manifest) != 1 || len(manifest[0].RepoTags) != 1 {
		return fmt.Errorf("%s does not hold one image with one name", args[1])
	}
	tag, err := name.NewTag(manifest[0].RepoTags[0])
	if err != nil {
		return err
	}
	img, err := tarball.ImageFromPath(args[1], nil)
	if err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	original, err := extract(img, "agnhost")
	if err != nil {
		return err
	}
	layer, err := files(map[string][]byte{"agnhost": self, displaced[1:]: original, "bin/bash": []byte(bash)})
	if err != nil {
		return err
	}
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		return err
	}
	return tarball.WriteToFile(args[3], tag, img)
}

func extract(img v1.Image, path string) ([]byte, error) {
	all := mutate.Extract(img)
	defer all.Close()
	for in := tar.NewReader(all); ; {
		h, err := in.Next()
		if err != nil {
			return nil, fmt.Errorf("find %s in the image: %w", path, err)
		}
		if h.Name == path || h.Name == "./"+path || h.Name == "/"+path {
			return io.ReadAll(in)
		}
	}
}

func files(all map[string][]byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for path, content := range all {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}
