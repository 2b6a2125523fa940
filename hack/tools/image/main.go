// Command image writes the container image of ringfence as an archive, without a container engine: a static binary and
// nothing else, in the form that `ctr images import`, `podman load` and `docker load` take. The same binary gives the
// same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// nobody is who the image runs as where nobody says otherwise. The node agent has to say otherwise: its capabilities
// reach a process of another user only through file capabilities, which containers that may not escalate ignore.
const nobody = "65532:65532"

// epoch is the time of everything in the image, so that the time of the build is not part of it.
var epoch = time.Unix(0, 0).UTC()

func main() {
	image := flag.String("name", "ringfence:dev", "name and tag of the image")
	binary := flag.String("binary", "", "static linux binary to put in")
	arch := flag.String("arch", "amd64", "architecture of the binary")
	version := flag.String("version", "", "what the image's labels call the version")
	out := flag.String("o", "ringfence.tar", "archive to write")
	flag.Parse()
	if err := build(*image, *binary, *arch, *version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func build(image, binary, arch, version, out string) error {
	tag, err := name.NewTag(image)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	img, err := assemble(program, arch, version)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, img)
}

// assemble makes the image of a program.
func assemble(program []byte, arch, version string) (v1.Image, error) {
	content, err := layer(program)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   l,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "hack/tools/image"},
	})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Created, file.OS, file.Architecture = v1.Time{Time: epoch}, "linux", arch
	file.Config = v1.Config{
		Entrypoint: []string{"/ringfence"},
		User:       nobody,
		WorkingDir: "/",
		Env:        []string{"PATH=/"},
		Labels: map[string]string{
			"org.opencontainers.image.title":   "ringfence",
			"org.opencontainers.image.version": version,
		},
	}
	return mutate.ConfigFile(img, file)
}

// layer is the image's file system: the program, owned by root and writable for nobody.
func layer(program []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "ringfence", Mode: 0o555, Size: int64(len(program)), ModTime: epoch, Format: tar.FormatUSTAR,
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
