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
	rules map[ruleset.RuleID]flow.Rule
	order []ruleset.RowID // as they came
}

func newHistory() history {
	return history{rows: map[ruleset.RowID]ruleset.Row{}, rules: map[ruleset.RuleID]flow.Rule{}}
}

// add remembers r's rows and rules; it forgets the oldest rows that r does not have.
func (h *history) add(r *ruleset.Ruleset) {
	for id, rule := range r.Rules {
		h.rules[id] = rule
	}
	for id, row := range r.Rows {
		if _, known := h.rows[id]; !known {
			h.rows[id] = row
			h.order = append(h.order, id)
		}
	}
	excess := len(h.order) - len(r.Rows) - historyRows
	if excess <= 0 {
		return
	}
	kept := h.order[:0]
	for _, id := range h.order {
		if _, live := r.Rows[id]; !live && excess > 0 {
			delete(h.rows, id)
			excess--
			continue
		}
		kept = append(kept, id)
	}
	h.order = kept
	h.forgetRules()
}

func (h *history) forgetRules() {
	used := map[ruleset.RuleID]bool{}
	for _, row := range h.rows {
		used[row.Other.Rule] = true
		for _, p := range flow.PortProtocols {
			for _, s := range row.Segments(p) {
				used[s.Rule] = true
			}
		}
	}
	for id := range h.rules {
		if !used[id] {
			delete(h.rules, id)
		}
	}
}

// rule names the rule behind a row's verdict.
func (h *history) rule(id ruleset.RowID, p flow.Protocol, port uint16) (flow.Rule, bool) {
	row, ok := h.rows[id]
	if !ok {
		return flow.Rule{}, false
	}
	rule, ok := h.rules[row.Lookup(p, port).Rule]
	return rule, ok
}
