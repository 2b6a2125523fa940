package plan

import (
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// align gives pods and nodes that have no address one, and the same one in both states: which pod is in which address
// block must not depend on what else is there. One that has addresses in one state only has them in both.
func align(old, new *cluster.State, opts reach.Options) (out [2]*cluster.State, notices []string, err error) {
	both := [2]*cluster.State{old, new}
	all, err := cluster.NewState(union(both))
	if err != nil {
		return out, nil, err
	}
	given, notices, err := reach.Addressed(all, opts)
	if err != nil {
		return out, nil, err
	}
	nodes := map[string]cluster.Node{}
	for _, n := range given.Nodes() {
		nodes[n.Name] = n
	}
	added := slices.DeleteFunc(given.PodRanges(), func(p netip.Prefix) bool { return slices.Contains(all.PodRanges(), p) })
	for i, s := range both {
		o := s.Objects()
		for j, e := range o.Endpoints {
			if wantsAddress(e) {
				named := *e
				named.Addresses = given.Endpoint(e.Key).Addresses
				o.Endpoints[j] = &named
			}
		}
		for j, n := range o.Nodes {
			if len(n.Addresses) == 0 {
				o.Nodes[j].Addresses = nodes[n.Name].Addresses
			}
		}
		o.PodRanges = append(o.PodRanges, added...)
		if out[i], err = cluster.NewState(o); err != nil {
			return out, nil, err
		}
	}
	return out, notices, nil
}

func wantsAddress(e *cluster.Endpoint) bool {
	return len(e.Addresses) == 0 && !e.HostNetwork && !e.Ended
}

// union holds every pod and node of both states once, with its addresses if one of the states has any. A node of no name
// has the other addresses that the states speak of, so that nobody is given them.
func union(both [2]*cluster.State) cluster.Objects {
	var o cluster.Objects
	var others cluster.Node
	pods, nodes, policies := map[cluster.Key]int{}, map[string]int{}, map[string]bool{}
	for _, s := range both {
		for _, e := range s.Endpoints() {
			j, there := pods[e.Key]
			switch {
			case !there:
				pods[e.Key] = len(o.Endpoints)
				o.Endpoints = append(o.Endpoints, e)
			case wantsAddress(o.Endpoints[j]) || o.Endpoints[j].Ended || o.Endpoints[j].HostNetwork:
				others.Addresses = append(others.Addresses, o.Endpoints[j].Addresses...)
				o.Endpoints[j] = e
			default:
				others.Addresses = append(others.Addresses, e.Addresses...)
			}
		}
		for _, n := range s.Nodes() {
			j, there := nodes[n.Name]
			switch {
			case !there:
				nodes[n.Name] = len(o.Nodes)
				o.Nodes = append(o.Nodes, n)
			case len(o.Nodes[j].Addresses) == 0:
				o.Nodes[j] = n
			default:
				others.Addresses = append(others.Addresses, n.Addresses...)
			}
		}
		for _, r := range s.PodRanges() {
			if !slices.Contains(o.PodRanges, r) {
				o.PodRanges = append(o.PodRanges, r)
			}
		}
		for _, p := range s.Policies() { // for what is to be said of addresses where policies name blocks
			if name := policyName(p); !policies[name] {
				policies[name] = true
				o.Policies = append(o.Policies, p)
			}
		}
	}
	if others.Addresses != nil {
		o.Nodes = append(o.Nodes, others)
	}
	return o
}

// policyName tells a policy from all others of a state: "NetworkPolicy shop/db".
func policyName(p *policy.Policy) string {
	return p.Kind() + " " + p.RuleAt(0, -1).Policy()
}
