package kube

import (
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
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

func trimCronJob(o any) any {
	if c, ok := o.(*batchv1.CronJob); ok {
		c.ManagedFields = nil
	}
	return o
}

// setCronJob passes on what a CronJob's pods are like. One that is suspended makes none.
func (s *Source) setCronJob(o any) {
	c, ok := o.(*batchv1.CronJob)
	if !ok {
		return
	}
	key := cluster.Key{Namespace: c.Namespace, Name: c.Name}
	r := s.read("CronJob "+key.String(), func(b *manifest.Bundle) {
		if c.Spec.Suspend == nil || !*c.Spec.Suspend {
			b.AddCronJob(c)
		}
	})
	var job *cluster.Workload
	if len(r.Objects.Workloads) > 0 {
		job = &r.Objects.Workloads[0]
	}
	s.change(func(b *Batch) { b.CronJobs[key] = job })
}

func (s *Source) dropCronJob(key string) {
	namespace, name, _ := strings.Cut(key, "/")
	s.tell("CronJob "+key, nil)
	s.change(func(b *Batch) { b.CronJobs[cluster.Key{Namespace: namespace, Name: name}] = nil })
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
