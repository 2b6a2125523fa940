package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// policiesFlags are what `status policies` and `wait` can be told.
type policiesFlags struct {
	apiFlags
	namespace, nodes, output string
	all                      bool
}

func (f *policiesFlags) flags(cmd *cobra.Command) {
	f.apiFlags.flags(cmd)
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "namespace of NetworkPolicies (default: the context's)")
	cmd.Flags().StringVar(&f.nodes, "nodes", "", "count only nodes with these labels, like role=worker")
}

func (f *policiesFlags) connect() (*api, error) {
	a, err := f.apiFlags.connect()
	if err == nil && f.namespace != "" {
		a.namespace = f.namespace
	}
	return a, err
}

// policyStatus is a line of `status policies`.
type policyStatus struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Enforced  bool   `json:"enforced"`
	inforce.Judgement
	Pods        int `json:"pods"`        // that the policy selects and that run
	PodsInForce int `json:"podsInForce"` // of these, on nodes where it is in force
}

func newStatusPolicies() *cobra.Command {
	var f policiesFlags
	cmd := &cobra.Command{
		Use:   "policies",
		Short: "Say of each policy of a cluster on how many nodes and pods it is in force",
		Long: `Say of each policy of a cluster on how many nodes and pods it is in force, as the nodes' agents report it: each writes one
NodeEnforcement, and this command puts them together. A node that did not report counts as one where nothing is in force.

It needs the right to list nodes, namespaces, pods, services, policies and nodeenforcements.ringfence.dev. Exit code 1 if a
policy is not in force everywhere.`,
		Example: `  ringfence status policies -n shop
  kubectl ringfence status policies -A
  ringfence status policies -A --context prod -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.flags(cmd)
	cmd.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "policies of all namespaces")
	outputFlag(cmd, &f.output, "text", "json", "yaml")
	return cmd
}

func (f *policiesFlags) run(cmd *cobra.Command) error {
	a, err := f.connect()
	if err != nil {
		return err
	}
	namespace := a.namespace
	if f.all {
		namespace = ""
	}
	all, err := policiesOf(cmd.Context(), a, namespace, f.nodes)
	if err != nil {
		return err
	}
	if f.output == "text" {
		err = printPolicies(cmd.OutOrStdout(), all)
	} else {
		err = encode(cmd.OutOrStdout(), f.output, all)
	}
	if err == nil && slices.ContainsFunc(all, func(p policyStatus) bool { return !p.Enforced }) {
		return failed{}
	}
	return err
}

// policiesOf judges the ClusterNetworkPolicies and the NetworkPolicies of a namespace, or of all, by kind and name.
func policiesOf(ctx context.Context, a *api, namespace, nodes string) ([]policyStatus, error) {
	snapshot, err := kube.Read(ctx, a.options())
	if err != nil {
		return nil, err
	}
	c, err := clusterOf(ctx, a.client, nodes)
	if err != nil {
		return nil, err
	}
	reports, err := inforce.List(ctx, a.dynamic)
	if err != nil {
		return nil, err
	}
	c.Reports = reports.ByNode
	c.SetDigests(versionsOf(snapshot.Policies))
	state, err := cluster.NewState(snapshot.Bundle.Finish(manifest.Options{}).Objects)
	if err != nil {
		return nil, err
	}
	selected := inforce.NewSubjects(state)
	all := []policyStatus{}
	for _, p := range snapshot.Policies {
		if namespace != "" && p.Key.Namespace != "" && p.Key.Namespace != namespace {
			continue
		}
		s := policyStatus{Kind: p.Kind, Namespace: p.Key.Namespace, Name: p.Key.Name, Judgement: c.Judge(versionOf(p))}
		s.Enforced = s.Judgement.Enforced()
		s.Pods, s.PodsInForce = selected.Count(p.Key, s.Judgement, c)
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y policyStatus) int {
		return slices.Compare([]string{x.Kind, x.Namespace, x.Name}, []string{y.Kind, y.Namespace, y.Name})
	})
	return all, nil
}

// clusterOf lists the nodes that have to enforce.
func clusterOf(ctx context.Context, client kubernetes.Interface, selector string) (inforce.Cluster, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return inforce.Cluster{}, fmt.Errorf("list nodes: %w", err)
	}
	if len(list.Items) == 0 && selector != "" {
		return inforce.Cluster{}, fmt.Errorf("--nodes %q: no node has these labels", selector)
	}
	var c inforce.Cluster
	for _, n := range list.Items {
		c.Nodes = append(c.Nodes, inforce.Node{Name: n.Name, BootID: n.Status.NodeInfo.BootID})
	}
	return c, nil
}

func printPolicies(w io.Writer, all []policyStatus) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "there are no policies")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	fmt.Fprintln(t, "POLICY\tNODES\tPODS\tIN FORCE")
	for _, p := range all {
		name := p.Name
		if p.Namespace != "" {
			name = p.Namespace + "/" + name
		}
		fmt.Fprintf(t, "%s %s\t%d/%d\t%d/%d\t%s\n", p.Kind, name, p.InForce, p.Nodes, p.PodsInForce, p.Pods, p.what())
	}
	return t.Flush()
}

// what says in one line whether a policy is in force, and what is missing.
func (p policyStatus) what() string {
	return enforcedText(p.Judgement)
}

func enforcedText(j inforce.Judgement) string {
	switch {
	case j.Defective:
		return "no: it cannot be read, and what stands in for it denies"
	case j.Enforced():
		return "yes"
	case len(j.Missing) == 0:
		return "no: there is no node"
	}
	m := j.Missing[0]
	text := "no: " + m.Node + ": " + firstLine(m.Why, 120)
	if more := len(j.Missing) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}
