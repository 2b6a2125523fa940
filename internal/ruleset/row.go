package ruleset

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Uniform returns the row that gives every protocol and port the same cell.
func Uniform(c Cell) Row {
	all := func() []Segment { return []Segment{{0, 65535, c}} }
	return Row{TCP: all(), UDP: all(), SCTP: all(), Other: c}
}

// With returns r with the ports first to last of protocol p set to c; r stays as it is. Of a protocol without
// ports there is one cell for all, which first and last do not divide. The result is canonical if r is.
func (r Row) With(p flow.Protocol, first, last uint16, c Cell) Row {
	switch p {
	case flow.TCP:
		r.TCP = override(r.TCP, Segment{first, last, c})
	case flow.UDP:
		r.UDP = override(r.UDP, Segment{first, last, c})
	case flow.SCTP:
		r.SCTP = override(r.SCTP, Segment{first, last, c})
	default:
		r.Other = c
	}
	return r
}

func override(segments []Segment, o Segment) []Segment {
	var out []Segment
	for _, s := range segments {
		if s.First < o.First {
			out = append(out, Segment{s.First, min(s.Last, o.First-1), s.Cell})
		}
	}
	out = append(out, o)
	for _, s := range segments {
		if s.Last > o.Last {
			out = append(out, Segment{max(s.First, o.Last+1), s.Last, s.Cell})
		}
	}
	return Merge(out)
}

// Merge joins neighbours with the same cell, which is what makes segments that cover all ports in order
// canonical. It works in place.
func Merge(segments []Segment) []Segment {
	out := segments[:0]
	for _, s := range segments {
		if n := len(out); n > 0 && out[n-1].Cell == s.Cell {
			out[n-1].Last = s.Last
			continue
		}
		out = append(out, s)
	}
	return out
}

// Lookup returns the cell of a protocol and, if it has ports, a port. It is total: what the row does not cover,
// and only a row that is not canonical leaves something out, is denied.
func (r *Row) Lookup(p flow.Protocol, port uint16) Cell {
	if !p.HasPorts() {
		return r.Other
	}
	segments := r.Segments(p)
	i := sort.Search(len(segments), func(i int) bool { return segments[i].Last >= port })
	if i == len(segments) || segments[i].First > port {
		return Cell{}
	}
	return segments[i].Cell
}

// Equal reports whether both rows hold the same cells in the same segments.
func (r Row) Equal(o Row) bool {
	return r.Other == o.Other && slices.Equal(r.TCP, o.TCP) && slices.Equal(r.UDP, o.UDP) && slices.Equal(r.SCTP, o.SCTP)
}

// Check returns an error if r is not canonical.
func (r Row) Check() error {
	if r.Other.Verdict > flow.Allow {
		return fmt.Errorf("row: unknown verdict %d", r.Other.Verdict)
	}
	for _, p := range flow.PortProtocols {
		if err := checkSegments(r.Segments(p)); err != nil {
			return fmt.Errorf("row: %s: %w", p, err)
		}
	}
	return nil
}

func checkSegments(segments []Segment) error {
	next := 0 // the port that the next segment has to start with
	for i, s := range segments {
		switch {
		case s.Verdict > flow.Allow:
			return fmt.Errorf("unknown verdict %d", s.Verdict)
		case int(s.First) != next || s.Last < s.First:
			return fmt.Errorf("segment %d-%d does not start at %d, where the one before it ends", s.First, s.Last, next)
		case i > 0 && segments[i-1].Cell == s.Cell:
			return fmt.Errorf("segment %d-%d has the same cell as the one before it: merge them", s.First, s.Last)
		}
		next = int(s.Last) + 1
	}
	if next != 1<<16 {
		return fmt.Errorf("segments end before port %d: cover all ports", next)
	}
	return nil
}

// Stripped returns r as packets see it: without rules, and canonical again.
func (r Row) Stripped() Row {
	strip := func(segments []Segment) []Segment {
		out := slices.Clone(segments)
		for i := range out {
			out[i].Rule = 0
		}
		return Merge(out)
	}
	return Row{TCP: strip(r.TCP), UDP: strip(r.UDP), SCTP: strip(r.SCTP), Other: Cell{Verdict: r.Other.Verdict}}
}

// String is for instance "tcp 80 allow 4, else deny 5": the ports whose cell differs from Other, then Other. The
// numbers after the verdicts are RuleIDs.
func (r Row) String() string {
	var parts []string
	for _, line := range r.lines() {
		parts = append(parts, line.text)
	}
	return strings.Join(parts, ", ")
}

// A rowLine is one line of a row's text and the rule that it comes from.
type rowLine struct {
	text string
	rule RuleID
}

func (r *Row) lines() []rowLine {
	var out []rowLine
	for _, p := range flow.PortProtocols {
		for _, s := range r.Segments(p) {
			if s.Cell == r.Other {
				continue
			}
			ports := strconv.Itoa(int(s.First))
			if s.Last != s.First {
				ports += "-" + strconv.Itoa(int(s.Last))
			}
			out = append(out, rowLine{p.String() + " " + ports + " " + s.Cell.String(), s.Rule})
		}
	}
	return append(out, rowLine{"else " + r.Other.String(), r.Other.Rule})
}

// String is "allow 4", or "deny" for a cell without a rule.
func (c Cell) String() string {
	if c.Rule == 0 {
		return c.Verdict.String()
	}
	return c.Verdict.String() + " " + strconv.FormatUint(uint64(c.Rule), 10)
}
