package pods

import (
	"context"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Right is what has to be allowed in each namespace that probe pods are made in.
type Right struct{ Group, Resource, Verb string }

// String is for instance "create pods/exec".
func (r Right) String() string { return r.Verb + " " + r.Resource }

// Rights are all that a session takes. Nothing is made unless it can be removed too.
func Rights() []Right {
	var all []Right
	for _, of := range []struct{ group, resource, verbs string }{
		{"", "pods", "create list watch delete"},
		{"", "pods/exec", "get create"}, // get is what a websocket asks for
		{"coordination.k8s.io", "leases", "create list delete"},
	} {
		for verb := range strings.FieldsSeq(of.verbs) {
			all = append(all, Right{of.group, of.resource, verb})
		}
	}
	return all
}

// Missing returns the rights that the caller lacks, each with its namespace: "create pods in namespace shop".
func (s *Session) Missing(ctx context.Context) ([]string, error) {
	var missing []string
	for _, namespace := range s.plan.Namespaces() {
		for _, r := range Rights() {
			resource, sub, _ := strings.Cut(r.Resource, "/")
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Group: r.Group, Resource: resource, Subresource: sub, Verb: r.Verb}}}
			answer, err := s.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("ask what you may do in namespace %s: %w", namespace, err)
			}
			if !answer.Status.Allowed {
				missing = append(missing, fmt.Sprintf("%s in namespace %s", r, namespace))
			}
		}
	}
	return missing, nil
}
