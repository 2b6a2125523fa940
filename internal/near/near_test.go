package near

import (
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	for _, c := range []struct {
		word  string
		names []string
		want  string
	}{
		{"form", []string{"from", "ports"}, "from"},
		{"podselector", []string{"podSelector", "policyTypes"}, "podSelector"},
		{"ICMP", []string{"SCTP", "TCP", "UDP"}, ""},
		{"Gt", []string{"In", "NotIn"}, ""},
		{"abc", []string{"abx", "abd"}, "abd"},
		{"b", []string{"a", "c"}, ""},
		{"", []string{"a"}, ""},
		{strings.Repeat("x", 101), []string{strings.Repeat("x", 101)}, ""},
	} {
		if got := Of(c.word, c.names); got != c.want {
			t.Errorf("Of(%q, %q) is %q, want %q", c.word, c.names, got, c.want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "ba", 1}, {"abc", "ac", 1}, {"abc", "axc", 1}, {"kitten", "sitting", 3}} {
		if got, back := distance(c.a, c.b), distance(c.b, c.a); got != c.want || back != c.want {
			t.Errorf("distance(%q, %q) is %d and back %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
}
