package generation_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

var ctx = context.Background()

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// policies is a set of policies that n tells from others.
func policies(n int) []*policy.Policy {
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: fmt.Sprintf("p%d", n), IsolatesIngress: true,
		Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}, File: "p.yaml", Line: 1})
	if err != nil {
		panic(err)
	}
	return []*policy.Policy{p}
}

func open(t *testing.T, limits generation.Limits) (*generation.Store, string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "generations")
	s, err := generation.Open(folder, limits)
	if err != nil {
		t.Fatal(err)
	}
	return s, folder
}

func put(t *testing.T, s *generation.Store, n, minute int) generation.Entry {
	t.Helper()
	e, err := s.Put(ctx, policies(n), start.Add(time.Duration(minute)*time.Minute), fmt.Sprintf("edit %d", minute))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func history(t *testing.T, s *generation.Store) generation.History {
	t.Helper()
	h, err := s.History(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLifeOfAGeneration(t *testing.T) {
	s, folder := open(t, generation.Limits{})
	if h := history(t, s); len(h) != 0 {
		t.Fatalf("a new store has %v", h)
	}
	first := put(t, s, 1, 0)
	if err := s.SetMark(ctx, first.Number, generation.Good, start, "seen"); err != nil {
		t.Fatal(err)
	}
	second := put(t, s, 2, 1)
	if again := put(t, s, 2, 2); !reflect.DeepEqual(again, second) {
		t.Errorf("the same policies once more are %+v", again)
	}
	if err := s.SetMark(ctx, second.Number, generation.Bad, start, "denied\n live traffic"); err != nil {
		t.Fatal(err)
	}
	back := put(t, s, 1, 3)
	if back.ID != first.ID || back.Parent != second.ID || back.Number != 3 {
		t.Errorf("the return is %+v", back)
	}

	other, err := generation.Open(folder, generation.Limits{}) // as another process does, or the next one
	if err != nil {
		t.Fatal(err)
	}
	h := history(t, other)
	if current, _ := h.Current(); len(h) != 3 || !reflect.DeepEqual(current, back) {
		t.Errorf("the history is %+v", h)
	}
	if good, ok := h.LastGood(); !ok || good.Number != first.Number {
		t.Errorf("the last good one is %+v", good)
	}
	if h[1].MarkWhy != "denied live traffic" {
		t.Errorf("the reason is %q", h[1].MarkWhy)
	}
	g, err := other.Get(ctx, first.ID)
	if err != nil || !reflect.DeepEqual(g.Policies, policies(1)) || g.Why != "edit 0" || !g.First.Equal(start) {
		t.Errorf("got %+v, %v", g, err)
	}
	if errs := other.Check(ctx); errs != nil {
		t.Errorf("nothing is wrong, but %v", errs)
	}
}

func TestFind(t *testing.T) {
	s, _ := open(t, generation.Limits{})
	a, b := put(t, s, 1, 0), put(t, s, 2, 1)
	if err := s.SetMark(ctx, a.Number, generation.Good, start, ""); err != nil {
		t.Fatal(err)
	}
	h := history(t, s)
	for ref, want := range map[string]generation.ID{"current": b.ID, "good": a.ID, "1": a.ID, "2": b.ID, string(a.ID): a.ID, string(b.ID[:6]): b.ID} {
		if e, err := h.Find(ref); err != nil || e.ID != want {
			t.Errorf("%s is %+v, %v", ref, e, err)
		}
	}
	for _, ref := range []string{"3", "zzzz", "../../etc/passwd", ""} {
		if e, err := h.Find(ref); err == nil {
			t.Errorf("%q is %+v", ref, e)
		}
	}
	for _, id := range []generation.ID{"", "../../etc/passwd", "00000000000000000000000000000000"} {
		if _, err := s.Get(ctx, id); !errors.Is(err, generation.ErrUnknown) {
			t.Errorf("get %q: %v", id, err)
		}
	}
	if err := s.SetMark(ctx, 77, generation.Good, start, ""); !errors.Is(err, generation.ErrUnknown) {
		t.Errorf("mark of an unknown entry: %v", err)
	}
}

// TestLimits: much comes and goes; what may be asked for is still there, and the folder stays small.
func TestLimits(t *testing.T) {
	s, folder := open(t, generation.Limits{Entries: 10, Generations: 4})
	good := put(t, s, 1000, 0)
	if err := s.SetMark(ctx, good.Number, generation.Good, start, ""); err != nil {
		t.Fatal(err)
	}
	pinned := put(t, s, 1001, 1)
	if err := s.Pin(ctx, "a rollout", pinned.ID); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		put(t, s, i%7, 2+i)
	}
	h := history(t, s)
	distinct := map[generation.ID]bool{}
	for _, e := range h {
		distinct[e.ID] = true
		if _, err := s.Get(ctx, e.ID); err != nil {
			t.Error(err)
		}
	}
	if len(distinct) > 4 || len(h) > 10 || !distinct[good.ID] || !distinct[pinned.ID] || h[len(h)-1].Number != 32 {
		t.Errorf("%d generations in %+v", len(distinct), h)
	}
	if files, _ := filepath.Glob(filepath.Join(folder, "*.policies")); len(files) != len(distinct) {
		t.Errorf("%d files for %d generations", len(files), len(distinct))
	}
	if err := s.Unpin(ctx, "a rollout"); err != nil {
		t.Fatal(err)
	}
	put(t, s, 50, 60)
	if _, err := s.Get(ctx, pinned.ID); !errors.Is(err, generation.ErrUnknown) {
		t.Errorf("it is pinned no more, and yet: %v", err)
	}
	small, _ := open(t, generation.Limits{Bytes: 1})
	put(t, small, 1, 0)
	put(t, small, 2, 1)
	if h := history(t, small); len(h) != 1 || small.Check(ctx) != nil {
		t.Errorf("a byte has room for %+v", h)
	}
}

// TestDamageIsNoticed changes and cuts every file at any place: what comes back is what was written, or an error.
func TestDamageIsNoticed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, folder := open(t, generation.Limits{})
		ids := []generation.ID{put(t, s, 1, 0).ID, put(t, s, 2, 1).ID, put(t, s, 1, 2).ID}
		want := history(t, s)
		name := rapid.SampledFrom([]string{"history", "history.old", string(ids[0]) + ".policies"}).Draw(rt, "file")
		path := filepath.Join(folder, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(data)-1).Draw(rt, "at")
		if rapid.Bool().Draw(rt, "cut") {
			data = data[:at]
		} else {
			data[at] ^= byte(rapid.IntRange(1, 255).Draw(rt, "bits"))
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			g, err := s.Get(ctx, id)
			if err == nil && !reflect.DeepEqual(g.Policies, policies(1+i%2)) {
				rt.Fatalf("%s holds %+v", id, g.Policies)
			}
		}
		h, err := s.History(ctx)
		switch {
		case err == nil && !reflect.DeepEqual(h, want):
			rt.Fatalf("the history became %+v", h)
		case err != nil && (!errors.Is(err, generation.ErrDamaged) || !reflect.DeepEqual(h, want[:2])):
			rt.Fatalf("%v, and the history before is %+v", err, h)
		}
		// Going on mends what is in use.
		if e, err := s.Put(ctx, policies(1), start, "again"); err != nil || e.ID != ids[0] {
			rt.Fatalf("put: %+v, %v", e, err)
		}
		if _, err := s.Get(ctx, ids[0]); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestHistoryIsMadeAgain(t *testing.T) {
	s, folder := open(t, generation.Limits{})
	a, b := put(t, s, 1, 0), put(t, s, 2, 1)
	for _, name := range []string{"history", "history.old"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("{}\nrubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := s.History(ctx)
	if !errors.Is(err, generation.ErrDamaged) || len(h) != 2 || h[0].ID != a.ID || h[1].ID != b.ID || h[1].Parent != a.ID {
		t.Fatalf("%v, %+v", err, h)
	}
	if _, ok := h.LastGood(); ok {
		t.Error("a generation is good that nobody called so")
	}
	if errs := s.Check(ctx); len(errs) == 0 {
		t.Error("the damage is not told")
	}
	put(t, s, 3, 2)
	if h := history(t, s); len(h) != 3 {
		t.Errorf("after the next one: %+v", h)
	}
}

// TestInterrupted: what a crash may leave behind is no harm.
func TestInterrupted(t *testing.T) {
	s, folder := open(t, generation.Limits{})
	a := put(t, s, 1, 0)
	b := put(t, s, 2, 1)
	if err := os.Rename(filepath.Join(folder, "history"), filepath.Join(folder, "history.old")); err != nil {
		t.Fatal(err) // between the two renames of a write
	}
	if err := os.WriteFile(filepath.Join(folder, "history.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h := history(t, s); len(h) != 2 || !reflect.DeepEqual(h[1], b) {
		t.Fatalf("the history is %+v", h)
	}
	if _, err := s.Get(ctx, a.ID); err != nil {
		t.Fatal(err)
	}
}

func TestOtherFormatsAreRefused(t *testing.T) {
	s, folder := open(t, generation.Limits{})
	e := put(t, s, 1, 0)
	path := filepath.Join(folder, string(e.ID)+".policies")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(strings.Replace(string(data), `"format":1`, `"format":2`, 1), "\n")
	text = fmt.Sprintf("%x\n%s", sha256.Sum256([]byte(text)), text)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, e.ID); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("got %v", err)
	}
}
