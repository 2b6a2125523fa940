package rows

import (
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func rowLoses(a, b *ruleset.Row) bool {
	if a.Other.Verdict == flow.Allow && b.Other.Verdict != flow.Allow {
		return true
	}
	for _, p := range flow.PortProtocols {
		x, y := a.Segments(p), b.Segments(p)
		for len(x) > 0 && len(y) > 0 {
			if x[0].Verdict == flow.Allow && y[0].Verdict != flow.Allow {
				return true
			}
			last := min(x[0].Last, y[0].Last)
			if x[0].Last == last {
				x = x[1:]
			}
			if y[0].Last == last {
				y = y[1:]
			}
		}
	}
	return false
}

// meet returns the row that allows what both allow.
func meet(a, b *ruleset.Row) ruleset.Row {
	both := func(x, y ruleset.Cell) ruleset.Cell {
		if x.Verdict != flow.Allow {
			return x
		}
		return y
	}
	out := ruleset.Row{Other: both(a.Other, b.Other)}
	for _, p := range flow.PortProtocols {
		var segments []ruleset.Segment
		x, y := a.Segments(p), b.Segments(p)
		for first := 0; len(x) > 0 && len(y) > 0; {
			last := min(x[0].Last, y[0].Last)
			segments = append(segments, ruleset.Segment{First: uint16(first), Last: last, Cell: both(x[0].Cell, y[0].Cell)})
			first = int(last) + 1
			if x[0].Last == last {
				x = x[1:]
			}
			if y[0].Last == last {
				y = y[1:]
			}
		}
		segments = ruleset.Merge(segments)
		switch p {
		case flow.TCP:
			out.TCP = segments
		case flow.UDP:
			out.UDP = segments
		default:
			out.SCTP = segments
		}
	}
	return out
}
