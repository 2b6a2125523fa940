package controller

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// recent are the events that whoever led before may not have told, or nobody did as nobody led.
func recent(s rollout.Status, now time.Time) []rollout.Event {
	const untold = 2 * time.Minute
	for i, e := range s.Events {
		if now.Sub(e.Time) < untold {
			return s.Events[i:]
		}
	}
	return nil
}

// eventOf is what people see of something that happened to a rollout. Its name is made of that, so that it is there once,
// whoever tells it how often.
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
	sum := fnv.New64a()
	fmt.Fprint(sum, r.UID, e.Time.UnixMicro(), e.Text)
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", r.Name, sum.Sum64()), Namespace: metav1.NamespaceDefault},
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
		_, err := l.options.Client.CoreV1().Events(object.Namespace).Create(ctx, object, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			l.log.Warn("an Event could not be made", "rollout", r.Name, "error", err)
		}
	}
}
