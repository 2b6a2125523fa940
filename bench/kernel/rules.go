//go:build linux

package main

import (
	"fmt"
	"net/netip"

	"github.com/ringfence-project/ringfence/bench/workload"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// port is the one that the pods between which traffic is measured may use.
const port = 8080

// node is the part of a workload that runs on one node.
type node struct {
	w      *workload.Workload
	locals []*cluster.Endpoint
}

func nodeOf(w *workload.Workload) node {
	n := node{w: w}
	for _, e := range w.Pods {
		if e.Node == workload.LocalNode {
			n.locals = append(n.locals, e)
		}
	}
	return n
}

// veth is the interface of a local pod, by its place among them.
func veth(i int) string { return fmt.Sprintf("veth%d", i) }

// compiler is fed with everything, some of the policies, and further ones.
func (n node) compiler(policies int, further ...*policy.Policy) *compile.Compiler {
	c := compile.New(compile.Options{Node: workload.LocalNode})
	for _, s := range n.w.Namespaces {
		c.SetNamespace(s)
	}
	for _, e := range n.w.Pods {
		c.SetPod(e, ruleset.Attachment{})
	}
	for i, e := range n.locals {
		c.SetPod(e, ruleset.Attachment{Interface: veth(i)})
	}
	for _, p := range n.w.Policies[:policies] {
		c.SetPolicy(p)
	}
	for _, p := range further {
		c.SetPolicy(p)
	}
	return c
}

// pair are two policies that fence a client's egress and a server's ingress, and let the one connect to the other. With
// them the first packet of a connection takes the longest way through the rules.
func pair(client, server *cluster.Endpoint) ([]*policy.Policy, error) {
	var all []*policy.Policy
	for d, ends := range map[flow.Direction][2]*cluster.Endpoint{flow.Egress: {client, server}, flow.Ingress: {server, client}} {
		peer, err := podsLike(ends[1])
		if err != nil {
			return nil, err
		}
		subject, err := podsLike(ends[0])
		if err != nil {
			return nil, err
		}
		p := policy.Policy{Tier: policy.Namespace, Namespace: ends[0].Namespace, Name: "bench-" + d.String(), Subject: subject}
		rules := []policy.Rule{{Action: policy.Accept, Peers: []policy.Peer{{Kind: policy.PeerPods, Pods: peer}},
			Ports: []policy.Port{{Protocol: flow.TCP, First: port, Last: port}}}}
		if d == flow.Egress {
			p.IsolatesEgress, p.Egress = true, rules
		} else {
			p.IsolatesIngress, p.Ingress = true, rules
		}
		made, err := policy.New(p)
		if err != nil {
			return nil, err
		}
		all = append(all, made)
	}
	return all, nil
}

func podsLike(e *cluster.Endpoint) (policy.Pods, error) {
	space, err := label.MatchLabels(map[string]string{cluster.NameLabel: e.Namespace})
	if err != nil {
		return policy.Pods{}, err
	}
	pods, err := label.MatchLabels(e.Labels.Map())
	return policy.Pods{Namespaces: space, Pods: pods}, err
}

// dense is a ruleset of so many subjects, each with a row for each of so many peer identities: what a node has at worst.
func dense(subjects, peers int) *ruleset.Ruleset {
	r := ruleset.New()
	r.Generation = 1
	const rows = 50
	for i := range rows {
		r.Rows[ruleset.RowID(i+1)] = ruleset.Uniform(ruleset.Cell{}).With(flow.TCP, uint16(1000+i), uint16(1000+i), ruleset.Cell{Verdict: flow.Allow})
	}
	for i := range subjects {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		r.Addresses[netip.PrefixFrom(a, 32)] = ruleset.Identity(i + 1)
		r.Locals[a] = ruleset.Attachment{Interface: veth(i)}
		s := ruleset.Subject{Direction: flow.Ingress, Identity: ruleset.Identity(i + 1)}
		r.Defaults[s] = rows
		for j := range peers {
			r.Pairs[ruleset.Pair{Subject: s, Peer: ruleset.Identity(subjects + j + 1)}] = ruleset.RowID((i+j)%(rows-1) + 1)
		}
	}
	for j := range peers {
		a := netip.AddrFrom4([4]byte{10, 1, byte(j >> 8), byte(j)})
		r.Addresses[netip.PrefixFrom(a, 32)] = ruleset.Identity(subjects + j + 1)
	}
	return r
}

// elements counts what a ruleset is in the kernel, but for its constant part.
func elements(r *ruleset.Ruleset) string {
	return fmt.Sprintf("%d addresses, %d local, %d subjects, %d pairs, %d rows", len(r.Addresses), len(r.Locals), len(r.Defaults), len(r.Pairs), len(r.Rows))
}

// compiled is the node's ruleset with so many policies, those that fence the pair of traffic among them. It forgets the
// compiler.
func (n node) compiled(policies int, fences []*policy.Policy) *ruleset.Ruleset {
	c := n.compiler(max(0, policies-len(fences)))
	if policies > 0 {
		for _, p := range fences {
			c.SetPolicy(p)
		}
	}
	c.Flush()
	return c.Ruleset()
}
