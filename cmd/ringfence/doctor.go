package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/runtime"
)

func newDoctor() *cobra.Command {
	var flags instanceFlags
	var output string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether this machine can do what `ringfence up` needs, and what follows if not",
		Long: `Say whether this machine can do what "ringfence up" needs, by trying it in a network namespace of its own, and what
follows if not. Nothing is changed.

It is about the machine that it runs on, also as kubectl's plugin. What a cluster's nodes lack their agents find out and
report: ` + "`ringfence status --context CONTEXT`" + ` says it of all of them.

Exit code 1 if something lacks that everybody needs.`,
		Example: "  ringfence doctor\n  ringfence doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if isPlugin(cmd) {
				fmt.Fprintln(cmd.ErrOrStderr(), "note: this is about the machine here; of a cluster's nodes: kubectl ringfence status")
			}
			i, err := flags.instance()
			if err != nil {
				return err
			}
			findings := runtime.Examine(i)
			if output == "text" {
				err = printFindings(cmd.OutOrStdout(), findings)
			} else {
				err = encode(cmd.OutOrStdout(), output, findings)
			}
			lacks := slices.ContainsFunc(findings, func(f runtime.Finding) bool { return f.Level == runtime.Lack })
			if err == nil && lacks {
				return failed{}
			}
			return err
		},
	}
	flags.flags(cmd)
	outputFlag(cmd, &output, "text", "json", "yaml")
	return cmd
}

func printFindings(w io.Writer, findings []runtime.Finding) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Level, f.Name, f.Detail)
		if f.Follows != "" {
			fmt.Fprintf(t, "\t\t%s\n", f.Follows)
		}
	}
	return t.Flush()
}
