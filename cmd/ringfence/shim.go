package main

import (
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/shim"
)

// newShim is the process that holds a pod or the node. `up` starts it; nobody else does.
func newShim() *cobra.Command {
	var dir, hostname string
	cmd := &cobra.Command{
		Use:    "shim pod|node",
		Short:  "Hold a pod, or the node, for `ringfence up`",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return shim.Run(shim.Kind(args[0]), shim.Dir(dir), hostname, nil)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder of the shim")
	cmd.Flags().StringVar(&hostname, "hostname", "", "host name of the pod")
	_ = cmd.MarkFlagRequired("dir")
	return cmd
}
