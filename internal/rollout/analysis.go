package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/words"
)

// Verdict is an answer with its reasons, the weightiest first.
type Verdict struct {
	Answer  Answer
	Reasons []string
}

// String is the reasons as one line.
func (v Verdict) String() string { return strings.Join(v.Reasons, "; ") }

// lower lets a reason count. Of several answers the least is the verdict's, and its reasons come first.
func (v *Verdict) lower(a Answer, format string, args ...any) {
	if a == Pass {
		return
	}
	at := len(v.Reasons)
	if a < v.Answer {
		v.Answer, at = a, 0
	}
	v.Reasons = slices.Insert(v.Reasons, at, fmt.Sprintf(format, args...))
}

// Judge says what follows from what was seen in a step; done: its time is over. What takes the whole step to know is
// judged only then: coverage, and probes. So is all of an audit, which hurts nobody and is to show everything.
// What accepted has, by Finding.Key, a person has seen and promoted.
func (a Analysis) Judge(step StepKind, e Evidence, h Health, accepted []string, done bool) Verdict {
	v := Verdict{Answer: Pass}
	if len(h.Silent) > 0 {
		v.lower(a.Coverage.Then, "nothing is known of %s", some(h.Silent))
	}
	if step == Audit && !done {
		return v
	}
	a.judgeFindings(&v, e, accepted)
	a.judgeQueries(&v, step, h, accepted, done)
	if step != Audit {
		a.judgeHealth(&v, e, h)
	}
	if !done || step == Pause {
		return v
	}
	lost := slices.DeleteFunc(slices.Clone(h.Lost), func(l string) bool { return slices.Contains(accepted, probeKey(l)) })
	if len(lost) > a.Probes.Max {
		v.lower(a.Probes.Then, "would lose %s", some(lost))
	}
	a.judgeCoverage(&v, step, e, h)
	return v
}

func (a Analysis) judgeFindings(v *Verdict, e Evidence, accepted []string) {
	for _, k := range []struct {
		kind          FindingKind
		limit         Limit
		happened, may string
	}{
		{NewlyDenied, a.NewlyDenied, "denied", "would deny"},
		{NewlyAllowed, a.NewlyAllowed, "newly allowed", "would newly allow"},
	} {
		all := slices.DeleteFunc(slices.Clone(e.Findings), func(f Finding) bool { return f.Kind != k.kind || slices.Contains(accepted, f.Key()) })
		happened, may := 0, 0
		for _, f := range all {
			if f.Enforced {
				happened += f.Count
			} else {
				may += f.Count
			}
		}
		if happened+may > k.limit.Max {
			v.lower(k.limit.Then, "%s: %s", amounts(k.happened, happened, k.may, may), summary(all))
		}
	}
	if e.More > 0 {
		v.lower(min(a.NewlyDenied.Then, a.NewlyAllowed.Then), "%s of more kinds differ", connections(e.More))
	}
}

// amounts is "denied 1 connection", "would deny 2 connections", or "denied 1 connection and would deny 2".
func amounts(happenedWord string, happened int, mayWord string, may int) string {
	switch {
	case may == 0:
		return happenedWord + " " + connections(happened)
	case happened == 0:
		return mayWord + " " + connections(may)
	}
	return fmt.Sprintf("%s %s and %s %d", happenedWord, connections(happened), mayWord, may)
}

// summary names what was found, the most frequent first, and the rule of that.
func summary(all []Finding) string {
	var kinds []Finding
	for _, f := range all {
		i := slices.IndexFunc(kinds, func(k Finding) bool { return k.Key() == f.Key() })
		if i < 0 {
			f.Live = false
			kinds = append(kinds, f)
			continue
		}
		kinds[i].Count += f.Count
	}
	slices.SortStableFunc(kinds, func(a, b Finding) int { return b.Count - a.Count })
	var texts []string
	for i, f := range kinds {
		text := f.String()
		if i == 0 {
			text += " by " + f.After
		}
		texts = append(texts, text)
	}
	return some(texts)
}

func (a Analysis) judgeHealth(v *Verdict, e Evidence, h Health) {
	a.FailedConnects.compare(v, "connections failed", e.Cohort.Failed, e.Cohort.Ended, e.Rest.Failed, e.Rest.Ended)
	a.Resets.compare(v, "established connections were reset", e.Cohort.Reset, e.Cohort.established(), e.Rest.Reset, e.Rest.established())
	if len(h.NotReady) > a.NotReady.Max {
		v.lower(a.NotReady.Then, "not ready any more: %s", some(h.NotReady))
	}
	if len(h.Restarts) > a.Restarts.Max {
		v.lower(a.Restarts.Then, "restarted: %s", some(h.Restarts))
	}
}

// compare takes l as percentage points by which the share of the cohort's connections of a kind may be more than that of
// all others.
func (l Limit) compare(v *Verdict, kind string, cohort, ofCohort, rest, ofRest int) {
	here, there := share(cohort, ofCohort), share(rest, ofRest)
	if ofCohort >= MinConnects && ofRest >= MinConnects && here-there > l.Max {
		v.lower(l.Then, "%d%% of the cohort's %s, %d%% of all others", here, kind, there)
	}
}

func probeKey(lost string) string { return "probe " + lost }

func (a Analysis) judgeCoverage(v *Verdict, step StepKind, e Evidence, h Health) {
	switch {
	case h.Selected == 0:
		v.lower(a.Coverage.Then, "the change selects no pod")
	case step == Enforce && h.Cohort == 0:
		v.lower(a.Coverage.Then, "the cohort has no pod")
	case e.Connections < a.Coverage.Connections:
		v.lower(a.Coverage.Then, "only %s seen, %d wanted", connections(e.Connections), a.Coverage.Connections)
	}
	if step != Audit || !a.Coverage.Workloads {
		return
	}
	unseen := slices.DeleteFunc(slices.Clone(h.Workloads), func(w string) bool { return slices.Contains(e.Workloads, w) })
	if len(unseen) > 0 {
		v.lower(a.Coverage.Then, "no connection was seen of %s", some(unseen))
	}
}

// some is a list of at most three, and how many more.
func some(list []string) string { return words.Some(list, 3, ", ") }

func connections(n int) string { return words.Counted(n, "connection") }

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
