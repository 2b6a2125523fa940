package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
	"github.com/ringfence-project/ringfence/internal/words"
)

// inCluster is what a cluster has, as far as it decides what is in force there.
type inCluster struct {
	manifest.Result
	policies []kube.Listed // with their versions
	rollouts []record.Record
	unread   error // rollouts may not be read; what they have in force is not known
}

// readCluster reads a cluster once. What cannot be read of it is stood in for as on its nodes.
func (a *api) readCluster(ctx context.Context) (*inCluster, error) {
	snapshot, err := kube.Read(ctx, a.options())
	if err != nil {
		return nil, err
	}
	c := &inCluster{Result: snapshot.Bundle.Finish(manifest.Options{}), policies: snapshot.Policies}
	c.rollouts, err = record.List(ctx, a.dynamic)
	switch {
	case apierrors.IsForbidden(err):
		c.unread = err
	case err != nil && !errors.Is(err, record.ErrNotInstalled):
		return nil, err
	}
	return c, nil
}

// with is what is in force for everyone if the cluster has these objects: what rollouts that are complete carry is over them.
// parts are further ones.
func (c *inCluster) with(o cluster.Objects, parts ...rollout.Part) (*cluster.State, error) {
	state, err := cluster.NewState(o)
	if err != nil {
		return nil, err
	}
	return rollout.Rewrite(state, append(record.Finals(c.rollouts), parts...)...)
}

// candidate is what a rollout of the cluster would have in force for everyone; none if name is empty.
func (c *inCluster) candidate(name string) ([]rollout.Part, error) {
	if name == "" {
		return nil, nil
	}
	if c.unread != nil {
		return nil, fmt.Errorf("--rollout %s: %w", name, c.unread)
	}
	var specs []*rollout.Spec
	for _, r := range c.rollouts {
		if r.Name == name && r.Spec == nil {
			return nil, fmt.Errorf("--rollout %s: %s", name, r.Why)
		}
		if r.Spec != nil {
			specs = append(specs, r.Spec)
		}
	}
	return candidateOf(specs, name, "the cluster has")
}

// notes say what is in force beside the policies that the API has, and what counts of it here.
func (c *inCluster) notes(candidate string) []string {
	if c.unread != nil {
		return []string{"what rollouts have in force does not count: " + c.unread.Error()}
	}
	others := c.otherwise()
	var all []string
	for _, r := range c.rollouts {
		if r.Name == candidate {
			continue
		}
		if o := others[r.Name]; len(o) > 0 {
			all = append(all, fmt.Sprintf("rollout %s has in force what the API says otherwise (%s): it counts as the rollout has it", r.Name, words.Some(o, fewChanges, ", ")))
		}
		if r.Spec != nil && r.Status.Active() && r.Status.Cohort(r.Spec).Percent > 0 {
			all = append(all, fmt.Sprintf("rollout %s is under way (%s): its cohort is judged by its candidate, and here as everyone else; --rollout %s has it count for everyone",
				r.Name, r.Spec.Steps[r.Status.Step], r.Name))
		}
	}
	return all
}

// final is what a complete rollout has in force of a policy. If it has removed it, the policy is nil.
type final struct {
	rollout string
	policy  *policy.Policy
}

// finals are what complete rollouts have in force, the latest of each policy.
func (c *inCluster) finals() map[rollout.Ref]final {
	all := map[rollout.Ref]final{}
	for _, part := range record.Finals(c.rollouts) {
		for _, p := range part.Change.Policies {
			all[rollout.RefOf(p)] = final{part.Name, p}
		}
		for _, ref := range part.Change.Remove {
			all[ref] = final{part.Name, nil}
		}
	}
	return all
}

// otherwise are the policies that the API says otherwise than complete rollouts have them, by the rollout's name.
func (c *inCluster) otherwise() map[string][]string {
	api := map[rollout.Ref]*policy.Policy{}
	for _, p := range c.Objects.Policies {
		api[rollout.RefOf(p)] = p
	}
	all := map[string][]string{}
	for ref, f := range c.finals() {
		if !generation.Same(api[ref], f.policy) {
			all[f.rollout] = append(all[f.rollout], ref.String())
		}
	}
	for _, refs := range all {
		slices.Sort(refs)
	}
	return all
}

// unheeded are the policies among those that are to be applied which stay without effect: a rollout that is complete has
// another version of them in force, or none.
func (c *inCluster) unheeded(applied cluster.Objects) []string {
	finals := c.finals()
	var all []string
	for _, p := range applied.Policies {
		f, ok := finals[rollout.RefOf(p)]
		if !ok || generation.Same(f.policy, p) {
			continue
		}
		has := "has its own version in force"
		if f.policy == nil {
			has = "has it removed"
		}
		all = append(all, fmt.Sprintf("%s stays without effect as long as rollout %s is there, which is complete and %s", rollout.RefOf(p), f.rollout, has))
	}
	return all
}
