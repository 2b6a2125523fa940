package configmaps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/generation/mapstest"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

const namespace = "fence"

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newClient() *fake.Clientset { return mapstest.Versioned(fake.NewClientset()) }

// policies is a set of policies that n tells from others.
func policies(t *testing.T, n int) []*policy.Policy {
	t.Helper()
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: fmt.Sprintf("p%d", n), IsolatesIngress: true,
		Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}})
	if err != nil {
		t.Fatal(err)
	}
	return []*policy.Policy{p}
}

func put(t *testing.T, s *generation.Store, n int) generation.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), policies(t, n), start, fmt.Sprintf("edit %d", n))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func history(t *testing.T, s *generation.Store) generation.History {
	t.Helper()
	h, err := s.History(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func names(t *testing.T, client kubernetes.Interface) []string {
	t.Helper()
	list, err := client.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range list.Items {
		all = append(all, m.Name)
	}
	return all
}

// What one process wrote another reads, and goes on from.
func TestAnotherGoesOn(t *testing.T) {
	client := newClient()
	s := Open(client, namespace)
	if h := history(t, s); len(h) != 0 {
		t.Fatalf("there is %+v", h)
	}
	a := put(t, s, 1)
	if err := s.SetMark(t.Context(), a.Number, generation.Good, start, "seen"); err != nil {
		t.Fatal(err)
	}
	other := Open(client, namespace)
	b := put(t, other, 2)
	if c := put(t, s, 1); b.Number != 2 || c.Number != 3 || c.Parent != b.ID {
		t.Errorf("entries are %+v and %+v", b, c)
	}
	if again := put(t, other, 1); again.Number != 3 {
		t.Errorf("the same once more is %+v", again)
	}
	g, err := other.Get(t.Context(), a.ID)
	if err != nil || !reflect.DeepEqual(g.Policies, policies(t, 1)) {
		t.Errorf("got %+v, %v", g, err)
	}
	if good, ok := history(t, other).LastGood(); !ok || good.Number != 1 {
		t.Errorf("the last good one is %+v", good)
	}
	if errs := s.Check(t.Context()); errs != nil {
		t.Errorf("nothing is wrong, but %v", errs)
	}
	want := []string{prefix + string(a.ID), prefix + string(b.ID), LedgerName}
	if got := names(t, client); !reflect.DeepEqual(got, want) && !reflect.DeepEqual(got, []string{want[1], want[0], want[2]}) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

// Two that write at a time do no harm: each entry has a number of its own, and what is in the history is there.
func TestTwoWriters(t *testing.T) {
	client := newClient()
	var all sync.WaitGroup
	const each = 8
	for w := range 2 {
		all.Go(func() {
			s := Open(client, namespace)
			for i := range each {
				for { // as a controller does
					_, err := s.Put(t.Context(), policies(t, 100*w+i), start, "")
					if err == nil {
						break
					}
					if !errors.Is(err, generation.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	s := Open(client, namespace)
	h := history(t, s)
	for i, e := range h {
		if e.Number != uint64(i+1) || i > 0 && e.Parent != h[i-1].ID {
			t.Errorf("entry %d is %+v", i, e)
		}
	}
	if len(h) != 2*each {
		t.Errorf("there are %d entries", len(h))
	}
	if errs := s.Check(t.Context()); errs != nil {
		t.Error(errs)
	}
}

// Whoever is overtaken all the time gives up with an error, and has changed nothing.
func TestOvertaken(t *testing.T) {
	client := newClient()
	put(t, Open(client, namespace), 1)
	client.PrependReactor("update", "configmaps", func(a k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, LedgerName, errors.New("it is newer"))
	})
	s := Open(client, namespace)
	if _, err := s.Put(t.Context(), policies(t, 2), start, ""); !errors.Is(err, generation.ErrConflict) {
		t.Errorf("it ended with %v", err)
	}
	if h := history(t, s); len(h) != 1 {
		t.Errorf("the history is %+v", h)
	}
}

// noise is what cannot be compressed.
func noise(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// A large generation is several ConfigMaps, and half of them are none.
func TestParts(t *testing.T) {
	client := newClient()
	p := &place{api: client.CoreV1().ConfigMaps(namespace), namespace: namespace}
	id := generation.Of(nil)
	text := noise(2*partSize + 1000)
	for range 2 { // the second time they are there
		if err := p.Write(t.Context(), id, text); err != nil {
			t.Fatal(err)
		}
	}
	got, err := p.Read(t.Context(), id)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	if kept, err := p.Kept(t.Context()); err != nil || kept[id].Size < int64(len(text)) || len(kept) != 1 {
		t.Errorf("kept is %+v, %v", kept, err)
	}
	if got := names(t, client); len(got) != 3 {
		t.Errorf("there are %v", got)
	}
	if err := client.CoreV1().ConfigMaps(namespace).Delete(t.Context(), nameOf(id, 2), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Read(t.Context(), id); err == nil && bytes.Equal(got, text) {
		t.Error("it is whole without its last part")
	}
	if err := p.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(t.Context(), id); !errors.Is(err, generation.ErrUnknown) {
		t.Errorf("after it was removed: %v", err)
	}
	if err := p.Write(t.Context(), id, noise(MaxParts*partSize+1)); !errors.Is(err, generation.ErrTooLarge) {
		t.Errorf("a larger one: %v", err)
	}
	if got := names(t, client); len(got) != 0 {
		t.Errorf("it left %v", got)
	}
}

// What somebody changed is noticed, and mended by who goes on.
func TestDamage(t *testing.T) {
	client := newClient()
	s := Open(client, namespace)
	a, b := put(t, s, 1), put(t, s, 2)
	edit := func(name, key string, data []byte) {
		t.Helper()
		maps := client.CoreV1().ConfigMaps(namespace)
		m, err := maps.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if m.BinaryData[key] = data; data == nil {
			delete(m.BinaryData, key)
		}
		if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	edit(nameOf(b.ID, 0), policyKey, zip([]byte("rubbish")))
	if _, err := s.Get(t.Context(), b.ID); !errors.Is(err, generation.ErrDamaged) || !strings.Contains(err.Error(), "ConfigMap fence/"+nameOf(b.ID, 0)) {
		t.Errorf("a generation: %v", err)
	}
	put(t, s, 2)
	if _, err := s.Get(t.Context(), b.ID); err != nil {
		t.Errorf("it is not mended: %v", err)
	}
	edit(LedgerName, newestKey, []byte{31})
	if h, err := s.History(t.Context()); !errors.Is(err, generation.ErrDamaged) || len(h) != 1 {
		t.Errorf("the history before is %+v, %v", h, err)
	}
	edit(LedgerName, newestKey, nil)
	edit(LedgerName, olderKey, []byte{})
	h, err := s.History(t.Context())
	if !errors.Is(err, generation.ErrDamaged) || len(h) != 2 || h[0].ID != a.ID && h[0].ID != b.ID {
		t.Errorf("made again it is %+v, %v", h, err)
	}
	put(t, s, 3)
	if h := history(t, s); len(h) != 3 {
		t.Errorf("after the next one: %+v", h)
	}
}

// What is kept stays small, and what may be asked for is there.
func TestBounds(t *testing.T) {
	client := newClient()
	s := generation.New(&place{api: client.CoreV1().ConfigMaps(namespace), namespace: namespace}, generation.Limits{Entries: 6, Generations: 3})
	good := put(t, s, 1000)
	if err := s.SetMark(t.Context(), good.Number, generation.Good, start, ""); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		put(t, s, i)
	}
	if got := names(t, client); len(got) != 4 {
		t.Errorf("there are %v", got)
	}
	if h := history(t, s); len(h) > 6 || h[len(h)-1].Number != 13 {
		t.Errorf("the history is %+v", h)
	}
	if errs := s.Check(t.Context()); errs != nil {
		t.Error(errs)
	}
}

// tight has no room for anything.
type tight struct{ *place }

func (t tight) Write(ctx context.Context, id generation.ID, _ []byte) error {
	return t.place.Write(ctx, id, noise(MaxParts*partSize+1))
}

// One that there is no room for is in the history, which says so.
func TestTooLarge(t *testing.T) {
	client := newClient()
	s := generation.New(tight{&place{api: client.CoreV1().ConfigMaps(namespace), namespace: namespace}}, Limits)
	for range 2 {
		if e := put(t, s, 1); e.Number != 1 || !strings.Contains(e.NotKept, "too large") {
			t.Errorf("the entry is %+v", e)
		}
	}
	if h := history(t, s); len(h) != 1 || h[0].NotKept == "" {
		t.Errorf("the history is %+v", h)
	}
	if _, err := s.Get(t.Context(), generation.Of(policies(t, 1))); !errors.Is(err, generation.ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if errs := s.Check(t.Context()); errs != nil {
		t.Errorf("nothing is wrong, but %v", errs)
	}
}
