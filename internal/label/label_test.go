package label_test

import (
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/label"
)

func TestSelectorMatches(t *testing.T) {
	web := label.MustSet(map[string]string{"app": "web", "env": "prod", "empty": ""})
	for _, c := range []struct {
		selector string
		want     bool
	}{
		{"", true},
		{"app=web", true},
		{"app==web", true},
		{"app=db", false},
		{"app!=db", true},
		{"app!=web", false},
		{"tier!=gold", true}, // an absent key is not that value
		{"app in (db, web)", true},
		{"app in (db)", false},
		{"app notin (db,cache)", true},
		{"tier notin (gold)", true},
		{"app", true},
		{"tier", false},
		{"!tier", true},
		{"!app", false},
		{"empty=", true},
		{"empty", true},
		{"app=web,env=prod", true},
		{"app=web,env=dev", false},
	} {
		s, err := label.Parse(c.selector)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.selector, err)
			continue
		}
		if got := s.Matches(web); got != c.want {
			t.Errorf("%q matches %q = %v, want %v", c.selector, web, got, c.want)
		}
		if _, unmet := s.FirstUnmet(web); unmet == c.want {
			t.Errorf("%q: FirstUnmet says %v, but matches is %v", c.selector, unmet, c.want)
		}
	}
}

func TestZeroSelectorSelectsNothing(t *testing.T) {
	var s label.Selector
	if s.Matches(label.Set{}) || s.IsEverything() || !s.IsNothing() {
		t.Error("the zero selector must select nothing")
	}
	if !label.Everything().Matches(label.Set{}) {
		t.Error("Everything must select the empty set")
	}
	if s.Equal(label.Everything()) {
		t.Error("nothing equals everything")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"app=web,":         "empty requirement",
		"app in web":       "label key",
		"app in (a":        "not of the form",
		"app within (a)":   "unknown operator",
		"=web":             "label key",
		"app=we b":         "label value",
		"UPPER.com./x=1":   "DNS name",
		"app in ()":        "", // one empty value, which is a legal value
		"-app=web":         "label key",
		"a/b/c=1":          "label key",
		"app=" + long("x"): "label value",
	} {
		_, err := label.Parse(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Parse(%q) = %v, want an error with %q", text, err, want)
		}
	}
}

func long(s string) string { return strings.Repeat(s, 64) }

func TestSetRefusesBadLabels(t *testing.T) {
	for _, m := range []map[string]string{{"": "x"}, {"a b": "x"}, {"a": "x y"}, {"a": "-x"}, {long("k"): ""}, {"a=b": ""}, {"a": "x,y"}} {
		if _, err := label.NewSet(m); err == nil {
			t.Errorf("NewSet(%v) took it", m)
		}
	}
}

func TestSetIsItsMap(t *testing.T) {
	word := rapid.StringMatching(`[a-zA-Z0-9]([a-z0-9._-]{0,5}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(word, rapid.OneOf(word, rapid.Just(""))).Draw(t, "labels")
		s := label.MustSet(m)
		if !maps.Equal(s.Map(), m) {
			t.Fatalf("%v became %v", m, s.Map())
		}
		for k, v := range m {
			if got, ok := s.Get(k); !ok || got != v {
				t.Fatalf("Get(%q) = %q, %v", k, got, ok)
			}
		}
		if s != label.MustSet(maps.Clone(m)) {
			t.Fatal("equal labels are not equal sets")
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a=b", "a in (b,c),!d", "a notin (x)", "a!=b,c", "app.kubernetes.io/name=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := label.Parse(text)
		if err != nil {
			return
		}
		again, err := label.Parse(s.String())
		if err != nil || !again.Equal(s) {
			t.Fatalf("%q prints as %q, which reads as %q, %v", text, s, again, err)
		}
	})
}
