package plan

import (
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Apply returns what a cluster holds once manifests have been applied to it. What they do not speak of stays as it is, as
// they may be a part of all that is applied there; with prune, policies go that the manifests do not have, of the kinds and
// namespaces of which they have some.
//
// A pod of a workload among the manifests gets its template's labels and ports, and keeps its address: whoever takes its
// place has another address, but is the same to policies. Labels of namespaces are added to those that are there.
func Apply(live, manifests cluster.Objects, prune bool) cluster.Objects {
	out := live
	out.Policies = applyPolicies(live.Policies, manifests.Policies, prune)
	out.Namespaces = applyNamespaces(live.Namespaces, manifests.Namespaces)
	out.Endpoints = applyPods(live.Endpoints, manifests)
	return out
}

func applyPolicies(live, manifests []*policy.Policy, prune bool) []*policy.Policy {
	replaced, spoken := map[string]bool{}, map[string]bool{}
	for _, p := range manifests {
		replaced[policyName(p)] = true
		spoken[p.Kind()+" "+p.Namespace] = true
	}
	out := slices.Clone(manifests)
	for _, p := range live {
		if !replaced[policyName(p)] && !(prune && spoken[p.Kind()+" "+p.Namespace]) {
			out = append(out, p)
		}
	}
	return out
}

func applyNamespaces(live, manifests []cluster.Namespace) []cluster.Namespace {
	out := slices.Clone(live)
	for _, n := range manifests {
		i := slices.IndexFunc(out, func(o cluster.Namespace) bool { return o.Name == n.Name })
		if i < 0 {
			out = append(out, n)
			continue
		}
		for k, v := range n.Labels.All() {
			if labels, err := out[i].Labels.With(k, v); err == nil { // both are labels already
				out[i].Labels = labels
			}
		}
	}
	return out
}

// madeLabels are those that controllers give the pods that they make of a template.
var madeLabels = []string{"pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index", "controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name",
	"batch.kubernetes.io/job-completion-index"}

// workloadName is the workload of a pod, or the pod itself.
type workloadName struct {
	namespace string
	cluster.Owner
}

func workloadOf(e *cluster.Endpoint) workloadName {
	if e.Owner.Name == "" {
		return workloadName{e.Namespace, cluster.Owner{Kind: "Pod", Name: e.Name}}
	}
	return workloadName{e.Namespace, e.Owner}
}

func applyPods(live []*cluster.Endpoint, manifests cluster.Objects) []*cluster.Endpoint {
	templates := map[workloadName]*cluster.Endpoint{}
	for _, w := range manifests.Workloads {
		if w.Template != nil {
			templates[workloadName{w.Namespace, cluster.Owner{Kind: w.Kind, Name: w.Name}}] = w.Template
		}
	}
	for _, e := range manifests.Endpoints {
		if e.Owner.Name == "" {
			templates[workloadOf(e)] = e
		}
	}
	runs := map[workloadName]bool{}
	out := make([]*cluster.Endpoint, 0, len(live))
	for _, e := range live {
		owner := workloadOf(e)
		runs[owner] = true
		if t := templates[owner]; t != nil {
			e = remade(e, t)
		}
		out = append(out, e)
	}
	for _, e := range manifests.Endpoints {
		if !runs[workloadOf(e)] {
			out = append(out, e)
		}
	}
	return out
}

// remade is a pod as its template makes it now.
func remade(e, template *cluster.Endpoint) *cluster.Endpoint {
	made := *e
	made.Labels, made.Ports, made.File, made.Line = template.Labels, template.Ports, template.File, template.Line
	for _, k := range madeLabels {
		if v, ok := e.Labels.Get(k); ok {
			if labels, err := made.Labels.With(k, v); err == nil {
				made.Labels = labels
			}
		}
	}
	return &made
}
