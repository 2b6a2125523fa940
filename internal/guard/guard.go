// Package guard makes policies of the API server itself that keep the ground of other policies: which labels pods,
// workloads and namespaces have, and that policies change by way of rollouts. They are ValidatingAdmissionPolicies, which
// the API server judges alone: there is no webhook that could be down.
//
// Objects and a text come out, the same for the same input. What is made refuses where it cannot be judged.
package guard

import (
	"fmt"
	"io"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// Options are what all guards can be told.
type Options struct {
	// Prefix begins the names of all objects.
	Prefix string
	Allowed
	// Actions are what happens to a request that is refused; none is Deny.
	Actions []admission.ValidationAction
}

// Allowed are who may do what the guard refuses to everybody else. The zero value is nobody.
type Allowed struct {
	Groups          []string
	Users           []string
	ServiceAccounts []string // "namespace/name"
}

// serviceAccount is how the API server names a service account as a user.
func serviceAccount(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// users are all users by name, sorted.
func (a Allowed) users() ([]string, error) {
	all := slices.Clone(a.Users)
	for _, s := range a.ServiceAccounts {
		namespace, name, ok := strings.Cut(s, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("service account %q: want namespace/name", s)
		}
		all = append(all, serviceAccount(namespace, name))
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// String is for instance "groups platform, system:masters, users alice".
func (a Allowed) String() string {
	var parts []string
	for _, k := range []struct {
		what string
		who  []string
	}{{"groups", a.Groups}, {"users", a.Users}, {"service accounts", a.ServiceAccounts}} {
		if len(k.who) > 0 {
			who := slices.Sorted(slices.Values(k.who))
			parts = append(parts, k.what+" "+strings.Join(slices.Compact(who), ", "))
		}
	}
	if parts == nil {
		return "nobody"
	}
	return strings.Join(parts, ", ")
}

// Object is a ValidatingAdmissionPolicy or a ValidatingAdmissionPolicyBinding.
type Object interface {
	runtime.Object
	metav1.Object
}

// manager is the user that all controllers of Kubernetes are where they have no service accounts of their own.
const manager = "system:kube-controller-manager"

// controllers are users: service accounts of Kubernetes' own controllers.
func controllers(names ...string) []string {
	all := []string{manager}
	for _, n := range names {
		all = append(all, serviceAccount("kube-system", n))
	}
	return all
}

// rule is one policy of a guard, with its binding.
type rule struct {
	name      string // behind the prefix
	resources []admission.NamedRuleWithOperations
	exempt    []admission.MatchCondition // beside who is allowed
	variables []admission.Variable
	validate  []admission.Validation
	selector  *metav1.LabelSelector // of namespaces; nil is all
}

// make makes a rule's objects.
func (o Options) make(r rule, generator string) ([]Object, error) {
	users, err := o.users()
	if err != nil {
		return nil, err
	}
	meta := metav1.ObjectMeta{Name: o.Prefix + "-" + r.name, Labels: map[string]string{"app.kubernetes.io/managed-by": "ringfence"},
		Annotations: map[string]string{"ringfence.dev/generated-by": "ringfence " + generator}}
	fail, equivalent := admission.Fail, admission.Equivalent
	p := &admission.ValidatingAdmissionPolicy{ObjectMeta: meta}
	p.APIVersion, p.Kind = admission.SchemeGroupVersion.String(), "ValidatingAdmissionPolicy"
	p.Spec = admission.ValidatingAdmissionPolicySpec{FailurePolicy: &fail, Variables: r.variables, Validations: r.validate,
		MatchConstraints: &admission.MatchResources{MatchPolicy: &equivalent, ResourceRules: r.resources}}
	if len(users) > 0 {
		p.Spec.MatchConditions = append(p.Spec.MatchConditions, admission.MatchCondition{Name: "users", Expression: "!(" + isUser(users) + ")"})
	}
	if groups := slices.Sorted(slices.Values(o.Groups)); len(groups) > 0 {
		p.Spec.MatchConditions = append(p.Spec.MatchConditions, admission.MatchCondition{Name: "groups",
			Expression: "!(" + inGroup(slices.Compact(groups)) + ")"})
	}
	p.Spec.MatchConditions = append(p.Spec.MatchConditions, r.exempt...)
	actions := o.Actions
	if len(actions) == 0 {
		actions = []admission.ValidationAction{admission.Deny}
	}
	b := &admission.ValidatingAdmissionPolicyBinding{ObjectMeta: *meta.DeepCopy(),
		Spec: admission.ValidatingAdmissionPolicyBindingSpec{PolicyName: meta.Name, ValidationActions: actions}}
	b.APIVersion, b.Kind = p.APIVersion, "ValidatingAdmissionPolicyBinding"
	if r.selector != nil {
		b.Spec.MatchResources = &admission.MatchResources{NamespaceSelector: r.selector}
	}
	return []Object{p, b}, nil
}

func isUser(names []string) string { return "request.userInfo.username in " + list(names) }

// inGroup is an expression that is true for members of one of the groups.
func inGroup(groups []string) string {
	return "has(request.userInfo.groups) && request.userInfo.groups.exists(g, g in " + list(groups) + ")"
}

// list is a list of strings in CEL.
func list(texts []string) string {
	var quoted []string
	for _, t := range texts {
		quoted = append(quoted, quote(t))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quote is a string in CEL, whatever is in it.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// on are the resources of an API group, subresources written "pods/status", for some operations.
func on(group string, resources []string, operations ...admission.OperationType) admission.NamedRuleWithOperations {
	return admission.NamedRuleWithOperations{RuleWithOperations: admission.RuleWithOperations{Operations: operations,
		Rule: admission.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: resources}}}
}

// YAML writes the objects as documents of a file, behind a comment.
func YAML(w io.Writer, comment string, objects []Object) error {
	var b strings.Builder
	for line := range strings.Lines(comment) {
		b.WriteString("# " + strings.TrimSuffix(line, "\n") + "\n")
	}
	for i, o := range objects {
		fields, err := Plain(o)
		if err != nil {
			return err
		}
		text, err := yaml.Marshal(fields)
		if err != nil {
			return fmt.Errorf("write %s: %w", o.GetName(), err)
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(text)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Plain is an object as it is applied: without its status.
func Plain(o Object) (map[string]any, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", o.GetName(), err)
	}
	delete(fields, "status")
	return fields, nil
}
