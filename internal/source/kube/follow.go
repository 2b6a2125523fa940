package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// kind is one kind of objects that is followed. As the store of a reflector it takes what the API says, and passes on
// what differs from before.
type kind struct {
	name     string // "pods"
	source   *Source
	listFunc func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	client   any
	trim     func(any) any
	// set takes over an object, and drop forgets one. Both are called by the reflector's goroutine only.
	set  func(any)
	drop func(key string)
	// optional: the kind may be unknown to the API, and then has no objects.
	optional bool
	// seen is told up to which resource version all is passed on; may be nil.
	seen func(version string)
	// kept reports whether an object that is deleted is to stay in force, and why; may be nil.
	kept func(ctx context.Context) string
	// comes waits until an optional kind may have become known to the API, or ctx ends; may be nil.
	comes func(ctx context.Context)
	// memory has what an earlier process knew last; may be nil.
	memory *memory

	have    map[string]bool // keys of the objects that were passed on
	ctx     context.Context
	current atomic.Bool // the first list has come
}

func (k *kind) isListed() bool { return k.current.Load() }

// follow lists and watches until ctx ends.
func (k *kind) follow(ctx context.Context) error {
	k.ctx, k.have = ctx, map[string]bool{}
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{ListWithContextFunc: k.tryList, WatchFuncWithContext: k.tryWatch}, k.client)
	reflector := cache.NewReflectorWithOptions(lw, nil, k, cache.ReflectorOptions{Name: k.name, TypeDescription: k.name})
	wait := k.source.options.Retry
	for {
		start := time.Now()
		err := reflector.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			k.failed(err)
		}
		if err == nil || time.Since(start) > time.Minute {
			wait = k.source.options.Retry
		}
		if k.comes != nil && apierrors.IsNotFound(err) {
			wait = k.source.options.Retry
			k.await(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait)): // a thousand nodes must not ask in step
		}
		wait = min(2*wait, 30*k.source.options.Retry)
	}
}

// await waits until an optional kind may be known, but not for longer than one waits between two attempts of others.
func (k *kind) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*k.source.options.Retry)
	defer cancel()
	k.comes(ctx)
}

func (k *kind) tryList(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list, err := k.listFunc(ctx, o)
	k.answered(err)
	return list, err
}

func (k *kind) tryWatch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := k.watch(ctx, o)
	k.answered(err)
	return w, err
}

// answered notes how a request went. A kind that the API does not know has no objects but those that an earlier process
// knew last, which is a list too: the first. Later it is none, and what was known stays.
func (k *kind) answered(err error) {
	if err != nil {
		k.failed(err)
		return
	}
	for _, c := range []string{Forbidden, Unreachable, NotInstalled, Uninstalled} {
		k.source.conditions.set(c, k.name, "")
	}
}

func (k *kind) failed(err error) {
	set := k.source.conditions.set
	switch {
	case errors.Is(err, context.Canceled):
	case k.optional && apierrors.IsNotFound(err):
		k.remember()
		if n := len(k.have); n > 0 {
			set(Uninstalled, k.name, fmt.Sprintf("the API does not know them any more: the %d known last stay in force", n))
		} else {
			set(NotInstalled, k.name, "the API does not know them: they take effect once their definition is installed")
		}
		set(Forbidden, k.name, "")
		set(Unreachable, k.name, "")
		k.first()
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		set(Forbidden, k.name, err.Error())
		set(Unreachable, k.name, "")
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err): // the reflector lists anew
	default:
		set(Unreachable, k.name, textOf(err))
	}
}

// textOf leaves out which request it was that failed: each has another timeout in its address, and would seem to be news.
func textOf(err error) string {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return err.Error()
}

// remember takes what an earlier process knew last, if nothing was listed yet.
func (k *kind) remember() {
	if k.isListed() {
		return
	}
	objects, err := k.memory.all()
	k.remembers(err)
	for key, o := range objects {
		k.have[key] = true
		k.set(k.trim(o))
	}
}

// remembers notes whether what is known is kept beyond this process.
func (k *kind) remembers(err error) {
	if k.memory == nil {
		return
	}
	message := ""
	if err != nil {
		message = "if the API should not know them any more when the agent starts anew, they would be lost: " + err.Error()
	}
	k.source.conditions.set(NotKept, k.name, message)
}

func (k *kind) first() {
	if k.current.CompareAndSwap(false, true) {
		k.source.listed()
	}
}

var _ cache.TransformingStore = (*kind)(nil)

// Transformer implements cache.TransformingStore: what is not needed is not even kept while a list is read.
func (k *kind) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return k.trim(o), nil }
}

// Add implements cache.ReflectorStore.
func (k *kind) Add(o any) error { return k.take(o) }

// Update implements cache.ReflectorStore.
func (k *kind) Update(o any) error { return k.take(o) }

func (k *kind) take(o any) error {
	key, err := keyOf(o)
	if err != nil {
		return err
	}
	k.have[key] = true
	k.set(k.trim(o))
	k.remembers(k.memory.keep(key, o))
	if m, err := meta.Accessor(o); err == nil {
		k.saw(m.GetResourceVersion())
	}
	return nil
}

func (k *kind) saw(version string) {
	if k.seen != nil {
		k.seen(version)
	}
}

// Delete implements cache.ReflectorStore.
func (k *kind) Delete(o any) error {
	key, err := keyOf(o)
	if err != nil {
		return err
	}
	if k.kept != nil {
		if why := k.kept(k.ctx); why != "" {
			k.source.conditions.set(Uninstalled, k.name, why)
			return nil
		}
	}
	k.forget(key)
	return nil
}

func (k *kind) forget(key string) {
	delete(k.have, key)
	k.drop(key)
	k.remembers(k.memory.drop(key))
}

// Replace implements cache.ReflectorStore.
func (k *kind) Replace(list []any, version string) error {
	gone := k.have
	k.have = make(map[string]bool, len(list))
	var lost error
	for _, o := range list {
		key, err := keyOf(o)
		if err != nil {
			return err
		}
		delete(gone, key)
		k.have[key] = true
		k.set(k.trim(o))
		lost = errors.Join(lost, k.memory.keep(key, o))
	}
	for key := range gone {
		k.drop(key)
	}
	k.remembers(errors.Join(lost, k.memory.only(k.have)))
	k.saw(version) // and not those of the objects, which come in any order
	k.answered(nil)
	k.first()
	return nil
}

// Resync implements cache.ReflectorStore.
func (k *kind) Resync() error { return nil }

func keyOf(o any) (string, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return "", fmt.Errorf("an object without metadata: %w", err)
	}
	if m.GetNamespace() == "" {
		return m.GetName(), nil
	}
	return m.GetNamespace() + "/" + m.GetName(), nil
}
