package clustertest

import (
	"fmt"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Mutate draws a cluster near s: one to three changes of the kinds that a source delivers. s stays as it is.
func Mutate(t *rapid.T, s *cluster.State) *cluster.State {
	o := s.Objects()
	o.Revision++
	changes := []func(*rapid.T, *cluster.Objects){
		addPod, removePod, relabelPod, readdressPod, movePod,
		addPolicy, removePolicy, replacePolicy,
		changeNamespace, relabelNode, changeRanges,
	}
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		rapid.SampledFrom(changes).Draw(t, "change")(t, &o)
	}
	return mustState(t, o)
}

// ChangePods draws a cluster in which up to n of the pods of s have other labels, addresses or nodes, and returns which.
// s stays as it is.
func ChangePods(t *rapid.T, s *cluster.State, n int) (*cluster.State, []cluster.Key) {
	o := s.Objects()
	o.Revision++
	order := make([]int, len(o.Endpoints))
	for i := range order {
		order[i] = i
	}
	var changed []cluster.Key
	for _, i := range rapid.Permutation(order).Draw(t, "pods that change")[:min(n, len(order))] {
		e := *o.Endpoints[i]
		rapid.SampledFrom([]func(*rapid.T, *cluster.Endpoint){relabel, readdress, move}).Draw(t, "change")(t, &e)
		o.Endpoints[i] = &e
		changed = append(changed, e.Key)
	}
	return mustState(t, o), changed
}

// fresh finds the first name of the form prefix and number that is not taken.
func fresh(prefix string, taken func(string) bool) string {
	for i := 0; ; i++ {
		if name := fmt.Sprintf("%s%d", prefix, i); !taken(name) {
			return name
		}
	}
}

func addPod(t *rapid.T, o *cluster.Objects) {
	name := fresh("p", func(name string) bool {
		return slices.ContainsFunc(o.Endpoints, func(e *cluster.Endpoint) bool { return e.Name == name })
	})
	o.Endpoints = append(o.Endpoints, endpoint(t, name, len(o.Endpoints)))
}

func removePod(t *rapid.T, o *cluster.Objects) {
	if n := len(o.Endpoints); n > 1 { // a cluster without pods has nothing to judge
		i := rapid.IntRange(0, n-1).Draw(t, "removed pod")
		o.Endpoints = slices.Delete(o.Endpoints, i, i+1)
	}
}

// changePod replaces a pod by a changed copy, as snapshots share pods.
func changePod(t *rapid.T, o *cluster.Objects, change func(*cluster.Endpoint)) {
	i := rapid.IntRange(0, len(o.Endpoints)-1).Draw(t, "changed pod")
	e := *o.Endpoints[i]
	change(&e)
	o.Endpoints[i] = &e
}

func relabelPod(t *rapid.T, o *cluster.Objects) {
	changePod(t, o, func(e *cluster.Endpoint) { relabel(t, e) })
}

func readdressPod(t *rapid.T, o *cluster.Objects) {
	changePod(t, o, func(e *cluster.Endpoint) { readdress(t, e) })
}

func movePod(t *rapid.T, o *cluster.Objects) {
	changePod(t, o, func(e *cluster.Endpoint) { move(t, e) })
}

func relabel(t *rapid.T, e *cluster.Endpoint) { e.Labels = podLabels(t) }

// readdress lets a pod end, or come back with another address, which may be another pod's.
func readdress(t *rapid.T, e *cluster.Endpoint) {
	var addresses []netip.Addr
	if !e.HostNetwork && rapid.Bool().Draw(t, "lives") {
		addresses = podAddresses(t, rapid.IntRange(0, hosts-1).Draw(t, "new home"))
	}
	e.Addresses = addresses
}

func move(t *rapid.T, e *cluster.Endpoint) {
	e.Node = rapid.SampledFrom(nodeNames).Draw(t, "new node")
}

func addPolicy(t *rapid.T, o *cluster.Objects) {
	name := fresh("policy", func(name string) bool {
		return slices.ContainsFunc(o.Policies, func(p *policy.Policy) bool { return p.Name == name })
	})
	o.Policies = append(o.Policies, drawPolicy(t, name))
}

func removePolicy(t *rapid.T, o *cluster.Objects) {
	if n := len(o.Policies); n > 0 {
		i := rapid.IntRange(0, n-1).Draw(t, "removed policy")
		o.Policies = slices.Delete(o.Policies, i, i+1)
	}
}

func replacePolicy(t *rapid.T, o *cluster.Objects) {
	if n := len(o.Policies); n > 0 {
		i := rapid.IntRange(0, n-1).Draw(t, "replaced policy")
		o.Policies[i] = drawPolicy(t, o.Policies[i].Name)
	}
}

// changeNamespace relabels a declared namespace, or declares one.
func changeNamespace(t *rapid.T, o *cluster.Objects) {
	n := cluster.Namespace{Name: rapid.SampledFrom(namespaceNames).Draw(t, "changed namespace"), Labels: namespaceLabels(t)}
	for i := range o.Namespaces {
		if o.Namespaces[i].Name == n.Name {
			o.Namespaces[i] = n
			return
		}
	}
	o.Namespaces = append(o.Namespaces, n)
}

func relabelNode(t *rapid.T, o *cluster.Objects) {
	i := rapid.IntRange(0, len(o.Nodes)-1).Draw(t, "changed node")
	o.Nodes[i].Labels = labels(t, "zone", []string{"x", "y"})
}

func changeRanges(t *rapid.T, o *cluster.Objects) { o.PodRanges = podRanges(t) }
