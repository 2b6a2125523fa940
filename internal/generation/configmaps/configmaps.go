// Package configmaps keeps generations in ConfigMaps of one namespace, for a cluster: one holds the history, and each
// generation has its own, or several where it is large.
//
// Everything is compressed. The history is written over the resource version that was read, so that of two who write at a
// time one is refused, looks again, and goes on from what the other wrote. What a generation holds follows from its name, so
// that two who write the same one write the same.
package configmaps

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/ringfence-project/ringfence/internal/generation"
)

// LedgerName is the name of the ConfigMap with the history. RBAC names it too.
const LedgerName = "ringfence-generations"

const (
	prefix     = "ringfence-generation-" // of the names of generations; the ID follows
	idLabel    = "ringfence.dev/generation"
	annotation = "ringfence.dev/parts" // of the first part: how many there are
	newestKey  = "history"
	olderKey   = "history.old"
	policyKey  = "policies"
)

const (
	// partSize is how many bytes one ConfigMap holds at most; the API takes a MiB, with all that is around.
	partSize = 900_000
	// MaxParts is how many ConfigMaps one generation has at most.
	MaxParts = 8
	// maxText is how much is read of what says that it is more than that uncompressed.
	maxText = 256 << 20
	// listed is how many ConfigMaps are asked for at a time.
	listed = 10
)

// Limits are what a cluster keeps: it is its etcd.
var Limits = generation.Limits{Entries: 200, Generations: 50, Bytes: 16 << 20}

// Open returns the store in a namespace. Nothing is asked yet. What it knows of how much is kept is what it found once and
// wrote since, so that whoever writes for long and alone asks little.
func Open(client kubernetes.Interface, namespace string) *generation.Store {
	return generation.New(&place{api: client.CoreV1().ConfigMaps(namespace), namespace: namespace}, Limits)
}

type place struct {
	api       typed.ConfigMapInterface
	namespace string

	mu   sync.Mutex
	kept map[generation.ID]generation.Kept // nil if it has to be found out
}

// Where names a ConfigMap.
func (p *place) Where(id generation.ID) string {
	if id == "" {
		return fmt.Sprintf("ConfigMap %s/%s", p.namespace, LedgerName)
	}
	return fmt.Sprintf("ConfigMap %s/%s", p.namespace, nameOf(id, 0))
}

func nameOf(id generation.ID, part int) string {
	if part == 0 {
		return prefix + string(id)
	}
	return fmt.Sprintf("%s%s-%d", prefix, id, part)
}

// Ledger reads the history.
func (p *place) Ledger(ctx context.Context) (generation.Ledger, error) {
	m, err := p.api.Get(ctx, LedgerName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return generation.Ledger{}, nil
	}
	if err != nil {
		return generation.Ledger{}, fmt.Errorf("%s: %w", p.Where(""), err)
	}
	l := generation.Ledger{Version: m.ResourceVersion, Newest: []byte{}} // which is damaged, if it is not there
	if data, ok := m.BinaryData[newestKey]; ok {
		l.Newest = unzip(data)
	}
	if data, ok := m.BinaryData[olderKey]; ok {
		l.Older = unzip(data)
	}
	return l, nil
}

// WriteLedger writes the history, if it is what was read.
func (p *place) WriteLedger(ctx context.Context, l generation.Ledger) error {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: LedgerName, Namespace: p.namespace, ResourceVersion: l.Version, Labels: ours()},
		BinaryData: map[string][]byte{newestKey: zip(l.Newest)}}
	if l.Older != nil {
		m.BinaryData[olderKey] = zip(l.Older)
	}
	var err error
	if l.Version == "" {
		_, err = p.api.Create(ctx, m, metav1.CreateOptions{})
	} else {
		_, err = p.api.Update(ctx, m, metav1.UpdateOptions{})
	}
	if err != nil {
		p.forget() // somebody else may have written more than this
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || l.Version != "" && apierrors.IsNotFound(err) {
		return fmt.Errorf("%s: %w", p.Where(""), generation.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.Where(""), err)
	}
	return nil
}

// Read reads all parts of a generation.
func (p *place) Read(ctx context.Context, id generation.ID) ([]byte, error) {
	var all []byte
	parts := 1
	for i := 0; i < parts; i++ {
		m, err := p.api.Get(ctx, nameOf(id, i), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			if i > 0 {
				return all, nil // cut off
			}
			return nil, generation.ErrUnknown
		}
		if err != nil {
			return nil, fmt.Errorf("ConfigMap %s/%s: %w", p.namespace, nameOf(id, i), err)
		}
		if i == 0 {
			parts = partsOf(m)
		}
		all = append(all, m.BinaryData[policyKey]...)
	}
	return unzip(all), nil
}

func partsOf(m *corev1.ConfigMap) int {
	n, err := strconv.Atoi(m.Annotations[annotation])
	if err != nil {
		return 1
	}
	return min(max(n, 1), MaxParts)
}

// Write writes the parts of a generation, the first one last: before that it is not there.
func (p *place) Write(ctx context.Context, id generation.ID, text []byte) error {
	data := zip(text)
	parts := (len(data) + partSize - 1) / partSize
	if parts > MaxParts {
		return fmt.Errorf("%d bytes, compressed, are more than %d: %w", len(data), MaxParts*partSize, generation.ErrTooLarge)
	}
	for i := parts - 1; i >= 0; i-- {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: nameOf(id, i), Namespace: p.namespace, Labels: ours()},
			BinaryData: map[string][]byte{policyKey: data[i*partSize : min((i+1)*partSize, len(data))]}}
		m.Labels[idLabel] = string(id)
		if i == 0 {
			m.Annotations = map[string]string{annotation: strconv.Itoa(parts)}
		}
		if err := p.put(ctx, m); err != nil {
			return fmt.Errorf("ConfigMap %s/%s: %w", p.namespace, m.Name, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept != nil {
		p.kept[id] = generation.Kept{Size: int64(len(data))} // of long ago: who wrote it is this one, and will name it now or never
	}
	return nil
}

// put makes a ConfigMap that is as it should be. Another one in its place goes: it is not what was written there.
func (p *place) put(ctx context.Context, m *corev1.ConfigMap) error {
	_, err := p.api.Create(ctx, m, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	there, err := p.api.Get(ctx, m.Name, metav1.GetOptions{})
	if err == nil && bytes.Equal(there.BinaryData[policyKey], m.BinaryData[policyKey]) && there.Annotations[annotation] == m.Annotations[annotation] {
		return nil
	}
	if err := p.api.Delete(ctx, m.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	_, err = p.api.Create(ctx, m, metav1.CreateOptions{})
	return err
}

// Remove removes the parts of a generation, the first one first.
func (p *place) Remove(ctx context.Context, id generation.ID) error {
	for i := range MaxParts {
		err := p.api.Delete(ctx, nameOf(id, i), metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) && i > 0 {
			break
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("ConfigMap %s/%s: %w", p.namespace, nameOf(id, i), err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.kept, id)
	return nil
}

// Kept is what is kept, by what was found once and written since.
func (p *place) Kept(ctx context.Context) (map[generation.ID]generation.Kept, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept != nil {
		return maps.Clone(p.kept), nil
	}
	kept := map[generation.ID]generation.Kept{}
	o := metav1.ListOptions{LabelSelector: idLabel, Limit: listed}
	for {
		list, err := p.api.List(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("list ConfigMaps of namespace %s: %w", p.namespace, err)
		}
		for _, m := range list.Items {
			id := generation.ID(m.Labels[idLabel])
			k := kept[id]
			k.Size += int64(len(m.BinaryData[policyKey]))
			if at := m.CreationTimestamp.Time; at.After(k.Since) {
				k.Since = at
			}
			kept[id] = k
		}
		if o.Continue = list.Continue; o.Continue == "" {
			break
		}
	}
	p.kept = kept
	return maps.Clone(kept), nil
}

func (p *place) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = nil
}

func ours() map[string]string {
	return map[string]string{"app.kubernetes.io/part-of": "ringfence", "app.kubernetes.io/managed-by": "ringfence-controller"}
}

// zip compresses; what it makes follows from the text alone.
func zip(text []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(text) // to memory, which takes all
	_ = w.Close()
	return b.Bytes()
}

// unzip is the way back. What is no such thing is returned as it is: it has no sum, and so is damaged.
func unzip(data []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return data
	}
	text, err := io.ReadAll(io.LimitReader(r, maxText))
	if err != nil {
		return data
	}
	return text
}
