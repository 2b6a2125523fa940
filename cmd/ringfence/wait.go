package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// relist is how long `wait` counts on the nodes that it has listed.
const relist = 10 * time.Second

// policyKinds are the ways in which people name the kinds of policies; "policy" is either.
var policyKinds = map[string]string{"policy": "", "networkpolicy": "NetworkPolicy", "netpol": "NetworkPolicy", "networkpolicies": "NetworkPolicy",
	"clusternetworkpolicy": "ClusterNetworkPolicy", "cnp": "ClusterNetworkPolicy", "clusternetworkpolicies": "ClusterNetworkPolicy"}

func newWait() *cobra.Command {
	var f policiesFlags
	var what string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait policy/NAME...",
		Short: "Wait until policies are in force on every node of a cluster",
		Long: `Wait until policies are in force on every node of a cluster, in the version that the API has when the command starts, or
a newer one. NAME is a NetworkPolicy's of the namespace, or else a ClusterNetworkPolicy's; networkpolicy/NAME and
clusternetworkpolicy/NAME say which.

It needs the right to list nodes, to get the policies, to list ClusterNetworkPolicies if one of them is waited for, and to
list and watch nodeenforcements.ringfence.dev. Exit code 1
after the timeout, with what is missing where.`,
		Example: `  kubectl apply -f policies/ && kubectl ringfence wait policy/ldap-clients -n customers --timeout 60s
  ringfence wait clusternetworkpolicy/guard --context prod`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if what != "enforced" {
				return fmt.Errorf("--for %q: only \"enforced\" can be waited for", what)
			}
			return f.wait(cmd, args, timeout)
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&what, "for", "enforced", "what to wait for")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	return cmd
}

func (f *policiesFlags) wait(cmd *cobra.Command, args []string, timeout time.Duration) error {
	var refs []policyRef
	for _, arg := range args {
		r, err := parsePolicyRef(arg)
		if err != nil {
			return err
		}
		refs = append(refs, r)
	}
	a, err := f.connect()
	if err != nil {
		return err
	}
	w := waiter{api: a, nodes: f.nodes}
	for _, r := range refs {
		p, err := r.find(cmd.Context(), a)
		if err != nil {
			return err
		}
		w.policies = append(w.policies, p)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
	defer cancel()
	start := time.Now()
	err = w.wait(ctx)
	if cmd.Context().Err() != nil {
		return cmd.Context().Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return failed{w.missing(timeout)}
	}
	if err != nil {
		return err
	}
	for i, p := range w.policies {
		fmt.Fprintf(cmd.OutOrStdout(), "%s is in force on %d of %d nodes (waited %s)\n", p, w.judged[i].InForce, w.judged[i].Nodes,
			time.Since(start).Round(10*time.Millisecond))
	}
	return nil
}

// waiter waits for policies.
type waiter struct {
	api      *api
	nodes    string // which count
	policies []inforce.Version
	judged   []inforce.Judgement // of the newest look; none before the first
}

// wait returns nil once all are in force, and ctx's error if that comes first.
func (w *waiter) wait(ctx context.Context) error {
	return awaitReports(ctx, w.api, w.nodes, func(c *inforce.Cluster) (err error) {
		c.ClusterDigest, err = w.clusterDigest(ctx)
		return err
	}, w.judge)
}

// awaitReports returns nil once is holds of the nodes with such labels and their reports, and ctx's error if that comes first.
// Each list of them is completed by complete.
func awaitReports(ctx context.Context, a *api, nodes string, complete func(*inforce.Cluster) error, is func(inforce.Cluster) bool) error {
	for {
		c, err := clusterOf(ctx, a.client, nodes)
		if err != nil {
			return orEnded(ctx, err)
		}
		reports, err := inforce.List(ctx, a.dynamic)
		if err != nil {
			return orEnded(ctx, err)
		}
		c.Reports = reports.ByNode
		if err := complete(&c); err != nil {
			return orEnded(ctx, err)
		}
		if is(c) {
			return nil
		}
		round, cancel := context.WithTimeout(ctx, relist)
		done := false
		err = reports.Follow(round, a.dynamic, func() bool {
			done = is(c)
			return !done
		})
		ended := round.Err()
		cancel()
		switch {
		case done:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && ended == nil && !apierrors.IsGone(err) && !apierrors.IsResourceExpired(err):
			return err
		}
	}
}

// clusterDigest is of all ClusterNetworkPolicies, if one of them is waited for; else, or where they may not be listed, "".
func (w *waiter) clusterDigest(ctx context.Context) (string, error) {
	if !slices.ContainsFunc(w.policies, func(p inforce.Version) bool { return p.Kind == "ClusterNetworkPolicy" }) {
		return "", nil
	}
	all, err := kube.ReadClusterPolicies(ctx, w.api.options())
	if apierrors.IsForbidden(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var c inforce.Cluster
	c.SetDigests(versionsOf(all))
	return c.ClusterDigest, nil
}

// orEnded is ctx's error, which requests hide in their own, or err.
func orEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (w *waiter) judge(c inforce.Cluster) bool {
	w.judged = w.judged[:0]
	all := true
	for _, p := range w.policies {
		j := c.Judge(p)
		w.judged = append(w.judged, j)
		all = all && j.Enforced()
	}
	return all
}

// missing says what is not in force, where and why.
func (w *waiter) missing(timeout time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "not in force within %s:", timeout)
	if len(w.judged) == 0 {
		b.WriteString("\n  the API has not answered")
	}
	for i, j := range w.judged {
		if j.Enforced() {
			continue
		}
		fmt.Fprintf(&b, "\n  %s: on %d of %d nodes", w.policies[i], j.InForce, j.Nodes)
		if j.Defective {
			b.WriteString("\n    it cannot be read, and what stands in for it denies: ringfence lint says why")
		}
		const most = 20
		for k, m := range j.Missing {
			if k == most {
				fmt.Fprintf(&b, "\n    and %d more", len(j.Missing)-most)
				break
			}
			fmt.Fprintf(&b, "\n    %s: %s", m.Node, m.Why)
		}
	}
	return b.String()
}

// policyRef names a policy as people do; kind is "" where either may be meant.
type policyRef struct{ kind, name string }

func parsePolicyRef(text string) (policyRef, error) {
	kind, name, ok := strings.Cut(text, "/")
	known, is := policyKinds[strings.ToLower(kind)]
	if !ok || !is || name == "" || strings.Contains(name, "/") {
		return policyRef{}, fmt.Errorf("%q: want policy/NAME, networkpolicy/NAME or clusternetworkpolicy/NAME", text)
	}
	return policyRef{known, name}, nil
}

// find asks the API for the policy. Of two policies of one name, the NetworkPolicy of the namespace is meant.
func (r policyRef) find(ctx context.Context, a *api) (inforce.Version, error) {
	if r.kind != "ClusterNetworkPolicy" {
		p, err := a.client.NetworkingV1().NetworkPolicies(a.namespace).Get(ctx, r.name, metav1.GetOptions{})
		if err == nil {
			return versionOf(kube.ListedOf("NetworkPolicy", p)), nil
		}
		if !apierrors.IsNotFound(err) {
			return inforce.Version{}, fmt.Errorf("get the policy: %w", err)
		}
	}
	if r.kind != "NetworkPolicy" {
		p, err := a.dynamic.Resource(kube.ClusterPolicies).Get(ctx, r.name, metav1.GetOptions{})
		if err == nil {
			return versionOf(kube.ListedOf("ClusterNetworkPolicy", p)), nil
		}
		if !apierrors.IsNotFound(err) {
			return inforce.Version{}, fmt.Errorf("get the policy: %w", err)
		}
	}
	where := fmt.Sprintf("no NetworkPolicy %s in namespace %s", r.name, a.namespace)
	switch r.kind {
	case "ClusterNetworkPolicy":
		where = "no ClusterNetworkPolicy " + r.name
	case "":
		where += ", and no ClusterNetworkPolicy of that name"
	}
	return inforce.Version{}, errors.New("there is " + where)
}
