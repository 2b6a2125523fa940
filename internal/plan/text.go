package plan

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ringfence-project/ringfence/internal/reach"
)

// TextOptions says how a plan is written.
type TextOptions struct {
	Color bool // for a terminal
	// Most is how many changes of each kind are written; 0 is 30. The rest is counted.
	Most int
}

// defaultMost is more than anybody reads, and short enough to find the end.
const defaultMost = 30

// WriteText writes p for people.
func (p *Plan) WriteText(w io.Writer, o TextOptions) error {
	if o.Most == 0 {
		o.Most = defaultMost
	}
	t := &text{w: bufio.NewWriter(w), p: p, o: o}
	t.problems()
	t.policies()
	t.objects()
	t.flows()
	t.changes(NewlyDenied, "Newly denied")
	t.changes(NewlyAllowed, "Newly allowed")
	t.summary()
	return t.w.Flush()
}

// text writes to a bufio.Writer, which keeps the first error until Flush.
type text struct {
	w *bufio.Writer
	p *Plan
	o TextOptions
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

func (t *text) sign(op Op) string {
	switch op {
	case Added:
		return t.paint(green, "+")
	case Removed:
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
		t.line(0, "%s %s %s%s", t.sign(c.Op), c.Kind, c.fullName(), place)
		if c.Defect != "" {
			t.line(4, "%s %s", t.paint(red, "cannot be read, so it isolates:"), clean(c.Defect))
		}
		t.fields(c.Fields)
	}
}

func (c PolicyChange) fullName() string {
	if c.Namespace == "" {
		return clean(c.Name)
	}
	return clean(c.Namespace + "/" + c.Name)
}

func (t *text) fields(fields []Field) {
	width := 0
	for _, f := range fields {
		width = max(width, len(f.Path))
	}
	for _, f := range fields {
		t.line(4, "%s %-*s  %s", t.sign(f.op()), width, clean(f.Path), f.values("->"))
	}
}

func (f Field) op() Op {
	switch {
	case f.Old == "":
		return Added
	case f.New == "":
		return Removed
	}
	return Changed
}

// values is "old -> new", or the one that there is.
func (f Field) values(arrow string) string {
	switch f.op() {
	case Added:
		return clean(f.New)
	case Removed:
		return clean(f.Old)
	}
	return clean(f.Old) + " " + arrow + " " + clean(f.New)
}

func (t *text) objects() {
	for i, c := range t.p.Objects {
		if i == t.o.Most {
			t.line(0, "and %s more", pluralOf(len(t.p.Objects)-i, "workload, namespace or node", "workloads, namespaces and nodes"))
			return
		}
		t.line(0, "%s %s %s%s", t.sign(c.Op), c.Kind, clean(c.Name), c.pods())
		t.fields(c.Fields)
	}
}

// pods is how the number of a workload's pods changes.
func (c ObjectChange) pods() string {
	switch {
	case c.Kind != "workload":
		return ""
	case c.Op == Added:
		return "  " + counted(c.PodsAfter, "pod")
	case c.Op == Removed:
		return "  " + counted(c.PodsBefore, "pod")
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
	t.line(0, "%s: %s", t.paint(bold, "Effect on connections really seen"), f.window(t.p.now))
	for i, s := range f.Breaks {
		if i == t.o.Most {
			t.line(2, "%s", t.paint(red, fmt.Sprintf("and %s of other kinds WOULD BREAK", counted(sumOf(f.Breaks[i:]), "connection"))))
			break
		}
		t.line(2, "%s  %s", t.paint(red, "WOULD BREAK"), s.line(t.p.now))
		if s.Lost != "" {
			t.line(15, "lost: %s", clean(s.Lost))
		}
		if s.Try != "" {
			t.line(15, "try:  %s", clean(s.Try))
		}
	}
	for i, s := range f.Opens {
		if i == t.o.Most {
			t.line(2, "and %s of other kinds would be let through", counted(sumOf(f.Opens[i:]), "denial"))
			break
		}
		t.line(2, "%s        %s, denied until now", t.paint(green, "opens"), s.line(t.p.now))
	}
	for _, u := range f.Uncertain {
		t.line(2, "%s    %s %s: for instance %s", t.paint(yellow, "uncertain"), counted(u.Connections, "connection"), clean(u.Reason), clean(strings.Join(u.Examples, "; ")))
	}
	if f.Lost > 0 {
		t.line(2, "%s    records were lost %s: there may be more", t.paint(yellow, "uncertain"), pluralOf(int(f.Lost), "time", "times"))
	}
	if f.Same > 0 || len(f.Breaks)+len(f.Opens)+len(f.Uncertain) == 0 {
		t.line(2, "as before    %s", counted(f.Same, "connection"))
	}
}

// window is what was recorded: how much and of which time.
func (f *Effect) window(now time.Time) string {
	if f.Connections == 0 {
		return "none recorded in " + clean(f.Source)
	}
	s := fmt.Sprintf("%s in %s, from %s to %s", counted(f.Connections, "connection"), clean(f.Source), ago(f.First, now), ago(f.Last, now))
	if !f.Since.IsZero() && f.First.Sub(f.Since) > now.Sub(f.Since)/10 {
		s += fmt.Sprintf("; nothing older, though %s was asked for", span(now.Sub(f.Since)))
	}
	return s
}

func (s Seen) line(now time.Time) string {
	text := fmt.Sprintf("%s -> %s  %s  %s, last %s", clean(s.From), clean(s.To), strings.TrimSuffix(s.Port, "/tcp"), counted(s.Connections, "connection"), ago(s.Last, now))
	if s.By.Verdict == "allow" && s.Answered == 0 {
		text += ", never answered"
	}
	return text
}

// ago is a time as people say it.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	if now.IsZero() || t.After(now.Add(time.Minute)) {
		return t.UTC().Format("2006-01-02 15:04 MST")
	}
	return span(now.Sub(t)) + " ago"
}

// span is a duration as people say it.
func span(d time.Duration) string {
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

func (t *text) changes(verb Verb, title string) {
	all := t.p.of(verb)
	if len(all) == 0 {
		return
	}
	code := red
	if verb == NewlyAllowed {
		code = green
	}
	t.line(0, "%s", t.paint(code, title))
	for i, c := range all {
		if i == t.o.Most {
			pairs := 0
			for _, c := range all[i:] {
				pairs += c.Pairs
			}
			t.line(2, "and %s with %s: -o json has all", pluralOf(len(all)-i, "change", "changes"), counted(pairs, "pair"))
			return
		}
		t.line(2, "%s -> %s  %s%s", clean(t.p.ends(c.From, c.To)), clean(t.p.ends(c.To, nil)), c.portsText(), t.seen(c))
		t.line(6, "before  %s", clean(c.Old.sentence()))
		t.line(6, "now     %s", clean(c.New.sentence()))
		if c.Lost != "" {
			t.line(6, "lost    %s", clean(c.Lost))
		}
	}
}

func (p *Plan) of(verb Verb) []Change {
	return slices.DeleteFunc(slices.Clone(p.Changes), func(c Change) bool { return c.Effect != verb })
}

// portsText is the ports, with those that somebody listens on where that is not the same.
func (c Change) portsText() string {
	s := c.Ports
	if c.Declared != "" && c.Declared != c.Ports {
		s += " (declared: " + c.Declared + ")"
	}
	if c.Family != "" {
		s += " " + c.Family + " only"
	}
	return s
}

func (t *text) seen(c Change) string {
	switch {
	case t.p.Flows == nil:
		return ""
	case c.Seen == 0:
		return "  never seen"
	}
	return fmt.Sprintf("  seen %s, last %s", pluralOf(c.Seen, "time", "times"), ago(c.Last, t.p.now))
}

// sentence is "allowed by shop/db ingress[0] (db.yaml:12)".
func (d Decided) sentence() string {
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
	t.line(0, "Reachable pairs %s -> %s   workloads touched %s   namespaces %d", thousands(r.Before), thousands(r.After), thousands(len(r.Workloads)), len(r.Namespaces))
	code := map[Risk]string{Low: green, Medium: yellow, High: red}[t.p.Risk]
	t.line(0, "Plan: %s.  Risk %s%s", t.p.counts(), t.paint(code, string(t.p.Risk)), t.p.why())
}

// counts is "1 add, 1 change, 0 remove".
func (p *Plan) counts() string {
	n := map[Op]int{}
	for _, c := range p.Policies {
		n[c.Op]++
	}
	return fmt.Sprintf("%d add, %d change, %d remove", n[Added], n[Changed], n[Removed])
}

func (p *Plan) why() string {
	if len(p.RiskWhy) == 0 {
		return "."
	}
	return ": " + strings.Join(p.RiskWhy, ", ") + "."
}

// fewEnds is how many ends are listed.
const fewEnds = 5

// ends says a list of ends in short: whole namespaces as one, everybody as such. Of clients, their only server is not
// missed: it is no client of its own.
func (p *Plan) ends(names, servers []string) string {
	in := map[string]bool{}
	for _, n := range names {
		in[n] = true
	}
	var missing []string
	for _, n := range p.parties {
		if !in[n] && !(len(servers) == 1 && servers[0] == n) {
			missing = append(missing, n)
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
	for _, s := range p.byNamespace(names) {
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
func (p *Plan) byNamespace(names []string) []some {
	count := map[string]int{}
	for _, n := range names {
		if p.workloads[n] {
			count[namespaceOf(n)]++
		}
	}
	var out []some
	done := map[string]bool{}
	for _, n := range names {
		ns := namespaceOf(n)
		switch {
		case !p.workloads[n] || count[ns] < p.namespace[ns] || count[ns] < 3:
			out = append(out, some{n, 1})
		case !done[ns]:
			done[ns] = true
			out = append(out, some{fmt.Sprintf("%s/* (%d)", ns, count[ns]), count[ns]})
		}
	}
	return out
}

// everyone notes who can be an end of a change.
func (c *comparison) everyone() {
	p := c.plan
	p.namespace, p.workloads = map[string]int{}, map[string]bool{}
	c.parts = map[string]int{}
	for i := range c.classes {
		k := &c.classes[i]
		if !k.stays() {
			continue
		}
		if c.parts[k.name]++; c.parts[k.name] > 1 {
			continue
		}
		p.parties = append(p.parties, k.name)
		if k.kind == reach.Workload {
			p.workloads[k.name] = true
			p.namespace[namespaceOf(k.name)]++
		}
	}
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
