package mapview

import (
	"fmt"
	"io"
	"strings"

	"github.com/ringfence-project/ringfence/internal/reach"
)

func fraction(n, of int) string {
	if n == of {
		return fmt.Sprintf("all %d", of)
	}
	return fmt.Sprintf("%d of %d", n, of)
}

// edge is a line of a picture, between boxes or between groups.
type edge struct {
	pair
	label string
}

// diagram is a picture in the abstract: groups with nodes in them, or groups as the nodes, and edges.
type diagram struct {
	groups  []group // of boxes; in a collapsed diagram, each is one node
	collaps bool
	edges   []edge
	notes   []string
}

// diagram draws boxes, if there are no more than most and their edges are no more than mostEdges, else groups.
func (v View) diagram(most, mostEdges int) diagram {
	d := diagram{groups: groups(v.Map), notes: v.Map.Notices}
	if len(v.Map.Boxes) <= most {
		for from := range v.Map.Boxes {
			for to := range v.Map.Boxes {
				if v.Map.Telling(from, to) {
					d.edges = append(d.edges, edge{pair{from, to}, v.Map.Answer(from, to).Text()})
				}
			}
		}
		if len(d.edges) <= mostEdges {
			return d
		}
	}
	d.collaps, d.edges = true, nil
	d.notes = append([]string{fmt.Sprintf("%d boxes are too many to draw: these are namespaces, with the number of pairs of which something is allowed", len(v.Map.Boxes))}, d.notes...)
	for from, a := range d.groups {
		for to, b := range d.groups {
			if drawn, pairs := v.between(a, b); drawn > 0 && len(d.edges) < mostEdges {
				d.edges = append(d.edges, edge{pair{from, to}, fraction(drawn, pairs)})
			}
		}
	}
	return d
}

const undrawn = "dashed: open, no policy denies it anything; pairs of open ends are not drawn"

// writeDot writes the Graphviz language: https://graphviz.org/doc/info/lang.html
func (v View) writeDot(w io.Writer) error {
	d := v.diagram(MaxBoxes, 1<<30)
	p := &printer{w: w}
	p.f("digraph ringfence {\n  rankdir=LR; compound=true; fontname=\"Helvetica\";\n")
	p.f("  node [shape=box, style=rounded, fontname=\"Helvetica\", fontsize=11];\n  edge [fontname=\"Helvetica\", fontsize=9, color=\"#52606d\"];\n")
	for i, g := range d.groups {
		if d.collaps {
			p.f("  b%d [label=%s];\n", i, dotText(g.name, boxes(len(g.boxes))))
			continue
		}
		p.f("  subgraph cluster_%d {\n    label=%s; color=\"#9aa5b1\"; style=rounded;\n", i, dotText(g.name))
		for _, b := range g.boxes {
			box := v.Map.Boxes[b]
			style := ""
			if openEnds(box) == "open" {
				style = ", style=\"rounded,dashed\""
			}
			p.f("    b%d [label=%s%s];\n", b, dotText(shortName(box), subtitle(box)), style)
		}
		p.f("  }\n")
	}
	for _, e := range d.edges {
		p.f("  b%d -> b%d [label=%s];\n", e.from, e.to, dotText(e.label))
	}
	for _, n := range append([]string{undrawn}, d.notes...) {
		p.f("  // %s\n", strings.ReplaceAll(n, "\n", " "))
	}
	p.f("}\n")
	return p.err
}

var dotEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ")

func dotText(lines ...string) string {
	var kept []string
	for _, l := range lines {
		if l != "" {
			kept = append(kept, dotEscape.Replace(l))
		}
	}
	return `"` + strings.Join(kept, `\n`) + `"`
}

// writeMermaid writes a Mermaid flowchart: https://mermaid.js.org/syntax/flowchart.html
func (v View) writeMermaid(w io.Writer) error {
	d := v.diagram(maxMermaid, maxMermaidEdges)
	p := &printer{w: w}
	p.f("flowchart LR\n")
	var open []string
	for i, g := range d.groups {
		if d.collaps {
			p.f("  b%d[%s]\n", i, mermaidText(g.name+" · "+boxes(len(g.boxes))))
			continue
		}
		p.f("  subgraph g%d[%s]\n", i, mermaidText(g.name))
		for _, b := range g.boxes {
			box := v.Map.Boxes[b]
			p.f("    b%d[%s]\n", b, mermaidText(shortName(box)))
			if openEnds(box) == "open" {
				open = append(open, fmt.Sprintf("b%d", b))
			}
		}
		p.f("  end\n")
	}
	for _, e := range d.edges {
		p.f("  b%d -->|%s| b%d\n", e.from, mermaidText(e.label), e.to)
	}
	if open != nil {
		p.f("  classDef open stroke-dasharray: 4 3\n  class %s open\n", strings.Join(open, ","))
	}
	for _, n := range append([]string{undrawn}, d.notes...) {
		p.f("  %%%% %s\n", strings.ReplaceAll(n, "\n", " "))
	}
	return p.err
}

var mermaidEscape = strings.NewReplacer(`"`, "#quot;", "#", "#35;", "<", "#lt;", ">", "#gt;", "\n", " ")

func mermaidText(s string) string { return `"` + mermaidEscape.Replace(s) + `"` }

// shortName is a box's name without the namespace that it is drawn in.
func shortName(b reach.Box) string {
	if b.Kind != reach.Workload {
		return b.Name
	}
	return strings.TrimPrefix(b.Name, b.Namespace+"/")
}

// subtitle is what a box declares.
func subtitle(b reach.Box) string {
	var all []string
	for _, p := range b.Ports {
		all = append(all, portName(p))
	}
	return strings.Join(shorten(all, 3), ", ")
}
