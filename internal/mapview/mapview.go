// Package mapview shows a reach.Map: as text, JSON, CSV, Graphviz, Mermaid, and as one HTML page that works from disk.
//
// Pictures never show more than about MaxBoxes boxes: above that they show namespaces. JSON and CSV are always whole.
package mapview

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// MaxBoxes is how many boxes a picture shows one by one.
const MaxBoxes = 300

// maxMermaid is MaxBoxes for Mermaid, whose layout is slower and whose viewers refuse more than 500 edges.
const (
	maxMermaid      = 60
	maxMermaidEdges = 400
)

// Formats are what Write knows, the default first.
var Formats = []string{"text", "json", "csv", "dot", "mermaid", "html"}

// View is a map to show.
type View struct {
	Map   *reach.Map
	Title string // of the page, for instance the folders that were read
	// Seen are connections that were really seen, by the indices of their boxes (reach.Map.BoxAt). In any order; those
	// of one pair are added up.
	Seen []Seen
	// Width is how wide text may be; 0 is 100.
	Width int
}

// Seen is what was seen between two boxes on one port.
type Seen struct {
	From, To        int
	Protocol        flow.Protocol
	Port            uint16
	Allowed, Denied uint64
	Last            time.Time // of the last connection; zero if unknown
}

// Write writes the view in one of Formats.
func (v View) Write(w io.Writer, format string) error {
	switch format {
	case "text":
		return v.writeText(w)
	case "json":
		return v.writeJSON(w)
	case "csv":
		return v.writeCSV(w)
	case "dot":
		return v.writeDot(w)
	case "mermaid":
		return v.writeMermaid(w)
	case "html":
		return v.writeHTML(w)
	}
	return fmt.Errorf("map format %q: want one of %s", format, strings.Join(Formats, ", "))
}

// pair is two boxes by their indices.
type pair struct{ from, to int }

// pairSeen is what was seen of a pair on all its ports.
type pairSeen struct {
	Allowed uint64     `json:"allowed"`
	Denied  uint64     `json:"denied"`
	Last    string     `json:"last,omitempty"` // RFC 3339
	Ports   []portSeen `json:"ports,omitempty"`
}

type portSeen struct {
	Port    string `json:"port"`
	Allowed uint64 `json:"allowed"`
	Denied  uint64 `json:"denied"`
}

// seenByPair adds up what was seen. Indices that are no boxes are left out.
func (v View) seenByPair() map[pair]*pairSeen {
	all := map[pair]*pairSeen{}
	n := len(v.Map.Boxes)
	sorted := slices.Clone(v.Seen)
	slices.SortStableFunc(sorted, func(a, b Seen) int {
		return comparePort(a.Protocol, a.Port, b.Protocol, b.Port)
	})
	for _, s := range sorted {
		if min(s.From, s.To) < 0 || max(s.From, s.To) >= n {
			continue
		}
		k := pair{s.From, s.To}
		if all[k] == nil {
			all[k] = &pairSeen{}
		}
		all[k].add(s)
	}
	return all
}

func (p *pairSeen) add(s Seen) {
	p.Allowed += s.Allowed
	p.Denied += s.Denied
	if !s.Last.IsZero() {
		p.Last = max(p.Last, s.Last.UTC().Format(time.RFC3339))
	}
	port := reach.Ports{Protocol: s.Protocol, First: s.Port, Last: s.Port}.String()
	if !s.Protocol.HasPorts() {
		port = s.Protocol.String()
	}
	if n := len(p.Ports); n == 0 || p.Ports[n-1].Port != port {
		p.Ports = append(p.Ports, portSeen{Port: port})
	}
	last := &p.Ports[len(p.Ports)-1]
	last.Allowed += s.Allowed
	last.Denied += s.Denied
}

func comparePort(p flow.Protocol, a uint16, q flow.Protocol, b uint16) int {
	if p != q {
		return int(p) - int(q)
	}
	return int(a) - int(b)
}

// group is boxes that are shown together: a namespace, the nodes, or the outside.
type group struct {
	name  string
	boxes []int
}

// groups are in order: namespaces by name, the nodes, the outside.
func groups(m *reach.Map) []group {
	var all []group
	for i, b := range m.Boxes {
		name := groupName(b)
		if n := len(all); n == 0 || all[n-1].name != name {
			all = append(all, group{name: name})
		}
		all[len(all)-1].boxes = append(all[len(all)-1].boxes, i)
	}
	return all
}

// The groups that are no namespaces; no namespace can have such names.
const (
	nodesGroup   = "(nodes)"
	outsideGroup = "(outside)"
)

func groupName(b reach.Box) string {
	switch b.Kind {
	case reach.Workload:
		return b.Namespace
	case reach.Nodes:
		return nodesGroup
	}
	return outsideGroup
}

// openEnds says what of a box no policy denies anything: "open", "open in", "open out" or "".
func openEnds(b reach.Box) string {
	switch {
	case b.Kind != reach.Workload || b.HostNetwork || b.FencedIngress && b.FencedEgress:
		return ""
	case b.FencedIngress:
		return "open out"
	case b.FencedEgress:
		return "open in"
	}
	return "open"
}

// printer keeps the first error, so that callers stay linear.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) f(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func boxes(n int) string {
	if n == 1 {
		return "1 box"
	}
	return fmt.Sprintf("%d boxes", n)
}
