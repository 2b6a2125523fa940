// Package words writes numbers, lists and times as people say them.
package words

import (
	"fmt"
	"strings"
	"time"
)

// Counted is a number of something whose plural ends in s: "1 pair", "31,204 pairs".
func Counted(n int, noun string) string { return Plural(n, noun, noun+"s") }

// Plural is a number of something: "1 policy", "2 policies".
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Thousands(n) + " " + many
}

// Some is a list of at most the first few, and how many more there are: "a, b and 3 more".
func Some(list []string, most int, by string) string {
	if len(list) <= most {
		return strings.Join(list, by)
	}
	return fmt.Sprintf("%s and %s more", strings.Join(list[:most], by), Thousands(len(list)-most))
}

// Thousands is a number with commas: 31,204.
func Thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Ago is the time t as people say it at the time now: "4 min ago". Where now is zero or before t it is a date.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if now.IsZero() || t.After(now.Add(time.Minute)) {
		return t.UTC().Format("2006-01-02 15:04 MST")
	}
	return Span(now.Sub(t)) + " ago"
}

// Span is a duration as people say it.
func Span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d/time.Second)))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d/time.Hour))
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}
