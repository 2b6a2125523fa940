package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeEnforcement is what one node's agent says of its kernel: which policies it has in force, and what is wrong. There is
// one for each node, with the node's name, which goes with the node. It stays true while no agent runs, because the kernel
// goes on enforcing; it is written only when something changed.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ne
// +kubebuilder:printcolumn:name="Ready",type=boolean,JSONPath=`.status.ready`
// +kubebuilder:printcolumn:name="Policies",type=integer,JSONPath=`.status.policies`
// +kubebuilder:printcolumn:name="Digest",type=string,JSONPath=`.status.digest`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.updated`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
type NodeEnforcement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status NodeEnforcementStatus `json:"status"`
}

// NodeEnforcementList is a list of NodeEnforcements.
//
// +kubebuilder:object:root=true
type NodeEnforcementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeEnforcement `json:"items"`
}

// NodeEnforcementStatus is bounded: it does not grow with the number of policies or pods.
type NodeEnforcementStatus struct {
	// Ready: all that the API says is in force, and it was seen that packets of pods pass it.
	Ready bool `json:"ready"`
	// Message says why the node is not ready.
	//
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`
	// BootID is the machine's start that this was written in. What another start had in force is gone.
	//
	// +kubebuilder:validation:MaxLength=64
	BootID string `json:"bootID"`
	// Observed says up to which resource version the kernel enforces all policies of a kind. A policy whose resource
	// version is not newer is in force as it is, or in a newer version.
	Observed ObservedVersions `json:"observed"`
	// Policies is how many policies are in force.
	//
	// +kubebuilder:validation:Minimum=0
	Policies int32 `json:"policies"`
	// Digest is made of the kind, name, UID and generation of each policy in force. Nodes with the same digest enforce
	// the same policies.
	//
	// +kubebuilder:validation:MaxLength=64
	Digest string `json:"digest"`
	// ClusterDigest is the same of the ClusterNetworkPolicies alone. Their resource versions grow also by what is written to
	// their status, which changes nothing that is enforced: such a version is not observed, and is told by this.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	ClusterDigest string `json:"clusterDigest,omitempty"`
	// AgentVersion is the version of the agent that wrote this.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	AgentVersion string `json:"agentVersion,omitempty"`
	// Defective are policies that could not be read, in whose stead something is in force that denies; the first 20 by
	// kind, namespace and name.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	Defective []PolicyReference `json:"defective"`
	// Closed are pods of this node that can neither send nor be reached, because it has not been known for a while where
	// they are plugged in: "namespace/name", the first 20.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	Closed []string `json:"closed"`
	// Conditions are what is wrong; the first 20 by type and object.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	Conditions []NodeCondition `json:"conditions"`
	// Rollouts are how far this node is with the rollouts that are under way; the first 20 by name.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	Rollouts []NodeRollout `json:"rollouts"`
	// Updated is when this was written.
	Updated metav1.Time `json:"updated"`
}

// ObservedVersions are resource versions of the API.
type ObservedVersions struct {
	// +kubebuilder:validation:MaxLength=64
	NetworkPolicies string `json:"networkPolicies"`
	// ClusterNetworkPolicies is empty where their definition is not installed.
	//
	// +kubebuilder:validation:MaxLength=64
	ClusterNetworkPolicies string `json:"clusterNetworkPolicies"`
}

// NodeCondition is something that is wrong, for as long as it is.
type NodeCondition struct {
	// Type is one word, like StartGap or Malformed.
	//
	// +kubebuilder:validation:MaxLength=64
	Type string `json:"type"`
	// Object is what it is about, like "NetworkPolicy shop/web".
	//
	// +kubebuilder:validation:MaxLength=512
	Object string `json:"object"`
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`
	// Since is when it began.
	Since metav1.Time `json:"since"`
}

// NodeRollout is how far a node is with a rollout, and what it has seen. Digest, Revision, StepIndex and Phase are those of
// the PolicyRollout's status that the node has put in force.
type NodeRollout struct {
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=64
	Digest   string `json:"digest"`
	Revision int64  `json:"revision"`
	// StepIndex is the step's place in spec.steps, from 0.
	StepIndex int32 `json:"stepIndex"`
	// +kubebuilder:validation:MaxLength=32
	Phase string `json:"phase"`
	// InForce: the kernel enforces it and, of a rollout that is under way, the node sees connections. Before the living ones
	// are judged and this is stored, no cohort is judged by the candidate.
	InForce bool `json:"inForce"`
	// Living: the connections that there were when the rollout began have been judged.
	Living bool `json:"living"`
	// Evidence is what this node has seen since the last step began that is no pause; at most 20 findings, the first ones
	// seen, and 50 workloads.
	Evidence RolloutEvidence `json:"evidence"`
}
