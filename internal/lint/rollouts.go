package lint

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/near"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/report"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// rollouts finds what is to be said of rollouts, and of what they carry.
func (l *linter) rollouts(specs []*rollout.Spec) error {
	inForce := map[rollout.Ref]*policy.Policy{}
	for _, p := range l.state.Policies() {
		inForce[rollout.RefOf(p)] = p
	}
	now := slices.Clone(l.findings)
	for i, s := range specs {
		l.steps(s)
		l.cohorts(s)
		if s.Analysis.NewlyDenied.Then == rollout.Pass {
			l.rollout(s, s.Lines.Analysis, denialsIgnored, "leave newlyDenied.then out, or raise max", "newly denied connections are ignored, so it goes on whatever it breaks")
		}
		l.changes(s, inForce)
		l.turns(s, specs[:i])
		if err := l.candidate(s, now); err != nil {
			return err
		}
	}
	return nil
}

// rollout notes a finding about a rollout itself.
func (l *linter) rollout(s *rollout.Spec, line int, code, fix, format string, args ...any) {
	object := "PolicyRollout " + s.Name
	if line == 0 {
		line = s.Line
	}
	l.findings = append(l.findings, Finding{Finding: report.Finding{Code: code, Level: levelOf(code), Place: report.Place{File: s.File, Line: line},
		Message: object + ": " + fmt.Sprintf(format, args...), Fix: fix}, Object: object, objectLine: s.Line})
}

// candidate finds what is so with the candidate in force for everyone and is not so now.
func (l *linter) candidate(s *rollout.Spec, now []Finding) error {
	state, err := rollout.Rewrite(l.state, s.InForce())
	if err != nil {
		return err
	}
	type what struct {
		code, message string
		place         report.Place
	}
	known := map[what]bool{}
	for _, f := range now {
		known[what{f.Code, f.Message, f.Place}] = true
	}
	then := newLinter(state, l.services)
	then.all()
	for _, f := range then.findings {
		// The first policy that there is selects nobody's other workloads: that is so now too, and not worth saying.
		if known[what{f.Code, f.Message, f.Place}] || f.Code == notSelected && len(l.state.Policies()) == 0 {
			continue
		}
		f.Message, f.carrier = "rollout "+s.Name+": "+f.Message, s
		l.findings = append(l.findings, f)
	}
	return nil
}

// steps are in an order in which each shows something before it hurts more.
func (l *linter) steps(s *rollout.Spec) {
	audited := false
	var before *rollout.Cohort
	for i, step := range s.Steps {
		switch step.Kind {
		case rollout.Audit:
			audited, before = true, nil
		case rollout.Enforce:
			if !audited {
				l.rollout(s, s.StepLine(i), noAudit, `begin with "audit: {for: 10m}"`, "step %d enforces, and nothing was audited before it", i+1)
				audited = true // once is enough
			}
			if before != nil && sameButPercent(*before, step.Cohort) && step.Cohort.Percent < before.Percent {
				l.rollout(s, s.StepLine(i), shrinks, "let cohorts grow", "step %d enforces %s, and a step before it %d%%: pods go back to the old policies",
					i+1, step.Cohort, before.Percent)
			}
			before = &step.Cohort
		}
	}
}

func sameButPercent(a, b rollout.Cohort) bool {
	same := func(x, y *label.Selector) bool { return x == nil && y == nil || x != nil && y != nil && x.Equal(*y) }
	return same(a.Pods, b.Pods) && same(a.Namespaces, b.Namespaces) && slices.Equal(a.Nodes, b.Nodes)
}

// cohorts are some of the pods that the change selects, as far as these are known.
func (l *linter) cohorts(s *rollout.Spec) {
	selected := s.Selected(l.state)
	placed := false
	for _, e := range selected {
		placed = placed || e.Node != ""
	}
	for i, step := range s.Steps {
		if step.Kind != rollout.Enforce || step.Cohort.Everyone() || len(selected) == 0 || len(step.Cohort.Nodes) > 0 && !placed {
			continue
		}
		whole := step.Cohort
		whole.Percent = 100
		switch n := len(whole.Choose(l.state, s.Name, s.Change)); {
		case n == 0:
			l.rollout(s, s.StepLine(i), cohortOfNone, "", "step %d enforces %s, which are none of the pods that the change selects: %s",
				i+1, step.Cohort, workloads(selected))
		case n == len(selected) && (n == 1 || step.Cohort.Percent == 100):
			l.rollout(s, s.StepLine(i), cohortOfAll, "", "step %d enforces %s, which is all that the change selects: %s",
				i+1, step.Cohort, workloads(selected))
		}
	}
}

// changes are changes of what is there.
func (l *linter) changes(s *rollout.Spec, inForce map[rollout.Ref]*policy.Policy) {
	for _, p := range s.Policies {
		if old := inForce[rollout.RefOf(p)]; old != nil && old.Defect == "" && saysTheSame(old, p) {
			l.rollout(s, p.Line, changesNothing, "remove it, or the rollout if it is complete", "%s says what is in force already (%s)", rollout.RefOf(p), placeOf(old))
		}
	}
	for i, ref := range s.Remove {
		if inForce[ref] != nil {
			continue
		}
		var names []string
		for other := range inForce {
			if other.Kind == ref.Kind && other.Namespace == ref.Namespace {
				names = append(names, other.Name)
			}
		}
		if len(names) == 0 {
			continue // its policies are elsewhere
		}
		slices.Sort(names)
		fix := ""
		if name := near.Of(ref.Name, names); name != "" {
			fix = fmt.Sprintf("did you mean %q?", name)
		}
		line := 0
		if i < len(s.Lines.Remove) {
			line = s.Lines.Remove[i]
		}
		l.rollout(s, line, removesNothing, fix, "removes %s, which is not there", ref)
	}
}

// saysTheSame compares policies without their places.
func saysTheSame(a, b *policy.Policy) bool {
	bare := func(p *policy.Policy) policy.Policy {
		q := *p
		q.File, q.Line = "", 0
		for _, rules := range []*[]policy.Rule{&q.Ingress, &q.Egress} {
			*rules = slices.Clone(*rules)
			for i := range *rules {
				(*rules)[i].Line = 0
			}
		}
		return q
	}
	return reflect.DeepEqual(bare(a), bare(b))
}

// turns are taken by rollouts that touch the same policy; the others come before s.
func (l *linter) turns(s *rollout.Spec, others []*rollout.Spec) {
	for _, o := range others {
		for _, ref := range s.Touches() {
			if slices.Contains(o.Touches(), ref) {
				l.rollout(s, 0, takeTurns, "", "rollout %s touches %s too: they take turns", o.Name, ref)
				break
			}
		}
	}
}
