package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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
around.

The exit code is that of the command, 127 if there is no such command, 126 if it cannot be run. Signals are passed on to
the command, and it is killed if "ringfence exec" is.`,
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
	code, err := execAndPassOn(cmd, client, pod, args)
	switch {
	case err == nil && code == 0:
		return nil
	case err == nil:
		return exitStatus(code)
	case errors.Is(err, fs.ErrNotExist):
		code = exitNotFound
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC):
		code = exitNotExecutable
	}
	err = fmt.Errorf("run %s in %s: %w", args[0], ref, err)
	if code == 0 {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "error:", err)
	return exitStatus(code)
}

// The exit codes of shells for commands that do not run.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// execAndPassOn runs a command to its end. What this process is told goes to the command, but what comes by the terminal,
// which tells the command itself.
func execAndPassOn(cmd *cobra.Command, client *shim.Client, pod *shim.Pod, args []string) (int, error) {
	stdin, isFile := cmd.InOrStdin().(*os.File)
	stdio := shim.Stdio{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(),
		Terminal: isFile && term.IsTerminal(int(stdin.Fd()))}
	pass, keep := make(chan os.Signal, 4), make(chan os.Signal, 4)
	signal.Notify(pass, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(pass)
	if stdio.Terminal {
		signal.Notify(keep, os.Interrupt, syscall.SIGQUIT) // not ignored, or the command would ignore them too
		defer signal.Stop(keep)
	} else {
		signal.Notify(pass, os.Interrupt, syscall.SIGQUIT)
	}
	stdio.Signals = pass
	return client.Exec(pod, args, stdio)
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
