package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// GitHub writes findings as commands that a GitHub workflow turns into annotations of the lines in a pull request.
// Suppressed findings are left out.
func GitHub(w io.Writer, findings []Finding) error {
	out := bufio.NewWriter(w)
	for _, f := range findings {
		if f.Suppressed {
			continue
		}
		word := map[Level]string{Note: "notice", Warning: "warning", Error: "error"}[f.Level]
		var properties []string
		if f.Place.File != "" {
			properties = append(properties, "file="+propertyText(slashed(f.Place.File)))
		}
		if f.Place.Line != 0 {
			properties = append(properties, fmt.Sprintf("line=%d", f.Place.Line))
		}
		if f.Code != "" {
			properties = append(properties, "title="+propertyText(f.Code))
		}
		if len(properties) > 0 {
			word += " " + strings.Join(properties, ",")
		}
		fmt.Fprintf(out, "::%s::%s\n", word, commandText(f.text()))
	}
	return out.Flush() // a bufio.Writer keeps its first error
}

// text is the message with the fix.
func (f Finding) text() string {
	if f.Fix == "" {
		return f.Message
	}
	return f.Message + "; " + f.Fix
}

// commandText and propertyText escape what would end a workflow command.
func commandText(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func propertyText(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(commandText(s))
}
