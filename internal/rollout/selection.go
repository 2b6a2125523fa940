package rollout

import (
	"cmp"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// selection is Change.Selected and Cohort.Choose while pods come, change and go: a pod costs what it takes to look at it
// alone.
type selection struct {
	rollout  string
	subjects []policy.Pods
	inSpace  map[label.Set][]label.Selector // those of subjects, by labels of namespaces
	cohort   Cohort
	pods     map[cluster.Key]chosen // those that the change selects
	sure     int                    // of these, those that are in the cohort by themselves
	first    *cluster.Endpoint      // is in the cohort as nobody is by himself; settled
}

// chosen is a pod that the change selects.
type chosen struct {
	pod      *cluster.Endpoint
	eligible bool // the percentage is of pods like it
	sure     bool // it is in the cohort whoever else there is
}

// newSelection is one of no pods. The policies are those that are in force and that the change touches.
func newSelection(rollout string, change Change, policies []*policy.Policy, cohort Cohort) *selection {
	return &selection{rollout: rollout, subjects: change.subjects(policies), cohort: cohort, inSpace: map[label.Set][]label.Selector{},
		pods: map[cluster.Key]chosen{}}
}

// among returns what selects pods in a namespace with such labels.
func (s *selection) among(space label.Set) []label.Selector {
	all, known := s.inSpace[space]
	if !known {
		for _, p := range s.subjects {
			if p.Namespaces.Matches(space) {
				all = append(all, p.Pods)
			}
		}
		s.inSpace[space] = all
	}
	return all
}

// set takes over a pod, with the labels of its namespace.
func (s *selection) set(e *cluster.Endpoint, space label.Set) {
	s.drop(e.Key)
	if e.HostNetwork || !slices.ContainsFunc(s.among(space), func(x label.Selector) bool { return x.Matches(e.Labels) }) {
		return
	}
	c := chosen{pod: e, eligible: s.cohort.eligible(space, e)}
	c.sure = c.eligible && place(s.rollout, e) < uint64(s.cohort.Percent)
	if c.sure {
		s.sure++
	}
	s.pods[e.Key] = c
}

func (s *selection) drop(k cluster.Key) {
	if s.pods[k].sure {
		s.sure--
	}
	delete(s.pods, k)
}

// settle finds out again who is first, and returns who was before and who is now, nil for nobody.
func (s *selection) settle() (was, is *cluster.Endpoint) {
	was, s.first = s.first, nil
	if s.sure > 0 || s.cohort.Percent == 0 {
		return was, nil
	}
	for _, c := range s.pods {
		if c.eligible && (s.first == nil || isBefore(s.rollout, c.pod, s.first)) {
			s.first = c.pod
		}
	}
	return was, s.first
}

func (s *selection) selects(k cluster.Key) bool {
	_, ok := s.pods[k]
	return ok
}

// includes reports whether a pod is in the cohort.
func (s *selection) includes(k cluster.Key) bool {
	return s.pods[k].sure || s.first != nil && s.first.Key == k
}

// isBefore reports whether a comes into a growing cohort before b.
func isBefore(rollout string, a, b *cluster.Endpoint) bool {
	return cmp.Or(cmp.Compare(score(rollout, a), score(rollout, b)), a.Key.Compare(b.Key)) < 0
}
