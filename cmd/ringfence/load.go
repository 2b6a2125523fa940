package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// referenceHelp is the part of the help that all commands with FROM and TO share.
const referenceHelp = `FROM and TO are ` + query.Forms + `:
  shop/web                    a pod, or a workload of that name and then all its pods
  shop/deployment/web         a workload, by its kind
  shop/service/web            only TO: the pods behind a Service, where PORT is the Service's
  'shop/app=web'  'app=web'   every pod that the selector matches, in one namespace or in all; shop/* for all pods
  node/worker-1               a node
  203.0.113.9  2001:db8::1    an address, whoever has it
PORT is a number (TCP), 53/udp, the name of a port that TO declares, or icmp.

With --kubeconfig or --context, or as kubectl's plugin, and without -f, the cluster is asked in the stead of manifests.`

// input is what commands read manifests with.
type input struct {
	manifests []string
	namespace string
	keepGoing bool
	named     bool   // the manifests were named as arguments
	rollout   string // whose candidate counts as in force
	api       apiFlags
}

func (in *input) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVarP(&in.manifests, "manifests", "f", []string{"."}, "files and folders with manifests; - for stdin")
	cmd.Flags().StringVarP(&in.namespace, "namespace", "n", "default", "namespace of names without one")
	in.keepGoingFlag(cmd)
	cmd.Flags().StringVar(&in.rollout, "rollout", "", "answer as if the candidate of that PolicyRollout were in force for everyone")
	in.api.flags(cmd)
}

func (in *input) keepGoingFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&in.keepGoing, "keep-going", false,
		"go on in spite of bad manifests, as in the running system: a policy that cannot be read isolates what it is over")
}

// loaded is a cluster read from manifests.
type loaded struct {
	manifest.Result
	state *cluster.State
}

// isLive reports whether a cluster is asked, in the stead of manifests.
func (in *input) isLive(cmd *cobra.Command) bool {
	return in.api.wanted(cmd) && !in.named && !cmd.Flags().Changed("manifests")
}

// load reads the manifests, or the cluster. Problems go to stderr, all of them, and are an error unless --keep-going.
func (in *input) load(cmd *cobra.Command) (*loaded, error) {
	if in.isLive(cmd) {
		return in.loadCluster(cmd)
	}
	bundle, err := unlessInterrupted(cmd.Context(), func() (*manifest.Bundle, error) { return dir.Load(in.manifests, cmd.InOrStdin()) })
	if err != nil {
		return nil, err
	}
	result := bundle.Finish(manifest.Options{})
	tellReading(cmd.ErrOrStderr(), result)
	if n := len(result.Problems); n > 0 && !in.keepGoing {
		return nil, fmt.Errorf("%d problem(s) in the manifests; mend them, or look at the rest with --keep-going", n)
	}
	state, err := stateWith(result, in.rollout)
	if err != nil {
		return nil, err
	}
	return &loaded{result, state}, nil
}

// loadCluster reads what is in force in a cluster. What cannot be read is stood in for as on its nodes, and names without a
// namespace are of the context's.
func (in *input) loadCluster(cmd *cobra.Command) (*loaded, error) {
	a, err := in.api.connect()
	if err != nil {
		return nil, err
	}
	if !cmd.Flags().Changed("namespace") {
		in.namespace = a.namespace
	}
	in.keepGoing = true
	return a.load(cmd.Context(), cmd.ErrOrStderr(), in.rollout)
}

func (a *api) load(ctx context.Context, stderr io.Writer, candidate string) (*loaded, error) {
	c, err := a.readCluster(ctx)
	if err != nil {
		return nil, err
	}
	tellReading(stderr, c.Result)
	parts, err := c.candidate(candidate)
	if err != nil {
		return nil, err
	}
	state, err := c.with(c.Objects, parts...)
	if err != nil {
		return nil, err
	}
	for _, n := range c.notes(candidate) {
		fmt.Fprintln(stderr, "note:", n)
	}
	return &loaded{c.Result, state}, nil
}

// tellReading says what there is to say of manifests that were read.
func tellReading(stderr io.Writer, r manifest.Result) {
	for _, n := range r.Notices {
		if !n.Running {
			fmt.Fprintln(stderr, "note:", n)
		}
	}
	tellProblems(stderr, r.Problems)
}

// stateWith is the cluster of manifests, with the candidate of a rollout in force for everyone unless its name is empty.
func stateWith(r manifest.Result, name string) (*cluster.State, error) {
	state, err := cluster.NewState(r.Objects)
	if err != nil {
		return nil, err
	}
	parts, err := candidateOf(r.Rollouts, name, "the manifests hold")
	if err != nil {
		return nil, err
	}
	return rollout.Rewrite(state, parts...)
}

// candidateOf is what one of these rollouts would have in force for everyone; none if name is empty. who is for errors, such as
// "the manifests hold".
func candidateOf(all []*rollout.Spec, name, who string) ([]rollout.Part, error) {
	if name == "" {
		return nil, nil
	}
	var names []string
	for _, s := range all {
		if s.Name == name {
			return []rollout.Part{s.InForce()}, nil
		}
		names = append(names, s.Name)
	}
	if names == nil {
		return nil, fmt.Errorf("--rollout %s: %s no PolicyRollout", name, who)
	}
	return nil, fmt.Errorf("--rollout %s: %s no such PolicyRollout, but %s", name, who, strings.Join(names, ", "))
}

// unlessInterrupted is what read returns, or an error as soon as ctx ends: read may wait for input that never comes, and
// knows no context. It is left behind then.
func unlessInterrupted[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := read()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func tellProblems(w io.Writer, problems []manifest.Problem) {
	for _, p := range problems {
		fmt.Fprintln(w, p.Text())
	}
}

func (l *loaded) scope(in input) query.Scope {
	return query.Scope{State: l.state, Services: l.Services, Namespace: in.namespace}
}
