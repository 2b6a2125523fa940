// Command churn proves on a real cluster that nothing gets through that policy denies, and that nothing breaks that it
// allows, while pods come and go and agents are killed. It has two parts: `churn pod` runs in pods, sends, listens and
// writes down what it sees; `churn drive` makes these pods, adds up and judges. hack/kube/churn runs both.
//
// Every pod sends from the port that it listens on. So a pod that is given the address of an earlier one sends on what
// is still tracked as the earlier one's connections.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: churn pod|drive [flags]")
		os.Exit(3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var err error
	switch os.Args[1] {
	case "pod":
		err = runPod(ctx, os.Args[2:])
	case "drive":
		err = runDrive(ctx, os.Args[2:])
	default:
		err = fmt.Errorf("%q is neither pod nor drive", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		if err == errCut { // by itself: nothing was wrong but the time
			os.Exit(2)
		}
		os.Exit(1)
	}
}
