package label_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/label"
)

func TestMarksAreNobodysLabels(t *testing.T) {
	plain := label.MustSet(map[string]string{"app": "web", "a-b": "x", "a": "y"})
	marked, err := plain.Mark("lockdown")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := marked.Mark("lockdown"); err != nil || again != marked {
		t.Errorf("marked twice it is %q, %v", again, err)
	}
	other, err := marked.Mark("a.second-one")
	if err != nil || other == marked {
		t.Errorf("two marks are %q, %v", other, err)
	}
	for key := range marked.All() {
		if _, has := plain.Get(key); !has && label.CheckKey(key) == nil {
			t.Errorf("somebody can write %q", key)
		}
	}
	with, err := label.Everything().RequireMark("lockdown", true)
	if err != nil || !with.Matches(marked) || !with.Matches(other) || with.Matches(plain) {
		t.Errorf("%q selects wrongly, %v", with, err)
	}
	without, err := label.MustParse("app=web").RequireMark("lockdown", false)
	if err != nil || without.Matches(marked) || !without.Matches(plain) || without.Matches(label.Set{}) {
		t.Errorf("%q selects wrongly, %v", without, err)
	}
	if none, err := (label.Selector{}).RequireMark("lockdown", true); err != nil || !none.IsNothing() {
		t.Errorf("nothing became %q, %v", none, err)
	}
	for _, name := range []string{"", "a=b", "a,b", "~x"} {
		if _, err := plain.Mark(name); err == nil {
			t.Errorf("%q marks", name)
		}
		if _, err := label.Everything().RequireMark(name, true); err == nil {
			t.Errorf("%q can be asked for", name)
		}
	}
}

// A mark changes the answer of no selector that somebody can write, and the set stays in its canonical form.
func TestMarksChangeNoAnswer(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "a-b", "a.b", "b", "x.y/a", "zz"})
	rapid.Check(t, func(t *rapid.T) {
		s := label.MustSet(rapid.MapOf(word, rapid.SampledFrom([]string{"", "1", "2"})).Draw(t, "labels"))
		marked, err := s.Mark(word.Draw(t, "mark"))
		if err != nil {
			t.Fatal(err)
		}
		op := rapid.SampledFrom([]label.Op{label.In, label.NotIn, label.Exists, label.DoesNotExist}).Draw(t, "op")
		r := label.Requirement{Key: word.Draw(t, "key"), Op: op}
		if op == label.In || op == label.NotIn {
			r.Values = []string{"1"}
		}
		sel, err := label.NewSelector(r)
		if err != nil {
			t.Fatal(err)
		}
		if sel.Matches(s) != sel.Matches(marked) {
			t.Fatalf("%q tells %q from %q", sel, s, marked)
		}
		last := ""
		for k := range marked.All() {
			if k <= last {
				t.Fatalf("%q is not in order", marked)
			}
			last = k
		}
	})
}
