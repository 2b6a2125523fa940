package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/shim"
)

// exitStatus is an error that is only the exit code of a command that was run for the user.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func newExec() *cobra.Command {
	var flags instanceFlags
	var namespace string
	cmd := &cobra.Command{
		Use:   "exec POD -- COMMAND [ARG...]",
		Short: "Run a command in a pod",
		Long: `Run a command in a pod that "ringfence up" runs: in its network, with its host name, environment and user, and
without the rights that a container does not have. "node" stands for the node; there it runs with all rights, to look
around. The exit code is that of the command.`,
		Example: `  ringfence exec shop/web -- curl -s http://db:5432
  ringfence exec node -- nft list ruleset`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("want POD -- COMMAND; for instance: ringfence exec shop/web -- curl -s http://db")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return execIn(cmd, flags, namespace, args[0], args[1:])
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of a pod without one")
	return cmd
}

func execIn(cmd *cobra.Command, flags instanceFlags, namespace, ref string, args []string) error {
	i, err := flags.instance()
	if err != nil {
		return err
	}
	stdio := shim.Stdio{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
	var client *shim.Client
	var pod *shim.Pod
	if ref == "node" {
		client, err = i.NodeShim()
	} else {
		client, pod, err = podToEnter(cmd, flags, namespace, ref)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s does not run; \"ringfence status\" says what does", ref)
	}
	if err != nil {
		return err
	}
	code, err := client.Exec(pod, args, stdio)
	if err != nil {
		return fmt.Errorf("run %s in %s: %w", args[0], ref, err)
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

func podToEnter(cmd *cobra.Command, flags instanceFlags, namespace, ref string) (*shim.Client, *shim.Pod, error) {
	i, err := flags.instance()
	if err != nil {
		return nil, nil, err
	}
	k, err := runningPod(i, namespace, ref)
	if err != nil {
		return nil, nil, err
	}
	client, err := i.Shim(k)
	if err != nil {
		return nil, nil, err
	}
	pod, err := client.Pod(cmd.Context())
	return client, pod, err
}
