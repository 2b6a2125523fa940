package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/up"
)

// newRolloutUndo is "rollout undo" of a rollout that is complete, and with --to the return to a generation.
func newRolloutUndo() *cobra.Command {
	cmd := newRolloutCommand(rollout.Undo, "Take back a rollout that is complete, or return to an earlier generation",
		`Take back a rollout that is complete: what was in force before is in force again, for all pods at once.

With --to, return to an earlier generation of policies instead ("ringfence generations" lists them): its policies are in
force for all pods, and rollouts that are under way are aborted. What files and rollouts say is not in force until
"ringfence rollout resume", also after a crash. The command waits until it is so; exit code 1 if that takes longer than
--timeout, when it goes on nevertheless.

On a cluster the return is the PolicyRollout `+record.ReturnName+`, which brings what differs; other rollouts wait. Policies of
the API that it does not bring stay as the API has them, also when they change later. It needs the rights to get configmaps
in the controller's namespace, to create, update and delete policyrollouts, to update policyrollouts/status, and to read what
"can" reads.`)
	cmd.Example += "\n  ringfence rollout undo --to good\n  kubectl ringfence rollout undo --to 3"
	var to, namespace string
	var timeout time.Duration
	cmd.Flags().StringVar(&to, "to", "", `return to that generation: a number, an ID, or "good"`)
	agentsFlag(cmd, &namespace)
	timeoutFlag(cmd, &timeout)
	undo := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if to == "" {
			return undo(cmd, args)
		}
		if len(args) > 0 {
			return fmt.Errorf("--to is about all policies: leave out %s", args[0])
		}
		from, err := steererOf(cmd)
		if err != nil {
			return err
		}
		s, err := from.returnTo(cmd.Context(), namespace, to, timeout)
		if err != nil {
			return err
		}
		return tellSteered(cmd, s, timeout, from.drivenBy(true))
	}
	return cmd
}

func newRolloutResume() *cobra.Command {
	var flags rolloutFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Have files and rollouts rule again, after \"undo --to\"",
		Long: `Have what files and rollouts say in force again, after "ringfence rollout undo --to", and on a cluster what its policies and
rollouts say. The command waits until it is so; exit code 1 if that takes longer than --timeout, when it goes on nevertheless.`,
		Example: "  ringfence plan generation:current k8s/ && ringfence rollout resume",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := steererOf(cmd)
			if err != nil {
				return err
			}
			s, err := from.resume(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			return tellSteered(cmd, s, timeout, from.drivenBy(true))
		},
	}
	flags.flags(cmd)
	timeoutFlag(cmd, &timeout)
	return cmd
}

func timeoutFlag(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", 30*time.Second, "how long to wait until it is in force")
}

// steerer returns to generations, and back.
type steerer interface {
	rolloutSource
	// returnTo returns to the generation that ref means, of those that are kept in a namespace of a cluster.
	returnTo(ctx context.Context, namespace, ref string, wait time.Duration) (up.Steered, error)
	resume(ctx context.Context, wait time.Duration) (up.Steered, error)
}

// steererOf is what the flags of a command say that may be made elsewhere.
func steererOf(cmd *cobra.Command) (steerer, error) {
	value := func(name string) string { return cmd.Flag(name).Value.String() }
	f := rolloutFlags{instanceFlags{value("name"), value("run"), value("state")}, apiFlags{value("kubeconfig"), value("context")}}
	from, err := f.source(cmd)
	if err != nil {
		return nil, err
	}
	return from.(steerer), nil // both are
}

func (i instanceRollouts) returnTo(ctx context.Context, _, ref string, wait time.Duration) (up.Steered, error) {
	return up.ReturnTo(ctx, i.Instance, ref, wait)
}

func (i instanceRollouts) resume(ctx context.Context, wait time.Duration) (up.Steered, error) {
	return up.Resume(ctx, i.Instance, wait)
}

// tellSteered says what is in force now, and fails if it is not yet.
func tellSteered(cmd *cobra.Command, s up.Steered, timeout time.Duration, by drivenBy) error {
	text := "resumed: the files rule"
	if by.cluster {
		text = "resumed: policies and rollouts rule"
	}
	if s.To != nil {
		text = fmt.Sprintf("returned to the policies of %s, until \"ringfence rollout resume\"", s.To)
	}
	if !s.InForce {
		return failed{fmt.Sprintf("%s; not in force within %s, and tried further: \"ringfence status\" says what is wrong", text, timeout)}
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text+"; in force")
	return err
}

func (c clusterRollouts) returnTo(ctx context.Context, namespace, ref string, wait time.Duration) (up.Steered, error) {
	k, err := c.kept(ctx, namespace)
	if err != nil {
		return up.Steered{}, err
	}
	entry, wanted, err := k.find(ctx, ref)
	if err != nil {
		return up.Steered{}, err
	}
	to := generation.Return{Number: entry.Number, ID: entry.ID}
	made, err := c.bringBack(ctx, to, wanted)
	if err != nil {
		return up.Steered{}, err
	}
	s := up.Steered{To: &to}
	s.InForce, err = c.await(ctx, wait, func(r v1alpha1.NodeEnforcementStatus) bool {
		return slices.ContainsFunc(r.Rollouts, func(x v1alpha1.NodeRollout) bool {
			return x.Name == record.ReturnName && x.Digest == made.Digest && x.Phase == string(rollout.Complete) && x.InForce
		})
	})
	if err != nil {
		err = fmt.Errorf("returned to the policies of %s, but it is not known where they are in force: %w", to, err)
	}
	return s, err
}

// bringTries is how often a return is made that policies changed around.
const bringTries = 3

// bringBack makes the return to a generation, and looks whether that is what is in force: somebody may have changed policies
// or rollouts meanwhile.
func (c clusterRollouts) bringBack(ctx context.Context, to generation.Return, wanted generation.Generation) (record.Record, error) {
	there, err := c.readAll(ctx)
	if err != nil {
		return record.Record{}, err
	}
	for range bringTries {
		object, err := there.returnTo(to, wanted)
		if err != nil {
			return record.Record{}, fmt.Errorf("generation %d cannot be returned to: %w", to.Number, err)
		}
		made, err := record.Return(ctx, c.dynamic, object)
		if err != nil {
			return made, err
		}
		if there, err = c.readAll(ctx); err != nil {
			return made, fmt.Errorf("returned to the policies of %s, but it is not known whether others changed meanwhile: %w", to, err)
		}
		now, err := there.with(cluster.Objects{Policies: there.Objects.Policies})
		if err != nil || made.Returned() == nil || generation.Of(now.Policies()) == to.ID {
			return made, err
		}
	}
	return record.Record{}, fmt.Errorf("returned to the policies of %s, but others change all the time: see that nobody applies any, and try again", to)
}

// readAll is readCluster, where rollouts have to be known.
func (c clusterRollouts) readAll(ctx context.Context) (*inCluster, error) {
	there, err := c.readCluster(ctx)
	if err == nil {
		err = there.unread
	}
	return there, err
}

// returnTo is the object that brings a generation back over what is in force without a return.
func (c *inCluster) returnTo(to generation.Return, wanted generation.Generation) (*unstructured.Unstructured, error) {
	others := *c
	others.rollouts = slices.DeleteFunc(slices.Clone(c.rollouts), func(r record.Record) bool { return r.Name == record.ReturnName })
	now, err := others.with(cluster.Objects{Policies: c.Objects.Policies})
	if err != nil {
		return nil, err
	}
	if generation.Of(now.Policies()) == to.ID {
		if record.ReturnedTo(c.rollouts) != nil {
			return nil, errors.New("it is what policies and rollouts say: \"ringfence rollout resume\" puts it in force")
		}
		return nil, errors.New("it is what policies and rollouts say, and in force")
	}
	change, err := record.Difference(now.Policies(), wanted.Policies)
	if err != nil {
		return nil, err
	}
	object, err := record.NewReturn(to, change)
	if err != nil {
		return nil, err
	}
	read, err := record.Read(object)
	if err != nil {
		return nil, err
	}
	then, err := rollout.Rewrite(now, rollout.Part{Name: read.Name, Change: read.Spec.Change, Final: true})
	if err != nil {
		return nil, err
	}
	if generation.Of(then.Policies()) != to.ID { // written as manifests they are not what they were
		var others []string
		for _, d := range generation.Changes(wanted.Policies, then.Policies()) {
			others = append(others, d.String())
		}
		return nil, fmt.Errorf("no manifest says the same as these policies: %s", strings.Join(others, ", "))
	}
	return object, nil
}

func (c clusterRollouts) resume(ctx context.Context, wait time.Duration) (up.Steered, error) {
	if _, err := record.Resume(ctx, c.dynamic); err != nil {
		return up.Steered{}, err
	}
	inForce, err := c.await(ctx, wait, func(r v1alpha1.NodeEnforcementStatus) bool {
		return !slices.ContainsFunc(r.Rollouts, func(x v1alpha1.NodeRollout) bool { return x.Name == record.ReturnName })
	})
	return up.Steered{InForce: inForce}, err
}

// await waits until every node reports that something is so, and says whether they did within a time.
func (c clusterRollouts) await(ctx context.Context, wait time.Duration, is func(v1alpha1.NodeEnforcementStatus) bool) (bool, error) {
	within, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := awaitReports(within, c.api, "", func(*inforce.Cluster) error { return nil }, func(c inforce.Cluster) bool {
		return !slices.ContainsFunc(c.Nodes, func(n inforce.Node) bool {
			r, ok := c.Reports[n.Name]
			return !ok || !r.Ready || n.BootID != "" && r.BootID != "" && r.BootID != n.BootID || !is(r)
		})
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, nil
	}
	return err == nil, err
}
