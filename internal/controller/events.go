package controller

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// news are the events of is that came after those of was.
func news(was, is rollout.Status) []rollout.Event {
	if len(was.Events) == 0 {
		return is.Events
	}
	last := was.Events[len(was.Events)-1]
	for i := len(is.Events) - 1; i >= 0; i-- {
		if e := is.Events[i]; e.Time.Equal(last.Time) && e.Text == last.Text {
			return is.Events[i+1:]
		}
	}
	return is.Events
}

// eventOf is what people see of something that happened to a rollout.
func eventOf(r record.Record, e rollout.Event) *corev1.Event {
	reason, _, _ := strings.Cut(e.Text, ":")
	kind := corev1.EventTypeNormal
	switch rollout.Phase(reason) {
	case rollout.RolledBack, rollout.Invalid:
		kind = corev1.EventTypeWarning
	case rollout.Paused:
		if r.Status.By == rollout.ByAnalysis {
			kind = corev1.EventTypeWarning
		}
	case rollout.Waiting, rollout.Progressing, rollout.Aborted, rollout.Undone, rollout.Complete:
	default:
		reason = "Step"
	}
	text := e.Text
	if rollout.Phase(reason) == rollout.RolledBack {
		text += firstFinding(r.Status.Evidence)
	}
	const longest = 1024 // that the API takes
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest-1]) + "…"
	}
	at := metav1.NewTime(e.Time)
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: r.Name + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "PolicyRollout", APIVersion: v1alpha1.APIVersion, Name: r.Name, UID: types.UID(r.UID)},
		Reason:         reason, Message: text, Type: kind, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: "ringfence-controller"}}
}

// firstFinding is the first that was seen: since when, and of which pods.
func firstFinding(e rollout.Evidence) string {
	if len(e.Findings) == 0 {
		return ""
	}
	first := e.Findings[0]
	for _, f := range e.Findings {
		if f.First.Before(first.First) {
			first = f
		}
	}
	return "; since " + first.First.UTC().Format("15:04:05.000 MST") + ", first " + first.Example
}

// tell makes Events of what happened. One that cannot be made is only logged: the status has them all.
func (l *leader) tell(ctx context.Context, r record.Record, events []rollout.Event) {
	for _, e := range events {
		l.log.Info("rollout", "name", r.Name, "what", e.Text)
		object := eventOf(r, e)
		if _, err := l.options.Client.CoreV1().Events(object.Namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
			l.log.Warn("an Event could not be made", "rollout", r.Name, "error", err)
		}
	}
}
