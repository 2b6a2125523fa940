package main

import (
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/up"
)

// newDNS is the process in the DNS pod. `up` starts it; nobody else does.
func newDNS() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:    "dns",
		Short:  "Answer DNS queries in the DNS pod of `ringfence up`",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return up.ServeDNS(cmd.Context(), file, cmd.ErrOrStderr()) },
	}
	cmd.Flags().StringVar(&file, "zone", "", "file with the zone, which is read again whenever it is replaced")
	_ = cmd.MarkFlagRequired("zone")
	return cmd
}
