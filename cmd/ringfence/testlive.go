package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flowlog/nodes"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/live"
	"github.com/ringfence-project/ringfence/internal/live/pods"
	"github.com/ringfence-project/ringfence/internal/live/wire"
	"github.com/ringfence-project/ringfence/internal/policytest"
	"github.com/ringfence-project/ringfence/internal/source/kube"
	"github.com/ringfence-project/ringfence/internal/words"
)

// liveFlags are what `test --live` can be told.
type liveFlags struct {
	apiFlags
	live, outside, dryRun, keep bool
	namespaces                  []string
	everywhere                  bool
	agents, image               string
	most                        int
	patience, settle, lifetime  time.Duration
}

func (f *liveFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.live, "live", false, "make the cases and invariants with real packets in a cluster, between probe pods that stand for its workloads")
	f.apiFlags.flags(cmd)
	flags.BoolVar(&f.dryRun, "dry-run", false, "of --live: say which pods would be made, and who would connect to whom")
	flags.StringSliceVarP(&f.namespaces, "namespaces", "n", nil, "of --live: namespaces that probe pods may be made in, beside those that the tests name")
	flags.BoolVarP(&f.everywhere, "all-namespaces", "A", false, "of --live: probe pods may be made in every namespace that a test is about, by a pattern too")
	flags.IntVar(&f.most, "max-probes", 30, "of --live: refuse to make more probe pods than that")
	flags.StringVar(&f.image, "image", "", "of --live: image of the probe pods, with this program in it (default: that of the agents)")
	flags.StringVar(&f.agents, "agents-namespace", nodes.Namespace, "of --live: namespace of the agents")
	flags.DurationVar(&f.patience, "probe-timeout", 2*time.Second, "of --live: how long a connection waits for an answer")
	flags.DurationVar(&f.settle, "settle", 30*time.Second, "of --live: how long policies, and rules for new pods, may take to be in force")
	flags.DurationVar(&f.lifetime, "lifetime", 10*time.Minute, "of --live: how long all may take; then probe pods end by themselves")
	flags.BoolVar(&f.outside, "live-outside", false, "of --live: connect to addresses outside of the cluster too, where tests name them")
	flags.BoolVar(&f.keep, "keep", false, "of --live: leave the probe pods until they end by themselves")
}

// check refuses what makes no sense together.
func (f *liveFlags) check(cmd *cobra.Command, lab bool, output string) error {
	if !f.live {
		for _, name := range []string{"kubeconfig", "context", "dry-run", "namespaces", "all-namespaces", "max-probes", "image", "agents-namespace", "probe-timeout", "settle", "lifetime", "live-outside", "keep"} {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("--%s is about a cluster: give --live too", name)
			}
		}
		return nil
	}
	switch {
	case lab:
		return errors.New("--live and --lab contradict each other")
	case f.dryRun && output != "text":
		return errors.New("--dry-run is written as text only")
	case f.patience <= 0 || f.settle < 0 || f.most < 1:
		return errors.New("--probe-timeout, --settle and --max-probes have to be positive")
	case f.lifetime < f.settle+30*time.Second:
		return fmt.Errorf("--lifetime %s leaves no time beside --settle %s: give it 30s more at least", f.lifetime, f.settle)
	}
	return nil
}

// liveRun is a run of tests in a cluster.
type liveRun struct {
	*liveFlags
	*api
	stderr  io.Writer
	there   *inCluster
	cluster *policytest.Cluster
	state   *cluster.State // of what is in force
	plan    *live.Plan
	session *pods.Session // nil where nothing is to be made
	results []live.Result
	exec    nodes.Exec // for tests
}

// report runs the tests of a runner in a cluster; with --dry-run it only says what would be made, and returns nil.
func (f *liveFlags) report(cmd *cobra.Command, runner *policytest.Runner, run func() *policytest.Report) (*policytest.Report, error) {
	a, err := f.connect()
	if err != nil {
		return nil, err
	}
	r := &liveRun{liveFlags: f, api: a, stderr: cmd.ErrOrStderr(), exec: nodes.Remote(a.config, a.client)}
	// The library logs whenever a stream ends before its end, as on an interrupt. What matters comes as an error too.
	utilruntime.ErrorHandlers = nil
	return r.report(cmd.Context(), cmd.OutOrStdout(), runner, run)
}

func (r *liveRun) report(ctx context.Context, stdout io.Writer, runner *policytest.Runner, run func() *policytest.Report) (result *policytest.Report, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.lifetime, fmt.Errorf("it took longer than --lifetime %s", r.lifetime))
	defer cancel()
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	if result, err = r.prepare(ctx, runner, run); err != nil || result.Broken() {
		return result, err
	}
	if r.dryRun {
		return nil, r.show(stdout)
	}
	if len(r.plan.Probes) > 0 {
		defer func() {
			if gone := r.remove(ctx); gone != nil {
				err = errors.Join(err, gone)
			}
		}()
		if err := r.make(ctx); err != nil {
			if errors.Is(err, context.DeadlineExceeded) && context.Cause(ctx) != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
	}
	runner.Boot = r.boot(nil)
	return run(), nil
}

// read asks the cluster what it has, and what of it is in force.
func (r *liveRun) read(ctx context.Context) (err error) {
	if r.there, err = r.readCluster(ctx); err != nil {
		return err
	}
	if r.there.unread != nil {
		return r.there.unread
	}
	tellProblems(r.stderr, r.there.Problems)
	o := r.there.Objects
	o.Endpoints = slices.DeleteFunc(slices.Clone(o.Endpoints), func(e *cluster.Endpoint) bool { // of other runs
		_, probe := e.Labels.Get(pods.Label)
		return probe
	})
	if r.state, err = r.there.with(o); err != nil {
		return err
	}
	r.cluster = &policytest.Cluster{Objects: r.state.Objects(), Services: r.there.Services}
	return nil
}

// prepare plans what the tests want to be made. The result is what they are without it.
func (r *liveRun) prepare(ctx context.Context, runner *policytest.Runner, run func() *policytest.Report) (*policytest.Report, error) {
	published, err := pods.Published(ctx, r.client)
	if err != nil {
		return nil, err
	}
	planner := live.NewPlanner(r.state, live.Options{Outside: r.outside, Published: published})
	runner.Cluster, runner.Invariants = r.cluster, true
	progress := runner.Progress
	runner.Progress, runner.Boot = nil, r.boot(planner)
	result := run()
	runner.Progress = progress
	r.plan = planner.Plan()
	return result, nil
}

// make makes the probe pods, and the connections between them.
func (r *liveRun) make(ctx context.Context) error {
	if err := r.refuse(ctx); err != nil {
		return err
	}
	if err := r.awaitPolicies(ctx); err != nil {
		return err
	}
	fmt.Fprintf(r.stderr, "making %s in %s, for at most %s (label %s=%s)\n", words.Counted(len(r.plan.Probes), "probe pod"),
		words.Counted(len(r.plan.Namespaces()), "namespace"), r.lifetime, pods.Label, r.session.Run())
	for _, i := range r.plan.Blind {
		r.warn("policies let the probe pod for %s talk to none of the others, so nothing tells since when its node knows it", r.plan.Probes[i])
	}
	err := r.session.Start(ctx)
	if err != nil {
		return err
	}
	if r.results, err = r.session.Connect(ctx); err != nil {
		return err
	}
	return r.tellChanges(ctx)
}

// tellChanges warns of policies that are others than when it began: a connection that was made meanwhile may have fared as
// the new ones say.
func (r *liveRun) tellChanges(ctx context.Context) error {
	now, err := kube.ReadPolicies(ctx, r.options())
	if err != nil {
		return err
	}
	type version struct {
		kind       string
		key        kube.PolicyKey
		uid        string
		generation int64
	}
	was := map[version]bool{}
	for _, p := range r.there.policies {
		was[version{p.Kind, p.Key, p.UID, p.Generation}] = true
	}
	changed := map[string]bool{}
	for _, p := range now {
		v := version{p.Kind, p.Key, p.UID, p.Generation}
		if !was[v] {
			changed[p.Kind+" "+strings.TrimPrefix(p.Key.String(), "/")] = true
		}
		delete(was, v)
	}
	for v := range was {
		changed[v.kind+" "+strings.TrimPrefix(v.key.String(), "/")] = true
	}
	if len(changed) > 0 {
		r.warn("policies changed while it ran, and what failed may be due to that: %s", words.Some(slices.Sorted(maps.Keys(changed)), 5, ", "))
	}
	return nil
}

// tell says how far it is, to people.
func (r *liveRun) tell(text string) {
	if isTerminal(r.stderr) {
		fmt.Fprintln(r.stderr, text)
	}
}

// refuse looks for what speaks against making the pods, before anything is made.
func (r *liveRun) refuse(ctx context.Context) error {
	if n := len(r.plan.Probes); n > r.most {
		return fmt.Errorf("these tests need %d probe pods, more than --max-probes %d: raise it, choose tests with --run, or see with --dry-run who they stand for", n, r.most)
	}
	if name := r.touched(); name != "" {
		return fmt.Errorf("rollout %s is under way, and about workloads that probe pods would stand for: what they try would count for it. "+
			"Wait until it has ended, or choose other tests with --run", name)
	}
	image := r.image
	if image == "" {
		var err error
		if image, err = pods.AgentImage(ctx, r.client, r.agents); err != nil {
			return err
		}
	}
	if image == "" {
		return fmt.Errorf("no agent in namespace %s tells the image of probe pods: give --image, or --agents-namespace", r.agents)
	}
	r.session = pods.New(pods.Options{Client: r.client, Exec: r.exec, Image: image, Patience: r.patience, Settle: r.settle,
		Startup: min(r.lifetime/2, 2*time.Minute), Lifetime: r.lifetime, Tell: r.tell}, r.plan)
	missing, err := r.session.Missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("you may not %s; docs/testing.md has the role that it takes", strings.Join(missing, ", "))
	}
	blocked, err := r.session.Blocked(ctx)
	switch {
	case apierrors.IsForbidden(err):
		r.warn("you may not list poddisruptionbudgets: those that count by percent or maxUnavailable let nothing be evicted while probe pods have labels that they select")
	case err != nil:
		return err
	case len(blocked) > 0:
		r.warn("while the probe pods are there, nothing that PodDisruptionBudget %s selects can be evicted", strings.Join(blocked, ", "))
	}
	return nil
}

func (r *liveRun) warn(format string, args ...any) {
	fmt.Fprintf(r.stderr, "warning: "+format+"\n", args...)
}

// touched names a rollout under way that selects a probe pod.
func (r *liveRun) touched() string {
	o := r.state.Objects()
	first := len(o.Endpoints)
	for i, p := range r.plan.Probes {
		o.Endpoints = append(o.Endpoints, &cluster.Endpoint{Key: cluster.Key{Namespace: p.Namespace, Name: fmt.Sprintf("%d of %s", i, pods.Label)}, Labels: p.Labels})
	}
	probes := o.Endpoints[first:]
	state, err := cluster.NewState(o)
	if err != nil {
		return ""
	}
	for _, x := range r.there.rollouts {
		if x.Spec == nil || !x.Status.Active() {
			continue
		}
		for _, e := range x.Spec.Selected(state) {
			if slices.ContainsFunc(probes, func(p *cluster.Endpoint) bool { return p.Key == e.Key }) {
				return x.Name
			}
		}
	}
	return ""
}

// awaitPolicies waits until agents have reported that the policies are in force. Where nobody reports, or not to us, the
// connections have to show it.
func (r *liveRun) awaitPolicies(ctx context.Context) error {
	w := waiter{api: r.api, policies: versionsOf(r.there.policies)}
	r.tell("waiting until the policies are in force")
	waiting, cancel := context.WithTimeout(ctx, r.settle)
	defer cancel()
	err := w.wait(waiting)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		r.warn("%s", w.missing(r.settle))
	case err != nil && !errors.Is(err, inforce.ErrNotInstalled) && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err):
		return err
	}
	return nil
}

// remove takes away what was made.
func (r *liveRun) remove(ctx context.Context) error {
	if r.session == nil {
		return nil
	}
	if r.keep {
		fmt.Fprintf(r.stderr, "the probe pods are kept and end by themselves within %s; %s removes them\n", r.lifetime, r.session.Removal())
		return nil
	}
	r.tell("removing the probe pods")
	return r.session.Remove(ctx)
}

// show says what would be made.
func (r *liveRun) show(out io.Writer) error {
	fmt.Fprintf(out, "%s in %s:\n", words.Counted(len(r.plan.Probes), "probe pod"), words.Counted(len(r.plan.Namespaces()), "namespace"))
	t := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tSTANDS FOR\tLABELS\tLISTENS ON")
	for _, p := range r.plan.Probes {
		var ports []string
		for _, port := range p.Listen {
			ports = append(ports, wire.FormatPort(port))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", p.Namespace, p, orDash(p.Labels.String()), orDash(strings.Join(ports, ",")))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s:\n", words.Counted(len(r.plan.Attempts), "connection"))
	for i := range r.plan.Attempts {
		verb := "denied"
		if r.plan.Allowed[i] {
			verb = "allowed"
		}
		_, err := fmt.Fprintf(out, "%-8s %s%s\n", verb, r.plan.Describe(i), map[bool]string{true: "  (a control)"}[i >= len(r.plan.Attempts)-r.plan.Controls])
		if err != nil {
			return err
		}
	}
	return nil
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
