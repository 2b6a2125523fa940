package up

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/runtime"
)

func isolate(t *testing.T, name string) []*policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: name, IsolatesIngress: true,
		Subject: policy.Pods{Namespaces: label.MustParse("kubernetes.io/metadata.name=shop"), Pods: label.Everything()}})
	if err != nil {
		t.Fatal(err)
	}
	return []*policy.Policy{p}
}

func TestMarksOfGenerations(t *testing.T) {
	i := runtime.Instance{Name: "test", State: t.TempDir()}
	var said []string
	open := func() *generations {
		g, err := openGenerations(i, func(format string, args ...any) { said = append(said, format) })
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := open()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	want := func(texts ...string) {
		t.Helper()
		h, err := g.store.History(t.Context())
		if err != nil || len(h) != len(texts) {
			t.Fatalf("%d entries, want %d: %v", len(h), len(texts), err)
		}
		for i, e := range h {
			if got := strings.TrimSpace(e.Why + " " + string(e.Mark)); got != texts[i] {
				t.Errorf("entry %d is %q, want %q", e.Number, got, texts[i])
			}
		}
	}
	g.enforced(nil, isolate(t, "a"), nil)
	g.note("a.yaml", now)
	g.prove(now.Add(generation.GoodAfter - 1))
	want("a.yaml")
	g.prove(now.Add(generation.GoodAfter))
	want("a.yaml good")

	g.enforced(nil, isolate(t, "b"), []string{"change"})
	g.note("", now)
	want("a.yaml good", "rollout change complete good")
	g.enforced(nil, isolate(t, "c"), nil)
	g.note("c.yaml", now)
	want("a.yaml good", "rollout change complete good", "rollout change no more in force; c.yaml")

	g = open() // another process, which has not seen it for long
	g.enforced(nil, isolate(t, "c"), nil)
	g.note("3 files", now.Add(generation.GoodAfter))
	g.prove(now.Add(generation.GoodAfter + time.Second))
	want("a.yaml good", "rollout change complete good", "rollout change no more in force; c.yaml")
	if h, err := g.store.History(t.Context()); err != nil || h[2].Mark != generation.Unproven {
		t.Errorf("marked %q, %v", h[2].Mark, err)
	}
	if len(said) > 0 {
		t.Errorf("said %q", said)
	}
}

// What was returned to and cannot be read must not have other policies come in force.
func TestDamagedReturn(t *testing.T) {
	i := runtime.Instance{Name: "test", State: t.TempDir()}
	for what, text := range map[string]string{"no JSON": "{", "not kept": `{"number": 1, "id": "00112233445566778899aabbccddeeff"}`} {
		if err := os.WriteFile(filepath.Join(i.State, "returned.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openGenerations(i, nil); err == nil || !strings.Contains(err.Error(), "the files rule") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWaitForReturn: what a person returned to is in force once a state that was made with it is, and no sooner.
func TestWaitForReturn(t *testing.T) {
	g := &generations{changed: make(chan struct{})}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	files, err := cluster.NewState(cluster.Objects{})
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, to *generation.Return, is bool) {
		t.Helper()
		if got := g.wait(now, to); got != is {
			t.Errorf("%s: in force %t, want %t", what, got, is)
		}
	}
	rewrite := func() *cluster.State {
		t.Helper()
		s, err := g.rewrite(files)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	rewrite()
	g.enforced(files, nil, nil)
	want("the files", nil, true)
	to := &generation.Return{Number: 1}
	g.to = to
	want("before it is made", to, false)
	s := rewrite()
	want("before it is in force", to, false)
	g.enforced(files, nil, nil) // what was on its way before
	want("by another state", to, false)
	waited := make(chan bool)
	go func() { waited <- g.wait(t.Context(), to) }()
	g.enforced(s, nil, nil)
	want("at last", to, true)
	if !<-waited {
		t.Error("who waited was not told")
	}
	g.to = nil
	want("the files, before they are in force", nil, false)
	rewrite()
	g.enforced(files, nil, nil)
	want("the files again", nil, true)
}
