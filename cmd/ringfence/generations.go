package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/manifest/write"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/up"
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
	var flags instanceFlags
	var output string
	var last int
	var manifests bool
	cmd := &cobra.Command{
		Use:   "generations [REF]",
		Short: "Show every set of policies that was in force: when, why, and what changed",
		Long: `Show every set of policies that was in force for everyone in a running instance: when it came in force, why, what became of
it, and which policies it changed. With REF, show that one with all its policies.

REF is a number, an ID or its first digits, "current", or "good" for the last one that is marked good: that was in force for
ten minutes, or that a rollout led to through all its steps. "ringfence plan generation:REF DIR" compares one with files,
and "ringfence rollout undo --to REF" returns to it.`,
		Example: `  ringfence generations
  ringfence generations good
  ringfence generations good --manifests > policies.yaml
  ringfence plan generation:3 generation:5`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 1 {
				return fmt.Errorf("--last %d: want 1 or more", last)
			}
			i, err := flags.instance()
			if err != nil {
				return err
			}
			if manifests {
				return writeGeneration(cmd.OutOrStdout(), i, args)
			}
			views, err := generationViews(i, args, last)
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

// generationViews are the last entries, the newest first, or the one that args names.
func generationViews(i runtime.Instance, args []string, last int) ([]generationView, error) {
	store, history, _, err := up.ReadGenerations(i)
	if err != nil {
		return nil, err
	}
	chosen := history[max(0, len(history)-last):]
	if len(args) > 0 {
		e, err := history.Find(args[0])
		if err != nil {
			return nil, err
		}
		chosen = generation.History{e}
	}
	views := []generationView{}
	for _, e := range slices.Backward(chosen) {
		v := generationView{Entry: e, Current: e.Number == history[len(history)-1].Number}
		kept, err := store.Get(e.ID)
		if err != nil {
			v.Changes = []string{err.Error()}
		} else {
			v.Changes = changedSince(store, e.Parent, kept.Policies)
		}
		if len(args) > 0 {
			if err != nil {
				return nil, err
			}
			for _, p := range kept.Policies {
				v.Policies = append(v.Policies, policyLine(p))
			}
		}
		views = append(views, v)
	}
	return views, nil
}

// writeGeneration writes the policies of a generation as manifests. What no manifest can say is an error: half of what was in
// force is something else.
func writeGeneration(w io.Writer, i runtime.Instance, args []string) error {
	if len(args) == 0 {
		return errors.New("--manifests: which generation? Name one: a number, an ID, \"current\" or \"good\"")
	}
	store, history, _, err := up.ReadGenerations(i)
	if err != nil {
		return err
	}
	e, err := history.Find(args[0])
	if err != nil {
		return err
	}
	kept, err := store.Get(e.ID)
	if err != nil {
		return err
	}
	var all bytes.Buffer
	fmt.Fprintf(&all, "# Generation %d (%s), in force since %s: %s\n", e.Number, e.ID.Short(), e.Time.UTC().Format(time.DateTime), strings.Join(strings.Fields(e.Why), " "))
	for _, p := range kept.Policies {
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
func changedSince(store *generation.Store, parent generation.ID, policies []*policy.Policy) []string {
	before := map[rollout.Ref]*policy.Policy{}
	if parent != "" {
		old, err := store.Get(parent)
		if err != nil {
			return []string{"what was before is not kept"}
		}
		for _, p := range old.Policies {
			before[rollout.RefOf(p)] = p
		}
	}
	all := []string{}
	for _, p := range policies {
		ref := rollout.RefOf(p)
		switch old := before[ref]; {
		case old == nil:
			all = append(all, "+"+ref.String())
		case !generation.Same(old, p):
			all = append(all, "~"+ref.String())
		}
		delete(before, ref)
	}
	for ref := range before {
		all = append(all, "-"+ref.String())
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Compare(a[1:], b[1:]) })
	return all
}

// fewChanges is how many changed policies a line of the list names.
const fewChanges = 4

// firstFew are the first of many names, and how many there are beside.
func firstFew(names []string) []string {
	if len(names) <= fewChanges {
		return names
	}
	return append(slices.Clone(names[:fewChanges]), fmt.Sprintf("and %d more", len(names)-fewChanges))
}

func printGenerations(w io.Writer, views []generationView) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NUMBER\tID\tMARK\tIN FORCE SINCE\tWHY\tCHANGED")
	for _, v := range views {
		mark := string(v.Mark)
		if v.Current {
			mark = strings.TrimPrefix(mark+", current", ", ")
		}
		changes := v.Changes
		if v.Policies == nil {
			changes = firstFew(changes)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", v.Number, v.ID.Short(), mark, v.Time.Local().Format(time.DateTime), v.Why, strings.Join(changes, ", "))
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

// newRolloutUndo is "rollout undo" of a rollout that is complete, and with --to the return to a generation.
func newRolloutUndo() *cobra.Command {
	cmd := newRolloutCommand(rollout.Undo, "Take back a rollout that is complete, or return to an earlier generation",
		`Take back a rollout that is complete: what was in force before is in force again, for all pods at once.

With --to, return to an earlier generation of policies instead ("ringfence generations" lists them): its policies are in
force for all pods, and rollouts that are under way are aborted. What files and rollouts say is not in force until
"ringfence rollout resume", also after a crash. The command waits until it is so; exit code 1 if that takes longer than
--timeout, when it goes on nevertheless.`)
	cmd.Example += "\n  ringfence rollout undo --to good"
	var to string
	var timeout time.Duration
	cmd.Flags().StringVar(&to, "to", "", `return to that generation: a number, an ID, or "good"`)
	timeoutFlag(cmd, &timeout)
	undo := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if to == "" {
			return undo(cmd, args)
		}
		if len(args) > 0 {
			return fmt.Errorf("--to is about all policies: leave out %s", args[0])
		}
		if cmd.Flags().Changed("kubeconfig") || cmd.Flags().Changed("context") || isPlugin(cmd) {
			return fmt.Errorf("--to is for what \"ringfence up\" runs: a cluster's API keeps no earlier generations")
		}
		i, err := instanceOf(cmd)
		if err != nil {
			return err
		}
		s, err := up.ReturnTo(cmd.Context(), i, to, timeout)
		if err != nil {
			return err
		}
		return tellSteered(cmd, s, timeout)
	}
	return cmd
}

func timeoutFlag(cmd *cobra.Command, timeout *time.Duration) {
	cmd.Flags().DurationVar(timeout, "timeout", 30*time.Second, "how long to wait until it is in force")
}

// tellSteered says what is in force now, and fails if it is not yet.
func tellSteered(cmd *cobra.Command, s up.Steered, timeout time.Duration) error {
	text := "resumed: the files rule"
	if s.To != nil {
		text = fmt.Sprintf("returned to the policies of %s, until \"ringfence rollout resume\"", s.To)
	}
	if !s.InForce {
		return failed{fmt.Sprintf("%s; not in force within %s, and tried further: \"ringfence status\" says what is wrong", text, timeout)}
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text+"; in force")
	return err
}

// instanceOf is what the instanceFlags of a command say that is made elsewhere.
func instanceOf(cmd *cobra.Command) (runtime.Instance, error) {
	value := func(name string) string { return cmd.Flag(name).Value.String() }
	return (&instanceFlags{value("name"), value("run"), value("state")}).instance()
}

func newRolloutResume() *cobra.Command {
	var flags instanceFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Have files and rollouts rule again, after \"undo --to\"",
		Long: `Have what files and rollouts say in force again, after "ringfence rollout undo --to". The command waits until it is so;
exit code 1 if that takes longer than --timeout, when it goes on nevertheless.`,
		Example: "  ringfence plan generation:current k8s/ && ringfence rollout resume",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := flags.instance()
			if err != nil {
				return err
			}
			s, err := up.Resume(cmd.Context(), i, timeout)
			if err != nil {
				return err
			}
			return tellSteered(cmd, s, timeout)
		},
	}
	flags.flags(cmd)
	timeoutFlag(cmd, &timeout)
	return cmd
}
