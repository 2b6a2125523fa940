// Package show writes plans for people: as text, and as a comment for a review.
package show

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/words"
)

// Options says how a plan is written.
type Options struct {
	Color bool      // for a terminal
	Now   time.Time // that "ago" counts from; zero writes dates
	// Most is how many changes of each kind are written; 0 is 30. The rest is counted.
	Most int
}

// defaultMost is more than anybody reads, and short enough to find the end.
const defaultMost = 30

// Text writes p for people.
func Text(w io.Writer, p *plan.Plan, o Options) error {
	if o.Most == 0 {
		o.Most = defaultMost
	}
	t := &text{w: bufio.NewWriter(w), p: p, o: o}
	t.problems()
	t.policies()
	t.objects()
	t.flows()
	t.changes(plan.NewlyDenied, "Newly denied")
	t.changes(plan.NewlyAllowed, "Newly allowed")
	t.summary()
	return t.w.Flush()
}

// text writes to a bufio.Writer, which keeps the first error until Flush.
type text struct {
	w *bufio.Writer
	p *plan.Plan
	o Options
}

func (t *text) line(indent int, format string, args ...any) {
	fmt.Fprintf(t.w, "%s%s\n", strings.Repeat(" ", indent), fmt.Sprintf(format, args...))
}

// The colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
)

func (t *text) paint(code, s string) string {
	if !t.o.Color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *text) sign(op plan.Op) string {
	switch op {
	case plan.Added:
		return t.paint(green, "+")
	case plan.Removed:
		return t.paint(red, "-")
	}
	return t.paint(yellow, "~")
}

func (t *text) problems() {
	for _, b := range t.p.Problems {
		name := t.p.Old
		if b.Side == "new" {
			name = t.p.New
		}
		t.line(0, "%s %s: %s", t.paint(red, "cannot be read in"), clean(name), strings.ReplaceAll(cleanLines(b.Text), "\n", "\n    "))
	}
}

func (t *text) policies() {
	for _, c := range t.p.Policies {
		place := ""
		if c.Place != "" {
			place = "  (" + clean(c.Place) + ")"
		}
		t.line(0, "%s %s %s%s", t.sign(c.Op), c.Kind, fullName(c), place)
		if c.Defect != "" {
			t.line(4, "%s %s", t.paint(red, "cannot be read, so it isolates:"), clean(c.Defect))
		}
		t.fields(c.Fields)
	}
}

func fullName(c plan.PolicyChange) string {
	if c.Namespace == "" {
		return clean(c.Name)
	}
	return clean(c.Namespace + "/" + c.Name)
}

func (t *text) fields(fields []plan.Field) {
	width := 0
	for _, f := range fields {
		width = max(width, len(f.Path))
	}
	for _, f := range fields {
		t.line(4, "%s %-*s  %s", t.sign(opOf(f)), width, clean(f.Path), values(f, "->"))
	}
}

func opOf(f plan.Field) plan.Op {
	switch {
	case f.Old == "":
		return plan.Added
	case f.New == "":
		return plan.Removed
	}
	return plan.Changed
}

// values is "old -> new", or the one that there is.
func values(f plan.Field, arrow string) string {
	switch opOf(f) {
	case plan.Added:
		return clean(f.New)
	case plan.Removed:
		return clean(f.Old)
	}
	return clean(f.Old) + " " + arrow + " " + clean(f.New)
}

func (t *text) objects() {
	for i, c := range t.p.Objects {
		if i == t.o.Most {
			t.line(0, "and %s more", words.Plural(len(t.p.Objects)-i, "workload, namespace or node", "workloads, namespaces and nodes"))
			return
		}
		t.line(0, "%s %s %s%s", t.sign(c.Op), c.Kind, clean(c.Name), pods(c))
		t.fields(c.Fields)
	}
}

// pods is how the number of a workload's pods changes.
func pods(c plan.ObjectChange) string {
	switch {
	case c.Kind != "workload":
		return ""
	case c.Op == plan.Added:
		return "  " + words.Counted(c.PodsAfter, "pod")
	case c.Op == plan.Removed:
		return "  " + words.Counted(c.PodsBefore, "pod")
	case c.PodsBefore != c.PodsAfter:
		return fmt.Sprintf("  pods %d -> %d", c.PodsBefore, c.PodsAfter)
	}
	return ""
}

func (t *text) flows() {
	f := t.p.Flows
	if f == nil {
		return
	}
	t.line(0, "%s: %s", t.paint(bold, "Effect on connections really seen"), window(f, t.o.Now))
	for i, s := range f.Breaks {
		if i == t.o.Most {
			t.line(2, "%s", t.paint(red, fmt.Sprintf("and %s of other kinds WOULD BREAK", words.Counted(plan.Total(f.Breaks[i:]), "connection"))))
			break
		}
		t.line(2, "%s  %s", t.paint(red, "WOULD BREAK"), seenLine(s, t.o.Now))
		if s.Lost != "" {
			t.line(15, "lost: %s", clean(s.Lost))
		}
		if s.Try != "" {
			t.line(15, "try:  %s", clean(s.Try))
		}
	}
	for i, s := range f.Opens {
		if i == t.o.Most {
			t.line(2, "and %s of other kinds would be let through", words.Counted(plan.Total(f.Opens[i:]), "denial"))
			break
		}
		t.line(2, "%s        %s, denied until now", t.paint(green, "opens"), seenLine(s, t.o.Now))
	}
	for _, u := range f.Uncertain {
		t.line(2, "%s    %s %s: for instance %s", t.paint(yellow, "uncertain"), words.Counted(u.Connections, "connection"), clean(u.Reason), clean(strings.Join(u.Examples, "; ")))
	}
	if f.Lost > 0 {
		t.line(2, "%s    records were lost %s: there may be more", t.paint(yellow, "uncertain"), words.Plural(int(f.Lost), "time", "times"))
	}
	if f.Same > 0 || len(f.Breaks)+len(f.Opens)+len(f.Uncertain) == 0 {
		t.line(2, "as before    %s", words.Counted(f.Same, "connection"))
	}
}

// window is what was recorded: how much and of which time.
func window(f *plan.Effect, now time.Time) string {
	if f.Connections == 0 {
		return "none recorded in " + clean(f.Source)
	}
	s := fmt.Sprintf("%s in %s, from %s to %s", words.Counted(f.Connections, "connection"), clean(f.Source), words.Ago(f.First, now), words.Ago(f.Last, now))
	if !f.Since.IsZero() && f.First.Sub(f.Since) > now.Sub(f.Since)/10 {
		s += fmt.Sprintf("; nothing older, though %s was asked for", words.Span(now.Sub(f.Since)))
	}
	return s
}

func seenLine(s plan.Seen, now time.Time) string {
	text := fmt.Sprintf("%s -> %s  %s  %s, last %s", clean(s.From), clean(s.To), strings.TrimSuffix(s.Port, "/tcp"), words.Counted(s.Connections, "connection"), words.Ago(s.Last, now))
	if s.By.Verdict == "allow" && s.Answered == 0 {
		text += ", never answered"
	}
	return text
}

func (t *text) changes(verb plan.Verb, title string) {
	all := of(t.p, verb)
	if len(all) == 0 {
		return
	}
	code := red
	if verb == plan.NewlyAllowed {
		code = green
	}
	t.line(0, "%s", t.paint(code, title))
	for i, c := range all {
		if i == t.o.Most {
			pairs := 0
			for _, c := range all[i:] {
				pairs += c.Pairs
			}
			t.line(2, "and %s with %s: -o json has all", words.Plural(len(all)-i, "change", "changes"), words.Counted(pairs, "pair"))
			return
		}
		t.line(2, "%s -> %s  %s%s", clean(ends(t.p, c.From, c.To)), clean(ends(t.p, c.To, nil)), portsText(c), t.seen(c))
		t.line(6, "before  %s", clean(sentence(c.Old)))
		t.line(6, "now     %s", clean(sentence(c.New)))
		if c.Lost != "" {
			t.line(6, "lost    %s", clean(c.Lost))
		}
	}
}

func of(p *plan.Plan, verb plan.Verb) []plan.Change {
	return slices.DeleteFunc(slices.Clone(p.Changes), func(c plan.Change) bool { return c.Effect != verb })
}

// portsText is the ports, with those that somebody listens on where that is not the same.
func portsText(c plan.Change) string {
	s := c.Ports
	if c.Declared != "" && c.Declared != c.Ports {
		s += " (declared: " + c.Declared + ")"
	}
	if c.Family != "" {
		s += " " + c.Family + " only"
	}
	return s
}

func (t *text) seen(c plan.Change) string {
	switch {
	case t.p.Flows == nil:
		return ""
	case c.Seen == 0:
		return "  never seen"
	}
	return fmt.Sprintf("  seen %s, last %s", words.Plural(c.Seen, "time", "times"), words.Ago(c.Last, t.o.Now))
}

// sentence is "allowed by shop/db ingress[0] (db.yaml:12)".
func sentence(d plan.Decided) string {
	if d.Verdict == "allow" && d.Rule == nil {
		return "allowed, as no policy is about it"
	}
	return map[string]string{"allow": "allowed", "deny": "denied"}[d.Verdict] + " by " + d.String()
}

func (t *text) summary() {
	for _, n := range t.p.Notices {
		t.line(0, "note: %s", clean(n))
	}
	r := t.p.Radius
	if len(t.p.Changes) == 0 {
		t.line(0, "No connection between what stays fares otherwise.")
	}
	t.line(0, "Reachable pairs %s -> %s   workloads touched %s   namespaces %d", words.Thousands(r.Before), words.Thousands(r.After), words.Thousands(len(r.Workloads)), len(r.Namespaces))
	code := map[plan.Risk]string{plan.Low: green, plan.Medium: yellow, plan.High: red}[t.p.Risk]
	t.line(0, "Plan: %s.  Risk %s%s", counts(t.p), t.paint(code, string(t.p.Risk)), why(t.p))
}

// counts is "1 add, 1 change, 0 remove".
func counts(p *plan.Plan) string {
	n := map[plan.Op]int{}
	for _, c := range p.Policies {
		n[c.Op]++
	}
	return fmt.Sprintf("%d add, %d change, %d remove", n[plan.Added], n[plan.Changed], n[plan.Removed])
}

func why(p *plan.Plan) string {
	if len(p.RiskWhy) == 0 {
		return "."
	}
	return ": " + strings.Join(p.RiskWhy, ", ") + "."
}

// fewEnds is how many ends are listed.
const fewEnds = 5

// ends says a list of ends in short: whole namespaces as one, everybody as such. Of clients, their only server is not
// missed: it is no client of its own.
func ends(p *plan.Plan, names, servers []string) string {
	in := map[string]bool{}
	for _, n := range names {
		in[n] = true
	}
	var missing []string
	for _, n := range p.Parties {
		if !in[n.Name] && !(len(servers) == 1 && servers[0] == n.Name) {
			missing = append(missing, n.Name)
		}
	}
	if len(names) > fewEnds && len(missing) <= min(3, len(names)/3) {
		if len(missing) == 0 {
			return fmt.Sprintf("everyone (%d)", len(names))
		}
		return fmt.Sprintf("everyone (%d) but %s", len(names), strings.Join(missing, ", "))
	}
	var short []string
	rest := 0
	for _, s := range byNamespace(p, names) {
		if len(short) < fewEnds {
			short = append(short, s.text)
		} else {
			rest += s.n
		}
	}
	if rest > 0 {
		short = append(short, fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(short, ", ")
}

type some struct {
	text string
	n    int
}

// byNamespace makes one of all workloads of a namespace, if they are more than two.
func byNamespace(p *plan.Plan, names []string) []some {
	namespace, whole, count := map[string]string{}, map[string]int{}, map[string]int{}
	for _, n := range p.Parties {
		namespace[n.Name] = n.Namespace
		whole[n.Namespace]++
	}
	for _, n := range names {
		count[namespace[n]]++
	}
	var out []some
	done := map[string]bool{}
	for _, n := range names {
		ns := namespace[n]
		switch {
		case ns == "" || count[ns] < whole[ns] || count[ns] < 3:
			out = append(out, some{n, 1})
		case !done[ns]:
			done[ns] = true
			out = append(out, some{fmt.Sprintf("%s/* (%d)", ns, count[ns]), count[ns]})
		}
	}
	return out
}

// clean makes text that others wrote harmless for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// cleanLines is clean for text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}
