// Package label is the algebra of labels: a Set is what an object carries, a Selector is what a policy asks for.
//
// Both are immutable values with one canonical text. Matching follows the Kubernetes API: the rules of
// metav1.LabelSelector (matchLabels and matchExpressions) and the syntax of keys and values of the
// "Labels and Selectors" chapter of the Kubernetes documentation.
package label

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Set is an immutable set of labels, in canonical form: comparable with ==, usable as a map key.
// The zero value is the empty set.
type Set struct {
	text string // "a=1,b=2", sorted by key; keys and values can hold neither '=' nor ','
}

// NewSet makes a Set. The error names the first key or value, in key order, that the Kubernetes API would refuse.
func NewSet(labels map[string]string) (Set, error) {
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, k := range keys {
		if err := CheckKey(k); err != nil {
			return Set{}, err
		}
		if err := CheckValue(labels[k]); err != nil {
			return Set{}, fmt.Errorf("label %q: %w", k, err)
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(labels[k])
	}
	return Set{b.String()}, nil
}

// MustSet is NewSet for tests and constants; it panics on an error.
func MustSet(labels map[string]string) Set {
	s, err := NewSet(labels)
	if err != nil {
		panic(err)
	}
	return s
}

// Get returns the value of key and whether the set has it.
func (s Set) Get(key string) (string, bool) {
	for k, v := range s.All() {
		if k == key {
			return v, true
		}
	}
	return "", false
}

// All yields keys and values in key order.
func (s Set) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for rest := s.text; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ",")
			k, v, _ := strings.Cut(pair, "=")
			if !yield(k, v) {
				return
			}
		}
	}
}

// With returns the set with key set to value; the same errors as NewSet.
func (s Set) With(key, value string) (Set, error) {
	m := s.Map()
	m[key] = value
	return NewSet(m)
}

// Map returns the labels as a new map, which the caller owns.
func (s Set) Map() map[string]string {
	m := map[string]string{}
	for k, v := range s.All() {
		m[k] = v
	}
	return m
}

// String is the canonical text: "a=1,b=2" in key order; "" for the empty set.
func (s Set) String() string { return s.text }
