package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/live/wire"
)

// newProbe is what runs in the probe pods of `test --live`; nobody else needs it.
func newProbe() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "probe serve|connect",
		Short:  "Listen, or connect, in a probe pod of `test --live`",
		Hidden: true,
	}
	cmd.AddCommand(newProbeServe(), newProbeConnect())
	return cmd
}

func newProbeServe() *cobra.Command {
	return &cobra.Command{
		Use:     "serve [PROTOCOL/PORT]...",
		Short:   "Listen on these ports, and echo",
		Example: "  ringfence probe serve tcp/80 udp/53",
		RunE: func(cmd *cobra.Command, args []string) error {
			var ports []cluster.Port
			for _, a := range args {
				p, err := wire.ParsePort(a)
				if err != nil {
					return err
				}
				ports = append(ports, p)
			}
			return wire.Serve(cmd.Context(), ports, func() { fmt.Fprintln(cmd.OutOrStdout(), "listening") })
		},
	}
}

func newProbeConnect() *cobra.Command {
	var patience time.Duration
	cmd := &cobra.Command{
		Use:     "connect PROTOCOL/ADDRESS:PORT...",
		Short:   "Connect to each, and say in a line of JSON what became of it",
		Example: "  ringfence probe connect tcp/10.0.0.1:80 udp/[fd00::1]:53",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var targets []wire.Target
			for _, a := range args {
				t, err := wire.ParseTarget(a)
				if err != nil {
					return err
				}
				targets = append(targets, t)
			}
			lines := json.NewEncoder(cmd.OutOrStdout())
			for _, a := range wire.Connect(cmd.Context(), targets, patience) {
				if err := lines.Encode(a); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&patience, "timeout", 2*time.Second, "how long each waits for an answer")
	return cmd
}
