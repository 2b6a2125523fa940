// Package enforcement writes on objects how far policies are in force: a condition on each ClusterNetworkPolicy, and for
// NetworkPolicies, which have no status, a NamespaceEnforcement for each namespace.
//
// What is to be said follows from what nodes report, and is a function of it. When it is written is another one, of what
// was written before: at once what people and pipelines wait for, late what only counts, and not at all what will be over in
// a moment, like a node that starts. So what a cluster costs the API server does not grow with what happens on it.
package enforcement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// View is what the API says at one moment. It is not changed once it is given away.
type View struct {
	State    *cluster.State
	Policies map[cluster.Key]*kube.Policy
	Nodes    []inforce.Node
	Reports  map[string]v1alpha1.NodeEnforcementStatus
}

// The reasons of the condition.
const (
	reasonInForce    = "InForce"
	reasonOnItsWay   = "OnItsWay"     // agents that are well have not reported it yet
	reasonNodes      = "NodesMissing" // no change of the policy would help: nodes do not enforce what is new
	reasonUnreadable = "Unreadable"
	reasonNoNodes    = "NoNodes"
)

// object is one that is written: a ClusterNetworkPolicy, or a NamespaceEnforcement.
type object struct {
	namespace bool // it is the latter, and name that of the namespace
	name      string
}

func (o object) String() string {
	if o.namespace {
		return "NamespaceEnforcement " + o.name
	}
	return "ClusterNetworkPolicy " + o.name
}

// want is what is to be said of an object.
type want struct {
	version  string // of what it is about: a generation and UID, or a digest
	enforced bool
	reason   string
	message  string
	// Of a ClusterNetworkPolicy.
	uid        string
	generation int64
	// Of a namespace, without conditions and time.
	status v1alpha1.NamespaceEnforcementStatus
}

// text is all that is said, to see whether anything changed.
func (w *want) text() string {
	s := w.status
	return fmt.Sprint(w.message, s.Policies, s.PoliciesInForce, s.Nodes, s.Pods, s.PodsInForce, s.NotInForce)
}

// evaluation is one look at a view.
type evaluation struct {
	View
	subjects *inforce.Subjects
	groups   inforce.Cluster // with one node of each group
	group    map[string]string
	size     map[string]int // by the node that stands for the group
	closed   map[string]bool
}

// evaluate returns what is to be said of each object.
func evaluate(v View) map[object]*want {
	e := newEvaluation(v)
	wants := map[object]*want{}
	keys := slices.SortedFunc(maps.Keys(v.Policies), func(a, b cluster.Key) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for len(keys) > 0 {
		n := slices.IndexFunc(keys, func(k cluster.Key) bool { return k.Namespace != keys[0].Namespace })
		if n < 0 {
			n = len(keys)
		}
		if namespace := keys[0].Namespace; namespace != "" {
			wants[object{true, namespace}] = e.namespace(keys[:n])
		} else {
			for _, k := range keys[:n] {
				wants[object{false, k.Name}] = e.wide(k)
			}
		}
		keys = keys[n:]
	}
	return wants
}

// newEvaluation groups the nodes that reported alike, as thousands of policies are judged on each.
func newEvaluation(v View) *evaluation {
	e := &evaluation{View: v, subjects: inforce.NewSubjects(v.State), group: map[string]string{}, size: map[string]int{}, closed: map[string]bool{}}
	e.groups.Reports = map[string]v1alpha1.NodeEnforcementStatus{}
	var versions []inforce.Version
	for key, p := range v.Policies {
		versions = append(versions, versionOf(key, p))
	}
	e.groups.SetDigests(versions)
	first := map[string]string{}
	for _, n := range v.Nodes {
		report, reported := v.Reports[n.Name]
		alike := "" // of which nothing was reported
		if reported {
			alike = fmt.Sprintf("%t %t %q %+v %s %s %v %v", n.BootID == "" || report.BootID == "" || n.BootID == report.BootID, report.Ready, report.Message,
				report.Observed, report.Digest, report.ClusterDigest, report.Defective, typesOf(report.Conditions))
		}
		if first[alike] == "" {
			first[alike] = n.Name
			e.groups.Nodes = append(e.groups.Nodes, n)
			if reported {
				e.groups.Reports[n.Name] = report
			}
		}
		e.group[n.Name] = first[alike]
		e.size[first[alike]]++
		for _, pod := range report.Closed {
			e.closed[pod] = true
		}
	}
	return e
}

// typesOf leaves out times and messages, in which nodes differ.
func typesOf(all []v1alpha1.NodeCondition) string {
	var b strings.Builder
	for _, c := range all {
		b.WriteString(c.Type + " " + c.Object + "\n")
	}
	return b.String()
}

func versionOf(key cluster.Key, p *kube.Policy) inforce.Version {
	return inforce.Version{Policy: inforce.Policy{Kind: p.Kind(), Namespace: key.Namespace, Name: key.Name, UID: p.UID, Generation: p.Generation},
		ResourceVersion: p.ResourceVersion}
}

// finding is how far one policy is in force.
type finding struct {
	inforce.Judgement // Missing has one node of each group
	pods, podsInForce int
	late              int // nodes that are well, and have not reported it
}

// find judges a policy; each is called for each pod that it selects, with whether it is in force there.
func (e *evaluation) find(key cluster.Key, each func(pod *cluster.Endpoint, inForce bool)) finding {
	f := finding{Judgement: e.groups.Judge(versionOf(key, e.Policies[key]))}
	f.Nodes, f.InForce = len(e.View.Nodes), len(e.View.Nodes)
	missing := map[string]bool{}
	for _, m := range f.Missing {
		missing[m.Node] = true
		f.InForce -= e.size[m.Node]
		if e.groups.Reports[m.Node].Ready && !e.startedAnew(m.Node) {
			f.late += e.size[m.Node]
		}
	}
	e.subjects.Each(key, func(pod *cluster.Endpoint) {
		group, there := e.group[pod.Node]
		if !there {
			return
		}
		f.pods++
		ok := !missing[group] && !e.closed[pod.Key.String()]
		if ok {
			f.podsInForce++
		}
		if each != nil {
			each(pod, ok)
		}
	})
	return f
}

func (e *evaluation) startedAnew(node string) bool {
	for _, n := range e.groups.Nodes {
		if n.Name == node {
			return n.BootID != "" && n.BootID != e.groups.Reports[node].BootID
		}
	}
	return false
}

func (f *finding) reason() string {
	switch {
	case f.Enforced():
		return reasonInForce
	case f.Defective:
		return reasonUnreadable
	case f.Nodes == 0:
		return reasonNoNodes
	case f.late > 0:
		return reasonOnItsWay
	}
	return reasonNodes
}

// text is "in force on 2 of 3 nodes and for 4 of 5 pods: n3: no agent has reported from it".
func (f *finding) text() string {
	text := fmt.Sprintf("in force on %d of %d nodes and for %d of %d pods", f.InForce, f.Nodes, f.podsInForce, f.pods)
	if f.Defective {
		text += ": it cannot be read, and what stands in for it denies"
	}
	if len(f.Missing) > 0 {
		m := f.Missing[0]
		text += ": " + m.Node + ": " + cut(m.Why, 300)
	}
	return text
}

func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// wide says how far a ClusterNetworkPolicy is in force.
func (e *evaluation) wide(key cluster.Key) *want {
	f, p := e.find(key, nil), e.Policies[key]
	return &want{version: p.UID + " " + strconv.FormatInt(p.Generation, 10), enforced: f.Enforced(), reason: f.reason(), message: f.text(),
		uid: p.UID, generation: p.Generation}
}

// namespace says how far the policies of one are in force.
func (e *evaluation) namespace(keys []cluster.Key) *want {
	var digest inforce.Digest
	w := &want{enforced: true, reason: reasonInForce}
	w.status = v1alpha1.NamespaceEnforcementStatus{Policies: int32(len(keys)), Nodes: int32(len(e.View.Nodes)), NotInForce: []v1alpha1.PolicyShortfall{}}
	pods := map[*cluster.Endpoint]bool{} // whether all is in force
	for _, key := range keys {
		p := e.Policies[key]
		digest.Toggle(versionOf(key, p).Policy)
		f := e.find(key, func(pod *cluster.Endpoint, inForce bool) {
			before, known := pods[pod]
			pods[pod] = inForce && (before || !known)
		})
		if f.Enforced() {
			w.status.PoliciesInForce++
			continue
		}
		if w.enforced {
			w.enforced, w.reason, w.message = false, f.reason(), key.Name+": "+f.text()
		}
		if len(w.status.NotInForce) < inforce.MaxList {
			w.status.NotInForce = append(w.status.NotInForce, v1alpha1.PolicyShortfall{Name: key.Name, Generation: p.Generation, Message: f.text()})
		}
	}
	w.status.Pods = int32(len(pods))
	for _, ok := range pods {
		if ok {
			w.status.PodsInForce++
		}
	}
	w.version, w.status.Digest = digest.String(), digest.String()
	of := fmt.Sprintf("%d of %d policies are in force on all of %d nodes", w.status.PoliciesInForce, w.status.Policies, w.status.Nodes)
	w.message = strings.TrimSuffix(of+"; "+w.message, "; ")
	return w
}

// condition is what w says, since a time.
func (w *want) condition(kind string, since time.Time) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, ObservedGeneration: w.generation, LastTransitionTime: metav1.NewTime(since).Rfc3339Copy(),
		Reason: w.reason, Message: w.message}
	if w.enforced {
		c.Status = metav1.ConditionTrue
	}
	return c
}
