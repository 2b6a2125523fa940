package rollout

import (
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// candidateSuffix tells the two versions of a policy apart while both are there. It begins with a character below all
// that names are made of, so that the candidate has the same place among all others when they are ordered by name, which
// decides between ClusterNetworkPolicies of one priority.
const candidateSuffix = " (candidate)"

// Part is for whom a change is in force: for the pods in Members, and for nobody else; or for everyone.
type Part struct {
	Name   string // of the rollout
	Change Change
	// Members are judged by the candidate. Members that the change does not select make no difference.
	Members map[cluster.Key]bool
	// Everyone: the candidate is in force for all pods, also those to come.
	Everyone bool
	// Final: as Everyone, and the candidate's policies have their own names again.
	Final bool
}

// Includes reports whether a pod is judged by the candidate, as far as the change selects it.
func (p Part) Includes(k cluster.Key) bool { return p.Final || p.Everyone || p.Members[k] }

// InForce is the part of a rollout that is complete: its change is in force for everyone.
func (s *Spec) InForce() Part { return Part{Name: s.Name, Change: s.Change, Final: true} }

// Rewrite returns the state in which each part is in force for its pods, the parts one after the other. It is how some
// pods are judged by new policies while others are judged by old ones, without any engine knowing of it:
//
//   - each member is marked (label.Set.Mark), with the rollout's name;
//   - the subjects of the candidate's policies require the mark as well;
//   - the subjects of the policies that are replaced or removed require that it is not there.
//
// Why this is exactly right. Every verdict on a side of a connection is a function of the side's subject, its peer, and
// the policies that select the subject, in their order. Nobody's selector can ask for a mark, so what the marks change is
// only which of the gated policies select a pod: for a member those of the candidate and not those before, for any other
// pod the opposite, always all of them and in both directions, as both come from the same mark. The peers' selectors match
// whom they matched. A candidate's policy keeps its place in the order, since candidateSuffix sorts below all other names
// that begin with its own. So a member's sides are judged as by the new policies alone, any other pod's as by the old ones
// alone, and a pod is never between two: the mark is one label, and the compiler's Delta moves an address from the rows of
// one label set to those of the other at once.
//
// Parts must not touch the same policy, but for Final ones, which later parts change as if they were in the files. An
// error means that two parts bring versions of the same policy, or that a name cannot be a mark.
func Rewrite(s *cluster.State, parts ...Part) (*cluster.State, error) {
	o := s.Objects()
	changed := false
	for _, p := range parts {
		if !p.Everyone && !p.Final && len(p.Members) == 0 {
			continue
		}
		changed = true
		if err := p.apply(&o); err != nil {
			return nil, fmt.Errorf("rollout %s: %w", p.Name, err)
		}
	}
	if !changed {
		return s, nil
	}
	return cluster.NewState(o)
}

func (p Part) apply(o *cluster.Objects) error {
	touched := map[Ref]bool{}
	for _, r := range p.Change.Touches() {
		touched[r] = true
	}
	everyone := p.Everyone || p.Final
	var policies []*policy.Policy
	for _, old := range o.Policies {
		switch {
		case !touched[RefOf(old)]:
			policies = append(policies, old)
		case !everyone:
			gated, err := p.gate(old, old.Name, false)
			if err != nil {
				return err
			}
			policies = append(policies, gated)
		}
	}
	for _, candidate := range p.Change.Policies {
		name := candidate.Name + candidateSuffix
		if p.Final {
			name = candidate.Name
		}
		made, err := p.gate(candidate, name, true)
		if err != nil {
			return err
		}
		policies = append(policies, made)
	}
	o.Policies = policies
	if everyone {
		return nil
	}
	return p.mark(o.Endpoints)
}

// gate returns a policy under a name, for members or for all others; for all pods if the part is for everyone.
func (p Part) gate(old *policy.Policy, name string, members bool) (*policy.Policy, error) {
	gated := *old
	gated.Name = name
	if !p.Everyone && !p.Final {
		pods, err := old.Subject.Pods.RequireMark(p.Name, members)
		if err != nil {
			return nil, err
		}
		gated.Subject.Pods = pods
	}
	return policy.New(gated)
}

func (p Part) mark(pods []*cluster.Endpoint) error {
	for i, e := range pods {
		if !p.Members[e.Key] {
			continue
		}
		labels, err := e.Labels.Mark(p.Name)
		if err != nil {
			return err
		}
		member := *e
		member.Labels = labels
		pods[i] = &member
	}
	return nil
}

// Selected are the pods whose verdicts c may change: those that a policy selects which it brings, replaces or removes,
// in the order of s. Pods on their host's network are never among them.
func (c Change) Selected(s *cluster.State) []*cluster.Endpoint {
	subjects := c.subjects(s.Policies())
	var all []*cluster.Endpoint
	for _, e := range s.Endpoints() {
		if !e.HostNetwork && selects(subjects, s.Namespace(e.Namespace).Labels, e) {
			all = append(all, e)
		}
	}
	return all
}

// subjects are those of the policies that c brings, and of those in force that it touches.
func (c Change) subjects(inForce []*policy.Policy) []policy.Pods {
	touched := map[Ref]bool{}
	for _, r := range c.Touches() {
		touched[r] = true
	}
	var subjects []policy.Pods
	for _, p := range slices.Concat(c.Policies, inForce) {
		if touched[RefOf(p)] {
			subjects = append(subjects, p.Subject)
		}
	}
	return subjects
}

// selects reports whether one of the subjects selects a pod in a namespace with such labels.
func selects(subjects []policy.Pods, space label.Set, e *cluster.Endpoint) bool {
	return slices.ContainsFunc(subjects, func(p policy.Pods) bool {
		return p.Namespaces.Matches(space) && p.Pods.Matches(e.Labels)
	})
}

// Choose returns which of the pods that the change selects are in the cohort.
//
// Of a percentage, a pod's place is a hash of who it is (see identity) and the rollout's name: it depends on nobody else,
// so that pods that come and go move no other, a larger percentage only adds, and every node that knows the pod gives the
// same answer. Where that chooses nobody, the pod that would be the first of a larger percentage is the cohort: a canary of
// no pod shows nothing.
func (c Cohort) Choose(s *cluster.State, rollout string, change Change) map[cluster.Key]bool {
	members := map[cluster.Key]bool{}
	var first *cluster.Endpoint
	for _, e := range change.Selected(s) {
		if !c.eligible(s.Namespace(e.Namespace).Labels, e) {
			continue
		}
		at := place(rollout, e)
		if at < uint64(c.Percent) {
			members[e.Key] = true
		}
		if first == nil || isBefore(rollout, e, first) {
			first = e
		}
	}
	if len(members) == 0 && first != nil && c.Percent > 0 {
		members[first.Key] = true
	}
	return members
}

// eligible reports whether c's percentage is of pods like e, in a namespace with such labels.
func (c Cohort) eligible(space label.Set, e *cluster.Endpoint) bool {
	matches := func(want *label.Selector, labels label.Set) bool { return want == nil || want.Matches(labels) }
	return matches(c.Pods, e.Labels) && matches(c.Namespaces, space) &&
		(len(c.Nodes) == 0 || slices.Contains(c.Nodes, e.Node))
}

// place is from 0 to 99, by the same order as score.
func place(rollout string, e *cluster.Endpoint) uint64 { return score(rollout, e) / (1<<64/100 + 1) }

// score is a hash that is the same everywhere and always.
func score(rollout string, e *cluster.Endpoint) uint64 {
	h := fnv.New64a()
	h.Write([]byte(rollout + "\x00" + identity(e)))
	x := h.Sum64() // whose high bits the last characters hardly reach, so they are mixed once more
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// identity is who a pod is: its UID, or its name where it has none.
func identity(e *cluster.Endpoint) string {
	if e.UID != "" {
		return e.UID
	}
	return e.Key.String()
}
