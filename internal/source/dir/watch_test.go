//go:build linux

package dir_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// watched is a folder that is watched.
type watched struct {
	t         *testing.T
	folder    string
	store     string
	snapshots chan dir.Snapshot
	errs      chan error
	end       func()
}

func watch(t *testing.T, folder, store string) *watched {
	t.Helper()
	s, err := dir.OpenStore(store)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w := &watched{t: t, folder: folder, store: store, snapshots: make(chan dir.Snapshot, 10_000), errs: make(chan error, 100)}
	go func() {
		done <- dir.Watch(ctx, []string{folder}, s, func(s dir.Snapshot, err error) {
			if err != nil {
				w.errs <- err
			} else {
				w.snapshots <- s
			}
		})
	}()
	ended := false
	w.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(w.end)
	return w
}

func (w *watched) next() dir.Snapshot {
	w.t.Helper()
	select {
	case s := <-w.snapshots:
		return s
	case err := <-w.errs:
		w.t.Fatal(err)
	case <-time.After(10 * time.Second):
		w.t.Fatal("nothing was noticed")
	}
	return dir.Snapshot{}
}

// until returns the first snapshot from now on that says what is wanted.
func (w *watched) until(want string) dir.Snapshot {
	w.t.Helper()
	for {
		if s := w.next(); said(s) == want {
			return s
		}
	}
}

// said is what a snapshot says: the names of namespaces with their label v, and problems.
func said(s dir.Snapshot) string {
	var all []string
	for _, n := range s.Objects.Namespaces {
		v, _ := n.Labels.Get("v")
		all = append(all, n.Name+"="+v)
	}
	slices.Sort(all)
	for _, p := range s.Problems {
		all = append(all, "problem:"+filepath.Base(p.File))
	}
	return strings.Join(all, " ")
}

func namespace(name, v string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {v: %q}}\n", name, v)
}

func (w *watched) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestWatchFollows(t *testing.T) {
	w := watch(t, t.TempDir(), t.TempDir())
	w.until("")
	w.write("a.yaml", namespace("a", "1"))
	s := w.until("a=1")
	if want := []string{filepath.Join(w.folder, "a.yaml")}; !cmp.Equal(s.Changed, want) {
		t.Errorf("changed %v, want %v", s.Changed, want)
	}
	w.write("a.yaml", namespace("a", "2"))
	w.until("a=2")
	w.write("deep/er/b.yaml", namespace("b", "1"))
	w.until("a=2 b=1")
	w.write("deep/er/b.yaml", namespace("b", "2"))
	w.until("a=2 b=2")
	// as editors do: another file takes the name
	w.write("a.yaml.swp", namespace("a", "3"))
	w.must(os.Rename(filepath.Join(w.folder, "a.yaml.swp"), filepath.Join(w.folder, "a.yaml")))
	w.until("a=3 b=2")
	w.must(os.Rename(filepath.Join(w.folder, "deep"), filepath.Join(w.folder, "other")))
	w.until("a=3 b=2")
	w.write("other/er/b.yaml", namespace("b", "3"))
	w.until("a=3 b=3")
	w.must(os.RemoveAll(filepath.Join(w.folder, "other")))
	w.until("a=3")
	w.must(os.Remove(filepath.Join(w.folder, "a.yaml")))
	w.until("")
}

// TestHalfAFileIsNoFile writes slowly: the first half of the file is a valid manifest too.
func TestHalfAFileIsNoFile(t *testing.T) {
	w := watch(t, t.TempDir(), t.TempDir())
	w.until("")
	w.write("a.yaml", namespace("a", "1")+"---\n"+namespace("b", "1"))
	w.until("a=1 b=1")
	f, err := os.Create(filepath.Join(w.folder, "a.yaml"))
	w.must(err)
	for _, part := range []string{namespace("a", "2"), "---\n", namespace("b", "2")} {
		_, err := f.WriteString(part)
		w.must(err)
		time.Sleep(300 * time.Millisecond) // longer than changes are gathered
	}
	w.must(f.Close())
	if s := w.next(); said(s) != "a=2 b=2" {
		t.Errorf("the first that was seen is %q", said(s))
	}
}

func TestLastGoodVersion(t *testing.T) {
	folder, store := t.TempDir(), t.TempDir()
	w := watch(t, folder, store)
	w.until("")
	w.write("a.yaml", namespace("a", "1"))
	w.write("b.yaml", namespace("b", "1"))
	w.until("a=1 b=1")
	w.write("a.yaml", "kind: Namespace\napiVersion: v1\nmetadata: {name: [}\n")
	s := w.until("a=1 b=1 problem:a.yaml")
	if want := []string{filepath.Join(folder, "a.yaml")}; !cmp.Equal(s.Held, want) {
		t.Errorf("held %v, want %v", s.Held, want)
	}
	if p := s.Problems[0]; p.Line == 0 || !strings.Contains(p.Effect, "last good version") {
		t.Errorf("the problem is %q", p.Text())
	}
	w.write("b.yaml", namespace("b", "2")) // others go on
	w.until("a=1 b=2 problem:a.yaml")
	w.end()

	w = watch(t, folder, store) // the next process knows it too
	w.until("a=1 b=2 problem:a.yaml")
	w.must(os.Remove(filepath.Join(folder, "a.yaml")))
	w.until("b=2")
	w.write("a.yaml", "kind: Namespace\napiVersion: v1\nmetadata: {name: [}\n") // what was removed has no good version
	w.until("b=2 problem:a.yaml")
	w.write("a.yaml", namespace("a", "3"))
	w.until("a=3 b=2")
}

// TestNothingIsLostWithTheFolder: that all manifests are gone at once is no wish to have no policies.
func TestNothingIsLostWithTheFolder(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "manifests")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	w := watch(t, folder, t.TempDir())
	w.until("")
	w.write("a.yaml", namespace("a", "1"))
	w.until("a=1")
	w.must(os.Rename(folder, folder+".away"))
	select {
	case err := <-w.errs:
		if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	case s := <-w.snapshots:
		t.Errorf("it says %q", said(s))
	case <-time.After(10 * time.Second):
		t.Error("nobody noticed")
	}
	w.must(os.Rename(folder+".away", folder))
	w.until("a=1")
}

// TestManyChanges makes changes in random order, and compares with reading the result once.
func TestManyChanges(t *testing.T) {
	folder := t.TempDir()
	w := watch(t, folder, t.TempDir())
	w.until("")
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		name := fmt.Sprintf("f%d", r.IntN(30))
		file := filepath.Join(folder, name+".yaml")
		switch r.IntN(6) {
		case 0:
			_ = os.Remove(file) // it may not be there
		case 1:
			w.write(name+".new", namespace(name, fmt.Sprint(i)))
			w.must(os.Rename(filepath.Join(folder, name+".new"), file))
		default:
			w.write(name+".yaml", namespace(name, fmt.Sprint(i)))
		}
		if i%100 == 0 {
			time.Sleep(30 * time.Millisecond)
		}
	}
	b, err := dir.Load([]string{folder}, nil)
	w.must(err)
	want := said(dir.Snapshot{Result: b.Finish(manifest.Options{})})
	w.until(want)
	time.Sleep(100 * time.Millisecond)
	for len(w.snapshots) > 0 {
		if got := said(<-w.snapshots); got != want {
			t.Errorf("it ends as %q, want %q", got, want)
		}
	}
}

// TestMountedConfigMap changes files as the kubelet does: links lead through another link, which is replaced.
func TestMountedConfigMap(t *testing.T) {
	w := watch(t, t.TempDir(), t.TempDir())
	w.until("")
	point := func(to string) {
		w.must(os.Symlink(to, filepath.Join(w.folder, "..data_tmp")))
		w.must(os.Rename(filepath.Join(w.folder, "..data_tmp"), filepath.Join(w.folder, "..data")))
	}
	w.write("..one/a.yaml", namespace("a", "1"))
	point("..one")
	w.must(os.Symlink("..data/a.yaml", filepath.Join(w.folder, "a.yaml")))
	w.until("a=1")
	w.write("..two/a.yaml", namespace("a", "2"))
	point("..two")
	w.until("a=2")
}
