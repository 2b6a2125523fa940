package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/plan"
)

func isGeneration(arg string) bool { return strings.HasPrefix(arg, generationPrefix) }

// ofClusterGenerations reports whether a side is a generation that a cluster keeps.
func (o *planOptions) ofClusterGenerations(cmd *cobra.Command, args []string) bool {
	return o.recorded.cluster.wanted(cmd) && slices.ContainsFunc(args, isGeneration)
}

// generationSides are two generations of a cluster, or one and what the cluster has in force, now or once manifests are
// applied; all of them over the cluster's workloads.
func (o *planOptions) generationSides(cmd *cobra.Command, args []string) (sides [2]plan.Side, err error) {
	if o.rollout != "" && (len(args) < 2 || isGeneration(args[1])) {
		return sides, fmt.Errorf("--rollout %s: NEW has to be manifests that hold it", o.rollout)
	}
	a, err := o.recorded.cluster.connect()
	if err != nil {
		return sides, err
	}
	return o.generationSidesOf(cmd, a, args)
}

func (o *planOptions) generationSidesOf(cmd *cobra.Command, a *api, args []string) (sides [2]plan.Side, err error) {
	k, err := a.kept(cmd.Context(), o.recorded.cluster.agents)
	if err != nil {
		return sides, err
	}
	c, err := a.readCluster(cmd.Context())
	if err != nil {
		return sides, err
	}
	for i, arg := range append(args, "")[:2] {
		switch {
		case arg == "":
			for _, n := range c.notes("") {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
			}
			sides[i] = plan.Side{Name: "the cluster", Problems: texts(c.Problems)}
			sides[i].State, err = c.with(c.Objects)
		case isGeneration(arg):
			sides[i], err = c.generationSide(cmd, k, strings.TrimPrefix(arg, generationPrefix))
		default:
			sides[i], err = o.appliedSide(cmd, c, arg, i)
		}
		if err != nil {
			return sides, err
		}
	}
	return sides, nil
}

// generationSide is the cluster with the policies of a generation.
func (c *inCluster) generationSide(cmd *cobra.Command, k *kept, ref string) (plan.Side, error) {
	e, g, err := k.find(cmd.Context(), ref)
	if err != nil {
		return plan.Side{}, err
	}
	objects := c.Objects
	objects.Policies = g.Policies
	side := plan.Side{Name: fmt.Sprintf("generation %d", e.Number)}
	side.State, err = cluster.NewState(objects)
	return side, err
}

// appliedSide is the cluster once the manifests of a path or a revision are applied. The rollout is of the new side's.
func (o *planOptions) appliedSide(cmd *cobra.Command, c *inCluster, arg string, at int) (plan.Side, error) {
	source, err := o.pathOrRevision(cmd, arg)
	if err != nil {
		return plan.Side{}, err
	}
	manifests, err := unlessInterrupted(cmd.Context(), func() (*manifest.Bundle, error) { return source.load(cmd, at == 0) })
	if err != nil {
		return plan.Side{}, err
	}
	applied := manifests.Finish(manifest.Options{})
	for _, n := range append(c.notes(o.rollout), c.unheeded(applied.Objects)...) {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	candidate := ""
	if at == 1 {
		candidate = o.rollout
	}
	sides, err := c.sides(applied, source.name, candidate, o.prune)
	return sides[1], err
}
