package enforcement

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/pager"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// Namespaces is where the API keeps NamespaceEnforcements.
var Namespaces = schema.GroupVersionResource{Group: "ringfence.dev", Version: "v1alpha1", Resource: "namespaceenforcements"}

// The conditions' types. On kinds of others a type needs a domain.
const (
	Condition     = "Enforced"
	WideCondition = "ringfence.dev/Enforced"
)

const (
	manager = "ringfence-controller"
	// every is how often it is looked at what follows from time alone, and least how long two evaluations are apart; a long one
	// makes that share times as long.
	every = time.Second
	least = 2 * time.Second
	share = 20
	// anew is how often it is read what the objects say, as others may have written them.
	anew = 10 * time.Minute
	// after is how long a write that failed waits.
	after = 30 * time.Second
)

// Keeper keeps the objects in step with what it is shown. Make one with New; it is for one process that leads.
type Keeper struct {
	client dynamic.Interface
	log    *slog.Logger

	mu    sync.Mutex
	view  *View // that is waiting
	next  time.Time
	ready bool // what the objects say is known

	// of the goroutine of Run
	objects map[object]*held
	budget  budget
	read    time.Time
	told    string
}

// New returns a keeper that does nothing until Run.
func New(client dynamic.Interface, log *slog.Logger) *Keeper {
	return &Keeper{client: client, log: log, objects: map[object]*held{}}
}

// Wants reports whether there is use in a new View now: making one costs, and only the newest counts.
func (k *Keeper) Wants(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ready && !now.Before(k.next)
}

// Look shows the keeper the newest View.
func (k *Keeper) Look(v View) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.view = &v
}

// Run writes what is due until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		k.step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// step does what is due.
func (k *Keeper) step(ctx context.Context, now time.Time) {
	if now.Sub(k.read) >= anew {
		if err := k.reread(ctx); err != nil {
			k.complain("what is said of policies being in force could not be read", err)
			return
		}
		k.read = now
	}
	k.evaluate(now)
	k.write(ctx, now)
}

func (k *Keeper) evaluate(now time.Time) {
	k.mu.Lock()
	v := k.view
	k.view, k.ready = nil, true
	k.mu.Unlock()
	if v == nil {
		return
	}
	begun := time.Now()
	wants := evaluate(*v)
	for o, h := range k.objects {
		if wants[o] == nil {
			h.is, h.gone = nil, true
			if !o.namespace || h.was == nil { // a policy that is gone took its status along
				delete(k.objects, o)
			}
		}
	}
	for o, w := range wants {
		h := k.objects[o]
		if h == nil {
			h = &held{}
			k.objects[o] = h
		}
		h.take(w, now)
	}
	k.mu.Lock()
	k.next = now.Add(max(least, share*time.Since(begun)))
	k.mu.Unlock()
}

// write writes the most urgent ones that there is room for.
func (k *Keeper) write(ctx context.Context, now time.Time) {
	type one struct {
		object
		*held
		urgency
	}
	var due []one
	for o, h := range k.objects {
		if u := h.due(now); u != notDue {
			due = append(due, one{o, h, u})
		}
	}
	slices.SortFunc(due, func(a, b one) int {
		return cmp.Or(cmp.Compare(b.urgency, a.urgency), a.writtenAt().Compare(b.writtenAt()), strings.Compare(a.name, b.name))
	})
	for _, d := range due[:min(len(due), k.budget.refill(now))] {
		if ctx.Err() != nil {
			return
		}
		k.budget.left--
		k.put(ctx, d.object, d.held, now)
	}
}

func (h *held) writtenAt() time.Time {
	if h.was == nil {
		return time.Time{}
	}
	return h.was.at
}

// put writes one object.
func (k *Keeper) put(ctx context.Context, o object, h *held, now time.Time) {
	var err error
	since := now
	switch {
	case h.gone:
		err = k.client.Resource(Namespaces).Delete(ctx, o.name, metav1.DeleteOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			delete(k.objects, o)
			return
		}
	default:
		since = h.since(now)
		err = k.apply(ctx, o, h.is, since, now)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		h.was = &written{version: h.is.version, enforced: h.is.enforced, text: h.is.text(), since: since, at: now}
		h.again, k.told = time.Time{}, ""
	default:
		h.again = now.Add(after/2 + rand.N(after))
		if !o.namespace && (apierrors.IsNotFound(err) || apierrors.IsConflict(err)) {
			return // it went meanwhile, and may be another one by now
		}
		k.complain("what is in force could not be written on "+o.String(), err)
	}
}

// complain says once what goes on.
func (k *Keeper) complain(what string, err error) {
	if k.told != err.Error() {
		k.log.Warn(what+"; it is tried again", "error", err)
	}
	k.told = err.Error()
}

// apply writes by server-side apply: one request, which leaves alone what others wrote.
func (k *Keeper) apply(ctx context.Context, o object, w *want, since, now time.Time) error {
	resource, patch := Namespaces, any(nil)
	var subresource []string
	if o.namespace {
		s := w.status
		s.Conditions, s.Updated = []metav1.Condition{w.condition(Condition, since)}, metav1.NewTime(now)
		patch = v1alpha1.NamespaceEnforcement{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: "NamespaceEnforcement"},
			ObjectMeta: metav1.ObjectMeta{Name: o.name}, Status: s}
	} else {
		resource, subresource = kube.ClusterPolicies, []string{"status"}
		patch = map[string]any{"apiVersion": resource.GroupVersion().String(), "kind": "ClusterNetworkPolicy",
			"metadata": map[string]any{"name": o.name, "uid": w.uid}, // of another one of that name it would not be true
			"status":   map[string]any{"conditions": []any{w.condition(WideCondition, since)}}}
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("write what is in force: %w", err)
	}
	force := true // nobody else may own what we say
	_, err = k.client.Resource(resource).Patch(ctx, o.name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: manager, Force: &force}, subresource...)
	return err
}

// reread reads what the objects say.
func (k *Keeper) reread(ctx context.Context) error {
	said := map[object]*written{}
	err := k.each(ctx, kube.ClusterPolicies, func(u *unstructured.Unstructured) {
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		if c := find(conditions, WideCondition); c != nil {
			said[object{false, u.GetName()}] = &written{version: fmt.Sprintf("%s %d", u.GetUID(), c.ObservedGeneration),
				enforced: c.Status == metav1.ConditionTrue, text: (&want{message: c.Message}).text(), since: c.LastTransitionTime.Time}
		}
	})
	if err != nil {
		return err
	}
	err = k.each(ctx, Namespaces, func(u *unstructured.Unstructured) {
		var n v1alpha1.NamespaceEnforcement
		w := &written{} // of one that cannot be read nothing is known
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &n); err == nil {
			conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
			if c := find(conditions, Condition); c != nil {
				w = &written{version: n.Status.Digest, enforced: c.Status == metav1.ConditionTrue, text: (&want{message: c.Message, status: n.Status}).text(),
					since: c.LastTransitionTime.Time}
			}
		}
		said[object{true, u.GetName()}] = w
	})
	if err != nil {
		return err
	}
	for o, h := range k.objects {
		if w := said[o]; w != nil && h.was != nil {
			w.at = h.was.at
		}
		h.was = said[o]
		delete(said, o)
	}
	for o, w := range said {
		k.objects[o] = &held{was: w}
	}
	return nil
}

// each calls f for all objects of a kind, of which there are none if the API does not know it.
func (k *Keeper) each(ctx context.Context, resource schema.GroupVersionResource, f func(*unstructured.Unstructured)) error {
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return k.client.Resource(resource).List(ctx, o)
	})
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		if u, ok := o.(*unstructured.Unstructured); ok {
			f(u)
		}
		return nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func find(conditions []any, kind string) *metav1.Condition {
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		var typed metav1.Condition
		if m["type"] == kind && runtime.DefaultUnstructuredConverter.FromUnstructured(m, &typed) == nil {
			return &typed
		}
	}
	return nil
}
