package words

import (
	"testing"
	"time"
)

func TestWords(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for got, want := range map[string]string{
		Counted(1, "pair"):                          "1 pair",
		Counted(0, "pair"):                          "0 pairs",
		Counted(31204, "pair"):                      "31,204 pairs",
		Plural(2, "policy", "policies"):             "2 policies",
		Thousands(1000000):                          "1,000,000",
		Some(nil, 2, ", "):                          "",
		Some([]string{"a", "b"}, 2, ", "):           "a, b",
		Some([]string{"a", "b", "c"}, 2, ","):       "a,b and 1 more",
		Some([]string{"a", "b", "c", "d"}, 1, ", "): "a and 3 more",
		Ago(time.Time{}, now):                       "never",
		Ago(now.Add(-3*time.Hour), now):             "3 h ago",
		Ago(now, time.Time{}):                       "2030-01-02 03:04 UTC",
		Span(100 * time.Second):                     "1 min",
		Span(1500 * time.Millisecond):               "1 s",
		Span(72 * time.Hour):                        "3 days",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
