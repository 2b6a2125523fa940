package inforce

import (
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Subjects knows which pods policies are about. It is not changed once it is made.
type Subjects struct {
	state    *cluster.State
	policies map[cluster.Key]*policy.Policy
	pods     map[string][]*cluster.Endpoint // by namespace; those that have addresses of their own
}

// NewSubjects looks at a cluster.
func NewSubjects(state *cluster.State) *Subjects {
	s := &Subjects{state: state, policies: map[cluster.Key]*policy.Policy{}, pods: map[string][]*cluster.Endpoint{}}
	for _, p := range state.Policies() {
		s.policies[cluster.Key{Namespace: p.Namespace, Name: p.Name}] = p
	}
	for _, e := range state.Endpoints() {
		if !e.HostNetwork && !e.Ended && len(e.Addresses) > 0 {
			s.pods[e.Namespace] = append(s.pods[e.Namespace], e)
		}
	}
	return s
}

// Count returns how many pods a policy selects on the nodes of c, and for how many of them it is in force, of which j says
// on which nodes. A pod that is closed, as its node does not know yet where it is plugged in, is none of the latter.
func (s *Subjects) Count(key cluster.Key, j Judgement, c Cluster) (all, inForce int) {
	missing := map[string]bool{}
	for _, m := range j.Missing {
		missing[m.Node] = true
	}
	there := map[string]bool{}
	for _, n := range c.Nodes {
		there[n.Name] = true
	}
	s.Each(key, func(e *cluster.Endpoint) {
		if !there[e.Node] {
			return
		}
		all++
		if !missing[e.Node] && !slices.Contains(c.Reports[e.Node].Closed, e.Key.String()) {
			inForce++
		}
	})
	return all, inForce
}

// Each calls f for each pod that a policy selects.
func (s *Subjects) Each(key cluster.Key, f func(*cluster.Endpoint)) {
	p := s.policies[key]
	if p == nil {
		return
	}
	of := func(namespace string, pods []*cluster.Endpoint) {
		if len(pods) == 0 || !p.Subject.Namespaces.Matches(s.state.Namespace(namespace).Labels) {
			return
		}
		for _, e := range pods {
			if p.Subject.Pods.Matches(e.Labels) {
				f(e)
			}
		}
	}
	if p.Namespace != "" {
		of(p.Namespace, s.pods[p.Namespace])
		return
	}
	for namespace, pods := range s.pods {
		of(namespace, pods)
	}
}
