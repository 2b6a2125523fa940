//go:build linux

package lab

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Probe makes every probe of the selection and compares each with the reference evaluator; without a dataplane,
// everything should get through. progress, which may be nil, is called from one goroutine with the number of probes
// made, and must be quick.
func (l *Lab) Probe(ctx context.Context, sel Selection, progress func(done, total int)) (*Report, error) {
	m, err := l.matrix(sel)
	if err != nil {
		return nil, err
	}
	l.expect(m.probes)
	attempts := make([]attempt, len(m.probes))
	for i, r := range m.probes {
		attempts[i] = attempt{m.from[i].ns, r.Tuple}
	}
	start, done, landed := time.Now(), 0, make([]bool, len(attempts))
	err = probe(ctx, l.node.ns, l.denials, l.patience, attempts, func(i int, how landing) {
		landed[i] = true
		l.record(&m.probes[i], how)
		if done++; progress != nil {
			progress(done, len(attempts))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	m.keep(landed)
	for i := range m.probes {
		m.probes[i].judge()
	}
	r := l.report(m)
	r.Timings.Probe = time.Since(start)
	return r, nil
}

// expect asks the reference about every probe.
func (l *Lab) expect(probes []Result) {
	oracle := eval.NewOracle(l.State())
	for i := range probes {
		probes[i].Want = flow.Decision{Verdict: flow.Allow}
		if l.enforcer != nil {
			probes[i].Want = oracle.Decide(l.State().Resolve(probes[i].Tuple)).Flow()
		}
	}
}

// record notes what became of a probe. A denial is attributed at once, as rows may be forgotten later.
func (l *Lab) record(r *Result, landed landing) {
	r.Outcome, r.Took = landed.outcome, landed.took
	if landed.err != nil {
		r.Error = landed.err.Error()
	}
	if landed.outcome == Denied {
		r.Rule, _ = l.enforcer.attribute(landed.denial)
	}
}

func (l *Lab) report(m *matrix) *Report {
	r := &Report{Topology: l.plan.topology.String(), Enforced: l.enforcer != nil, Pods: len(l.pods), Results: m.probes, Skipped: m.skipped,
		Notices: l.plan.notices, Timings: l.timings, LostEvents: l.denials.lostSoFar()}
	if slices.ContainsFunc(m.probes, func(x Result) bool { return x.Tuple.Port == l.plan.other.Number }) {
		r.OtherPort = l.plan.other.Number
	}
	return r
}
