package policytest

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest/write"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Cluster is what a running cluster has.
type Cluster struct {
	Objects  cluster.Objects
	Services []service.Service
}

// families are those that the cluster's pods have addresses of; none if no pod has one.
func (c *Cluster) families() []string {
	var is4, is6 bool
	for _, e := range c.Objects.Endpoints {
		for _, a := range e.Addresses {
			is4, is6 = is4 || a.Is4(), is6 || a.Is6()
		}
	}
	var all []string
	if is4 {
		all = append(all, "IPv4")
	}
	if is6 {
		all = append(all, "IPv6")
	}
	return all
}

// within is the cluster, with the workloads of w that it does not have and the namespaces that these need. The policies
// are the cluster's alone; one that is the same in w has its place from there.
func (c *Cluster) within(w world) world {
	out := world{objects: c.Objects, services: slices.Clone(c.Services)}
	o := &out.objects
	there := map[string]bool{}
	for _, e := range o.Endpoints {
		there[e.Key.String()], there[workloadOf(e)] = true, true
	}
	o.Endpoints, o.Workloads, o.Namespaces = slices.Clone(o.Endpoints), slices.Clone(o.Workloads), slices.Clone(o.Namespaces)
	for _, e := range w.objects.Endpoints {
		if !e.HostNetwork && !there[e.Key.String()] && !there[workloadOf(e)] {
			o.Endpoints = append(o.Endpoints, e)
		}
	}
	for _, x := range w.objects.Workloads {
		if t := x.Template; t != nil && !t.HostNetwork && !there[x.Kind+" "+x.Key.String()] {
			o.Workloads = append(o.Workloads, x)
		}
	}
	for _, n := range w.objects.Namespaces {
		if !slices.ContainsFunc(o.Namespaces, func(have cluster.Namespace) bool { return have.Name == n.Name }) {
			o.Namespaces = append(o.Namespaces, n)
		}
	}
	for _, s := range w.services {
		if !slices.ContainsFunc(out.services, func(have service.Service) bool { return have.Key == s.Key }) {
			out.services = append(out.services, s)
		}
	}
	o.Policies, out.notes = placed(o.Policies, w.objects.Policies)
	return out
}

// named are the namespaces that a document is about: those of its manifests, and those that it names at an end of a case, a
// patch or an invariant, as in "shop/web". What it means by a pattern alone, "*" for instance, does not count.
func (d Doc) named(w world) []string {
	found := map[string]bool{}
	for _, e := range w.objects.Endpoints {
		found[e.Namespace] = true
	}
	for _, x := range w.objects.Workloads {
		found[x.Namespace] = true
	}
	for _, n := range w.objects.Namespaces {
		found[n.Name] = true
	}
	for _, p := range w.objects.Policies {
		found[p.Namespace] = true
	}
	for _, ref := range d.refs() {
		for term := range strings.SplitSeq(ref, " !") {
			if namespace, _, is := strings.Cut(strings.TrimSpace(term), "/"); is && namespace != "node" && !strings.ContainsAny(namespace, "{=*") {
				found[namespace] = true
			}
		}
	}
	delete(found, "") // of ClusterNetworkPolicies
	return slices.Sorted(maps.Keys(found))
}

// refs are all texts of a document that name pods.
func (d Doc) refs() []string {
	var all []string
	invariants := slices.Clone(d.spec.Value.Invariants)
	for _, t := range d.spec.Value.Tests {
		invariants = append(invariants, t.Invariants...)
		for _, c := range t.Cases {
			all = slices.Concat(all, c.From, c.To)
		}
		for _, p := range t.Patch {
			all = append(all, p.Pod)
		}
	}
	for _, v := range invariants {
		from, to, _ := strings.Cut(v.text(), "->")
		all = append(all, from, to)
	}
	return all
}

// workloadOf tells pods of one workload, and its manifest, from others.
func workloadOf(e *cluster.Endpoint) string {
	return e.Owner.Kind + " " + e.Namespace + "/" + cmp.Or(e.Owner.Name, e.Name)
}

// placed are the policies of a cluster, those that are the same in files with their places there, and notes about files
// that say something else.
func placed(live, files []*policy.Policy) ([]*policy.Policy, []string) {
	out := slices.Clone(live)
	var notes []string
	for _, f := range files {
		name := f.RuleAt(1, -1).Policy()
		i := slices.IndexFunc(live, func(p *policy.Policy) bool { return p.Kind() == f.Kind() && p.RuleAt(1, -1).Policy() == name })
		switch {
		case i < 0:
			notes = append(notes, fmt.Sprintf("the cluster has no %s %s", f.Kind(), name))
		case samePolicy(live[i], f):
			out[i] = f
		default:
			notes = append(notes, fmt.Sprintf("%s %s is another one in the cluster than in %s", f.Kind(), name, f.RuleAt(1, -1).Place()))
		}
	}
	slices.SortFunc(notes, strings.Compare)
	return out, notes
}

func samePolicy(a, b *policy.Policy) bool {
	if a.Defect != "" || b.Defect != "" {
		return false
	}
	x, err := write.YAML(a)
	y, also := write.YAML(b)
	return err == nil && also == nil && bytes.Equal(x, y)
}
