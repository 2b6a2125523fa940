package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/driver"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/up"
)

// rolloutSource is where rollouts are: a running instance, or a cluster.
type rolloutSource interface {
	fmt.Stringer // "instance default"
	read(context.Context) (up.Rollouts, error)
	do(ctx context.Context, name string, c rollout.Command) error
	drivenBy(driven bool) drivenBy
}

// drivenBy says who drives rollouts.
type drivenBy struct {
	who     string
	nobody  bool // does at the moment
	cluster bool
}

// upGoesOn is who drives the rollouts of an instance.
const upGoesOn = `"ringfence up"`

// rolloutFlags say which rollouts are meant.
type rolloutFlags struct {
	instanceFlags
	api apiFlags
}

func (f *rolloutFlags) flags(cmd *cobra.Command) {
	f.instanceFlags.flags(cmd)
	f.api.flags(cmd)
}

func (f *rolloutFlags) source(cmd *cobra.Command) (rolloutSource, error) {
	if !f.api.wanted(cmd) {
		i, err := f.instance()
		return instanceRollouts{i}, err
	}
	a, err := f.api.connect()
	return clusterRollouts{a}, err
}

type instanceRollouts struct{ runtime.Instance }

func (i instanceRollouts) String() string { return "instance " + i.Name }

func (i instanceRollouts) read(ctx context.Context) (up.Rollouts, error) {
	return up.ReadRollouts(ctx, i.Instance)
}

func (i instanceRollouts) do(ctx context.Context, name string, c rollout.Command) error {
	return up.Command(ctx, i.Instance, name, c)
}

func (instanceRollouts) drivenBy(driven bool) drivenBy {
	return drivenBy{who: upGoesOn, nobody: !driven}
}

type clusterRollouts struct{ *api }

func (clusterRollouts) String() string { return "the cluster" }

func (c clusterRollouts) do(ctx context.Context, name string, command rollout.Command) error {
	_, err := record.Do(ctx, c.dynamic, name, command)
	return err
}

func (clusterRollouts) drivenBy(driven bool) drivenBy {
	return drivenBy{who: "a controller", nobody: !driven, cluster: true}
}

// drivenWithin is how long ago a controller wrote at least, if there is one: it does every half minute of a rollout under way,
// and two may take turns meanwhile. The clocks of the two may differ by as much.
const drivenWithin = 90 * time.Second

func (c clusterRollouts) read(ctx context.Context) (up.Rollouts, error) {
	all, err := record.List(ctx, c.dynamic)
	if err != nil {
		return up.Rollouts{}, err
	}
	out := up.Rollouts{Driven: true, Now: []driver.View{}, Returned: record.ReturnedTo(all)}
	for _, r := range all {
		out.Now = append(out.Now, viewOf(r))
		if r.Status.Active() && time.Since(r.Status.Seen) > drivenWithin {
			out.Driven = false
		}
	}
	return out, nil
}

// viewOf is a record for people.
func viewOf(r record.Record) driver.View {
	v := driver.View{Status: r.Status, Selected: r.Selected, Size: r.Cohort, Nodes: r.Nodes}
	v.Rollout = r.Name
	if v.Phase == "" {
		v.Phase, v.Reason = rollout.Waiting, "no controller has begun it yet"
	}
	var in, of int
	if _, err := fmt.Sscanf(r.Nodes, "%d/%d", &in, &of); err == nil {
		v.InForce = in == of
	}
	if r.Spec == nil || r.Digest != r.Status.Digest {
		return v
	}
	for _, s := range r.Spec.Steps {
		v.Steps = append(v.Steps, s.String())
	}
	if r.Status.Step < len(r.Spec.Steps) {
		v.For = r.Spec.Steps[r.Status.Step].For
	}
	return v
}
