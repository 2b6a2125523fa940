package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/agent"
	"github.com/ringfence-project/ringfence/internal/up"
)

// agentRun is the run folder of the instance "agent", which `ringfence flows --name agent` asks.
const agentRun = "/run/ringfence/agent"

// agentMemory is where an agent keeps objects for the next one. A reboot empties it, as it does the kernel.
const agentMemory = "/run/ringfence/kept"

// agentFlags are what `ringfence agent` can be told.
type agentFlags struct {
	processFlags
	node       string
	podCIDRs   []string
	unknown    string
	loadClosed bool
	listen     string
	flows      bool
}

func newAgent() *cobra.Command {
	var f agentFlags
	cmd := &cobra.Command{
		Use:   "agent --node NAME",
		Short: "Enforce a Kubernetes cluster's policies on this node",
		Long: `Enforce a Kubernetes cluster's policies on this node. The agent follows pods, namespaces, nodes, NetworkPolicies and
ClusterNetworkPolicies, and keeps this node's kernel in step. The kernel enforces also while no agent runs, and the next
one takes over what it finds.

It needs the node's own network namespace and CAP_NET_ADMIN and CAP_NET_RAW there. Metrics (/metrics), health (/healthz,
/readyz), /status and /debug/pprof are served on a loopback address only.

A pod on this node that the agent does not know yet can neither send nor be reached, but by the node itself. Its address
is known by the node's pod ranges: --pod-cidrs, else what the Node object says. With --load-closed nothing else is done
than to put that in force and end; where a table is in force already, it stays as it is but for prefixes that it lacks. It is for a step at boot, before
the first pod starts.`,
		Example: `  ringfence agent --node $(hostname) --kubeconfig /etc/ringfence/kubeconfig
  ringfence agent --load-closed --pod-cidrs 10.244.1.0/24`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "name of this node's object (default $NODE_NAME)")
	flags.Lookup("node").DefValue = ""
	f.flags(cmd)
	flags.StringSliceVar(&f.podCIDRs, "pod-cidrs", nil, "prefixes that this node's pods get their addresses from (default: what the Node object says)")
	flags.StringVar(&f.unknown, "unknown-pods", "deny", "deny or allow what pods send and get that the agent does not know yet")
	flags.BoolVar(&f.loadClosed, "load-closed", false, "put in force that unknown pods are closed, and end")
	flags.StringVar(&f.listen, "listen", "127.0.0.1:9470", "loopback address for metrics and health")
	flags.BoolVar(&f.flows, "flows", true, "keep the last flows, bounded, for \"ringfence flows --name agent\" in the agent's container")
	return cmd
}

func (f *agentFlags) run(cmd *cobra.Command) error {
	log, err := f.logger(cmd)
	if err != nil {
		return err
	}
	cidrs, err := prefixes(f.podCIDRs)
	if err != nil {
		return fmt.Errorf("--pod-cidrs: %w", err)
	}
	if f.unknown != "deny" && f.unknown != "allow" {
		return fmt.Errorf("--unknown-pods: %q is neither deny nor allow", f.unknown)
	}
	if f.loadClosed {
		return f.load(cmd, cidrs)
	}
	if f.node == "" {
		return fmt.Errorf("--node is missing: the name of this node's object, as kubectl get nodes shows it")
	}
	client, objects, err := f.clients("ringfence-agent")
	if err != nil {
		return err
	}
	flows := ""
	if f.flows {
		flows = up.FlowsSocket(agentRun)
	}
	return agent.Run(cmd.Context(), agent.Options{Version: version(), Flows: flows, Node: f.node, Client: client, Dynamic: objects, PodCIDRs: cidrs,
		AllowUnknown: f.unknown == "allow", Memory: agentMemory, Listen: f.listen, Log: log})
}

func (f *agentFlags) load(cmd *cobra.Command, cidrs []netip.Prefix) error {
	if len(cidrs) == 0 {
		return fmt.Errorf("--load-closed needs --pod-cidrs: nothing else says here which addresses are pods'")
	}
	was, err := agent.LoadClosed(cmd.Context(), cidrs)
	if err != nil {
		return err
	}
	if was {
		fmt.Fprintln(cmd.OutOrStdout(), "a table is in force already; unknown pods are closed in it")
	} else {
		fmt.Fprintln(cmd.OutOrStdout(), "closed")
	}
	return nil
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no prefix such as 10.244.1.0/24", text)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}
