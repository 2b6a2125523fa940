package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newDown() *cobra.Command {
	var flags instanceFlags
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End everything that `ringfence up` started",
		Long: `End everything that "ringfence up" started: pods with their commands, rules, and what is kept on disk. A running
"up" of the same instance is ended too. Other instances are not touched.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := flags.instance()
			if err != nil {
				return err
			}
			pods, err := i.Down(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "instance %s is down: %d pod(s) ended\n", i.Name, pods)
			return nil
		},
	}
	flags.flags(cmd)
	return cmd
}
