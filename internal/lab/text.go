package lab

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// maxBoxes is how many boxes a person still reads; a matrix with more is drawn by namespace, or as a list.
const maxBoxes = 400

// Text writes the report for people: the reachability matrix, the denials by policy, what is not as it should be,
// and one line at the end that says it all.
func (r *Report) Text(w io.Writer, color bool) error {
	out := &printer{Writer: bufio.NewWriter(w), color: color}
	out.reachability(r)
	out.denials(r)
	out.remarks(r)
	out.mismatches(r)
	out.summary(r)
	return out.Flush()
}

// printer keeps the first error for Flush.
type printer struct {
	*bufio.Writer
	color bool
}

func (p *printer) linef(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// paint colours s if that was asked for.
func (p *printer) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// The colours of terminals.
const (
	red   = "31"
	green = "32"
	faint = "2"
	bold  = "1"
)

func (p *printer) mark(c cell) string {
	switch c {
	case cellOpen:
		return p.paint(green, "✓")
	case cellShut:
		return p.paint(red, "✗")
	case cellMixed:
		return "±"
	case cellWrong:
		return p.paint(bold+";"+red, "!")
	}
	return p.paint(faint, "·")
}

func (p *printer) reachability(r *Report) {
	for _, by := range []func(Point) string{byGroup, byNamespace} {
		g := newGrid(r.Results, by)
		if len(g.rows)*len(g.columns) <= maxBoxes && len(g.rows) > 1 {
			p.grid(g)
			return
		}
	}
	p.list(newGrid(r.Results, byGroup))
}

// grid draws rows of sources and numbered columns of destinations, whose names come below.
func (p *printer) grid(g *grid) {
	width := 0
	for _, row := range g.rows {
		width = max(width, utf8.RuneCountInString(nameOf(row.names)))
	}
	p.linef("%s", p.paint(bold, "Who reaches what"))
	fmt.Fprintf(p, "%*s", width, "")
	for i := range g.columns {
		fmt.Fprintf(p, "%4d", i+1)
	}
	p.linef("")
	for _, row := range g.rows {
		fmt.Fprint(p, nameOf(row.names), strings.Repeat(" ", width-utf8.RuneCountInString(nameOf(row.names))))
		for i := range g.columns {
			fmt.Fprint(p, "   ", p.mark(row.cells[i]))
		}
		p.linef("")
	}
	for i, c := range g.columns {
		p.linef("%4d  %s", i+1, c)
	}
	p.linef("✓ reached   ✗ denied   ± both, by replica, port or family   ! not what the policies say   · not probed\n")
}

// list says for each destination who reaches it.
func (p *printer) list(g *grid) {
	p.linef("%s", p.paint(bold, "Who is reached by whom"))
	for i, column := range g.columns {
		var names []string
		for _, row := range g.rows {
			switch row.cells[i] {
			case cellOpen:
				names = append(names, nameOf(row.names))
			case cellMixed, cellWrong:
				names = append(names, nameOf(row.names)+" "+p.mark(row.cells[i]))
			}
		}
		p.linef("  %s  <-  %s", column, few(names, 8, "nobody"))
	}
	p.linef("")
}

// few joins the first n of names.
func few(names []string, n int, none string) string {
	if len(names) == 0 {
		return none
	}
	if len(names) > n {
		return strings.Join(names[:n], ", ") + fmt.Sprintf(" and %d more", len(names)-n)
	}
	return strings.Join(names, ", ")
}

// denials lists who denied what.
func (p *printer) denials(r *Report) {
	type victims struct {
		rule  flow.Rule
		count int
		names []string
	}
	byRule := map[flow.Rule]*victims{}
	for _, x := range r.Results {
		if x.Outcome != Denied {
			continue
		}
		v := byRule[x.Rule]
		if v == nil {
			v = &victims{rule: x.Rule}
			byRule[x.Rule] = v
		}
		v.count++
		if name := x.From.Group + " -> " + x.To.Group + ":" + service(x); !slices.Contains(v.names, name) {
			v.names = append(v.names, name)
		}
	}
	if len(byRule) == 0 {
		return
	}
	var all []*victims
	for _, v := range byRule {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *victims) int {
		return cmp.Or(cmp.Compare(a.rule.Place(), b.rule.Place()), cmp.Compare(a.rule.String(), b.rule.String()))
	})
	p.linef("%s", p.paint(bold, "Denied by"))
	for _, v := range all {
		rule := cite(v.rule)
		if v.rule.IsZero() {
			rule = "no policy's rule"
		}
		p.linef("  %s: %s", rule, plural(v.count, "probe"))
		p.linef("      %s", few(v.names, 4, ""))
	}
	p.linef("")
}

// service is "80/tcp" or "icmp": what the probe asked for. Both families of ICMP are one to a reader.
func service(r Result) string {
	switch {
	case r.Tuple.Protocol == flow.ICMPv6:
		return flow.ICMP.String()
	case !r.Tuple.Protocol.HasPorts():
		return r.Tuple.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", r.Tuple.Port, r.Tuple.Protocol)
}

func (p *printer) remarks(r *Report) {
	for _, n := range r.Notices {
		p.linef("note: %s", n)
	}
	for _, s := range r.Skipped {
		p.linef("skipped: %s of %s: %s", plural(s.Count, "probe"), s.What, s.Why)
	}
	if r.LostEvents > 0 {
		p.linef("note: %s of denials came too fast to be read", plural(r.LostEvents, "event"))
	}
}

// maxMismatches is how many are printed; the other formats have them all.
const maxMismatches = 50

func (p *printer) mismatches(r *Report) {
	bad := r.Mismatches()
	if len(bad) == 0 {
		return
	}
	p.linef("%s", p.paint(bold, "Not what the policies say"))
	for _, x := range bad[:min(len(bad), maxMismatches)] {
		p.linef("  %s -> %s (%s): %s", x.From.Name, x.To.Name, x.Tuple, x.Mismatch)
	}
	if len(bad) > maxMismatches {
		p.linef("  and %d more", len(bad)-maxMismatches)
	}
	p.linef("")
}

func (p *printer) summary(r *Report) {
	verdict := p.paint(green, "every packet did what the policies say")
	if n := len(r.Mismatches()); n > 0 {
		verdict = p.paint(bold+";"+red, fmt.Sprintf("%d did not do what the policies say", n))
	} else if !r.Enforced {
		verdict = "nothing was enforced"
	}
	p.linef("%s (%s), %s in %s, booted in %s: %d reached, %d denied; %s", plural(r.Pods, "pod"), r.Topology,
		plural(len(r.Results), "probe"), rounded(r.Timings.Probe), rounded(r.Timings.Boot), r.Count(Answered), r.Count(Denied), verdict)
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
