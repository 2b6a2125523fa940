package label

import (
	"fmt"
	"slices"
	"strings"
)

// Op is the operator of a Requirement.
type Op uint8

// The operators of metav1.LabelSelectorOperator. The zero value is none of them: it matches nothing.
const (
	In Op = 1 + iota
	NotIn
	Exists
	DoesNotExist
)

// Requirement is one condition on one key. It is valid only if NewSelector took it.
type Requirement struct {
	Key    string
	Op     Op
	Values []string // for In and NotIn; sorted and without duplicates inside a Selector
}

// Matches reports whether s meets the requirement. NotIn and DoesNotExist are met by a set without the key.
func (r Requirement) Matches(s Set) bool {
	v, ok := s.Get(r.Key)
	switch r.Op {
	case In:
		return ok && slices.Contains(r.Values, v)
	case NotIn:
		return !ok || !slices.Contains(r.Values, v)
	case Exists:
		return ok
	case DoesNotExist:
		return !ok
	}
	return false
}

// String is the text that Parse reads: "env=prod", "env in (a,b)", "env!=dev", "env notin (a,b)", "env", "!env".
func (r Requirement) String() string {
	one := len(r.Values) == 1
	switch r.Op {
	case In:
		if one {
			return r.Key + "=" + r.Values[0]
		}
		return r.Key + " in (" + strings.Join(r.Values, ",") + ")"
	case NotIn:
		if one {
			return r.Key + "!=" + r.Values[0]
		}
		return r.Key + " notin (" + strings.Join(r.Values, ",") + ")"
	case Exists:
		return r.Key
	case DoesNotExist:
		return "!" + r.Key
	}
	return "<invalid>"
}

// Selector is an immutable conjunction of requirements in canonical order. The zero value selects nothing.
type Selector struct {
	valid bool
	reqs  []Requirement
	text  string
}

// Everything selects every set, also the empty one. It is what an empty selector means in Kubernetes.
func Everything() Selector { return Selector{valid: true} }

// NewSelector makes a selector of all reqs; none select everything. It copies what it keeps.
func NewSelector(reqs ...Requirement) (Selector, error) {
	var own []Requirement
	for _, r := range reqs {
		if err := check(r); err != nil {
			return Selector{}, err
		}
		values := slices.Clone(r.Values)
		slices.Sort(values)
		own = append(own, Requirement{r.Key, r.Op, slices.Compact(values)})
	}
	return canonical(own), nil
}

// canonical makes a selector of requirements that are good, and keeps them.
func canonical(reqs []Requirement) Selector {
	slices.SortFunc(reqs, func(a, b Requirement) int { return strings.Compare(a.String(), b.String()) })
	s := Selector{valid: true, reqs: slices.CompactFunc(reqs, func(a, b Requirement) bool { return a.String() == b.String() })}
	texts := make([]string, len(s.reqs))
	for i, r := range s.reqs {
		texts[i] = r.String()
	}
	s.text = strings.Join(texts, ",")
	return s
}

// MatchLabels selects the sets that hold all of the given labels.
func MatchLabels(labels map[string]string) (Selector, error) {
	var reqs []Requirement
	for k, v := range labels {
		reqs = append(reqs, Requirement{k, In, []string{v}})
	}
	return NewSelector(reqs...)
}

// MustParse is Parse for tests and constants; it panics on an error.
func MustParse(text string) Selector {
	s, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

func check(r Requirement) error {
	if err := CheckKey(r.Key); err != nil {
		return err
	}
	switch r.Op {
	case In, NotIn:
		if len(r.Values) == 0 {
			return fmt.Errorf("selector on %q: In and NotIn need at least one value", r.Key)
		}
		for _, v := range r.Values {
			if err := CheckValue(v); err != nil {
				return fmt.Errorf("selector on %q: %w", r.Key, err)
			}
		}
	case Exists, DoesNotExist:
		if len(r.Values) != 0 {
			return fmt.Errorf("selector on %q: Exists and DoesNotExist take no values", r.Key)
		}
	default:
		return fmt.Errorf("selector on %q: unknown operator", r.Key)
	}
	return nil
}

// Matches reports whether every requirement is met by s.
func (sel Selector) Matches(s Set) bool {
	_, failed := sel.FirstUnmet(s)
	return sel.valid && !failed
}

// FirstUnmet returns the first requirement that s does not meet, for explanations; false if it meets all.
func (sel Selector) FirstUnmet(s Set) (Requirement, bool) {
	for _, r := range sel.reqs {
		if !r.Matches(s) {
			return r, true
		}
	}
	return Requirement{}, false
}

// Requirements returns the requirements in canonical order. The caller must not change them.
func (sel Selector) Requirements() []Requirement { return sel.reqs }

// IsEverything reports whether sel selects every set.
func (sel Selector) IsEverything() bool { return sel.valid && len(sel.reqs) == 0 }

// IsNothing reports whether sel is the zero value, which selects nothing.
func (sel Selector) IsNothing() bool { return !sel.valid }

// Equal reports whether both have the same canonical form.
func (sel Selector) Equal(o Selector) bool { return sel.valid == o.valid && sel.text == o.text }

// String is the canonical text, which Parse reads back: "" for Everything. The zero value prints "<nothing>".
func (sel Selector) String() string {
	if !sel.valid {
		return "<nothing>"
	}
	return sel.text
}
