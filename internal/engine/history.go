package engine

import (
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// historyRows bounds how many rows are remembered beyond those in force: a denial may be reported a moment after
// its row is gone.
const historyRows = 4096

// history explains rows, also those that are no longer in force.
type history struct {
	rows  map[ruleset.RowID]ruleset.Row
	rules map[ruleset.RuleID]*remembered
	gone  []ruleset.RowID // no longer in force, in the order in which they went
}

// remembered is a rule and how many cells of remembered rows name it.
type remembered struct {
	rule flow.Rule
	uses int
}

func newHistory() history {
	return history{rows: map[ruleset.RowID]ruleset.Row{}, rules: map[ruleset.RuleID]*remembered{}}
}

// add remembers the rows and rules that d adds; of those that went it forgets the oldest.
func (h *history) add(d ruleset.Delta) {
	for _, op := range d.Ops {
		switch op.Kind {
		case ruleset.AddRule:
			if h.rules[op.Rule] == nil {
				h.rules[op.Rule] = &remembered{rule: op.Origin}
			}
		case ruleset.AddRow:
			h.rows[op.Row] = op.Value
			h.count(op.Value, 1)
		case ruleset.DeleteRow:
			h.gone = append(h.gone, op.Row)
		}
	}
	for len(h.gone) > historyRows {
		h.count(h.rows[h.gone[0]], -1)
		delete(h.rows, h.gone[0])
		h.gone = h.gone[1:]
	}
}

// count counts the cells of a row in or out.
func (h *history) count(row ruleset.Row, by int) {
	h.use(row.Other.Rule, by)
	for _, p := range flow.PortProtocols {
		for _, s := range row.Segments(p) {
			h.use(s.Rule, by)
		}
	}
}

func (h *history) use(id ruleset.RuleID, by int) {
	r := h.rules[id]
	if r == nil { // no policy
		return
	}
	if r.uses += by; r.uses == 0 {
		delete(h.rules, id)
	}
}

// rule names the rule behind a row's verdict.
func (h *history) rule(id ruleset.RowID, p flow.Protocol, port uint16) (flow.Rule, bool) {
	row, ok := h.rows[id]
	if !ok {
		return flow.Rule{}, false
	}
	r := h.rules[row.Lookup(p, port).Rule]
	if r == nil {
		return flow.Rule{}, false
	}
	return r.rule, true
}

// denial names the rule by which a row denies: the one of its other traffic, or else the first.
func (h *history) denial(id ruleset.RowID) (flow.Rule, bool) {
	row, ok := h.rows[id]
	if !ok {
		return flow.Rule{}, false
	}
	cells := []ruleset.Cell{row.Other}
	for _, p := range flow.PortProtocols {
		for _, s := range row.Segments(p) {
			cells = append(cells, s.Cell)
		}
	}
	for _, c := range cells {
		if r := h.rules[c.Rule]; r != nil && c.Verdict == flow.Deny {
			return r.rule, true
		}
	}
	return flow.Rule{}, false
}
