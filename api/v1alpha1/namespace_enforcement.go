package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NamespaceEnforcement says how far the NetworkPolicies of one namespace are in force, as they have no status of their own.
// There is one for each namespace that has any, with the namespace's name. The controller makes it from what nodes report:
// at once when a policy is in force everywhere or changed, late when only figures did.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=nse
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Policies",type=integer,JSONPath=`.status.policies`
// +kubebuilder:printcolumn:name="In force",type=integer,JSONPath=`.status.policiesInForce`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].message`
type NamespaceEnforcement struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status NamespaceEnforcementStatus `json:"status"`
}

// NamespaceEnforcementList is a list of NamespaceEnforcements.
//
// +kubebuilder:object:root=true
type NamespaceEnforcementList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NamespaceEnforcement `json:"items"`
}

// NamespaceEnforcementStatus is bounded: it does not grow with the number of policies, nodes or pods.
type NamespaceEnforcementStatus struct {
	// Conditions has Enforced: whether all NetworkPolicies of the namespace are in force on all nodes, as they were written.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions"`
	// Digest is made of the name, UID and generation of each policy that this is about.
	//
	// +kubebuilder:validation:MaxLength=64
	Digest string `json:"digest"`
	// Policies is how many NetworkPolicies there are, and PoliciesInForce how many of these are in force on all nodes.
	//
	// +kubebuilder:validation:Minimum=0
	Policies int32 `json:"policies"`
	// +kubebuilder:validation:Minimum=0
	PoliciesInForce int32 `json:"policiesInForce"`
	// Nodes is how many have to enforce.
	//
	// +kubebuilder:validation:Minimum=0
	Nodes int32 `json:"nodes"`
	// Pods is how many pods the policies select, and PodsInForce for how many of these all that do are in force.
	//
	// +kubebuilder:validation:Minimum=0
	Pods int32 `json:"pods"`
	// +kubebuilder:validation:Minimum=0
	PodsInForce int32 `json:"podsInForce"`
	// NotInForce are policies that are not in force everywhere; the first 20 by name.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	NotInForce []PolicyShortfall `json:"notInForce"`
	// Updated is when this was written.
	Updated metav1.Time `json:"updated"`
}

// PolicyShortfall is where a policy is not in force.
type PolicyShortfall struct {
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Generation of the policy that this is about.
	Generation int64 `json:"generation"`
	// Message says on how many nodes and for how many pods it is in force, and what is missing on one node.
	//
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message"`
}
