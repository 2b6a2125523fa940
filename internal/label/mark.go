package label

import (
	"fmt"
	"slices"
	"strings"
)

// A mark is a label that only this program gives. Its key begins with a character that no key may have (CheckKey), so
// whatever people write, no label of theirs is a mark and no selector of theirs asks for one: a mark changes nothing
// but what RequireMark says.
const markPrefix = "~"

// Mark returns the set with a mark. The error is about a name that is none: it has to be text that CheckKey takes.
func (s Set) Mark(name string) (Set, error) {
	if err := CheckKey(name); err != nil {
		return Set{}, fmt.Errorf("mark: %w", err)
	}
	key := markPrefix + name
	pairs := []string{key + "="}
	for k, v := range s.All() {
		if k != key {
			pairs = append(pairs, k+"="+v)
		}
	}
	slices.SortFunc(pairs, func(a, b string) int { // by key: "a=" and "a-b=" compare otherwise than their keys
		x, _, _ := strings.Cut(a, "=")
		y, _, _ := strings.Cut(b, "=")
		return strings.Compare(x, y)
	})
	return Set{strings.Join(pairs, ",")}, nil
}

// Unmarked returns the set without marks.
func (s Set) Unmarked() Set {
	if strings.HasPrefix(s.text, markPrefix) {
		return Set{}
	}
	text, _, _ := strings.Cut(s.text, ","+markPrefix) // which is behind all characters that a key may begin with
	return Set{text}
}

// RequireMark returns a selector of those that sel selects and that have the mark, or that do not have it. One that
// selects nothing stays so. The error is that of Mark.
func (sel Selector) RequireMark(name string, has bool) (Selector, error) {
	if err := CheckKey(name); err != nil {
		return Selector{}, fmt.Errorf("mark: %w", err)
	}
	if !sel.valid {
		return sel, nil
	}
	r := Requirement{Key: markPrefix + name, Op: DoesNotExist}
	if has {
		r.Op = Exists
	}
	return canonical(append(slices.Clone(sel.reqs), r)), nil
}
