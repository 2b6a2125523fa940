package guard

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/words"
)

// Everywhere is the namespace of a label that counts in all of them.
const Everywhere = "*"

// Label is a label by which policies choose their subjects or their peers.
type Label struct {
	// Namespace of the pods that are chosen by it, or Everywhere. Empty for the label of a namespace.
	Namespace string `json:"namespace,omitempty"`
	Key       string `json:"key"`
	// Value that is chosen or left out; nil: it counts whether the key is there, and Any: every value counts.
	Value    *string  `json:"value,omitempty"`
	Any      bool     `json:"any,omitempty"`
	Policies []string `json:"policies"` // "shop/web", sorted
}

// token is how the label is written in the guard: "role=db", "role", "role=*". No key and no value can hold = or *.
func (l Label) token() string {
	switch {
	case l.Any:
		return l.Key + "=*"
	case l.Value == nil:
		return l.Key
	}
	return l.Key + "=" + *l.Value
}

// String is "role=db", "role" for whether there is one, or "role=*".
func (l Label) String() string { return l.token() }

func (l Label) compare(o Label) int {
	return cmp.Or(strings.Compare(l.Namespace, o.Namespace), strings.Compare(l.token(), o.token()))
}

// LabelsOf are the labels of pods and of namespaces that the policies' selectors ask for, sorted. A change of labels that
// changes none of them, as values or as keys that are there, is one that no policy can notice.
//
// A selector of pods counts in the namespaces that it names; one that asks for other labels of namespaces counts
// everywhere, as these may change. The name of a namespace is no label that anybody can set.
func LabelsOf(policies []*policy.Policy) []Label {
	c := collector{}
	for _, p := range policies {
		name := p.RuleAt(flow.Ingress, flow.Isolation).Policy()
		c.pods(name, p.Subject)
		for _, r := range slices.Concat(p.Ingress, p.Egress) {
			for _, peer := range r.Peers {
				if peer.Kind == policy.PeerPods {
					c.pods(name, peer.Pods)
				}
			}
		}
	}
	return c.labels()
}

// collector is namespace → token → label.
type collector map[string]map[string]*Label

func (c collector) pods(policy string, want policy.Pods) {
	if want.Namespaces.IsNothing() || want.Pods.IsNothing() {
		return
	}
	namespaces := []string{Everywhere}
	for _, r := range want.Namespaces.Requirements() {
		switch {
		case r.Key != cluster.NameLabel:
			c.requirement(policy, "", r)
		case r.Op == label.In:
			namespaces = r.Values
		}
	}
	for _, r := range want.Pods.Requirements() {
		for _, n := range namespaces {
			c.requirement(policy, n, r)
		}
	}
}

func (c collector) requirement(policy, namespace string, r label.Requirement) {
	if r.Op == label.Exists || r.Op == label.DoesNotExist {
		c.add(policy, Label{Namespace: namespace, Key: r.Key})
	}
	for _, v := range r.Values {
		c.add(policy, Label{Namespace: namespace, Key: r.Key, Value: &v})
	}
}

func (c collector) add(policy string, l Label) {
	if c[l.Namespace] == nil {
		c[l.Namespace] = map[string]*Label{}
	}
	found := c[l.Namespace][l.token()]
	if found == nil {
		found = &l
		c[l.Namespace][l.token()] = found
	}
	found.Policies = append(found.Policies, policy)
}

func (c collector) labels() []Label {
	var all []Label
	for _, tokens := range c {
		for l := range maps.Values(tokens) {
			slices.Sort(l.Policies)
			l.Policies = slices.Compact(l.Policies)
			all = append(all, *l)
		}
	}
	slices.SortFunc(all, Label.compare)
	return all
}

// AnyValue has every value of the keys count, also those that no policy asks for yet; "*" is every key.
func AnyValue(labels []Label, keys []string) []Label {
	c := collector{}
	for _, l := range labels {
		if slices.Contains(keys, l.Key) || slices.Contains(keys, "*") {
			l.Value, l.Any = nil, true
		}
		for _, p := range l.Policies {
			c.add(p, Label{Namespace: l.Namespace, Key: l.Key, Value: l.Value, Any: l.Any})
		}
	}
	return c.labels()
}

// shape is where an object has the labels of pods.
type shape struct {
	name      string
	resources []admission.NamedRuleWithOperations
	path      []string // of the object that has metadata.labels
	makers    []string // controllers that make such objects of others, which were judged themselves
	exempt    []admission.MatchCondition
}

// mirror leaves out the pods that a kubelet has from its files, and tells the API server of. Nodes are bound to such pods,
// and to their own, by the API server (NodeRestriction).
var mirror = admission.MatchCondition{Name: "mirror-pods", Expression: `!(request.operation == "CREATE" && ` + inGroup([]string{"system:nodes"}) +
	` && has(object.metadata.annotations) && "kubernetes.io/config.mirror" in object.metadata.annotations)`}

// shapes are all ways by which a pod gets its labels.
//
//   - By way of pods/status labels can be changed too: the API server keeps the spec only.
//   - A Binding's labels are copied to its pod.
//   - Of a ControllerRevision a StatefulSet or a DaemonSet can make pods.
func shapes() []shape {
	create, update := admission.Create, admission.Update
	all := func(group string, resources ...string) admission.NamedRuleWithOperations {
		return on(group, resources, create, update)
	}
	return []shape{
		{"pods", []admission.NamedRuleWithOperations{all("", "pods", "pods/status")}, nil,
			[]string{"replicaset-controller", "replication-controller", "statefulset-controller", "daemon-set-controller", "job-controller"},
			[]admission.MatchCondition{mirror}},
		{"bindings", []admission.NamedRuleWithOperations{on("", []string{"pods/binding", "bindings"}, create)}, nil, nil, nil},
		{"templates", []admission.NamedRuleWithOperations{all("apps", "deployments", "replicasets", "statefulsets", "daemonsets"),
			all("batch", "jobs"), all("", "replicationcontrollers")}, []string{"spec", "template"},
			[]string{"deployment-controller", "cronjob-controller"}, nil},
		{"cronjobs", []admission.NamedRuleWithOperations{all("batch", "cronjobs")}, []string{"spec", "jobTemplate", "spec", "template"}, nil, nil},
		{"revisions", []admission.NamedRuleWithOperations{all("apps", "controllerrevisions")}, []string{"data", "spec", "template"},
			[]string{"statefulset-controller", "daemon-set-controller"}, nil},
	}
}

// namespaceShape is how a namespace gets its labels.
var namespaceShape = shape{name: "namespaces", resources: []admission.NamedRuleWithOperations{
	on("", []string{"namespaces", "namespaces/status", "namespaces/finalize"}, admission.Create, admission.Update)}}

// maxTable bounds the characters of one table of labels: the API server takes expressions of 100,000.
const maxTable = 60_000

// Labels makes the guard of labels: what refuses everybody who is not allowed to set, to change or to take away labels that
// policies depend on, on pods, on the templates that pods are made of, and on namespaces. The controllers that make pods of
// templates are allowed. No labels make no objects.
func Labels(o Options, labels []Label) ([]Object, error) {
	isNamespaces := func(l Label) bool { return l.Namespace == "" }
	ofPods, ofNamespaces := slices.DeleteFunc(slices.Clone(labels), isNamespaces), slices.DeleteFunc(slices.Clone(labels), func(l Label) bool { return !isNamespaces(l) })
	var all []Object
	for _, part := range []struct {
		labels []Label
		shapes []shape
	}{{ofPods, shapes()}, {ofNamespaces, []shape{namespaceShape}}} {
		for i, table := range tables(part.labels) {
			for _, s := range part.shapes {
				made, err := o.make(o.labelRule(s, i, table), "guard labels")
				if err != nil {
					return nil, err
				}
				all = append(all, made...)
			}
		}
	}
	return all, nil
}

// tables are the labels as maps in CEL, "namespace token" → policies, of a bounded size each.
func tables(labels []Label) []string {
	var all []string
	var entries []string
	size := 0
	flush := func() {
		if len(entries) > 0 {
			all = append(all, "{"+strings.Join(entries, ",\n ")+"}")
		}
		entries, size = nil, 0
	}
	for _, l := range labels {
		entry := quote(l.Namespace+" "+l.token()) + ": " + quote(few(l.Policies))
		if size+len(entry) > maxTable {
			flush()
		}
		entries = append(entries, entry)
		size += len(entry) + 3
	}
	flush()
	return all
}

// few names one policy, and how many more there are.
func few(policies []string) string {
	return words.Some(policies, 1, ", ")
}

func (o Options) labelRule(s shape, number int, table string) rule {
	r := rule{name: "labels-" + s.name, resources: s.resources, exempt: slices.Clone(s.exempt)}
	if number > 0 {
		r.name += fmt.Sprintf("-%d", number+1)
	}
	if len(s.makers) > 0 {
		r.exempt = append(r.exempt, admission.MatchCondition{Name: "controllers", Expression: "!(" + isUser(controllers(s.makers...)) + ")"})
	}
	namespaces := []string{`"* "`, `request.namespace + " "`}
	if s.name == namespaceShape.name {
		namespaces = []string{`" "`}
	}
	var keys []string
	for _, n := range namespaces {
		keys = append(keys, n+" + t", n+` + t.split("=")[0] + "=*"`)
	}
	r.variables = []admission.Variable{
		{Name: "guarded", Expression: table},
		{Name: "before", Expression: "oldObject == null ? [] : " + tokens("oldObject", s.path)},
		{Name: "after", Expression: tokens("object", s.path)},
		{Name: "changed", Expression: "variables.after.filter(t, !(t in variables.before)) +\nvariables.before.filter(t, !(t in variables.after))"},
		{Name: "refused", Expression: "variables.changed.map(t,\n[" + strings.Join(keys, ", ") + `]
.filter(k, k in variables.guarded).map(k, t + " (" + variables.guarded[k] + ")"))
.filter(found, size(found) > 0).map(found, found[0])`},
	}
	forbidden := metav1Forbidden
	const message = "policies depend on labels that this request sets, changes or removes"
	r.validate = []admission.Validation{{Expression: "size(variables.refused) == 0", Reason: &forbidden, Message: message,
		MessageExpression: quote(message+": ") + ` + variables.refused.join(", ") + ` + quote("; that may: "+o.Allowed.String())}}
	return r
}

// tokens are an object's labels as "key=value" and as "key", in CEL.
func tokens(object string, path []string) string {
	at := object
	var conditions []string
	for _, field := range slices.Concat(path, []string{"metadata", "labels"}) {
		at += "." + field
		if at != object+".metadata" { // which every object has
			conditions = append(conditions, "has("+at+")")
		}
	}
	return fmt.Sprintf("%s ?\n%s.map(k, k + \"=\" + %s[k]) + %s.map(k, k) : []", strings.Join(conditions, " && "), at, at, at)
}
