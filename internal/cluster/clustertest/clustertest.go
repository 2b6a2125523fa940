// Package clustertest draws random clusters, connections and changes for property tests.
//
// What it draws is small, so that a failure shrinks to something a person can read, and crowded, so that things
// meet: few labels, few addresses that are often given out twice, CIDR blocks whose edges fall between pods, ports
// at the ends of ranges. Values that make a case simpler come first in every list, because rapid shrinks to those.
package clustertest

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// The words that labels, selectors and names are made of.
var (
	namespaceNames = []string{"a", "b", "c"}
	nodeNames      = []string{"n1", "n2"}
	portNames      = []string{"http", "dns"}
	portNumbers    = []uint16{80, 81, 82, 53, 8080, 1, 65535, 0}
	protocols      = []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP}
)

// hosts is how many addresses of each family pods draw from. It is about the number of pods: some are given out
// twice, some belong to nobody.
const hosts = 10

func podAddress4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

func podAddress6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(n)})
}

// outside are addresses of the world, next to the pods' and far from them.
var outside = []netip.Addr{
	netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1"),
	netip.MustParseAddr("10.0.3.255"), netip.MustParseAddr("fd00::3:ffff"),
}

// State draws a cluster: up to three namespaces, two nodes, a handful of pods and policies of all tiers.
func State(t *rapid.T) *cluster.State {
	o := cluster.Objects{Revision: 1, Nodes: nodes(t), PodRanges: podRanges(t)}
	for _, name := range namespaceNames {
		if rapid.Bool().Draw(t, "declare namespace "+name) {
			o.Namespaces = append(o.Namespaces, cluster.Namespace{Name: name, Labels: namespaceLabels(t)})
		}
	}
	for i := range rapid.SampledFrom([]int{2, 5, 3, 8, 1}).Draw(t, "pods") {
		o.Endpoints = append(o.Endpoints, endpoint(t, fmt.Sprintf("p%d", i), i))
	}
	for i := range rapid.SampledFrom([]int{1, 9, 5, 12, 0}).Draw(t, "policies") {
		o.Policies = append(o.Policies, drawPolicy(t, fmt.Sprintf("policy%d", i)))
	}
	return mustState(t, o)
}

func mustState(t *rapid.T, o cluster.Objects) *cluster.State {
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatalf("the generator drew a bad cluster: %v", err)
	}
	return s
}

// Nodes have addresses that the wider pod ranges and blocks cover too.
func nodes(t *rapid.T) []cluster.Node {
	var all []cluster.Node
	for i, name := range nodeNames {
		all = append(all, cluster.Node{Name: name, Labels: labels(t, "zone", []string{"x", "y"}), Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 13: 1, 15: byte(i)}),
		}})
	}
	return all
}

func podRanges(t *rapid.T) []netip.Prefix {
	pick := func(family string, texts ...string) []netip.Prefix {
		text := rapid.SampledFrom(texts).Draw(t, "pod range "+family)
		if text == "" {
			return nil
		}
		return []netip.Prefix{netip.MustParsePrefix(text)}
	}
	return append(pick("4", "10.0.0.0/28", "", "10.0.0.4/30", "10.0.0.0/23"), pick("6", "fd00::/124", "", "fd00::/64")...)
}

// labels draws the empty set or key with one of the values.
func labels(t *rapid.T, key string, values []string) label.Set {
	v := rapid.SampledFrom(append([]string{""}, values...)).Draw(t, key)
	if v == "" {
		return label.Set{}
	}
	return label.MustSet(map[string]string{key: v})
}

func namespaceLabels(t *rapid.T) label.Set { return labels(t, "env", []string{"x", "y"}) }

func podLabels(t *rapid.T) label.Set {
	m := map[string]string{}
	for _, l := range []struct {
		key    string
		values []string
	}{{"app", []string{"a", "b", "c"}}, {"role", []string{"x", "y"}}, {"hash", []string{"1"}}} {
		for k, v := range labels(t, l.key, l.values).All() {
			m[k] = v
		}
	}
	return label.MustSet(m)
}

// endpoint draws a pod. Home is its place in the address range, from which it may stray to others' places.
func endpoint(t *rapid.T, name string, home int) *cluster.Endpoint {
	e := &cluster.Endpoint{
		Key:     cluster.Key{Namespace: rapid.SampledFrom(namespaceNames).Draw(t, "namespace of "+name), Name: name},
		Labels:  podLabels(t),
		Node:    rapid.SampledFrom(append(slices.Clone(nodeNames), "")).Draw(t, "node of "+name),
		Created: time.Unix(int64(rapid.IntRange(0, 3).Draw(t, "created")), 0).UTC(),
	}
	// One pod in eight is on its host's network, one has ended: it has no address.
	switch rapid.IntRange(0, 7).Draw(t, "kind of "+name) {
	case 7:
		e.HostNetwork = true
	case 6:
	default:
		e.Addresses = podAddresses(t, home)
	}
	for range rapid.SampledFrom([]int{1, 2, 0, 3}).Draw(t, "ports of "+name) {
		e.Ports = append(e.Ports, cluster.Port{
			Name:     rapid.SampledFrom(append(slices.Clone(portNames), "")).Draw(t, "port name"),
			Protocol: rapid.SampledFrom(protocols).Draw(t, "port protocol"),
			Number:   rapid.SampledFrom(portNumbers[:len(portNumbers)-1]).Draw(t, "port number"),
		})
	}
	return e
}

func podAddresses(t *rapid.T, home int) []netip.Addr {
	families := rapid.SampledFrom([]string{"46", "4", "6"}).Draw(t, "families")
	n := (home + rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "away from home")) % hosts
	var all []netip.Addr
	for _, f := range families {
		if f == '4' {
			all = append(all, podAddress4(n))
		} else {
			all = append(all, podAddress6(n))
		}
	}
	return all
}
