package kube

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// setRollout passes a rollout on. Of one whose status cannot be read, what was known stays.
func (s *Source) setRollout(o any) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return
	}
	object := "PolicyRollout " + u.GetName()
	r, err := record.Read(u)
	if err != nil {
		s.conditions.set(Malformed, object, err.Error())
		return
	}
	s.conditions.set(Malformed, object, r.Why)
	s.change(func(b *Batch) { b.Rollouts[r.Name] = &r })
}

func (s *Source) dropRollout(name string) {
	s.conditions.set(Malformed, "PolicyRollout "+name, "")
	s.change(func(b *Batch) { b.Rollouts[name] = nil })
}

func healthOf(p *corev1.Pod) Health {
	var h Health
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			h.Ready, h.Since = c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			if at := restarted(c); at.After(h.Restarted) {
				h.Restarted = at
			}
		}
	}
	return h
}

// restarted is when a container was last started again or, where it waits for that, had ended.
func restarted(c corev1.ContainerStatus) time.Time {
	switch {
	case c.RestartCount == 0:
	case c.State.Running != nil:
		return c.State.Running.StartedAt.Time
	case c.State.Terminated != nil:
		return c.State.Terminated.StartedAt.Time
	case c.LastTerminationState.Terminated != nil:
		return c.LastTerminationState.Terminated.FinishedAt.Time
	}
	return time.Time{}
}
