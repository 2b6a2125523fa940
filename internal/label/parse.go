package label

import (
	"fmt"
	"strings"
)

// Parse reads the selector syntax of kubectl's -l: requirements joined by commas, each one of
// "key=value", "key==value", "key!=value", "key in (a,b)", "key notin (a,b)", "key", "!key".
// The empty text selects everything.
func Parse(text string) (Selector, error) {
	var reqs []Requirement
	for _, part := range splitOutsideParens(text) {
		part = strings.TrimSpace(part)
		if part == "" {
			if strings.TrimSpace(text) == "" {
				continue
			}
			return Selector{}, fmt.Errorf("selector %q: empty requirement", text)
		}
		r, err := parseRequirement(part)
		if err != nil {
			return Selector{}, fmt.Errorf("selector %q: %w", text, err)
		}
		reqs = append(reqs, r)
	}
	return NewSelector(reqs...)
}

func parseRequirement(s string) (Requirement, error) {
	if key, ok := strings.CutPrefix(s, "!"); ok {
		return Requirement{strings.TrimSpace(key), DoesNotExist, nil}, nil
	}
	if open := strings.IndexByte(s, '('); open >= 0 {
		return parseSetRequirement(s, open)
	}
	for _, form := range []struct {
		sign string
		op   Op
	}{{"!=", NotIn}, {"==", In}, {"=", In}} {
		if k, v, ok := strings.Cut(s, form.sign); ok {
			return Requirement{strings.TrimSpace(k), form.op, []string{strings.TrimSpace(v)}}, nil
		}
	}
	return Requirement{s, Exists, nil}, nil
}

func parseSetRequirement(s string, open int) (Requirement, error) {
	words := strings.Fields(s[:open])
	if len(words) != 2 || !strings.HasSuffix(s, ")") {
		return Requirement{}, fmt.Errorf("%q is not of the form 'key in (a,b)' or 'key notin (a,b)'", s)
	}
	op, ok := map[string]Op{"in": In, "notin": NotIn}[words[1]]
	if !ok {
		return Requirement{}, fmt.Errorf("%q: unknown operator %q, want 'in' or 'notin'", s, words[1])
	}
	var values []string
	for v := range strings.SplitSeq(s[open+1:len(s)-1], ",") {
		values = append(values, strings.TrimSpace(v))
	}
	return Requirement{words[0], op, values}, nil
}

func splitOutsideParens(s string) []string {
	var parts []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				parts = append(parts, s[start:i])
				start = i + 1
			}
		}
	}
	return append(parts, s[start:])
}
