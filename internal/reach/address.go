package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// The default ranges: those that the lab uses for pods, and one that is reserved for tests of networks.
var (
	defaultPods  = [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")}
	defaultNodes = [2]netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("fd00:198:18::/64")}
)

// Addressed returns s with addresses for the pods and nodes that have none, so that address blocks can be compared with
// them, and what a reader should know of that. A pod that has one family keeps to it. The error says that a range has too
// few addresses.
func Addressed(s *cluster.State, opts Options) (*cluster.State, []string, error) {
	for i := range 2 {
		if !opts.Pods[i].IsValid() {
			opts.Pods[i] = defaultPods[i]
		}
		if !opts.Nodes[i].IsValid() {
			opts.Nodes[i] = defaultNodes[i]
		}
	}
	o := s.Objects()
	var notices []string
	had := map[cluster.Key]*cluster.Endpoint{}
	without := 0
	for _, e := range o.Endpoints {
		if len(e.Addresses) > 0 {
			had[e.Key] = e
		} else if !e.HostNetwork && !e.Ended {
			without++
		}
	}
	if err := addressNodes(&o, opts.Nodes); err != nil {
		return nil, nil, err
	}
	if without > 0 {
		if err := cluster.AssignAddresses(&o, opts.Pods[0], opts.Pods[1]); err != nil {
			return nil, nil, err
		}
		for i, e := range o.Endpoints {
			if old := had[e.Key]; old != nil {
				o.Endpoints[i] = old
			}
		}
		if namesBlocks(s) {
			notices = append(notices, fmt.Sprintf("pods without an address (%d) are taken to be in %s and %s where policies name address blocks",
				without, opts.Pods[0], opts.Pods[1]))
		}
	}
	state, err := cluster.NewState(o)
	return state, notices, err
}

// addressNodes gives nodes without addresses one of each family.
func addressNodes(o *cluster.Objects, ranges [2]netip.Prefix) error {
	taken := map[netip.Addr]bool{}
	for _, n := range o.Nodes {
		for _, a := range n.Addresses {
			taken[a] = true
		}
	}
	next := [2]netip.Addr{ranges[0].Addr(), ranges[1].Addr()}
	for i := range o.Nodes {
		n := &o.Nodes[i]
		if len(n.Addresses) > 0 {
			continue
		}
		for f := range next {
			for next[f] = next[f].Next(); taken[next[f]]; next[f] = next[f].Next() {
			}
			if !ranges[f].Contains(next[f]) {
				return fmt.Errorf("node %s: no address left in %s: use a larger range", n.Name, ranges[f])
			}
			n.Addresses = append(slices.Clone(n.Addresses), next[f])
		}
	}
	return nil
}
