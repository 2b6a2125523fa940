// Package dir is the source of manifests that lie in files and folders.
//
// Load reads them once. Watch reads the same files in the same order into a new manifest.Bundle whenever one has
// changed, and goes on with the last good version of a file that has become bad.
package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/manifest"
)

// Stdin is the path that stands for standard input.
const Stdin = "-"

// Load reads manifests: files, folders with all that is below them, and "-" for stdin. In folders it takes *.yaml, *.yml
// and *.json, but no hidden ones, no tests (*_test.yaml) and no files of Helm and Kustomize. Files are read in the
// order of paths, and sorted inside of a folder; one that is named twice is read once. A path that does not exist is
// an error; a file that cannot be read is a manifest.Problem.
func Load(paths []string, stdin io.Reader) (*manifest.Bundle, error) {
	l := loader{bundle: manifest.NewBundle(), read: map[string]bool{}}
	for _, path := range paths {
		if path == Stdin {
			l.decode("stdin", stdin)
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("manifests: %w", err)
		}
		if info.IsDir() {
			l.folder(path)
		} else {
			l.file(path)
		}
	}
	return l.bundle, nil
}

type loader struct {
	bundle *manifest.Bundle
	read   map[string]bool // real paths of files and folders, so that a loop of links ends
	// tree, if it is set, notes what there is to read, in the stead of reading it.
	tree *inventory
}

// inventory is what manifests are read from.
type inventory struct {
	folders []string
	files   []string
	errs    []error // folders that cannot be listed
}

// folder reads what is below path, links followed.
func (l *loader) folder(path string) {
	if l.again(path) {
		return
	}
	if l.tree != nil {
		l.tree.folders = append(l.tree.folders, path)
	}
	entries, err := os.ReadDir(path) // sorted by name
	if err != nil && l.tree != nil {
		l.tree.errs = append(l.tree.errs, err)
	} else if err != nil {
		l.unreadable(path, err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		full := filepath.Join(path, name)
		info, err := os.Stat(full)
		switch {
		case err != nil && isManifest(name) && l.tree != nil:
			l.tree.files = append(l.tree.files, full)
		case err != nil && isManifest(name):
			l.unreadable(full, err)
		case err != nil:
		case info.IsDir():
			l.folder(full)
		case !isManifest(name) || !info.Mode().IsRegular():
		case isOther(name):
			l.bundle.Ignore(name)
		default:
			l.file(full)
		}
	}
}

// again reports whether a file or folder was met before, perhaps by another name.
func (l *loader) again(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		real = path
	}
	known := l.read[real]
	l.read[real] = true
	return known
}

func (l *loader) file(path string) {
	if l.again(path) {
		return
	}
	if l.tree != nil {
		l.tree.files = append(l.tree.files, path)
		return
	}
	f, err := os.Open(path)
	if err != nil {
		l.unreadable(path, err)
		return
	}
	defer f.Close()
	l.decode(path, f)
}

func (l *loader) decode(name string, r io.Reader) {
	// one byte more than a file may have, so that a larger one is noticed and not read to its end
	data, err := io.ReadAll(io.LimitReader(r, manifest.MaxFile+1))
	if err != nil {
		l.unreadable(name, err)
		return
	}
	l.bundle.Decode(filepath.ToSlash(name), data)
}

func (l *loader) unreadable(path string, err error) { l.bundle.Report(unreadable(path, err)) }

func unreadable(path string, err error) manifest.Problem {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err // the path is said already
	}
	return manifest.Problem{File: filepath.ToSlash(path), Message: "cannot be read: " + err.Error()}
}

// Takes reports whether Load takes a file with that path below a folder that it is given. The path has slashes.
func Takes(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, ".") {
			return false
		}
	}
	name := path[strings.LastIndexByte(path, '/')+1:]
	return isManifest(name) && !isOther(name)
}

func isManifest(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(name)))
}

// isOther tells files that lie beside manifests and are none: tests, and what Helm and Kustomize read.
func isOther(name string) bool {
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	others := []string{"kustomization", "Kustomization", "Chart", "values", "values.schema", "skaffold"}
	return strings.HasSuffix(stem, "_test") || slices.Contains(others, stem)
}
