package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/alert"
	"github.com/ringfence-project/ringfence/internal/flowlog/nodes"
)

// clusterFlowsFlags say which agents of a cluster are asked for flows.
type clusterFlowsFlags struct {
	apiFlags
	agents, nodes, nodeOf string
}

func (f *clusterFlowsFlags) flags(cmd *cobra.Command) {
	f.apiFlags.flags(cmd)
	agentsFlag(cmd, &f.agents)
	cmd.Flags().StringVar(&f.nodes, "nodes", "", "of a cluster: ask only nodes with these labels, like role=worker")
	cmd.Flags().StringVar(&f.nodeOf, "node-of", "", "of a cluster: ask only the node that this pod runs on: namespace/pod")
}

// connectAgents finds the cluster, and which of its nodes are meant.
func (f *clusterFlowsFlags) connectAgents(ctx context.Context, warn func(string)) (*nodes.Agents, error) {
	a, err := f.connect()
	if err != nil {
		return nil, err
	}
	agents := &nodes.Agents{Client: a.client, Exec: nodes.Remote(a.config, a.client), Namespace: f.agents, Warn: warn}
	agents.Wanted, err = f.which(ctx, a)
	return agents, err
}

// which returns nil if all nodes are meant.
func (f *clusterFlowsFlags) which(ctx context.Context, a *api) (func(node string) bool, error) {
	switch {
	case f.nodes != "" && f.nodeOf != "":
		return nil, fmt.Errorf("--nodes and --node-of contradict each other")
	case f.nodes != "":
		c, err := clusterOf(ctx, a.client, f.nodes)
		if err != nil {
			return nil, err
		}
		names := map[string]bool{}
		for _, n := range c.Nodes {
			names[n.Name] = true
		}
		return func(node string) bool { return names[node] }, nil
	case f.nodeOf != "":
		namespace, name, ok := strings.Cut(f.nodeOf, "/")
		if !ok {
			namespace, name = a.namespace, f.nodeOf
		}
		pod, err := a.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("--node-of: %w", err)
		}
		if pod.Spec.NodeName == "" {
			return nil, fmt.Errorf("--node-of: pod %s/%s has no node yet", namespace, name)
		}
		return func(node string) bool { return node == pod.Spec.NodeName }, nil
	}
	return nil, nil
}

// showClusterFlows prints what the agents tell; an interrupt while following is its regular end.
func showClusterFlows(cmd *cobra.Command, o flowsOptions, runner *alert.Runner) error {
	// The library logs whenever a stream ends before its end, as on each interrupt. What matters comes as an error too.
	utilruntime.ErrorHandlers = nil
	var mu sync.Mutex
	agents, err := o.connectAgents(cmd.Context(), func(text string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(cmd.ErrOrStderr(), text)
	})
	if err != nil {
		return err
	}
	return showFlowsOf(cmd, o, runner, agents)
}

func showFlowsOf(cmd *cobra.Command, o flowsOptions, runner *alert.Runner, agents *nodes.Agents) error {
	ctx := cmd.Context()
	p := newFlowPrinter(cmd.OutOrStdout(), o.output)
	tell := func(r *flowlog.Record) error {
		if runner != nil {
			runner.Offer(r)
		}
		return p.print(r)
	}
	if o.Follow {
		return agents.Follow(ctx, o.Options, tell)
	}
	var missing []nodes.Missing
	if o.Totals {
		totals, without, err := agents.Totals(ctx)
		if err != nil {
			return err
		}
		missing = without
		if err := printTotals(cmd.OutOrStdout(), &totals, o.output); err != nil {
			return err
		}
	} else {
		answer, err := agents.Records(ctx, o.Options)
		if err != nil {
			return err
		}
		missing = answer.Missing
		for _, r := range answer.Records {
			if err := tell(r); err != nil {
				return err
			}
		}
	}
	if err := p.finish(o.Totals); err != nil {
		return err
	}
	if len(missing) > 0 {
		return failed{}
	}
	return nil
}
