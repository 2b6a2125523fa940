package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fatih/color"
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/driver"
	"github.com/ringfence-project/ringfence/internal/up"
	"github.com/ringfence-project/ringfence/internal/words"
)

func newRollout() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Show and steer changes of policies that are put in force step by step",
		Long: `Show and steer PolicyRollouts: changes of policies that are shown against live traffic, put in force for a few pods first,
watched, and undone by themselves when they hurt. They are those of a running instance or, with --kubeconfig or --context
and as kubectl's plugin, of a cluster.

On a cluster, status and history need the right to get and list policyrollouts.ringfence.dev, and all others to update
policyrollouts/status. They do what they say also while no controller runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRolloutStatus(), newRolloutHistory(), newRolloutUndo(), newRolloutResume())
	for _, c := range []struct {
		command rollout.Command
		short   string
		long    string
	}{
		{rollout.Promote, "Accept what was found, and go on", `Accept what was found, and go on: with the next step, with one that was interrupted, or with one that "pause" paused.
What was accepted does not pause or roll back the rollout again.`},
		{rollout.Hold, "Leave everything as it is until promoted", `Leave everything as it is until promoted. The cohort goes on being watched, and a denial still rolls back.`},
		{rollout.Abort, "End a rollout: what was in force before is in force again", `End a rollout that is under way: what was in force before is in force again, for all pods at once.`},
		{rollout.Retry, "Begin a rollout again that has ended", `Begin a rollout again, from its first step, that was rolled back, aborted or undone.`},
	} {
		cmd.AddCommand(newRolloutCommand(c.command, c.short, c.long))
	}
	return cmd
}

func newRolloutCommand(c rollout.Command, short, long string) *cobra.Command {
	var flags rolloutFlags
	cmd := &cobra.Command{
		Use:     string(c) + " [NAME]",
		Short:   short,
		Long:    long + "\n\nNAME may be left out where there is one rollout only.",
		Example: "  ringfence rollout " + string(c) + " lockdown",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := flags.source(cmd)
			if err != nil {
				return err
			}
			_, chosen, err := chooseRollouts(cmd.Context(), from, args)
			if err != nil {
				return err
			}
			if len(chosen) != 1 {
				return fmt.Errorf("there are %d rollouts: name one", len(chosen))
			}
			name := chosen[0].Rollout
			if err := from.do(cmd.Context(), name, c); err != nil {
				return err
			}
			if _, chosen, err = chooseRollouts(cmd.Context(), from, []string{name}); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), headline(chosen[0]))
			return nil
		},
	}
	flags.flags(cmd)
	return cmd
}

// chooseRollouts returns all rollouts, and those that args name, or all that there are now.
func chooseRollouts(ctx context.Context, from rolloutSource, args []string) (up.Rollouts, []driver.View, error) {
	all, err := from.read(ctx)
	if err != nil {
		return all, nil, err
	}
	if len(args) == 0 {
		return all, all.Now, nil
	}
	for _, v := range all.Now {
		if v.Rollout == args[0] {
			return all, []driver.View{v}, nil
		}
	}
	return all, nil, fmt.Errorf("%s has no rollout %s; \"ringfence rollout status\" lists them", from, args[0])
}

func newRolloutStatus() *cobra.Command {
	var flags rolloutFlags
	var output string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show where rollouts are, what was found, and for whom they are in force",
		Long: `Show where rollouts are, what was found, and for which pods they are in force. With --watch, go on until all of them
are over, and if there is none, until there is one.

Exit code 1 if one was rolled back, aborted or undone, is paused by what was found, has an error, or is under way while
nobody drives it, or if "undo --to" returned to an earlier generation.`,
		Example: `  ringfence rollout status -w
  ringfence rollout status lockdown -o json
  kubectl ringfence rollout status lockdown -w`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := flags.source(cmd)
			if err != nil {
				return err
			}
			if watch {
				if output != "text" {
					return fmt.Errorf("--watch is for people: leave out -o %s", output)
				}
				return watchRollouts(cmd, from, args)
			}
			all, chosen, err := chooseRollouts(cmd.Context(), from, args)
			if err != nil {
				return err
			}
			if output == "text" {
				if all.Returned != nil {
					fmt.Fprintln(cmd.OutOrStdout(), returnedText(all.Returned, from.drivenBy(all.Driven)))
				}
				err = printRollouts(cmd.OutOrStdout(), chosen, from.drivenBy(all.Driven))
			} else {
				err = encode(cmd.OutOrStdout(), output, up.Rollouts{Driven: all.Driven, Now: chosen, Returned: all.Returned})
			}
			if err == nil && (all.Returned != nil || !allWell(chosen, from.drivenBy(all.Driven))) {
				return failed{}
			}
			return err
		},
	}
	flags.flags(cmd)
	outputFlag(cmd, &output, "text", "json", "yaml")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until all are over")
	return cmd
}

// returnedText says that neither files nor rollouts rule.
func returnedText(r *generation.Return, by drivenBy) string {
	what := "files and rollouts do not rule"
	if by.cluster {
		what = "what it brought stays so, and rollouts wait,"
	}
	return fmt.Sprintf("returned to the policies of %s %s ago: %s until \"ringfence rollout resume\"", r, age(r.Time), what)
}

// allWell reports whether nobody has to look at any of them.
func allWell(views []driver.View, by drivenBy) bool {
	for _, v := range views {
		if rolloutTrouble(v, by) != "" {
			return false
		}
	}
	return true
}

// rolloutTrouble says why somebody should look at a rollout; "" if nobody has to.
func rolloutTrouble(v driver.View, by drivenBy) string {
	switch {
	case v.Active() && by.nobody:
		return "under way, but nobody drives it: it stays as it is until " + by.who + " goes on"
	case v.Phase == rollout.Invalid, v.Phase == rollout.RolledBack, v.Phase == rollout.Paused && v.By == rollout.ByAnalysis:
		return fmt.Sprintf("%s: %s", phaseText(v), v.Reason)
	case v.Phase == rollout.Aborted, v.Phase == rollout.Undone:
		return fmt.Sprintf("%s: what was before is in force", phaseText(v))
	}
	return ""
}

// phaseText is the phase in the words of a sentence.
func phaseText(v driver.View) string {
	switch v.Phase {
	case rollout.RolledBack:
		return "rolled back"
	case rollout.Paused:
		return "paused"
	}
	return strings.ToLower(string(v.Phase))
}

// watchEvery is how often a watched status is looked at.
const watchEvery = 500 * time.Millisecond

func watchRollouts(cmd *cobra.Command, from rolloutSource, args []string) error {
	out := cmd.OutOrStdout()
	last := ""
	for {
		all, chosen, err := chooseRollouts(cmd.Context(), from, args)
		if err != nil {
			return err
		}
		var text strings.Builder
		if err := printRollouts(&text, chosen, from.drivenBy(all.Driven)); err != nil {
			return err
		}
		switch {
		case text.String() == last:
		case colours(out): // a terminal: in the stead of what was shown
			fmt.Fprint(out, "\x1b[H\x1b[2J"+text.String())
		default:
			fmt.Fprintln(out, text.String())
		}
		last = text.String()
		over := len(chosen) > 0 // who watches before there is one waits for it
		for _, v := range chosen {
			over = over && v.Over()
		}
		if over || !all.Driven {
			if !allWell(chosen, from.drivenBy(all.Driven)) {
				return failed{}
			}
			return nil
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(watchEvery):
		}
	}
}

// headline is for instance "lockdown: progressing, step 2 of 4: enforce 10% of the pods for 5m".
func headline(v driver.View) string {
	text := v.Rollout + ": " + phaseText(v)
	if v.Active() && v.Step < len(v.Steps) {
		text += fmt.Sprintf(", step %d of %d: %s", v.Step+1, len(v.Steps), v.Steps[v.Step])
	}
	return text
}

func printRollouts(w io.Writer, views []driver.View, by drivenBy) error {
	if len(views) == 0 {
		_, err := fmt.Fprintln(w, "no rollouts")
		return err
	}
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := printRollout(w, v, by); err != nil {
			return err
		}
	}
	return nil
}

func printRollout(w io.Writer, v driver.View, by drivenBy) error {
	head := headline(v)
	if colours(w) {
		c := color.FgGreen
		if rolloutTrouble(v, by) != "" {
			c = color.FgRed
		}
		painter := color.New(c)
		painter.EnableColor()
		head = painter.Sprint(head)
	}
	fmt.Fprintln(w, head)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if v.Reason != "" {
		fmt.Fprintf(t, "  why\t%s\n", v.Reason)
	}
	if v.Active() {
		if by.nobody {
			fmt.Fprintf(t, "  frozen\tnobody drives it; %s goes on\n", by.who)
		}
		if v.For > 0 {
			fmt.Fprintf(t, "  watched\t%s of %s\n", min(v.Watched, v.For).Truncate(time.Second), v.For)
		}
		fmt.Fprintf(t, "  cohort\t%d of %d pods%s\n", max(len(v.Cohort), v.Size), v.Selected, listed(v.Cohort))
	}
	if v.Nodes != "" {
		fmt.Fprintf(t, "  nodes\t%s\n", v.Nodes)
	}
	for _, q := range v.Queries {
		fmt.Fprintf(t, "  query\t%s\n", q)
	}
	e := v.Evidence
	if seen := words.Counted(e.Connections, "connection") + " of " + words.Counted(len(e.Workloads), "workload"); e.Connections > 0 || v.Active() {
		if e.Uncertain > 0 {
			seen += fmt.Sprintf(", and %d that could not be judged", e.Uncertain)
		}
		fmt.Fprintf(t, "  seen\t%s\n", seen)
	}
	if v.Phase == rollout.Complete {
		if by.cluster {
			fmt.Fprintln(t, "  in force\tfor everyone, for as long as the rollout exists")
		} else if len(v.Differs) > 0 {
			fmt.Fprintf(t, "  beyond the files\t%s; before you remove the rollout, write the same there\n", strings.Join(v.Differs, ", "))
		} else if !by.nobody {
			fmt.Fprintln(t, "  as the files say\tthe rollout can be removed")
		}
	}
	for _, f := range e.Findings {
		fmt.Fprintf(t, "  %s\t%s\n", findingWord(f), f)
		fmt.Fprintf(t, "  \t  before: %s; after: %s; for instance %s\n", f.Before, f.After, f.Example)
	}
	if e.More > 0 {
		fmt.Fprintf(t, "  more\t%d connections of other kinds\n", e.More)
	}
	return t.Flush()
}

// listed is ": a, b, c, ..." of a short list.
func listed(pods []string) string {
	if len(pods) == 0 {
		return ""
	}
	const most = 4
	text := ": " + strings.Join(pods[:min(most, len(pods))], ", ")
	if len(pods) > most {
		text += ", ..."
	}
	return text
}

func findingWord(f rollout.Finding) string {
	switch {
	case f.Kind == rollout.NewlyDenied && f.Enforced:
		return "denied"
	case f.Kind == rollout.NewlyDenied:
		return "would deny"
	case f.Enforced:
		return "newly allowed"
	}
	return "would allow"
}

func newRolloutHistory() *cobra.Command {
	var flags rolloutFlags
	var output string
	cmd := &cobra.Command{
		Use:     "history [NAME]",
		Short:   "Show what happened to rollouts, also to those that are no more",
		Example: "  ringfence rollout history lockdown",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := flags.source(cmd)
			if err != nil {
				return err
			}
			all, err := from.read(cmd.Context())
			if err != nil {
				return err
			}
			var chosen []driver.View
			for _, v := range append(all.Now, all.Past...) {
				if len(args) == 0 || v.Rollout == args[0] {
					chosen = append(chosen, v)
				}
			}
			if len(chosen) == 0 && len(args) > 0 {
				return fmt.Errorf("%s has and had no rollout %s", from, args[0])
			}
			if output != "text" {
				return encode(cmd.OutOrStdout(), output, chosen)
			}
			if len(chosen) == 0 {
				return printRollouts(cmd.OutOrStdout(), nil, drivenBy{})
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, v := range chosen {
				for _, e := range v.Events {
					fmt.Fprintf(t, "%s\t%s\t%s\n", e.Time.Local().Format(time.DateTime), v.Rollout, e.Text)
				}
			}
			return t.Flush()
		},
	}
	flags.flags(cmd)
	outputFlag(cmd, &output, "text", "json", "yaml")
	return cmd
}
