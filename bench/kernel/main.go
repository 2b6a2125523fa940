//go:build linux

// Kernel measures what enforcement costs in the kernel, in network namespaces of its own. It needs root.
//
//	go run ./bench/kernel [-data DIR] [-rounds N] [-only TEXT] [-profile FILE] load updates traffic
//
// load: time and memory to put rulesets in force: that of one node of the large cluster, and one of 100 subjects × 9,000
// identities. updates: with these in force, a pod added and removed and a policy added, from the call of Apply to the
// kernel's acknowledgement. traffic: new connections, round trips and bulk data between two pods of one node, for each of
// several nodes in turn: without connection tracking, with that alone, and with Ringfence and 0 to 10,000 policies.
//
// DIR is as for bench/engine; without it the built-in generator makes the like. Every figure is CPU time unless it says wall.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/ringfence-project/ringfence/bench/measure"
	"github.com/ringfence-project/ringfence/bench/workload"
)

func main() {
	data := flag.String("data", "", "folder with one folder for each size; empty: make the workload")
	size := flag.String("size", "large", "size of the workload")
	rounds := flag.Int("rounds", 200, "rounds of traffic; updates of each kind")
	only := flag.String("only", "", "measure only the kinds of traffic with this in their name")
	profile := flag.String("profile", "", "file for a CPU profile, of user space only")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	parts := flag.Args()
	if len(parts) == 0 {
		parts = []string{"load", "updates", "traffic"}
	}
	err := measure.Profiled(*profile, func() error { return run(ctx, *data, *size, *rounds, *only, parts) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, data, size string, rounds int, only string, parts []string) error {
	w, err := workload.Load(data, size)
	if err != nil {
		return err
	}
	for _, p := range parts {
		switch p {
		case "load":
			err = measureLoads(ctx, w)
		case "updates":
			err = measureUpdates(ctx, w, rounds)
		case "traffic":
			err = measureTraffic(ctx, w, rounds, only)
		default:
			err = fmt.Errorf("part %q: want load, updates or traffic", p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
