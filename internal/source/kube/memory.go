package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// memory keeps, in a folder, the objects of a kind that were there last: one file each, so that a change writes one. It is
// for a process that starts while the API does not know the kind any more, and would otherwise take what was in force
// for something that nobody wants. A nil memory keeps nothing. Only the goroutine of its kind uses it.
type memory struct {
	dir     string
	written map[string]string // resource versions, by key
}

const memorySuffix = ".json"

// newMemory keeps a kind in a folder of its own below dir; "" is none, and gives nil.
func newMemory(dir, kind string) *memory {
	if dir == "" {
		return nil
	}
	return &memory{dir: filepath.Join(dir, kind), written: map[string]string{}}
}

// path escapes what no file name can hold; names of objects hold none of it.
func (m *memory) path(key string) string {
	return filepath.Join(m.dir, url.PathEscape(key)+memorySuffix)
}

// keep writes an object down.
func (m *memory) keep(key string, o any) error {
	u, ok := o.(*unstructured.Unstructured)
	if m == nil || !ok || u.GetResourceVersion() != "" && m.written[key] == u.GetResourceVersion() {
		return nil
	}
	data, err := json.Marshal(u.Object)
	if err == nil {
		err = os.MkdirAll(m.dir, 0o700)
	}
	if err == nil {
		err = wholefile.Write(m.path(key), data)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	m.written[key] = u.GetResourceVersion()
	return nil
}

// drop forgets an object, if it is known.
func (m *memory) drop(key string) error {
	if m == nil {
		return nil
	}
	delete(m.written, key)
	if err := os.Remove(m.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", key, err)
	}
	return nil
}

// only forgets all objects but those of some keys.
func (m *memory) only(keys map[string]bool) error {
	known, err := m.keys()
	for _, key := range known {
		if !keys[key] {
			err = errors.Join(err, m.drop(key))
		}
	}
	return err
}

func (m *memory) keys() ([]string, error) {
	if m == nil {
		return nil, nil
	}
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var keys []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), memorySuffix)
		if key, err := url.PathUnescape(name); ok && err == nil {
			keys = append(keys, key)
		}
	}
	return keys, err
}

// all returns what is kept, by key. What cannot be read is there by its name alone, as an object that nobody can use: it
// was something.
func (m *memory) all() (map[string]any, error) {
	keys, err := m.keys()
	if err != nil {
		return nil, fmt.Errorf("read the objects known last: %w", err)
	}
	objects := map[string]any{}
	for _, key := range keys {
		u := &unstructured.Unstructured{}
		data, err := os.ReadFile(m.path(key))
		if err == nil {
			err = json.Unmarshal(data, &u.Object)
		}
		if err != nil || u.GetName() != key {
			u.Object = map[string]any{"spec": "unreadable"}
			u.SetName(key)
		}
		objects[key] = u
	}
	return objects, nil
}
