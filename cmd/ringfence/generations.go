package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/generation/configmaps"
	"github.com/ringfence-project/ringfence/internal/manifest/write"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/up"
	"github.com/ringfence-project/ringfence/internal/words"
)

// generationView is an entry of the history, with what changed.
type generationView struct {
	generation.Entry
	Current bool     `json:"current,omitempty"`
	Changes []string `json:"changes"` // "+", "~" or "-" and a policy; of the first that is kept, all with "+"
	// Policies are all of them, with their places at the time; only of one that was asked for.
	Policies []string `json:"policies,omitempty"`
}

func newGenerations() *cobra.Command {
	var flags generationFlags
	var output string
	var last int
	var manifests bool
	cmd := &cobra.Command{
		Use:   "generations [REF]",
		Short: "Show every set of policies that was in force: when, why, and what changed",
		Long: `Show every set of policies that was in force for everyone in a running instance or, with --kubeconfig or --context and as
kubectl's plugin, on a cluster: when it came in force, why, what became of it, and which policies it changed. With REF, show
that one with all its policies.

REF is a number, an ID or its first digits, "current", or "good" for the last one that is marked good: that was in force for
ten minutes, or that a rollout led to through all its steps. "ringfence plan generation:REF DIR" compares one with files,
and "ringfence rollout undo --to REF" returns to it.

On a cluster it needs the right to get configmaps in the controller's namespace.`,
		Example: `  ringfence generations
  ringfence generations good
  ringfence generations good --manifests > policies.yaml
  ringfence plan generation:3 generation:5
  kubectl ringfence generations`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 1 {
				return fmt.Errorf("--last %d: want 1 or more", last)
			}
			if manifests && len(args) == 0 {
				return errors.New("--manifests: which generation? Name one: a number, an ID, \"current\" or \"good\"")
			}
			k, err := flags.read(cmd)
			if err != nil {
				return err
			}
			if manifests {
				return k.writeManifests(cmd.Context(), cmd.OutOrStdout(), args[0])
			}
			views, err := k.views(cmd.Context(), args, last)
			if err != nil {
				return err
			}
			if output != "text" {
				return encode(cmd.OutOrStdout(), output, views)
			}
			return printGenerations(cmd.OutOrStdout(), views)
		},
	}
	flags.flags(cmd)
	cmd.Flags().IntVar(&last, "last", 20, "show that many")
	cmd.Flags().BoolVar(&manifests, "manifests", false, "write the policies of REF as manifests, to be applied or kept")
	outputFlag(cmd, &output, "text", "json", "yaml")
	return cmd
}

// generationFlags say whose generations are meant.
type generationFlags struct {
	instanceFlags
	clusterStatusFlags
}

func (f *generationFlags) flags(cmd *cobra.Command) {
	f.instanceFlags.flags(cmd)
	f.clusterStatusFlags.flags(cmd)
}

// read reads the history of a running instance, or of a cluster.
func (f *generationFlags) read(cmd *cobra.Command) (*kept, error) {
	if !f.wanted(cmd) {
		i, err := f.instance()
		if err != nil {
			return nil, err
		}
		return keptByInstance(i)
	}
	a, err := f.connect()
	if err != nil {
		return nil, err
	}
	return a.kept(cmd.Context(), f.agents)
}

// kept is what generations there are.
type kept struct {
	store   *generation.Store
	history generation.History
}

func keptByInstance(i runtime.Instance) (*kept, error) {
	store, history, _, err := up.ReadGenerations(i)
	return &kept{store, history}, err
}

// kept reads the history of a cluster.
func (a *api) kept(ctx context.Context, namespace string) (*kept, error) {
	k := &kept{store: configmaps.Open(a.client, namespace)}
	var err error
	k.history, err = k.store.History(ctx)
	switch {
	case len(k.history) > 0 && errors.Is(err, generation.ErrDamaged):
		return k, nil // what could be saved is shown
	case err != nil:
		return nil, err
	case len(k.history) == 0:
		return nil, fmt.Errorf("namespace %s of the cluster has no history of generations: the controller that runs there keeps it; --agents-namespace names another one", namespace)
	}
	return k, nil
}

// find returns the entry that a person means, and its generation.
func (k *kept) find(ctx context.Context, ref string) (generation.Entry, generation.Generation, error) {
	e, err := k.history.Find(ref)
	if err != nil {
		return e, generation.Generation{}, err
	}
	g, err := k.store.Get(ctx, e.ID)
	if err != nil && e.NotKept != "" {
		err = fmt.Errorf("generation %d: %s", e.Number, e.NotKept)
	}
	return e, g, err
}

// views are the last entries, the newest first, or the one that args names.
func (k *kept) views(ctx context.Context, args []string, last int) ([]generationView, error) {
	chosen := k.history[max(0, len(k.history)-last):]
	if len(args) > 0 {
		e, _, err := k.find(ctx, args[0])
		if err != nil {
			return nil, err
		}
		chosen = generation.History{e}
	}
	read := k.reader(ctx)
	views := []generationView{}
	for _, e := range slices.Backward(chosen) {
		v := generationView{Entry: e, Current: e.Number == k.history[len(k.history)-1].Number}
		g, err := read(e.ID)
		switch {
		case err == nil:
			v.Changes = changedSince(read, e.Parent, g.Policies)
		case e.NotKept != "":
			v.Changes = []string{e.NotKept}
		default:
			v.Changes = []string{err.Error()}
		}
		if len(args) > 0 {
			for _, p := range g.Policies {
				v.Policies = append(v.Policies, policyLine(p))
			}
		}
		views = append(views, v)
	}
	return views, nil
}

// reader reads each generation once.
func (k *kept) reader(ctx context.Context) func(generation.ID) (generation.Generation, error) {
	type answer struct {
		generation.Generation
		err error
	}
	known := map[generation.ID]answer{}
	return func(id generation.ID) (generation.Generation, error) {
		a, ok := known[id]
		if !ok {
			a.Generation, a.err = k.store.Get(ctx, id)
			known[id] = a
		}
		return a.Generation, a.err
	}
}

// writeManifests writes the policies of a generation as manifests. What no manifest can say is an error: half of what was in
// force is something else.
func (k *kept) writeManifests(ctx context.Context, w io.Writer, ref string) error {
	e, g, err := k.find(ctx, ref)
	if err != nil {
		return err
	}
	var all bytes.Buffer
	fmt.Fprintf(&all, "# Generation %d (%s), in force since %s: %s\n", e.Number, e.ID.Short(), e.Time.UTC().Format(time.DateTime), strings.Join(strings.Fields(e.Why), " "))
	for _, p := range g.Policies {
		text, err := write.YAML(p)
		if err != nil {
			return fmt.Errorf("generation %d cannot be written as manifests: %w", e.Number, err)
		}
		fmt.Fprintf(&all, "---\n%s", text)
	}
	_, err = w.Write(all.Bytes())
	return err
}

func policyLine(p *policy.Policy) string {
	if p.File == "" {
		return rollout.RefOf(p).String()
	}
	return fmt.Sprintf("%s (%s:%d)", rollout.RefOf(p), p.File, p.Line)
}

// changedSince says how policies differ from those of another generation.
func changedSince(read func(generation.ID) (generation.Generation, error), parent generation.ID, policies []*policy.Policy) []string {
	var before []*policy.Policy
	if parent != "" {
		old, err := read(parent)
		if err != nil {
			return []string{"what was before is not kept"}
		}
		before = old.Policies
	}
	all := []string{}
	for _, c := range generation.Changes(before, policies) {
		all = append(all, c.String())
	}
	return all
}

// fewChanges is how many changed policies a line of the list names.
const fewChanges = 4

func printGenerations(w io.Writer, views []generationView) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NUMBER\tID\tMARK\tIN FORCE SINCE\tWHY\tCHANGED")
	for _, v := range views {
		mark := string(v.Mark)
		if v.Current {
			mark = strings.TrimPrefix(mark+", current", ", ")
		}
		most := fewChanges
		if v.Policies != nil {
			most = len(v.Changes)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", v.Number, v.ID.Short(), mark, v.Time.Local().Format(time.DateTime), v.Why, words.Some(v.Changes, most, ", "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range views {
		for _, p := range v.Policies {
			fmt.Fprintf(w, "  %s\n", p)
		}
	}
	return nil
}
