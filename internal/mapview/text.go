package mapview

import (
	"cmp"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
	"github.com/ringfence-project/ringfence/internal/words"
)

// widestCell is what a cell of the matrix may take; longer lists of ports make the list the better form.
const widestCell = 18

// writeText writes a matrix if it fits the width, else a list by source, else, of too many boxes, a list of namespaces.
func (v View) writeText(w io.Writer) error {
	p := &printer{w: w}
	m := v.Map
	switch grid := v.matrix(); {
	case len(m.Boxes) > MaxBoxes:
		v.writeNamespaces(p)
	case grid.width() <= cmp.Or(v.Width, 100) && len(m.Boxes) <= 30:
		grid.write(p)
	default:
		v.writeList(p)
	}
	for _, n := range m.Notices {
		p.f("note: %s\n", n)
	}
	return p.err
}

// grid is a table of texts.
type grid struct {
	cells  [][]string
	widths []int
}

func (g *grid) width() int {
	total := 0
	for _, w := range g.widths {
		total += w + 2
	}
	return total
}

func (g *grid) add(row []string) {
	for i, c := range row {
		if i == len(g.widths) {
			g.widths = append(g.widths, 0)
		}
		g.widths[i] = max(g.widths[i], utf8.RuneCountInString(c))
	}
	g.cells = append(g.cells, row)
}

// matrix has a row for each source and a numbered column for each destination.
func (v View) matrix() *grid {
	g := &grid{}
	m := v.Map
	header := []string{"", "FROM \\ TO"}
	for i := range m.Boxes {
		header = append(header, number(i))
	}
	g.add(header)
	if len(m.Boxes) > MaxBoxes {
		return g
	}
	for from, b := range m.Boxes {
		row := []string{number(from), b.Name}
		for to := range m.Boxes {
			row = append(row, cellText(m.AnswerAt(m.AlikeIndex(from, to))))
		}
		g.add(append(row, openEnds(b)))
	}
	for i, w := range g.widths[2:] {
		if w > widestCell {
			g.widths[i+2] = 1 << 16 // does not fit anywhere
		}
	}
	return g
}

func number(i int) string {
	return reach.Ports{Protocol: flow.TCP, First: uint16(i + 1), Last: uint16(i + 1)}.String()
}

// cellText is an answer in as few letters as possible.
func cellText(a *reach.Answer) string {
	switch a.Level {
	case reach.Unjudged:
		return " "
	case reach.None:
		return "·"
	}
	return strings.ReplaceAll(a.Text(), ", ", ",")
}

func (g *grid) write(p *printer) {
	for _, row := range g.cells {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(c)
			line.WriteString(strings.Repeat(" ", g.widths[i]+2-utf8.RuneCountInString(c)))
		}
		p.f("%s\n", strings.TrimRight(line.String(), " "))
	}
	p.f("\nports that are allowed; all: everything; ·: nothing; open: no policy denies anything (in: to it, out: from it)\n")
}

// writeList writes each source with what it reaches and who is denied, by which rule.
func (v View) writeList(p *printer) {
	for from, b := range v.Map.Boxes {
		title := b.Name
		if open := openEnds(b); open != "" {
			title += "  (" + open + ")"
		}
		p.f("%s\n", title)
		lines := v.lines(from)
		g := &grid{}
		for _, l := range lines {
			g.add([]string{"  " + l.symbol, strings.Join(shorten(l.to, 4), ", "), l.ports, l.by})
		}
		g.plain(p)
	}
}

func (g *grid) plain(p *printer) {
	for _, row := range g.cells {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(c)
			line.WriteString(strings.Repeat(" ", min(g.widths[i], 48)+2-min(48, utf8.RuneCountInString(c))))
		}
		p.f("%s\n", strings.TrimRight(line.String(), " "))
	}
}

// listLine is destinations of one source that get the same ports by the same rules.
type listLine struct {
	symbol    string
	to        []string
	ports, by string
}

// lines are what one source reaches, then what it is denied.
func (v View) lines(from int) []listLine {
	var all []listLine
	index := map[listKey]int{}
	answers := map[int]int{} // the line that an answer is in
	for to, b := range v.Map.Boxes {
		number := v.Map.AnswerIndex(from, to)
		i, ok := answers[number]
		if !ok {
			a := v.Map.AnswerAt(number)
			if a.Level == reach.Unjudged {
				continue
			}
			l := listLine{symbol: "->", ports: a.Text(), by: "by " + deciders(a, flow.Allow)}
			if a.Level == reach.None {
				l.symbol, l.by = "-x", "by "+deciders(a, flow.Deny)
			}
			k := listKey{l.symbol, l.ports, l.by}
			if i, ok = index[k]; !ok {
				i = len(all)
				index[k] = i
				all = append(all, l)
			}
			answers[number] = i
		}
		all[i].to = append(all[i].to, b.Name)
	}
	slices.SortStableFunc(all, func(a, b listLine) int { return strings.Compare(a.symbol, b.symbol) })
	return all
}

type listKey struct{ symbol, ports, by string }

// shorten leaves out what is beyond the first most names.
func shorten(names []string, most int) []string {
	if len(names) <= most {
		return names
	}
	return append(slices.Clone(names[:most]), words.Counted(len(names)-most, "other"))
}

// between counts the pairs between two groups that a picture would draw, and all of them.
func (v View) between(a, b group) (drawn, pairs int) {
	for _, from := range a.boxes {
		for _, to := range b.boxes {
			if v.Map.AnswerAt(v.Map.AlikeIndex(from, to)).Level == reach.Unjudged {
				continue
			}
			pairs++
			if v.Map.Allowed(from, to) {
				drawn++
			}
		}
	}
	return drawn, pairs
}

func (v View) writeNamespaces(p *printer) {
	all := groups(v.Map)
	p.f("%d boxes are too many to list: by namespace, pairs of which something is allowed, of all pairs (-o csv and json have each)\n", len(v.Map.Boxes))
	for _, a := range all {
		p.f("%s  (%s)\n", a.name, boxes(len(a.boxes)))
		g := &grid{}
		for _, b := range all {
			if drawn, pairs := v.between(a, b); drawn > 0 {
				g.add([]string{"  ->", b.name, fraction(drawn, pairs)})
			}
		}
		g.plain(p)
	}
}
