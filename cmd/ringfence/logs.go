package main

import (
	"github.com/spf13/cobra"
)

func newLogs() *cobra.Command {
	var flags instanceFlags
	var namespace string
	var follow bool
	var tail int
	cmd := &cobra.Command{
		Use:   "logs POD",
		Short: "Show what a pod's command has written",
		Long: `Show what a pod's command has written, to stdout and stderr, across its restarts. Lines that begin with
"ringfence:" say when and why it was started again.`,
		Example: `  ringfence logs shop/web --tail 20 -f`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := flags.instance()
			if err != nil {
				return err
			}
			k, err := runningPod(i, namespace, args[0])
			if err != nil {
				return err
			}
			return i.CopyLog(cmd.Context(), cmd.OutOrStdout(), k, tail, follow)
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of a pod without one")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until Ctrl-C")
	cmd.Flags().IntVar(&tail, "tail", -1, "only that many lines from the end")
	return cmd
}
