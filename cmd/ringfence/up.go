package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/lab"
	"github.com/ringfence-project/ringfence/internal/up"
)

// upFlags are what `up` is asked for.
type upFlags struct {
	instanceFlags
	topology string
	exec     []string
}

func newUp() *cobra.Command {
	var flags upFlags
	cmd := &cobra.Command{
		Use:   "up DIR...",
		Short: "Run a cluster on this machine and keep it in step with its manifests",
		Long: `Run a cluster on this machine and keep it in step with its manifests: each pod in a network namespace of its own,
policies in force between them. A pod answers on the ports that it declares, or runs a real command: that of its
annotation ringfence.dev/exec, or of --exec.

Files that are edited, added or removed are in force moments later. A file that has become bad is reported, and its
last good version stays in force. Ctrl-C ends the watching only: pods and rules stay as they are, the next "up"
takes them over, and "ringfence down" ends them. The host's own network is not touched.`,
		Example: `  ringfence up examples/ldap
  ringfence up k8s/ --exec 'shop/web=nginx -g "daemon off;"'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runUp(cmd, flags, args) },
	}
	flags.flags(cmd)
	cmd.Flags().StringVar(&flags.topology, "topology", "routed", "how pods are connected: routed or bridge")
	cmd.Flags().StringArrayVar(&flags.exec, "exec", nil, "NAMESPACE/NAME=COMMAND that the pod, or the workload's pods, run; can be repeated")
	return cmd
}

func runUp(cmd *cobra.Command, flags upFlags, paths []string) error {
	i, err := flags.instance()
	if err != nil {
		return err
	}
	topology, err := lab.ParseTopology(flags.topology)
	if err != nil {
		return err
	}
	commands, err := parseCommands(flags.exec)
	if err != nil {
		return err
	}
	for _, path := range paths { // later, one that is gone is no reason to end
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("manifests: %w", err)
		}
	}
	unix.Umask(0o022) // folders have the modes that they are made with, and what pods write those of a container
	err = up.Run(cmd.Context(), up.Options{Instance: i, Paths: paths, Commands: commands, Bridge: topology == lab.Bridge,
		Out: cmd.OutOrStdout()})
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; up needs the rights of root: \"ringfence doctor\" says which are missing", err)
	}
	return err
}

// parseCommands reads the values of --exec.
func parseCommands(values []string) (map[cluster.Key]string, error) {
	commands := map[cluster.Key]string{}
	for _, v := range values {
		ref, command, ok := strings.Cut(v, "=")
		ns, name, qualified := strings.Cut(ref, "/")
		if !ok || !qualified || ns == "" || name == "" || command == "" {
			return nil, fmt.Errorf("--exec %q: want NAMESPACE/NAME=COMMAND, for instance 'shop/web=nginx -g \"daemon off;\"'", v)
		}
		commands[cluster.Key{Namespace: ns, Name: name}] = command
	}
	return commands, nil
}
