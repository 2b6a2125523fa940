package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// TAP writes results as TAP version 14, one test point for each case. What failed has its place and its why in a YAML
// block.
func TAP(w io.Writer, suites []Suite) error {
	out := bufio.NewWriter(w)
	total := 0
	for _, s := range suites {
		total += len(s.Cases)
	}
	fmt.Fprintf(out, "TAP version 14\n1..%d\n", total)
	n := 0
	for _, s := range suites {
		for _, c := range s.Cases {
			n++
			writePoint(out, n, c)
		}
	}
	return out.Flush() // a bufio.Writer keeps its first error
}

func writePoint(out *bufio.Writer, n int, c Case) {
	failure := c.Failure
	if c.Error != nil {
		failure = c.Error
	}
	word := "ok"
	if failure != nil {
		word = "not ok"
	}
	name := c.Name
	if c.Class != "" {
		name = c.Class + ": " + name
	}
	fmt.Fprintf(out, "%s %d - %s", word, n, tapText(name))
	if c.Skipped != "" && failure == nil {
		fmt.Fprintf(out, " # SKIP %s", tapText(c.Skipped))
	}
	fmt.Fprintln(out)
	if failure == nil {
		return
	}
	fmt.Fprintln(out, "  ---")
	if place := (Place{File: slashed(c.File), Line: c.Line}).String(); place != "" {
		fmt.Fprintf(out, "  at: %q\n", place)
	}
	fmt.Fprintf(out, "  message: %q\n", failure.Message)
	if failure.Text != "" {
		fmt.Fprintln(out, "  why: |2")
		for line := range strings.Lines(strings.TrimRight(failure.Text, "\n")) {
			fmt.Fprintln(out, strings.TrimRight("    "+xmlText(strings.TrimSuffix(line, "\n")), " "))
		}
	}
	fmt.Fprintln(out, "  ...")
}

// tapText is one line, in which # would begin a directive.
func tapText(s string) string {
	return strings.NewReplacer(`\`, `\\`, "#", `\#`, "\n", " ").Replace(s)
}
