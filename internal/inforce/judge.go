package inforce

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
)

// Version is a policy as a reader found it.
type Version struct {
	Policy
	ResourceVersion string
}

// Node is a node as a reader found it.
type Node struct {
	Name   string
	BootID string // of the machine's present start, "" if its kubelet does not say
}

// Cluster is what a reader needs to know for judging.
type Cluster struct {
	Nodes   []Node
	Reports map[string]v1alpha1.NodeEnforcementStatus // by node
	// Digest is of all policies that the API has, and ClusterDigest of the ClusterNetworkPolicies among them. They are a second
	// way to see that a policy is in force: for APIs whose resource versions cannot be compared, and for the versions of a
	// ClusterNetworkPolicy that its status was written in, which nodes do not report. "" if they are not known.
	Digest, ClusterDigest string
}

// SetDigests takes over which policies the API has: all of them.
func (c *Cluster) SetDigests(all []Version) {
	var whole, wide Digest
	for _, p := range all {
		whole.Toggle(p.Policy)
		if p.Kind != "NetworkPolicy" {
			wide.Toggle(p.Policy)
		}
	}
	c.Digest, c.ClusterDigest = whole.String(), wide.String()
}

// Missing says why a policy is not known to be in force on a node.
type Missing struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// Judgement says where a policy is in force.
type Judgement struct {
	Nodes   int       `json:"nodes"`
	InForce int       `json:"inForce"`
	Missing []Missing `json:"missing,omitempty"` // by node
	// Defective: the nodes could not read the policy. What is in force in its stead denies.
	Defective bool `json:"defective,omitempty"`
}

// Enforced reports whether the policy is in force everywhere, as it was written.
func (j Judgement) Enforced() bool { return j.Nodes > 0 && j.InForce == j.Nodes && !j.Defective }

// Judge says where p is in force.
func (c Cluster) Judge(p Version) Judgement {
	j := Judgement{Nodes: len(c.Nodes)}
	for _, n := range c.Nodes {
		if why := c.missing(n, p); why != "" {
			j.Missing = append(j.Missing, Missing{n.Name, why})
			continue
		}
		j.InForce++
		j.Defective = j.Defective || isDefective(c.Reports[n.Name], p)
	}
	slices.SortFunc(j.Missing, func(a, b Missing) int { return strings.Compare(a.Node, b.Node) })
	return j
}

func isDefective(r v1alpha1.NodeEnforcementStatus, p Version) bool {
	return slices.ContainsFunc(r.Defective, func(d v1alpha1.PolicyReference) bool {
		return d.Kind == p.Kind && d.Namespace == p.Namespace && d.Name == p.Name
	})
}

// missing says why p is not known to be in force on n, "" if it is.
func (c Cluster) missing(n Node, p Version) string {
	r, reported := c.Reports[n.Name]
	switch {
	case !reported:
		return "no agent has reported from it"
	case n.BootID != "" && r.BootID != "" && n.BootID != r.BootID:
		return "it was started anew, and its agent has not reported since"
	case !r.Ready:
		return cmp.Or(r.Message, "its agent is not ready")
	case c.Digest != "" && r.Digest == c.Digest || c.covers(r, p):
		return ""
	case p.Kind != "NetworkPolicy" && c.ClusterDigest != "" && r.ClusterDigest == c.ClusterDigest:
		return ""
	}
	for _, condition := range r.Conditions {
		if condition.Object == resourceOf(p.Kind) { // the watch of its kind does not work
			return condition.Type + ": " + condition.Message
		}
	}
	return fmt.Sprintf("its agent has not reported it in force yet; its last report is of %s", r.Updated.UTC().Format("15:04:05 MST"))
}

// covers reports whether the kernel enforces all that is not newer than p. A version that cannot be compared is not covered.
func (c Cluster) covers(r v1alpha1.NodeEnforcementStatus, p Version) bool {
	seen := r.Observed.NetworkPolicies
	if p.Kind != "NetworkPolicy" {
		seen = r.Observed.ClusterNetworkPolicies
	}
	order, err := resourceversion.CompareResourceVersion(p.ResourceVersion, seen)
	return err == nil && order <= 0
}

// resourceOf is the name by which agents speak of a kind as a whole.
func resourceOf(kind string) string {
	if kind == "NetworkPolicy" {
		return "networkpolicies"
	}
	return "clusternetworkpolicies"
}
