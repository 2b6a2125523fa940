//go:build linux

package dir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/ringfence-project/ringfence/internal/manifest"
)

// reader reads a tree of manifests again and again, and of it only what has changed.
type reader struct {
	paths []string
	store *Store
	tree  inventory
	files map[string]*version
	dirty map[string]bool // may have changed although they look the same
	busy  map[string]bool // are being written, and count as they were
}

// version is a file as it was read.
type version struct {
	print    fingerprint
	sum      [sha256.Size]byte
	data     []byte             // what counts: the file's content, or its last good version
	problems []manifest.Problem // of the content, if data is another
	held     bool               // data is the last good version
	broken   error              // the file cannot be read, and there is no good version
}

// fingerprint tells whether a file may have changed. The time of its inode's change cannot be set back.
type fingerprint struct {
	device, inode    uint64
	size             int64
	modified, change syscall.Timespec
}

func newReader(paths []string, store *Store) *reader {
	return &reader{paths: paths, store: store, files: map[string]*version{}, dirty: map[string]bool{}, busy: map[string]bool{}}
}

func (r *reader) forgetAll() {
	for path := range r.files {
		r.dirty[path] = true
	}
}

// places are the folders to listen to: those with manifests, and those that hold files that were named themselves.
func (r *reader) places() []string {
	places := slices.Clone(r.tree.folders)
	for _, p := range r.paths {
		if info, err := os.Stat(p); err == nil && !info.IsDir() {
			places = append(places, filepath.Dir(p))
		}
	}
	return places
}

// scan lists what there is to read.
func (r *reader) scan() (inventory, error) {
	l := loader{bundle: manifest.NewBundle(), read: map[string]bool{}, tree: &inventory{}}
	for _, path := range r.paths {
		info, err := os.Stat(path)
		if err != nil {
			return inventory{}, fmt.Errorf("manifests: %w", err)
		}
		if info.IsDir() {
			l.folder(path)
		} else {
			l.file(path)
		}
	}
	if err := errors.Join(l.tree.errs...); err != nil {
		return inventory{}, fmt.Errorf("manifests: %w", err)
	}
	return *l.tree, nil
}

// read brings everything up to date. An error means that nobody can say which manifests there are; then nothing is
// changed.
func (r *reader) read() (Snapshot, error) {
	start := time.Now()
	found, err := r.scan()
	if err != nil {
		return Snapshot{}, err
	}
	next, changed := map[string]*version{}, []string{}
	present := found.files[:0:0]
	for _, path := range found.files {
		old := r.files[path]
		v, err := r.look(path, old)
		if err != nil {
			return Snapshot{}, err
		}
		if v == nil { // it went while we looked
			continue
		}
		if old == nil || old.sum != v.sum || old.held != v.held || !sameError(old.broken, v.broken) {
			changed = append(changed, path)
		}
		next[path] = v
		present = append(present, path)
	}
	for path := range r.files {
		if next[path] == nil {
			changed = append(changed, path)
		}
	}
	for path := range r.dirty {
		if !r.busy[path] {
			delete(r.dirty, path)
		}
	}
	found.files = present
	r.tree, r.files = found, next
	if r.store != nil {
		if err := r.store.Retain(present); err != nil {
			return Snapshot{}, err
		}
	}
	slices.Sort(changed)
	return r.snapshot(changed, start), nil
}

func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
}

// look reads a file if it may have changed. It returns nil if there is no such file any more.
func (r *reader) look(path string, old *version) (*version, error) {
	if r.busy[path] { // one that is new is not there yet
		return old, nil
	}
	data, print, err := readFile(path, old, r.dirty[path])
	switch {
	case errors.Is(err, errSame):
		return old, nil
	case errors.Is(err, fs.ErrNotExist) && !exists(path):
		return nil, nil
	case err != nil:
		return r.hold(path, &version{broken: err}, []manifest.Problem{unreadable(path, err)})
	}
	v := &version{print: print, sum: sha256.Sum256(data), data: data}
	if old != nil && old.sum == v.sum && old.broken == nil { // touched, or written anew as it was
		same := *old
		same.print = print
		return &same, nil
	}
	if problems := check(path, data); len(problems) > 0 {
		return r.hold(path, v, problems)
	}
	if r.store != nil {
		err = r.store.Keep(path, data)
	}
	return v, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// hold makes v, which is bad, count as the last good version of its file, if there is one.
func (r *reader) hold(path string, v *version, problems []manifest.Problem) (*version, error) {
	if r.store == nil {
		return v, nil
	}
	good, ok, err := r.store.Good(path)
	if err != nil || !ok {
		return v, err
	}
	for i := range problems {
		problems[i].Effect = ""
	}
	problems[0].Effect = "until this is fixed, the last good version of the file stays in force"
	v.data, v.problems, v.held, v.broken = good, problems, true, nil
	return v, nil
}

// check says what is wrong with a file by itself.
func check(path string, data []byte) []manifest.Problem {
	b := manifest.NewBundle()
	b.Decode(filepath.ToSlash(path), data)
	return b.Finish(manifest.Options{}).Problems
}

var errSame = errors.New("not changed")

// readFile returns what is in a file, or errSame if it looks as it did.
func readFile(path string, old *version, again bool) ([]byte, fingerprint, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fingerprint{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fingerprint{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, fingerprint{}, errors.New("no regular file")
	}
	stat := info.Sys().(*syscall.Stat_t)
	print := fingerprint{stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim}
	if old != nil && old.print == print && !again {
		return nil, print, errSame
	}
	// one byte more than a file may have, so that a larger one is noticed and not read to its end
	data, err := io.ReadAll(io.LimitReader(f, manifest.MaxFile+1))
	return data, print, err
}

func (r *reader) snapshot(changed []string, start time.Time) Snapshot {
	b := manifest.NewBundle()
	s := Snapshot{Changed: changed}
	for _, path := range r.tree.files {
		v := r.files[path]
		switch {
		case v.broken != nil:
			b.Report(unreadable(path, v.broken))
			continue
		case v.held:
			s.Held = append(s.Held, path)
		}
		for _, p := range v.problems {
			b.Report(p)
		}
		b.Decode(filepath.ToSlash(path), bytes.Clone(v.data))
	}
	slices.Sort(s.Held)
	s.Result = b.Finish(manifest.Options{})
	s.Read = time.Since(start)
	return s
}
