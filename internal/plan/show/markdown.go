package show

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/words"
)

// Markdown writes p as a comment for a review. Of the options, only Now counts.
func Markdown(w io.Writer, p *plan.Plan, o Options) error {
	m := &markdown{bufio.NewWriter(w), p, o.Now}
	m.printf("### Ringfence plan: %s → %s, risk %s\n\n", code(p.Old), code(p.New), p.Risk)
	if len(p.RiskWhy) > 0 {
		m.printf("%s.\n\n", capital(strings.Join(p.RiskWhy, "; ")))
	} else {
		m.printf("No connection between what stays fares otherwise.\n\n")
	}
	for _, b := range p.Problems {
		m.printf("- **cannot be read** (%s): %s\n", b.Side, code(b.Text))
	}
	if len(p.Problems) > 0 {
		m.printf("\n")
	}
	m.flows()
	m.changes(plan.NewlyDenied, "Newly denied")
	m.changes(plan.NewlyAllowed, "Newly allowed")
	m.objects()
	m.printf("Reachable pairs %s → %s, workloads touched %s, namespaces %d. Policies: %s.\n",
		words.Thousands(p.Radius.Before), words.Thousands(p.Radius.After), words.Thousands(len(p.Radius.Workloads)), len(p.Radius.Namespaces), counts(p))
	for _, n := range p.Notices {
		m.printf("\nNote: %s.\n", code(n))
	}
	return m.w.Flush()
}

// markdown writes to a bufio.Writer, which keeps the first error until Flush.
type markdown struct {
	w   *bufio.Writer
	p   *plan.Plan
	now time.Time
}

func (m *markdown) printf(format string, args ...any) { fmt.Fprintf(m.w, format, args...) }

// code is text that others wrote, as code in a cell of a table: nothing in it can be markup.
func code(s string) string {
	s = strings.NewReplacer("`", "'", "|", "\\|").Replace(clean(strings.ReplaceAll(s, "\n", " ")))
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// rows is how many rows a table has before the rest is folded away.
const rows = 15

// table writes a table; what is too long for a comment is folded away.
func (m *markdown) table(header string, lines []string) {
	columns := strings.Count(header, "|") + 1
	head := "| " + header + " |\n|" + strings.Repeat(" --- |", columns) + "\n"
	m.printf("%s", head)
	for i, l := range lines {
		switch {
		case i == maxRows:
			m.printf("\n%s more are left out.\n", words.Thousands(len(lines)-i))
		case i > maxRows:
		case i == rows && len(lines) > rows+3:
			m.printf("\n<details><summary>%d more</summary>\n\n%s", min(len(lines), maxRows)-i, head)
			fallthrough
		default:
			m.printf("| %s |\n", l)
		}
	}
	if len(lines) > rows+3 {
		m.printf("\n</details>\n")
	}
	m.printf("\n")
}

// maxRows bounds a table: code hosts refuse comments above 64 KiB.
const maxRows = 100

func (m *markdown) flows() {
	f := m.p.Flows
	if f == nil {
		return
	}
	m.printf("#### Recorded connections\n\n%s.\n\n", capital(window(f, m.now)))
	var lines []string
	add := func(what string, s plan.Seen) {
		why := "denied until now; now " + code(sentence(s.New))
		if s.Lost != "" {
			why = "lost: " + code(s.Lost)
		}
		lines = append(lines, fmt.Sprintf("%s | %s → %s | %s | %s | %s | %s", what, code(s.From), code(s.To), code(strings.TrimSuffix(s.Port, "/tcp")),
			words.Thousands(s.Connections), words.Ago(s.Last, m.now), why))
	}
	for _, s := range f.Breaks {
		add("❌ **would break**", s)
	}
	for _, s := range f.Opens {
		add("✅ opens", s)
	}
	for _, u := range f.Uncertain {
		lines = append(lines, fmt.Sprintf("❔ uncertain | %s | | %s | %s | %s", code(strings.Join(u.Examples, "; ")), words.Thousands(u.Connections), words.Ago(u.Last, m.now), code(u.Reason)))
	}
	if len(lines) > 0 {
		m.table(" | connection | port | times | last | why", lines)
	}
	if f.Lost > 0 {
		m.printf("Records were lost %s: there may be more.\n\n", words.Plural(int(f.Lost), "time", "times"))
	}
	if f.Same > 0 {
		m.printf("%s as before.\n\n", capital(words.Counted(f.Same, "connection")))
	}
}

func (m *markdown) changes(verb plan.Verb, title string) {
	all := of(m.p, verb)
	if len(all) == 0 {
		return
	}
	m.printf("#### %s\n\n", title)
	header := "from | to | ports | before | now"
	if m.p.Flows != nil {
		header += " | seen"
	}
	var lines []string
	for _, c := range all {
		now := code(sentence(c.New))
		if c.Lost != "" {
			now += "<br>lost: " + code(c.Lost)
		}
		l := fmt.Sprintf("%s | %s | %s | %s | %s", code(ends(m.p, c.From, c.To)), code(ends(m.p, c.To, nil)), code(portsText(c)), code(sentence(c.Old)), now)
		switch {
		case m.p.Flows == nil:
		case c.Seen == 0:
			l += " | never"
		default:
			l += fmt.Sprintf(" | %s, last %s", words.Plural(c.Seen, "time", "times"), words.Ago(c.Last, m.now))
		}
		lines = append(lines, l)
	}
	m.table(header, lines)
}

var verbs = map[plan.Op]string{plan.Added: "added", plan.Changed: "changed", plan.Removed: "removed"}

// objects lists policies and other objects.
func (m *markdown) objects() {
	var lines []string
	for _, c := range m.p.Policies {
		what := fieldLines(c.Fields)
		if c.Defect != "" {
			what = "**cannot be read, so it isolates**: " + code(c.Defect)
		}
		name := c.Kind + " " + code(fullName(c))
		if c.Place != "" {
			name += " (" + code(c.Place) + ")"
		}
		lines = append(lines, fmt.Sprintf("%s | %s | %s", verbs[c.Op], name, what))
	}
	for _, c := range m.p.Objects {
		what := fieldLines(c.Fields)
		if pods := strings.TrimSpace(pods(c)); pods != "" {
			what = strings.TrimSuffix(pods+"<br>"+what, "<br>")
		}
		lines = append(lines, fmt.Sprintf("%s | %s %s | %s", verbs[c.Op], c.Kind, code(c.Name), what))
	}
	if len(lines) == 0 {
		return
	}
	m.printf("#### Objects\n\n")
	m.table(" | object | what", lines)
}

func fieldLines(fields []plan.Field) string {
	var out []string
	for _, f := range fields {
		switch opOf(f) {
		case plan.Added:
			out = append(out, code(f.Path)+" added: "+code(f.New))
		case plan.Removed:
			out = append(out, code(f.Path)+" removed: "+code(f.Old))
		default:
			out = append(out, code(f.Path)+": "+code(f.Old)+" → "+code(f.New))
		}
	}
	return strings.Join(out, "<br>")
}
