package guard

import (
	"fmt"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/label"
)

// The label by which a namespace asks that its policies change by way of rollouts only.
const (
	RolloutsKey   = "ringfence.dev/rollouts"
	RolloutsValue = "required"
)

const metav1Forbidden = metav1.StatusReasonForbidden

// RolloutOptions are what Rollouts can be told.
type RolloutOptions struct {
	Options
	// Key and Value are the label of the namespaces that are guarded.
	Key, Value string
	// ClusterPolicies: guard ClusterNetworkPolicies too. They are of no namespace, so it is all of them.
	ClusterPolicies bool
}

// unchanged is true of an update that changes nothing of what a policy says, nor who owns it: whoever makes it the
// property of another object can have the garbage collector delete it.
const unchanged = `request.operation == "UPDATE" && object.spec == oldObject.spec &&
(has(object.metadata.ownerReferences) ? object.metadata.ownerReferences : []) ==
(has(oldObject.metadata.ownerReferences) ? oldObject.metadata.ownerReferences : [])`

// cleaners delete what belongs to a namespace or an owner that is gone.
var cleaners = admission.MatchCondition{Name: "cleaners", Expression: `!(request.operation == "DELETE" && ` +
	isUser(controllers("generic-garbage-collector", "namespace-controller")) + ")"}

// Rollouts makes the guard of rollouts: what refuses everybody who is not allowed to make, to change or to delete policies
// otherwise than by a PolicyRollout, in namespaces that ask for that, and to take the namespace's label away.
func Rollouts(o RolloutOptions) ([]Object, error) {
	if err := label.CheckKey(o.Key); err != nil {
		return nil, err
	}
	if err := label.CheckValue(o.Value); err != nil {
		return nil, err
	}
	operations := []admission.OperationType{admission.Create, admission.Update, admission.Delete}
	asks := fmt.Sprintf("%s=%s", o.Key, o.Value)
	rules := []rule{
		{name: "rollouts", resources: []admission.NamedRuleWithOperations{on("networking.k8s.io", []string{"networkpolicies"}, operations...)},
			exempt:   []admission.MatchCondition{cleaners},
			validate: refuse(unchanged, "policies of this namespace change by way of a PolicyRollout, as its label "+asks+" says; otherwise only: "+o.Allowed.String()),
			selector: &metav1.LabelSelector{MatchLabels: map[string]string{o.Key: o.Value}}},
		{name: "rollouts-label", resources: []admission.NamedRuleWithOperations{
			on("", []string{"namespaces", "namespaces/status", "namespaces/finalize"}, admission.Update)},
			validate: refuse(keeps(o.Key, o.Value), "the label "+asks+" may be taken away only by: "+o.Allowed.String())},
	}
	if o.ClusterPolicies {
		rules = append(rules, rule{name: "rollouts-cluster", resources: []admission.NamedRuleWithOperations{
			on("policy.networking.k8s.io", []string{"clusternetworkpolicies"}, operations...)}, exempt: []admission.MatchCondition{cleaners},
			validate: refuse(unchanged, "ClusterNetworkPolicies change by way of a PolicyRollout; otherwise only: "+o.Allowed.String())})
	}
	var all []Object
	for _, r := range rules {
		made, err := o.make(r, "guard rollouts")
		if err != nil {
			return nil, err
		}
		all = append(all, made...)
	}
	return all, nil
}

// keeps is true unless an update takes a label away from an object, or gives it another value.
func keeps(key, value string) string {
	has := func(object string) string {
		return fmt.Sprintf("(has(%[1]s.metadata.labels) && %[2]s in %[1]s.metadata.labels && %[1]s.metadata.labels[%[2]s] == %[3]s)",
			object, quote(key), quote(value))
	}
	return "!" + has("oldObject") + " || " + has("object")
}

func refuse(unless, message string) []admission.Validation {
	forbidden := metav1Forbidden
	return []admission.Validation{{Expression: unless, Message: message, Reason: &forbidden}}
}
