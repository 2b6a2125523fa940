package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// sighting is what the API says of a pod of ours.
type sighting struct {
	role, phase string
	running     time.Time // when it was seen to run first
	going       bool      // it is being deleted, or is gone
	ended       string    // why it ended by itself, or never began
	dealtWith   bool      // with its end
}

// sightings is what the API says of our pods by name, and how many pods of anybody there are on the node.
type sightings struct {
	node string

	mu   sync.Mutex
	all  map[string]*sighting
	here map[string]bool // by namespace/name, and whether it is being deleted
}

func newSightings(node string) *sightings {
	return &sightings{node: node, all: map[string]*sighting{}, here: map[string]bool{}}
}

// made counts a pod in before the API shows it.
func (s *sightings) made(namespace, name, role, phase, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = &sighting{role: role, phase: phase}
	if node == s.node {
		s.here[namespace+"/"+name] = false
	}
}

func (s *sightings) see(p *corev1.Pod, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The kubelet does not count what ended by itself.
	deleting := p.DeletionTimestamp != nil
	if key := p.Namespace + "/" + p.Name; gone || p.Spec.NodeName != s.node || ended(p) != "" {
		delete(s.here, key)
	} else {
		s.here[key] = deleting
	}
	x := s.all[p.Name]
	if x == nil || p.Namespace != fenced && p.Namespace != unfenced {
		return
	}
	if p.Status.Phase == corev1.PodRunning && x.running.IsZero() {
		x.running = time.Now()
	}
	x.going = x.going || gone || deleting
	if x.ended == "" {
		x.ended = ended(p)
	}
}

// leaves notes that a pod was deleted, before the API shows it; gone is one that was not even there.
func (s *sightings) leaves(namespace, name string, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.all[name]; x != nil {
		x.going = true
	}
	if gone {
		delete(s.here, namespace+"/"+name)
	}
}

// ended says why a pod that nobody deleted is over, and nothing if it is not.
func ended(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
		return ""
	}
	if p.Status.Reason != "" {
		return p.Status.Reason + ": " + p.Status.Message
	}
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			return fmt.Sprintf("%s, exit status %d: %s", t.Reason, t.ExitCode, t.Message)
		}
	}
	return string(p.Status.Phase)
}

// on returns how many pods are on the node, and how many of them are being deleted.
func (s *sightings) on() (all, deleting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, going := range s.here {
		if going {
			deleting++
		}
	}
	return len(s.here), deleting
}

// starting returns the pods that do not run yet and still may, sorted.
func (s *sightings) starting() []string {
	return s.where(func(x *sighting) bool { return x.running.IsZero() && !x.going && x.ended == "" })
}

// unmourned returns the pods that ended by themselves, sorted, if nobody has dealt with that.
func (s *sightings) unmourned() []string {
	return s.where(func(x *sighting) bool { return x.ended != "" && !x.going && !x.dealtWith })
}

func (s *sightings) where(f func(*sighting) bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, x := range s.all {
		if f(x) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// mourn marks a pod's end as dealt with, and returns what was seen of it.
func (s *sightings) mourn(name string) sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.all[name]
	x.dealtWith = true
	return *x
}

// of returns what was seen of a pod.
func (s *sightings) of(name string) (sighting, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.all[name]
	if x == nil {
		return sighting{}, false
	}
	return *x, true
}

// watch sees pods until ctx ends. It returns when all that are there have been seen, or when short ends.
func (d *driver) watch(ctx, short context.Context) error {
	factory := informers.NewSharedInformerFactory(d.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	see := func(o any, gone bool) {
		if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = last.Obj // its end was missed
		}
		if p, ok := o.(*corev1.Pod); ok {
			d.seen.see(p, gone)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { see(o, false) },
		UpdateFunc: func(_, o any) { see(o, false) },
		DeleteFunc: func(o any) { see(o, true) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(short.Done())
	return short.Err()
}
