package clustertest

import (
	"fmt"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Candidates draws what a change of the policies of s may bring: new versions of some, some that are new, and some that
// are to go. No policy is in both lists.
func Candidates(t *rapid.T, s *cluster.State) (policies, removed []*policy.Policy) {
	for _, p := range s.Policies() {
		switch rapid.IntRange(0, 3).Draw(t, "fate of "+p.Name) {
		case 1:
			policies = append(policies, drawVersion(t, p))
		case 2:
			removed = append(removed, p)
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "new policies") {
		policies = append(policies, drawPolicy(t, fmt.Sprintf("policy%d-new", i))) // next to those of s in the order of names
	}
	return policies, removed
}

// drawVersion draws another policy of the same kind and name.
func drawVersion(t *rapid.T, old *policy.Policy) *policy.Policy {
	if old.Tier == policy.Namespace {
		return drawPolicyIn(t, old.Name, []policy.Tier{policy.Namespace}, []string{old.Namespace})
	}
	return drawPolicyIn(t, old.Name, []policy.Tier{policy.Admin, policy.Baseline}, nil)
}
