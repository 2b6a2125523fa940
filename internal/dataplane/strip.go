package dataplane

import "github.com/ringfence-project/ringfence/internal/ruleset"

// StripOps returns ops without what no packet depends on: rules, and the cells' references to them. It is to a Delta
// what Stripped is to a Ruleset.
func StripOps(ops []ruleset.Op) []ruleset.Op {
	kept := make([]ruleset.Op, 0, len(ops))
	for _, op := range ops {
		switch op.Kind {
		case ruleset.AddRule, ruleset.DeleteRule:
			continue
		case ruleset.AddRow:
			op.Value = op.Value.Stripped()
		}
		kept = append(kept, op)
	}
	return kept
}
