// Package v1alpha1 holds the kinds of ringfence.dev/v1alpha1, which exist for what no standard has. They are written for
// people and for generators of CRDs; the meaning of what they carry is that of the standard kinds.
//
// +kubebuilder:object:generate=true
// +groupName=ringfence.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// APIVersion is what manifests of these kinds write.
const APIVersion = "ringfence.dev/v1alpha1"

// PolicyRollout is a change of policies as a release: shown against live traffic, put in force for a few pods first,
// watched, and undone by itself when it hurts. The policies that it carries are a candidate beside those in force. Once
// the rollout is complete they are in force as if they had been applied themselves, for as long as the rollout exists.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=pr
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.step`
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.status.nodes`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.since`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.reason`
type PolicyRollout struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec PolicyRolloutSpec `json:"spec"`
	// +optional
	Status PolicyRolloutStatus `json:"status,omitempty"`
}

// PolicyRolloutList is a list of PolicyRollouts.
//
// +kubebuilder:object:root=true
type PolicyRolloutList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []PolicyRollout `json:"items"`
}

// PolicyRolloutSpec says what changes, in which steps, and what it is measured by. Whoever edits it begins it anew.
type PolicyRolloutSpec struct {
	// Policies are whole objects of the kinds NetworkPolicy and ClusterNetworkPolicy. One with the kind, namespace and
	// name of a policy that exists is its new version.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:pruning:PreserveUnknownFields
	// +listType=atomic
	Policies []runtime.RawExtension `json:"policies,omitempty"`
	// Remove names policies that are to go.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1000
	// +listType=atomic
	Remove []PolicyReference `json:"remove,omitempty"`
	// Steps are gone through in order. The last one enforces for all pods. None are an audit of 10 minutes, 10 percent
	// of the pods for 5 minutes, and all pods.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=50
	// +listType=atomic
	Steps []RolloutStep `json:"steps,omitempty"`
	// Analysis says what the steps are measured by; what it does not say has defaults.
	//
	// +optional
	Analysis *RolloutAnalysis `json:"analysis,omitempty"`
}

// PolicyReference names a policy.
type PolicyReference struct {
	// +kubebuilder:validation:Enum=NetworkPolicy;ClusterNetworkPolicy
	Kind string `json:"kind"`
	// Namespace of a NetworkPolicy; "default" if it is left out.
	//
	// +optional
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// RolloutStep is one of its fields.
//
// +kubebuilder:validation:ExactlyOneOf=audit;enforce;pause
type RolloutStep struct {
	// Audit enforces for nobody. What the candidate would do is seen, on living connections too.
	//
	// +optional
	Audit *AuditStep `json:"audit,omitempty"`
	// Enforce judges a cohort by the candidate. Every other pod keeps the policies that are in force.
	//
	// +optional
	Enforce *EnforceStep `json:"enforce,omitempty"`
	// Pause leaves everything as it is.
	//
	// +optional
	Pause *PauseStep `json:"pause,omitempty"`
}

// AuditStep is how long to look.
type AuditStep struct {
	// For is how long; 10m if it is left out.
	//
	// +optional
	For *metav1.Duration `json:"for,omitempty"`
}

// EnforceStep chooses the cohort, among the pods that the candidate's policies and those that they replace select. All
// fields that are given have to hold, and at least one has to be given.
type EnforceStep struct {
	// Percent of the pods, chosen by a stable hash of who they are; 100 if it is left out. At least one pod is chosen.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
	// Selector chooses by the labels of pods.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// NamespaceSelector chooses by the labels of the pods' namespaces.
	//
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// Nodes chooses the pods that run on one of these.
	//
	// +optional
	// +listType=atomic
	Nodes []string `json:"nodes,omitempty"`
	// For is how long the cohort is watched before the next step; 5m if it is left out.
	//
	// +optional
	For *metav1.Duration `json:"for,omitempty"`
}

// PauseStep waits for a time, or for a person if it says none.
type PauseStep struct {
	// +optional
	For *metav1.Duration `json:"for,omitempty"`
	// Until says the same as leaving For out, in words.
	//
	// +optional
	// +kubebuilder:validation:Enum=Promoted
	Until string `json:"until,omitempty"`
}

// RolloutAnalysis are the limits of a rollout.
type RolloutAnalysis struct {
	// NewlyDenied counts connections that the policies in force allow and the candidate denies. By default the first one
	// rolls back.
	//
	// +optional
	NewlyDenied *RolloutLimit `json:"newlyDenied,omitempty"`
	// NewlyAllowed counts the opposite. By default the first one pauses.
	//
	// +optional
	NewlyAllowed *RolloutLimit `json:"newlyAllowed,omitempty"`
	// FailedConnects is by how many percentage points the share of TCP connections that get no answer or are refused may be
	// higher in the cohort than beside it. By default more than 20 rolls back.
	//
	// +optional
	FailedConnects *RolloutLimit `json:"failedConnects,omitempty"`
	// Resets is likewise about established connections that an end breaks off with a reset. By default more than 20 rolls
	// back.
	//
	// +optional
	Resets *RolloutLimit `json:"resets,omitempty"`
	// NotReady counts pods of the cohort that were ready before the step and are not any more. By default the first one
	// rolls back.
	//
	// +optional
	NotReady *RolloutLimit `json:"notReady,omitempty"`
	// Restarts counts pods of the cohort that restarted. By default the first one rolls back.
	//
	// +optional
	Restarts *RolloutLimit `json:"restarts,omitempty"`
	// Probes counts connections that pods nearly always want, and that the candidate takes away from a pod that had them,
	// used or not: DNS and, of pods with a token of an account of their own, the API server. By default the first one pauses.
	//
	// +optional
	Probes *RolloutLimit `json:"probes,omitempty"`
	// Queries are asked of Prometheus servers while a step is watched.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=20
	// +listType=map
	// +listMapKey=name
	Queries []RolloutQuery `json:"queries,omitempty"`
	// Coverage is what has to be seen before a step passes.
	//
	// +optional
	Coverage *RolloutCoverage `json:"coverage,omitempty"`
}

// RolloutQuery is a question to a Prometheus server. The answer is one number or several; all of them have to be within the
// limits. Beyond one, while something is enforced, Then follows at once. No answer, an empty one and one that is not a
// number pause at the end of a step, unless Then is Ignore.
type RolloutQuery struct {
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Server is the URL below which the API is, without user and password.
	//
	// +kubebuilder:validation:MaxLength=2048
	Server string `json:"server"`
	// Query is an instant query in PromQL.
	//
	// +kubebuilder:validation:MaxLength=4096
	Query string `json:"query"`
	// +optional
	Min *float64 `json:"min,omitempty"`
	// +optional
	Max *float64 `json:"max,omitempty"`
	// Then is RollBack if it is left out.
	//
	// +optional
	Then RolloutAction `json:"then,omitempty"`
}

// RolloutLimit is how much is taken, and what happens beyond.
type RolloutLimit struct {
	// Max is 0 if it is left out; 20 for failedConnects and resets.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Max *int32 `json:"max,omitempty"`
	// +optional
	Then RolloutAction `json:"then,omitempty"`
}

// RolloutCoverage is how much has to be seen of the pods that the candidate selects.
type RolloutCoverage struct {
	// Connections in the step; 1 if it is left out.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Connections *int32 `json:"connections,omitempty"`
	// Workloads: an audit has to see a connection of each workload; true if it is left out.
	//
	// +optional
	Workloads *bool `json:"workloads,omitempty"`
	// +optional
	Then RolloutAction `json:"then,omitempty"`
}

// RolloutAction is what happens beyond a limit.
//
// +kubebuilder:validation:Enum=RollBack;Pause;Ignore
type RolloutAction string

// The actions.
const (
	RollBack RolloutAction = "RollBack" // what was in force before is in force again, and the rollout is over
	PauseIt  RolloutAction = "Pause"    // nothing changes until a person promotes
	Ignore   RolloutAction = "Ignore"   // it is only shown
)

// PolicyRolloutStatus is how far a rollout has come. It is all that is known of it: agents put in force what it says, and
// a controller, or a person with a command, goes on from it. Only these write it.
type PolicyRolloutStatus struct {
	// ObservedGeneration is the generation of the object that this is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Digest is of the spec that this is about. Of a spec with another one nothing is in force.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Digest string `json:"digest,omitempty"`
	// Revision is raised whenever the rollout begins, by an edit or anew. What is reported of another one does not count.
	//
	// +optional
	Revision int64 `json:"revision,omitempty"`
	// Phase is Waiting, Progressing, Paused, RolledBack, Aborted, Undone, Complete, or Invalid where the spec has an error.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Phase string `json:"phase,omitempty"`
	// By is what it is paused by: step, analysis or person.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=32
	By string `json:"by,omitempty"`
	// Reason is why it is waiting or paused, or was rolled back.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	Reason string `json:"reason,omitempty"`
	// Step is the current one, for instance "2/4 enforce 10% of the pods for 5m".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Step string `json:"step,omitempty"`
	// StepIndex is the current one's place in spec.steps, from 0; behind the last one of a rollout that is complete.
	//
	// +optional
	StepIndex int32 `json:"stepIndex,omitempty"`
	// Nodes says on how many of the nodes that matter this is in force, like "3/3", and which are missing.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Nodes string `json:"nodes,omitempty"`
	// Selected is how many pods the change selects.
	//
	// +optional
	Selected int32 `json:"selected,omitempty"`
	// Cohort is how many of these are judged by the candidate.
	//
	// +optional
	Cohort int32 `json:"cohort,omitempty"`
	// Watched is how long the step was in force everywhere, and watched.
	//
	// +optional
	Watched metav1.Duration `json:"watched,omitempty"`
	// Seen is when somebody last watched.
	//
	// +optional
	Seen *metav1.MicroTime `json:"seen,omitempty"`
	// Began is when the first step began.
	//
	// +optional
	Began *metav1.MicroTime `json:"began,omitempty"`
	// Entered is when the current step began.
	//
	// +optional
	Entered *metav1.MicroTime `json:"entered,omitempty"`
	// Since is when the phase or the step began.
	//
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
	// Evidence is what was seen in the step, on all nodes together; of a rollout that is over, in its last one.
	//
	// +optional
	Evidence *RolloutEvidence `json:"evidence,omitempty"`
	// Lost are probes that the candidate takes away, like "DNS of shop/web"; the first 50.
	//
	// +optional
	// +listType=atomic
	Lost []string `json:"lost,omitempty"`
	// Accepted are findings that a person has promoted.
	//
	// +optional
	// +listType=atomic
	Accepted []string `json:"accepted,omitempty"`
	// Events are what happened, the newest last; at most 50.
	//
	// +optional
	// +listType=atomic
	Events []RolloutEvent `json:"events,omitempty"`
	// Complete is what is in force for everyone by this rollout, since it is complete.
	//
	// +optional
	Complete *RolloutRevision `json:"complete,omitempty"`
	// Former is an earlier revision that was complete, whose policies are in force beneath this one.
	//
	// +optional
	Former *RolloutRevision `json:"former,omitempty"`
}

// RolloutRevision is a change that is in force for everyone, as it was when it was completed.
type RolloutRevision struct {
	// Policies are as in the spec.
	//
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +listType=atomic
	Policies []runtime.RawExtension `json:"policies,omitempty"`
	// +optional
	// +listType=atomic
	Remove []PolicyReference `json:"remove,omitempty"`
	// Digest is of the spec that it is from.
	//
	// +kubebuilder:validation:MaxLength=64
	Digest string `json:"digest"`
	// At is when it was complete. Of two, the later one counts.
	At metav1.MicroTime `json:"at"`
}

// RolloutEvent is something that happened to a rollout.
type RolloutEvent struct {
	Time metav1.MicroTime `json:"time"`
	// +kubebuilder:validation:MaxLength=4096
	Text string `json:"text"`
}

// RolloutEvidence is what was seen in one step.
type RolloutEvidence struct {
	// Findings are connections on which the candidate and the policies before differ.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=200
	// +listType=atomic
	Findings []RolloutFinding `json:"findings,omitempty"`
	// More are connections of kinds beyond those that are kept.
	//
	// +optional
	More int64 `json:"more,omitempty"`
	// Connections of pods whose verdicts matter: in an audit those that the change selects, else those in the cohort.
	//
	// +optional
	Connections int64 `json:"connections,omitempty"`
	// Workloads of which such a connection was seen.
	//
	// +optional
	// +listType=atomic
	Workloads []string `json:"workloads,omitempty"`
	// Cohort is how the cohort's connections ended.
	//
	// +optional
	Cohort RolloutOutcomes `json:"cohort,omitempty"`
	// Rest is how all others ended.
	//
	// +optional
	Rest RolloutOutcomes `json:"rest,omitempty"`
	// Uncertain are connections that could not be judged.
	//
	// +optional
	Uncertain int64 `json:"uncertain,omitempty"`
}

// RolloutOutcomes is how TCP connections ended.
type RolloutOutcomes struct {
	// +optional
	Ended int64 `json:"ended,omitempty"`
	// Failed got no answer, or were refused.
	//
	// +optional
	Failed int64 `json:"failed,omitempty"`
	// Reset were established, and then broken off by a reset.
	//
	// +optional
	Reset int64 `json:"reset,omitempty"`
}

// RolloutFinding is a connection, or equal ones, on which the candidate and the policies before differ.
type RolloutFinding struct {
	// Kind is NewlyDenied or NewlyAllowed.
	//
	// +kubebuilder:validation:MaxLength=32
	Kind string `json:"kind"`
	// Enforced: it happened, as the candidate was in force for the pod; else it would have happened.
	//
	// +optional
	Enforced bool `json:"enforced,omitempty"`
	// Live: the connection was there when the rollout began.
	//
	// +optional
	Live bool `json:"live,omitempty"`
	// Source is "namespace/workload", or an address.
	//
	// +kubebuilder:validation:MaxLength=512
	Source string `json:"source"`
	// +kubebuilder:validation:MaxLength=512
	Destination string `json:"destination"`
	// Port is for instance "5432/tcp".
	//
	// +kubebuilder:validation:MaxLength=32
	Port string `json:"port"`
	// Before is the rule that decides without the candidate.
	//
	// +kubebuilder:validation:MaxLength=1024
	Before string `json:"before"`
	// After is the rule that decides with it.
	//
	// +kubebuilder:validation:MaxLength=1024
	After string `json:"after"`
	// Example is of the pods.
	//
	// +kubebuilder:validation:MaxLength=1024
	Example string `json:"example"`
	// Count is of connections, or of denials that were recorded.
	Count int64            `json:"count"`
	First metav1.MicroTime `json:"first"`
	Last  metav1.MicroTime `json:"last"`
}
