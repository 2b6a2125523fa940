package lab

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/words"
)

// maxBoxes is how many boxes a person still reads; a matrix with more is drawn without
// what nobody declares, then by namespace, then as a list.
const maxBoxes = 450

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
	declared := func(x Result) string {
		if s := r.service(x); x.Tuple.Protocol.HasPorts() && s != other {
			return s
		}
		return ""
	}
	for _, try := range []struct {
		name    func(Point) string
		service func(Result) string
		title   string
	}{
		{byGroup, r.service, "Who reaches what"},
		{byGroup, declared, "Who reaches what of what is declared"},
		{byNamespace, r.service, "Who reaches what, by namespace"},
	} {
		g := newGrid(r.Results, try.name, try.service)
		if len(g.rows)*len(g.columns) <= maxBoxes && len(g.rows) > 1 {
			p.grid(g, try.title)
			p.legend(r)
			return
		}
	}
	p.list(newGrid(r.Results, byGroup, r.service))
	p.legend(r)
}

func (p *printer) legend(r *Report) {
	p.linef("✓ reached   ✗ denied   ± both, by replica, port or family   ! not what the policies say   · not probed")
	if r.OtherPort != 0 {
		p.linef("other: port %d/tcp, which nobody declares", r.OtherPort)
	}
	p.linef("")
}

// grid draws rows of sources and numbered columns of destinations, whose names come below.
func (p *printer) grid(g *grid, title string) {
	width := 0
	for _, row := range g.rows {
		width = max(width, utf8.RuneCountInString(nameOf(row.names)))
	}
	p.linef("%s", p.paint(bold, title))
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
}

// few joins the first n of names.
func few(names []string, n int, none string) string {
	if len(names) == 0 {
		return none
	}
	return words.Some(names, n, ", ")
}

// victims are what one rule denied.
type victims struct {
	rule  flow.Rule
	count int // of probes
	pairs *index[[2]string]
	what  [][]string // of each pair: what was asked for
}

// denials lists who denied what.
func (p *printer) denials(r *Report) {
	byRule := map[flow.Rule]*victims{}
	for _, x := range r.Results {
		if x.Outcome != Denied {
			continue
		}
		v := byRule[x.Rule]
		if v == nil {
			v = &victims{rule: x.Rule, pairs: newIndex[[2]string]()}
			byRule[x.Rule] = v
		}
		v.add(x.From.Group, x.To.Group, r.service(x))
	}
	if len(byRule) == 0 {
		return
	}
	all := slices.SortedFunc(maps.Values(byRule), func(a, b *victims) int {
		return cmp.Or(cmp.Compare(a.rule.File, b.rule.File), cmp.Compare(a.rule.Line, b.rule.Line), cmp.Compare(a.rule.String(), b.rule.String()))
	})
	p.linef("%s", p.paint(bold, "Denied by"))
	for _, v := range all {
		rule := cite(v.rule)
		if v.rule.IsZero() {
			rule = "no policy's rule"
		}
		p.linef("  %s: %s", rule, words.Counted(v.count, "probe"))
		p.linef("      %s", few(v.names(), 2, ""))
	}
	p.linef("")
}

func (v *victims) add(from, to, service string) {
	v.count++
	i := v.pairs.of([2]string{from, to})
	if i == len(v.what) {
		v.what = append(v.what, nil)
	}
	if !slices.Contains(v.what[i], service) {
		v.what[i] = append(v.what[i], service)
	}
}

func (v *victims) names() []string {
	var names []string
	for i, pair := range v.pairs.items {
		names = append(names, pair[0]+" -> "+pair[1]+":"+words.Some(v.what[i], 5, ","))
	}
	return names
}

// other is the name of the port that nobody declares.
const other = "other"

// service is "80/tcp", "icmp" or "other": what the probe asked for. Both families of ICMP are one to a reader.
func (r *Report) service(x Result) string {
	switch t := x.Tuple; {
	case t.Protocol == flow.ICMPv6:
		return flow.ICMP.String()
	case !t.Protocol.HasPorts():
		return t.Protocol.String()
	case t.Protocol == flow.TCP && t.Port == r.OtherPort:
		return other
	default:
		return fmt.Sprintf("%d/%s", t.Port, t.Protocol)
	}
}

func (p *printer) remarks(r *Report) {
	for _, n := range r.Notices {
		p.linef("note: %s", n)
	}
	for _, s := range r.Skipped {
		p.linef("skipped: %s (%s): %s", words.Counted(s.Count, "probe"), s.What, s.Why)
	}
	if r.LostEvents > 0 {
		p.linef("note: %s of denials came too fast to be read", words.Counted(r.LostEvents, "event"))
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
	p.linef("%s (%s), %s in %s, booted in %s: %d reached, %d denied; %s", words.Counted(r.Pods, "pod"), r.Topology,
		words.Counted(len(r.Results), "probe"), rounded(r.Timings.Probe), rounded(r.Timings.Boot), r.Count(Answered), r.Count(Denied), verdict)
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
