// Command ringfence puts a fence around every workload of a container platform, by its labels.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The exit codes, which scripts may rely on.
const (
	exitOK      = 0
	exitFailed  = 1 // a check, test or comparison failed, or `can` says no
	exitChanges = 2 // there are changes; only with --detailed-exitcode
	exitUsage   = 3 // wrong usage, bad input or an internal error

	exitInterrupted = 130 // by Ctrl-C, as shells say it
)

// failed is an error that means "the answer is no": it exits with exitFailed, and prints nothing if it is empty.
type failed struct{ message string }

func (f failed) Error() string { return f.message }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends also what waits for its output, which knows no context
	code := runAs(ctx, filepath.Base(os.Args[0]), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: the tests call it too.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return runAs(ctx, "ringfence", args, stdin, stdout, stderr)
}

// runAs runs under the name that the program was called by.
func runAs(ctx context.Context, name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 && os.Getenv(cniCommand) != "" {
		args = []string{"cni"}
	}
	cmd := newRoot()
	if name == pluginName {
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl ringfence"}
	}
	cmd.SetArgs(args)
	cmd.SetIn(stdin)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	var no failed
	var status exitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &no):
		if no.message != "" {
			fmt.Fprintln(stderr, no.message)
		}
		return exitFailed
	case errors.As(err, &status):
		return int(status)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "interrupted")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "error:", err)
	if apierrors.IsForbidden(err) {
		fmt.Fprintln(stderr, "The chart comes with roles for this, which are bound to nobody: the cluster role ringfence-reader for questions,\n"+
			"and the role ringfence-flows, in the agents' namespace, for flows.")
	}
	return exitUsage
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "ringfence",
		Short: "Micro-segmentation by labels: who may talk to whom, tested, explained and enforced",
		Long: `Ringfence puts a fence around every workload of a container platform, by its labels. It reads the
policies that Kubernetes knows (NetworkPolicy and ClusterNetworkPolicy) from the same manifests as the workloads.

Exit codes: 0 ok; 1 a check failed or the answer is no; 2 there are changes (only
with --detailed-exitcode); 3 wrong usage, bad input or an internal error.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newCan(), newExplain(), newLab(), newMap(), newTest(), newLint(), newPlan(), newFlows(), newDNS(), newUp(), newDown(), newExec(), newLogs(),
		newStatus(), newWait(), newRollout(), newGenerations(), newGuard(), newDoctor(), newAgent(), newController(), newCNI(), newShim(), newProbe(), newVersion())
	return root
}
