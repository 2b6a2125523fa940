package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/flowlog/nodes"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
	"github.com/ringfence-project/ringfence/internal/words"
)

// clusterStatusFlags are what `status` of a cluster can be told.
type clusterStatusFlags struct {
	apiFlags
	agents string
}

func (f *clusterStatusFlags) flags(cmd *cobra.Command) {
	f.apiFlags.flags(cmd)
	agentsFlag(cmd, &f.agents)
}

// agentsFlag says where Ringfence itself runs.
func agentsFlag(cmd *cobra.Command, namespace *string) {
	cmd.Flags().StringVar(namespace, "agents-namespace", nodes.Namespace, "of a cluster: namespace of the agents and the controller")
}

// nodeStatus is a line of `status` of a cluster.
type nodeStatus struct {
	Node     string `json:"node"`
	Reported bool   `json:"reported"`
	// Agent says why no agent runs there: "" if one does, or nobody may say.
	Agent string `json:"agent,omitempty"`
	v1alpha1.NodeEnforcementStatus
}

// isGood reports whether nothing is wrong.
func (n *nodeStatus) isGood() bool {
	return n.Reported && n.Agent == "" && n.Ready && !slices.ContainsFunc(n.Conditions, isWrong)
}

// isWrong reports whether a condition is one to look at. A kind that was never defined is not wanted.
func isWrong(c v1alpha1.NodeCondition) bool { return c.Type != kube.NotInstalled }

// run says how the nodes of a cluster are.
func (f *clusterStatusFlags) run(cmd *cobra.Command, output string) error {
	a, err := f.connect()
	if err != nil {
		return err
	}
	all, err := nodesOf(cmd.Context(), a, f.agents)
	if err != nil {
		return err
	}
	rollouts, _ := record.List(cmd.Context(), a.dynamic) // who may not read them is not told of them
	to := record.ReturnedTo(rollouts)
	if output == "text" {
		err = printNodes(cmd.OutOrStdout(), all)
	} else {
		err = encode(cmd.OutOrStdout(), output, all)
	}
	if err == nil && to != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), returnedText(to, drivenBy{cluster: true}))
		return failed{}
	}
	if err == nil && slices.ContainsFunc(all, func(n nodeStatus) bool { return !n.isGood() }) {
		return failed{}
	}
	return err
}

// nodesOf says how the nodes of a cluster are, by name.
func nodesOf(ctx context.Context, a *api, namespace string) ([]nodeStatus, error) {
	c, err := clusterOf(ctx, a.client, "")
	if err != nil {
		return nil, err
	}
	reports, err := inforce.List(ctx, a.dynamic)
	if err != nil {
		return nil, err
	}
	agents, err := (&nodes.Agents{Client: a.client, Namespace: namespace}).Running(ctx)
	if err != nil && !apierrors.IsForbidden(err) {
		return nil, err
	}
	all := []nodeStatus{}
	for _, n := range c.Nodes {
		r, ok := reports.ByNode[n.Name]
		if ok && n.BootID != "" && r.BootID != n.BootID {
			r.Ready, r.Message = false, "it was started anew, and its agent has not reported since"
		}
		s := nodeStatus{Node: n.Name, Reported: ok, NodeEnforcementStatus: r}
		if why, known := agents[n.Name]; err == nil && !known {
			s.Agent = "no agent runs on it"
		} else {
			s.Agent = why
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y nodeStatus) int { return strings.Compare(x.Node, y.Node) })
	return all, nil
}

func printNodes(w io.Writer, all []nodeStatus) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "there are no nodes")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	fmt.Fprintln(t, "NODE\tREADY\tPOLICIES\tDIGEST\tREPORTED\tWHAT IS WRONG")
	for _, n := range all {
		ready, policies, digest, reported := "no", "-", "-", "-"
		if n.Reported {
			policies, digest, reported = strconv.Itoa(int(n.Policies)), n.Digest, age(n.Updated.Time)+" ago"
		}
		if n.Reported && n.Ready {
			ready = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Node, ready, policies, digest, reported, strings.Join(n.wrong(), "; "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printVersions(w, all)
}

// wrong is what is wrong with a node, in a few words each.
func (n *nodeStatus) wrong() []string {
	var wrong []string
	if n.Agent != "" {
		wrong = append(wrong, n.Agent)
	}
	if !n.Reported {
		return append(wrong, "nothing was reported from it")
	}
	if n.Agent != "" {
		wrong[0] += ": what it reported last stays in force, and changes wait"
	}
	if !n.Ready {
		wrong = append(wrong, firstLine(n.Message, 120))
	}
	if closed := len(n.Closed); closed > 0 {
		wrong = append(wrong, fmt.Sprintf("%d pods are closed, as it is not known where they are plugged in", closed))
	}
	for _, c := range n.Conditions {
		if isWrong(c) && !strings.HasPrefix(n.Message, c.Type) {
			wrong = append(wrong, c.Type+" "+c.Object)
		}
	}
	return wrong
}

// printVersions says which agents are of which version, where they differ.
func printVersions(w io.Writer, all []nodeStatus) error {
	by := map[string][]string{}
	for _, n := range all {
		if n.Reported {
			version := cmp.Or(n.AgentVersion, "an older version, which does not say")
			by[version] = append(by[version], n.Node)
		}
	}
	if len(by) < 2 {
		return nil
	}
	fmt.Fprintln(w, "\nThe agents' versions differ:")
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, version := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(t, "  %s\t%s\n", version, words.Some(by[version], 3, ", "))
	}
	return t.Flush()
}
