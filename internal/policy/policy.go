// Package policy is the policy language as values: what NetworkPolicy (networking.k8s.io/v1) and
// ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) mean, in one form, with selectors already parsed.
//
// Values are made by New, which refuses what could not be judged; so no later stage meets a bad policy.
package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// Tier is the stage at which a policy is asked. Lower tiers are asked first. The zero value is none.
type Tier uint8

// The tiers in the order in which they are asked.
const (
	Admin     Tier = 1 + iota // ClusterNetworkPolicy, tier Admin
	Namespace                 // NetworkPolicy
	Baseline                  // ClusterNetworkPolicy, tier Baseline
)

// Tiers are all tiers in the order in which they are asked.
var Tiers = [...]Tier{Admin, Namespace, Baseline}

// String is "Admin", "NetworkPolicy" or "Baseline".
func (t Tier) String() string {
	switch t {
	case Admin:
		return "Admin"
	case Namespace:
		return "NetworkPolicy"
	case Baseline:
		return "Baseline"
	}
	return "none"
}

// Action is what a rule that matches does. The zero value denies.
type Action uint8

// The actions of ClusterNetworkPolicy. A NetworkPolicy's rules all accept.
const (
	Deny Action = iota
	Accept
	Pass // go on with the next tier; after Baseline there is none, and no policy applies
)

// String is the name that manifests use.
func (a Action) String() string {
	switch a {
	case Deny:
		return "Deny"
	case Accept:
		return "Accept"
	case Pass:
		return "Pass"
	}
	return "invalid"
}

// Pods selects pods by their own labels and those of their namespace. The zero value selects none. Pods on the
// host's network are selected by no Pods, whether as subject or as peer.
type Pods struct {
	Namespaces label.Selector // over the labels of the namespace, kubernetes.io/metadata.name included
	Pods       label.Selector
}

// String is for instance "namespaces(env=prod) pods(app=db)".
func (p Pods) String() string {
	return "namespaces(" + p.Namespaces.String() + ") pods(" + p.Pods.String() + ")"
}

// PeerKind says which field of a Peer counts. The zero value matches nothing.
type PeerKind uint8

// The kinds of peers.
const (
	PeerNone   PeerKind = iota // matches nothing: domainNames, until they are built
	PeerAnyone                 // every address there is
	PeerPods                   // pods by labels; never host-network pods
	PeerNodes                  // nodes by labels: their addresses, and host-network pods, which share them
	PeerBlock                  // addresses in a CIDR, pods included
)

// Peer is the other end of a connection, seen from the subject.
type Peer struct {
	Kind   PeerKind
	Pods   Pods           // PeerPods
	Nodes  label.Selector // PeerNodes
	Block  netip.Prefix   // PeerBlock; masked
	Except []netip.Prefix // PeerBlock; masked, each inside Block
}

// String is one line for people.
func (p Peer) String() string {
	switch p.Kind {
	case PeerAnyone:
		return "anyone"
	case PeerPods:
		return p.Pods.String()
	case PeerNodes:
		return "nodes(" + p.Nodes.String() + ")"
	case PeerBlock:
		s := p.Block.String()
		for i, e := range p.Except {
			s += []string{" except ", ","}[min(i, 1)] + e.String()
		}
		return s
	}
	return "nobody"
}

// Contains reports whether a is in the block and in none of its exceptions; false for other kinds.
func (p Peer) Contains(a netip.Addr) bool {
	if p.Kind != PeerBlock || !p.Block.Contains(a) {
		return false
	}
	for _, e := range p.Except {
		if e.Contains(a) {
			return false
		}
	}
	return true
}

// Port is one entry of a rule's ports: a range of numbers, or a name that resolves on the destination pod.
type Port struct {
	// Protocol is TCP, UDP or SCTP; for a name it may be 0, which is "the protocol that the pod declares".
	Protocol    flow.Protocol
	First, Last uint16 // a range, both ends included; 0 to 65535 is every port. Unused with a Name
	Name        string
}

// String is "80/tcp", "8000-8080/tcp", "tcp" for all ports, "http/tcp" or "http".
func (p Port) String() string {
	proto := ""
	if p.Protocol != 0 {
		proto = "/" + p.Protocol.String()
	}
	switch {
	case p.Name != "":
		return p.Name + proto
	case p.First == 0 && p.Last == 65535:
		return p.Protocol.String()
	case p.First == p.Last:
		return fmt.Sprintf("%d%s", p.First, proto)
	}
	return fmt.Sprintf("%d-%d%s", p.First, p.Last, proto)
}

// Rule matches a connection whose peer is one of Peers on one of Ports.
type Rule struct {
	Name   string // its own name, if it has one
	Action Action
	Peers  []Peer // no peers match nobody
	Ports  []Port // no ports are all traffic, also of protocols without ports
	Line   int    // in the policy's file; 0 if unknown
}

// Policy is one policy of either kind. It is valid only if New returned it, and is not changed afterwards.
type Policy struct {
	Tier      Tier
	Namespace string // of a NetworkPolicy; empty otherwise
	Name      string
	Priority  int32 // of a ClusterNetworkPolicy: 0 to 1000, lower is asked first
	Subject   Pods
	// Isolates: a NetworkPolicy denies what no NetworkPolicy's rule accepts, in these directions, for its subjects.
	IsolatesEgress, IsolatesIngress bool
	Egress, Ingress                 []Rule
	File                            string // the manifest; empty if it did not come from a file
	Line                            int    // of the object in File
	// AlertTitle begins the message about whoever the policy denies; "" is a general one.
	AlertTitle string
	// Defect is why the policy could not be read. Such a policy is a stand-in that isolates its subjects.
	Defect string
}

// New checks p and returns it ready for use. The caller gives p away.
func New(p Policy) (*Policy, error) {
	switch {
	case p.Tier < Admin || p.Tier > Baseline:
		return nil, fmt.Errorf("policy %s: no tier", p.Name)
	case p.Name == "":
		return nil, fmt.Errorf("policy without a name")
	case (p.Tier == Namespace) != (p.Namespace != ""):
		return nil, fmt.Errorf("policy %s: only a NetworkPolicy, and every one, has a namespace", p.Name)
	case p.Tier != Namespace && (p.IsolatesEgress || p.IsolatesIngress):
		return nil, fmt.Errorf("policy %s: only a NetworkPolicy isolates", p.Name)
	case p.Tier != Namespace && (p.Priority < 0 || p.Priority > 1000):
		return nil, fmt.Errorf("policy %s: priority %d is not from 0 to 1000", p.Name, p.Priority)
	}
	for _, d := range flow.Directions {
		for i, r := range p.Rules(d) {
			if err := r.check(p.Tier, d); err != nil {
				return nil, fmt.Errorf("policy %s: %s[%d]: %w", p.Name, d, i, err)
			}
		}
	}
	return &p, nil
}

func (r Rule) check(t Tier, d flow.Direction) error {
	if r.Action > Pass || t == Namespace && r.Action != Accept {
		return fmt.Errorf("action %s has no place in tier %s", r.Action, t)
	}
	for _, p := range r.Peers {
		if p.Kind == PeerNodes && d == flow.Ingress {
			return fmt.Errorf("nodes are peers of egress rules only")
		}
		if p.Kind == PeerBlock {
			if err := checkBlock(p); err != nil {
				return err
			}
		}
	}
	for _, p := range r.Ports {
		if p.Name == "" && (!p.Protocol.HasPorts() || p.First > p.Last) || p.Name != "" && p.Protocol != 0 && !p.Protocol.HasPorts() {
			return fmt.Errorf("port %s is not valid", p)
		}
	}
	return nil
}

func checkBlock(p Peer) error {
	if !p.Block.IsValid() || p.Block != p.Block.Masked() || p.Block.Addr().Is4In6() {
		return fmt.Errorf("block %s is not a masked prefix", p.Block)
	}
	for _, e := range p.Except {
		if !e.IsValid() || e != e.Masked() || e.Bits() < p.Block.Bits() || !p.Block.Contains(e.Addr()) {
			return fmt.Errorf("exception %s is not a masked prefix inside %s", e, p.Block)
		}
	}
	return nil
}

// Kind is the Kubernetes kind: "NetworkPolicy" or "ClusterNetworkPolicy".
func (p *Policy) Kind() string {
	if p.Tier == Namespace {
		return "NetworkPolicy"
	}
	return "ClusterNetworkPolicy"
}

// Rules returns the rules of one direction, which the caller must not change.
func (p *Policy) Rules(d flow.Direction) []Rule {
	if d == flow.Egress {
		return p.Egress
	}
	return p.Ingress
}

// Isolates reports whether p denies, in direction d, what no NetworkPolicy accepts.
func (p *Policy) Isolates(d flow.Direction) bool {
	if d == flow.Egress {
		return p.IsolatesEgress
	}
	return p.IsolatesIngress
}

// RuleAt names the rule with the given index in direction d; flow.Isolation is the implicit denial.
func (p *Policy) RuleAt(d flow.Direction, index int) flow.Rule {
	r := flow.Rule{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name, Direction: d, Index: index, File: p.File, Line: p.Line}
	if index >= 0 {
		rule := p.Rules(d)[index]
		r.Label = rule.Name
		if rule.Line != 0 {
			r.Line = rule.Line
		}
	}
	return r
}

// Compare orders policies as they are asked: by tier, then priority, then namespace and name. Equal priorities
// that overlap are undefined in the standard; ordering them by name is our choice.
func Compare(a, b *Policy) int {
	return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Priority, b.Priority),
		strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
