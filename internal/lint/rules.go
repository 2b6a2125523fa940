package lint

import (
	"fmt"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/report"
)

// implies reports whether every set that a matches is matched by b. It may say no where the answer is yes.
func implies(a, b label.Selector) bool {
	if a.IsNothing() || b.IsNothing() {
		return a.IsNothing()
	}
	for _, want := range b.Requirements() {
		if !slices.ContainsFunc(a.Requirements(), func(has label.Requirement) bool { return requires(has, want) }) {
			return false
		}
	}
	return true
}

// requires reports whether whoever meets a meets b.
func requires(a, b label.Requirement) bool {
	if a.Key != b.Key {
		return false
	}
	subset := func(x, y []string) bool {
		return !slices.ContainsFunc(x, func(v string) bool { return !slices.Contains(y, v) })
	}
	disjoint := func(x, y []string) bool {
		return !slices.ContainsFunc(x, func(v string) bool { return slices.Contains(y, v) })
	}
	switch b.Op {
	case label.Exists:
		return a.Op == label.Exists || a.Op == label.In
	case label.In:
		return a.Op == label.In && subset(a.Values, b.Values)
	case label.NotIn:
		return a.Op == label.DoesNotExist || a.Op == label.In && disjoint(a.Values, b.Values) || a.Op == label.NotIn && subset(b.Values, a.Values)
	case label.DoesNotExist:
		return a.Op == label.DoesNotExist
	}
	return false
}

func podsWithin(a, b policy.Pods) bool {
	return implies(a.Namespaces, b.Namespaces) && implies(a.Pods, b.Pods)
}

// peerWithin reports whether whoever is a is b.
func peerWithin(a, b policy.Peer) bool {
	switch {
	case b.Kind == policy.PeerAnyone || a.Kind == policy.PeerNone:
		return true
	case a.Kind != b.Kind:
		return false
	case a.Kind == policy.PeerPods:
		return podsWithin(a.Pods, b.Pods)
	case a.Kind == policy.PeerNodes:
		return implies(a.Nodes, b.Nodes)
	case a.Kind == policy.PeerBlock:
		if b.Block.Bits() > a.Block.Bits() || !b.Block.Contains(a.Block.Addr()) {
			return false
		}
		for _, hole := range b.Except {
			if hole.Overlaps(a.Block) && !slices.Contains(a.Except, hole) {
				return false
			}
		}
		return true
	}
	return false
}

// portWithin reports whether every port that a stands for is one that b stands for.
func portWithin(a, b policy.Port) bool {
	if a.Name != "" || b.Name != "" {
		return a.Name == b.Name && (b.Protocol == 0 || a.Protocol == b.Protocol)
	}
	return a.Protocol == b.Protocol && b.First <= a.First && a.Last <= b.Last
}

// within reports whether every connection that a matches is matched by b.
func within(a, b policy.Rule) bool {
	for _, p := range a.Peers {
		if !slices.ContainsFunc(b.Peers, func(q policy.Peer) bool { return peerWithin(p, q) }) {
			return false
		}
	}
	if len(a.Peers) == 0 || len(b.Ports) > 0 && len(a.Ports) == 0 {
		return false
	}
	for _, p := range a.Ports {
		if len(b.Ports) > 0 && !slices.ContainsFunc(b.Ports, func(q policy.Port) bool { return portWithin(p, q) }) {
			return false
		}
	}
	return true
}

// redundant finds rules of a NetworkPolicy that another rule of it says already.
func (l *linter) redundant(p *policy.Policy, d flow.Direction) {
	if p.Tier != policy.Namespace {
		return
	}
	rules := p.Rules(d)
	for i, r := range rules {
		for j, other := range rules {
			if i == j || !within(r, other) || within(other, r) && i < j {
				continue
			}
			f := l.add(p, ruleIn{p, d, i}.place(), redundantRule, "remove it", "%s says nothing that %s does not say",
				ruleIn{p, d, i}.text(), ruleIn{p, d, j}.text())
			f.Related = []report.Place{relatedTo(ruleIn{p, d, j}, "the rule that says it")}
			break
		}
	}
}

func relatedTo(r ruleIn, message string) report.Place {
	p := r.place()
	p.Message = message
	return p
}

// shadows finds rules of ClusterNetworkPolicies that an earlier rule of their tier decides always.
func (l *linter) shadows() {
	for _, d := range flow.Directions {
		var earlier []ruleIn
		for _, p := range l.state.Policies() {
			if p.Tier == policy.Namespace || p.Defect != "" {
				continue
			}
			for i := range p.Rules(d) {
				r := ruleIn{p, d, i}
				for _, e := range earlier {
					if l.shadowed(r, e) {
						break
					}
				}
				earlier = append(earlier, r)
			}
		}
	}
}

// shadowed notes that e, which is asked before r, leaves nothing for r.
func (l *linter) shadowed(r, e ruleIn) bool {
	tie := e.policy != r.policy && e.policy.Priority == r.policy.Priority // undefined which is asked first: see ties
	if e.policy.Tier != r.policy.Tier || tie || !podsWithin(r.policy.Subject, e.policy.Subject) || !within(r.rule(), e.rule()) {
		return false
	}
	f := l.add(r.policy, r.place(), unreachable, "put it before the other, or remove it", "%s is never reached: %s, which is asked before it, decides %s for all that it is about",
		r.text(), e.name(), e.rule().Action)
	f.Related = []report.Place{relatedTo(e, "the rule that decides first")}
	if e.rule().Action == r.rule().Action && e.policy != r.policy {
		f.Level = report.Note // two policies that say the same may both be meant
	}
	return true
}

// ties finds ClusterNetworkPolicies of equal priority that say different things about the same pods.
func (l *linter) ties() {
	policies := l.state.Policies()
	for i, p := range policies {
		for _, q := range policies[i+1:] {
			if p.Tier == policy.Namespace || p.Tier != q.Tier || p.Priority != q.Priority || p.Defect+q.Defect != "" {
				continue
			}
			if r, s, ok := l.conflict(p, q); ok {
				f := l.add(q, s.place(), equalPriorities, "give them different priorities", "%s and %s of ClusterNetworkPolicy %s contradict each other about the same pods at the same priority %d: the standard leaves open which counts",
					s.text(), r.text(), p.Name, p.Priority)
				f.Related = []report.Place{relatedTo(r, "the other")}
			}
		}
	}
}

// conflict finds two rules with different actions that match a connection of a pod that both policies select.
func (l *linter) conflict(p, q *policy.Policy) (ruleIn, ruleIn, bool) {
	both := l.among(l.selected(p.Subject), q.Subject)
	if len(both) == 0 {
		return ruleIn{}, ruleIn{}, false
	}
	for _, d := range flow.Directions {
		for i, r := range p.Rules(d) {
			for j, s := range q.Rules(d) {
				if r.Action != s.Action && l.meet(r, s) {
					return ruleIn{p, d, i}, ruleIn{q, d, j}, true
				}
			}
		}
	}
	return ruleIn{}, ruleIn{}, false
}

// meet reports whether two rules surely have a peer and a port in common.
func (l *linter) meet(r, s policy.Rule) bool {
	return slices.ContainsFunc(r.Peers, func(p policy.Peer) bool {
		return slices.ContainsFunc(s.Peers, func(q policy.Peer) bool { return l.peersMeet(p, q) })
	}) && (len(r.Ports) == 0 || len(s.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p policy.Port) bool {
		return slices.ContainsFunc(s.Ports, func(q policy.Port) bool { return portsMeet(p, q) })
	}))
}

func (l *linter) peersMeet(p, q policy.Peer) bool {
	switch {
	case peerWithin(p, q) || peerWithin(q, p):
		return p.Kind != policy.PeerNone && q.Kind != policy.PeerNone
	case p.Kind == policy.PeerPods && q.Kind == policy.PeerPods:
		return len(l.among(l.selected(p.Pods), q.Pods)) > 0
	}
	return false
}

func portsMeet(p, q policy.Port) bool {
	if p.Name != "" || q.Name != "" {
		return p.Name == q.Name
	}
	return p.Protocol == q.Protocol && p.First <= q.Last && q.First <= p.Last
}

func portText(p policy.Port) string { return fmt.Sprintf("port %s", p) }
