package record

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// maxEvents bounds the history that is written, maxLost the probes, and maxText each text, in runes.
const (
	maxEvents = 50
	maxLost   = 50
	maxText   = 1024
)

func micro(t time.Time) *metav1.MicroTime {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewMicroTime(t.Truncate(time.Microsecond))
	return &m
}

func timeOf(m *metav1.MicroTime) time.Time {
	if m == nil {
		return time.Time{}
	}
	return m.Time
}

func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

func statusOf(name string, s v1alpha1.PolicyRolloutStatus) rollout.Status {
	out := rollout.Status{Rollout: name, Digest: s.Digest, Revision: int(s.Revision), Phase: rollout.Phase(s.Phase), By: rollout.Cause(s.By),
		Reason: s.Reason, Step: int(s.StepIndex), Watched: s.Watched.Duration, Seen: timeOf(s.Seen), Began: timeOf(s.Began),
		Entered: timeOf(s.Entered), Since: timeOf(s.Since), Accepted: s.Accepted}
	if s.Evidence != nil {
		out.Evidence = EvidenceOf(*s.Evidence)
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, rollout.Event{Time: e.Time.Time, Text: e.Text})
	}
	return out
}

func (r Record) apiStatus() v1alpha1.PolicyRolloutStatus {
	s := r.Status
	evidence := ToEvidence(s.Evidence)
	out := v1alpha1.PolicyRolloutStatus{ObservedGeneration: r.Generation, Digest: s.Digest, Revision: int64(s.Revision), Phase: string(s.Phase),
		By: string(s.By), Reason: cut(s.Reason, maxText), StepIndex: int32(s.Step), Nodes: cut(r.Nodes, maxText), Selected: int32(r.Selected),
		Cohort: int32(r.Cohort), Watched: metav1.Duration{Duration: s.Watched}, Seen: micro(s.Seen), Began: micro(s.Began),
		Entered: micro(s.Entered), Since: micro(s.Since), Evidence: &evidence, Lost: r.Lost[:min(len(r.Lost), maxLost)], Accepted: s.Accepted}
	if r.Spec != nil && r.Digest == s.Digest && s.Active() && s.Step < len(r.Spec.Steps) {
		out.Step = cut(fmt.Sprintf("%d/%d %s", s.Step+1, len(r.Spec.Steps), r.Spec.Steps[s.Step]), maxText)
	}
	for _, e := range s.Events[max(0, len(s.Events)-maxEvents):] {
		out.Events = append(out.Events, v1alpha1.RolloutEvent{Time: *micro(e.Time), Text: cut(e.Text, maxText)})
	}
	if r.Complete != nil {
		out.Complete = &r.Complete.raw
	}
	if r.Former != nil {
		out.Former = &r.Former.raw
	}
	return out
}

// EvidenceOf reads evidence. Its findings are sorted, and of one kind there is one.
func EvidenceOf(e v1alpha1.RolloutEvidence) rollout.Evidence {
	out := rollout.Evidence{More: int(e.More), Connections: int(e.Connections), Uncertain: int(e.Uncertain),
		Cohort: outcomesOf(e.Cohort), Rest: outcomesOf(e.Rest)}
	for _, f := range e.Findings {
		out.Add(rollout.Finding{Kind: rollout.FindingKind(f.Kind), Enforced: f.Enforced, Live: f.Live, Source: f.Source, Destination: f.Destination,
			Port: f.Port, Before: f.Before, After: f.After, Example: f.Example, Count: int(f.Count), First: f.First.Time, Last: f.Last.Time})
	}
	for _, w := range e.Workloads {
		out.Know(w)
	}
	return out
}

// ToEvidence writes evidence.
func ToEvidence(e rollout.Evidence) v1alpha1.RolloutEvidence {
	out := v1alpha1.RolloutEvidence{More: int64(e.More), Connections: int64(e.Connections), Workloads: e.Workloads, Uncertain: int64(e.Uncertain),
		Cohort: toOutcomes(e.Cohort), Rest: toOutcomes(e.Rest)}
	for _, f := range e.Findings {
		out.Findings = append(out.Findings, v1alpha1.RolloutFinding{Kind: string(f.Kind), Enforced: f.Enforced, Live: f.Live,
			Source: cut(f.Source, 512), Destination: cut(f.Destination, 512), Port: cut(f.Port, 32), Before: cut(f.Before, maxText),
			After: cut(f.After, maxText), Example: cut(f.Example, maxText), Count: int64(f.Count),
			First: metav1.NewMicroTime(f.First.Truncate(time.Microsecond)), Last: metav1.NewMicroTime(f.Last.Truncate(time.Microsecond))})
	}
	return out
}

func outcomesOf(o v1alpha1.RolloutOutcomes) rollout.Outcomes {
	return rollout.Outcomes{Ended: int(o.Ended), Failed: int(o.Failed), Reset: int(o.Reset)}
}

func toOutcomes(o rollout.Outcomes) v1alpha1.RolloutOutcomes {
	return v1alpha1.RolloutOutcomes{Ended: int64(o.Ended), Failed: int64(o.Failed), Reset: int64(o.Reset)}
}
