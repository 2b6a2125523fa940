package lab

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/words"
)

// cell sums up some probes. The zero value is none.
type cell uint8

const (
	cellNone cell = iota
	cellOpen
	cellShut
	cellMixed
	cellWrong // one of them is not what the reference says
)

// add returns c with one more probe.
func (c cell) add(r Result) cell {
	next := cellShut
	if r.Outcome == Answered {
		next = cellOpen
	}
	switch {
	case r.Mismatch != "" || c == cellWrong:
		return cellWrong
	case c == cellNone || c == next:
		return next
	}
	return cellMixed
}

// grid sums up results by source and destination. Services of one destination that everybody sees alike share a
// column, and addresses outside that look alike share a row or their columns.
type grid struct {
	rows    []gridRow
	columns []column
}

type gridRow struct {
	names []string
	cells []cell // one for each column
}

// column is a destination, or several, with services.
type column struct {
	to, services []string
}

func (c column) String() string { return nameOf(c.to) + ":" + words.Some(c.services, 5, ",") }

// nameOf joins the names of what looks alike.
func nameOf(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return "outside (" + few(names, 2, "") + ")"
}

func byGroup(p Point) string { return p.Group }

// byNamespace is the pod's namespace; others stay what they are.
func byNamespace(p Point) string {
	if ns, _, ok := strings.Cut(p.Group, "/"); ok && ns != "node" {
		return ns + "/*"
	}
	return p.Group
}

// newGrid sums up results whose points fall together by what name gives, in the order of the results, which is that
// of the pods' names. service names what was asked for; what it names "" is left out.
func newGrid(results []Result, name func(Point) string, service func(Result) string) *grid {
	type target struct{ to, service string }
	rows, columns := newIndex[string](), newIndex[target]()
	targetsOf := newIndex[string]()
	cells := map[[2]int]cell{}
	for _, r := range results {
		to, what := name(r.To), service(r)
		if what == "" {
			continue
		}
		at := [2]int{rows.of(name(r.From)), columns.of(target{to, what})}
		targetsOf.of(to)
		cells[at] = cells[at].add(r)
	}
	g := &grid{}
	for _, from := range rows.items {
		g.rows = append(g.rows, gridRow{names: []string{from}})
	}
	for _, to := range targetsOf.items { // services of one destination stand side by side
		for i, t := range columns.items {
			if t.to != to {
				continue
			}
			g.columns = append(g.columns, column{[]string{to}, []string{t.service}})
			for row := range g.rows {
				g.rows[row].cells = append(g.rows[row].cells, cells[[2]int{row, i}])
			}
		}
	}
	g.mergeServices()
	g.mergeOutside()
	return g
}

// index numbers items in the order in which they come.
type index[T comparable] struct {
	numbers map[T]int
	items   []T
}

func newIndex[T comparable]() *index[T] { return &index[T]{numbers: map[T]int{}} }

func (x *index[T]) of(item T) int {
	if n, ok := x.numbers[item]; ok {
		return n
	}
	x.numbers[item] = len(x.items)
	x.items = append(x.items, item)
	return len(x.items) - 1
}

// mergeServices joins services of one destination that all rows see alike. They stand side by side.
func (g *grid) mergeServices() {
	g.mergeColumns(func(a, b column) bool { return a.to[0] == b.to[0] },
		func(into *column, from column) { into.services = append(into.services, from.services...) })
}

// mergeOutside joins addresses outside, which nobody knows by name, that look alike.
func (g *grid) mergeOutside() {
	g.mergeColumns(func(a, b column) bool {
		return isAddress(a.to[0]) && isAddress(b.to[0]) && slices.Equal(a.services, b.services)
	}, func(into *column, from column) { into.to = append(into.to, from.to...) })
	var kept []gridRow
	for _, row := range g.rows {
		same := slices.IndexFunc(kept, func(k gridRow) bool {
			return isAddress(k.names[0]) && isAddress(row.names[0]) && slices.Equal(k.cells, row.cells)
		})
		if same < 0 {
			kept = append(kept, row)
			continue
		}
		kept[same].names = append(kept[same].names, row.names...)
	}
	g.rows = kept
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// mergeColumns joins each column into the first earlier one that it may join and that all rows see alike.
func (g *grid) mergeColumns(may func(a, b column) bool, join func(into *column, from column)) {
	var kept []int
	for i := range g.columns {
		same := slices.IndexFunc(kept, func(k int) bool { return may(g.columns[k], g.columns[i]) && g.alike(k, i) })
		if same < 0 {
			kept = append(kept, i)
			continue
		}
		join(&g.columns[kept[same]], g.columns[i])
	}
	columns := g.columns
	g.columns = nil
	for _, k := range kept {
		g.columns = append(g.columns, columns[k])
	}
	for r := range g.rows {
		cells := g.rows[r].cells
		g.rows[r].cells = nil
		for _, k := range kept {
			g.rows[r].cells = append(g.rows[r].cells, cells[k])
		}
	}
}

func (g *grid) alike(a, b int) bool {
	return !slices.ContainsFunc(g.rows, func(r gridRow) bool { return r.cells[a] != r.cells[b] })
}
