package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/podspec"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Options are choices for Finish. The zero value is good.
type Options struct {
	// MaxReplicas bounds the pods that are made from all workloads together; 0 is 10,000.
	MaxReplicas int
}

// Result is what the files of a Bundle say together.
type Result struct {
	// Objects are ready for cluster.NewState. Policies with a problem are in it as stand-ins that deny, see
	// policy.Policy.Defect.
	Objects cluster.Objects
	// Workloads say what runs in each pod, on a machine without containers.
	Workloads map[cluster.Key]podspec.Spec
	Services  []service.Service // by namespace and name
	Rollouts  []*rollout.Spec   // by name; those without a problem
	Problems  []Problem         // by file and line
	Notices   []Notice          // by file and line
	Ignoring  []Ignoring        // findings of the linter that are accepted, in the order in which they were read
	Ignored   map[string]int    // how many objects of kinds that do not matter
}

// Finish makes pods from the workloads and returns everything. The bundle can take more files afterwards and be
// finished again; the policies and bare pods are shared between the results.
func (b *Bundle) Finish(opts Options) Result {
	r := Result{Ignored: maps.Clone(b.ignored), Problems: slices.Clone(b.problems), Notices: slices.Clone(b.notices), Ignoring: slices.Clone(b.ignoring),
		Services: slices.Clone(b.services), Rollouts: slices.Clone(b.rollouts)}
	r.Objects = cluster.Objects{Namespaces: slices.Clone(b.namespaces), Nodes: slices.Clone(b.nodes), Policies: slices.Clone(b.policies)}
	e := newExpansion(b, cmp.Or(opts.MaxReplicas, 10_000))
	r.Objects.Endpoints = e.pods()
	r.Workloads = b.podSpecs(r.Objects.Endpoints)
	for _, w := range b.workloads {
		r.Objects.Workloads = append(r.Objects.Workloads, w.Workload)
	}
	r.Problems = append(r.Problems, e.problems...)
	ranges := slices.Clone(b.podRanges)
	slices.SortFunc(ranges, netip.Prefix.Compare)
	r.Objects.PodRanges = slices.Compact(ranges)
	servers := slices.Clone(b.apiServers)
	slices.SortFunc(servers, netip.AddrPort.Compare)
	r.Objects.APIServers = slices.Compact(servers)
	slices.SortFunc(r.Rollouts, func(x, y *rollout.Spec) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(r.Services, func(x, y service.Service) int { return x.Key.Compare(y.Key) })
	slices.SortStableFunc(r.Problems, func(x, y Problem) int {
		return cmp.Or(strings.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line))
	})
	slices.SortStableFunc(r.Notices, func(x, y Notice) int {
		return cmp.Or(strings.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line))
	})
	return r
}

// expansion makes pods from workloads.
type expansion struct {
	bundle    *Bundle
	left      int // how many pods may still be made
	names     map[cluster.Key]bool
	workloads map[ownerKey]bool // that are in the bundle
	problems  []Problem
}

func newExpansion(b *Bundle, most int) *expansion {
	e := &expansion{bundle: b, left: most, names: map[cluster.Key]bool{}, workloads: map[ownerKey]bool{}}
	for _, w := range b.workloads {
		e.workloads[w.ownerKey()] = true
	}
	return e
}

// pods returns the bare pods and those of the workloads. A workload whose pods are in the bundle themselves, as in a
// dump of a cluster, gets no others, nor does one that another workload makes, as a Deployment its ReplicaSets.
func (e *expansion) pods() []*cluster.Endpoint {
	var all []*cluster.Endpoint
	busy := map[ownerKey]bool{}
	for _, p := range e.bundle.pods {
		e.names[p.Key] = true
		all = append(all, e.owned(p, busy))
	}
	workloads := slices.Clone(e.bundle.workloads)
	slices.SortFunc(workloads, compareForNaming)
	for i := range workloads {
		w := &workloads[i]
		own := w.ownerKey()
		maker := ownerKey{w.Namespace, e.bundle.owners[own]}
		if !busy[own] && !e.workloads[maker] {
			all = append(all, e.expand(w)...)
		}
	}
	return all
}

// owned marks the controllers of p as busy, and returns p as owned by the topmost one that is in the bundle: people
// ask for a Deployment, not for its ReplicaSets.
func (e *expansion) owned(p *cluster.Endpoint, busy map[ownerKey]bool) *cluster.Endpoint {
	own := ownerKey{p.Namespace, p.Owner}
	top := p.Owner
	for range 4 { // no chain of controllers is longer; one that loops ends
		if own.Kind == "" {
			break
		}
		busy[own] = true
		if e.workloads[own] {
			top = own.Owner
		}
		own = ownerKey{p.Namespace, e.bundle.owners[own]}
	}
	if top == p.Owner {
		return p
	}
	copied := *p
	copied.Owner = top
	return &copied
}

// compareForNaming puts StatefulSets first, because their pods' names are not ours to choose.
func compareForNaming(x, y workload) int {
	rank := func(w workload) int {
		if w.Kind == "StatefulSet" {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(x), rank(y)), x.Key.Compare(y.Key), strings.Compare(x.Kind, y.Kind))
}

func (e *expansion) expand(w *workload) []*cluster.Endpoint {
	if w.Kind == "DaemonSet" {
		if nodes := e.nodesOf(w); len(e.bundle.nodes) > 0 {
			return e.make(w, len(nodes), func(i int) (string, string) { return w.Name + "-" + nodes[i], nodes[i] })
		}
		w.Replicas = 1
	}
	return e.make(w, w.Replicas, func(i int) (string, string) { return w.podName(w.first + i), w.Template.Node })
}

// nodesOf returns the nodes that a DaemonSet's nodeSelector selects, sorted.
func (e *expansion) nodesOf(w *workload) []string {
	sel, err := label.MatchLabels(w.nodeSelector)
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range e.bundle.nodes {
		if sel.Matches(n.Labels) {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}

// make makes count pods of w; place gives the i-th one's name and node.
func (e *expansion) make(w *workload, count int, place func(i int) (name, node string)) []*cluster.Endpoint {
	if count > e.left {
		e.problems = append(e.problems, Problem{File: w.Template.File, Line: w.Template.Line, Object: w.Kind + " " + w.Key.String(),
			Field: "spec.replicas", Message: fmt.Sprintf("%d pods are more than the %d that are left to be made", count, e.left),
			Fix: "lower the number, or raise the limit"})
		count = e.left
	}
	e.left -= count
	var pods []*cluster.Endpoint
	for i := range count {
		name, node := place(i)
		p := *w.Template
		p.Name, p.Node = e.free(w.Namespace, name), node
		for k, v := range w.podLabels(w.first+i, name) {
			if labels, err := p.Labels.With(k, v); err == nil { // a name that is too long for a label is none
				p.Labels = labels
			}
		}
		pods = append(pods, &p)
	}
	return pods
}

// free returns name, or name with letters behind it if another pod has it already.
func (e *expansion) free(namespace, name string) string {
	k := cluster.Key{Namespace: namespace, Name: name}
	for c := 0; e.names[k]; c++ {
		k.Name = fmt.Sprintf("%s-x%d", name, c+1)
	}
	e.names[k] = true
	return k.Name
}
