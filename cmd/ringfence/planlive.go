package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// againstCluster reports whether OLD is what a cluster has: one path is given, and a cluster is named. A revision is
// compared with files, also where a cluster is asked for flows.
func (o *planOptions) againstCluster(cmd *cobra.Command, args []string) bool {
	if len(args) != 1 || !o.recorded.cluster.wanted(cmd) {
		return false
	}
	_, err := os.Stat(args[0])
	return err == nil || args[0] == dir.Stdin
}

// clusterSides are what a cluster has, and what it has once the manifests of a path are applied.
func (o *planOptions) clusterSides(cmd *cobra.Command, path string) (sides [2]plan.Side, err error) {
	a, err := o.recorded.cluster.connect()
	if err != nil {
		return sides, err
	}
	manifests, err := unlessInterrupted(cmd.Context(), func() (*manifest.Bundle, error) { return dir.Load([]string{path}, cmd.InOrStdin()) })
	if err != nil {
		return sides, err
	}
	applied := manifests.Finish(manifest.Options{})
	c, err := a.readCluster(cmd.Context())
	if err != nil {
		return sides, err
	}
	for _, n := range append(c.notes(o.rollout), c.unheeded(applied.Objects)...) {
		fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
	}
	return c.sides(applied, path, o.rollout, o.prune)
}

// sides are what is in force in the cluster, and what would be.
func (c *inCluster) sides(applied manifest.Result, path, candidate string, prune bool) (sides [2]plan.Side, err error) {
	sides[0] = plan.Side{Name: "the cluster", Problems: texts(c.Problems)}
	sides[1] = plan.Side{Name: "the cluster with " + path, Problems: texts(applied.Problems)}
	if candidate != "" {
		sides[1].Name += " and rollout " + candidate
	}
	if sides[0].State, err = c.with(c.Objects); err != nil {
		return sides, fmt.Errorf("%s: %w", sides[0].Name, err)
	}
	// The rollout is of the manifests, and what it changes may be the cluster's.
	parts, err := candidateOf(applied.Rollouts, candidate, "the manifests hold")
	if err == nil {
		sides[1].State, err = c.with(plan.Apply(c.Objects, applied.Objects, prune), parts...)
	}
	if err != nil {
		return sides, fmt.Errorf("%s: %w", path, err)
	}
	return sides, nil
}

func texts(problems []manifest.Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.Text())
	}
	return all
}

// askAgents asks the agents of a cluster for what they recorded. What some of them do not
// tell counts as lost.
func (r recordedFlags) askAgents(cmd *cobra.Command, out *plan.Recorded) error {
	agents, err := r.cluster.connectAgents(cmd.Context(), func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "note:", text) })
	if err != nil {
		return err
	}
	agents.Limit = maxRecords
	answer, err := agents.Records(cmd.Context(), flowlog.Options{Since: out.Since})
	if err != nil {
		return fmt.Errorf("recorded connections: %w", err)
	}
	out.Records = answer.Records
	out.Lost += uint64(answer.LeftOut + len(answer.Missing))
	return nil
}

// checkCluster refuses what makes no sense with a cluster.
func (o *planOptions) checkCluster(cmd *cobra.Command, args []string) error {
	if o.prune && !o.againstCluster(cmd, args) && !o.ofClusterGenerations(cmd, args) {
		return errors.New("--prune is about a cluster: give one DIR, and --context or --kubeconfig")
	}
	return nil
}
