package eval

import (
	"fmt"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// matchRule compares the rule of p with the given index with the connection. All peers and ports are looked at,
// also when the first has matched, since people ask about the others.
func (q question) matchRule(p *policy.Policy, index int) Rule {
	rule := p.Rules(q.dir)[index]
	seen := Rule{Rule: p.RuleAt(q.dir, index), Action: rule.Action}
	peers, ports := No, No
	for _, peer := range rule.Peers {
		m, reason := q.matchPeer(peer)
		seen.Peers = append(seen.Peers, Peer{peer, m, reason})
		peers = max(peers, m)
	}
	for _, port := range rule.Ports {
		m, reason := q.matchPort(port)
		seen.Ports = append(seen.Ports, Port{port, m, reason})
		ports = max(ports, m)
	}
	if len(rule.Ports) == 0 {
		ports = Yes
	}
	seen.Match = min(peers, ports)
	return seen
}

func (q question) matchPeer(p policy.Peer) (Match, string) {
	switch p.Kind {
	case policy.PeerAnyone:
		return Yes, "it is everyone"
	case policy.PeerPods:
		return q.matchPods(p.Pods)
	case policy.PeerNodes:
		return q.matchNodes(p.Nodes)
	case policy.PeerBlock:
		return q.matchBlock(p)
	}
	return No, "it is a kind of peer that matches nobody"
}

func (q question) matchPods(want policy.Pods) (Match, string) {
	switch {
	case q.peer.Endpoint != nil:
		ok, reason := selects(q.state, want, q.peer.Endpoint)
		return answer(ok), reason
	case q.peer.Unknown:
		return Maybe, fmt.Sprintf("%s is a pod that is not known yet: it may have these labels or not", q.peer.Addr)
	}
	return No, q.notAPod() + ", which no pod selector matches"
}

func (q question) matchNodes(want label.Selector) (Match, string) {
	if q.peer.Node == nil {
		return No, q.peer.String() + " is no node"
	}
	if reason := unmet(want, q.peer.Node.Labels, "node "+q.peer.Node.Name); reason != "" {
		return No, reason
	}
	return Yes, "its labels match"
}

func (q question) matchBlock(p policy.Peer) (Match, string) {
	a := q.peer.Addr
	if !a.IsValid() {
		return No, q.peer.String() + " has no address"
	}
	if !p.Block.Contains(a) {
		return No, fmt.Sprintf("address %s is outside %s", a, p.Block)
	}
	for _, e := range p.Except {
		if e.Contains(a) {
			return No, fmt.Sprintf("address %s is in the exception %s", a, e)
		}
	}
	return Yes, fmt.Sprintf("address %s is in %s", a, p.Block)
}

func (q question) matchPort(p policy.Port) (Match, string) {
	c := q.conn
	switch {
	case !c.Protocol.HasPorts():
		return No, fmt.Sprintf("%s has no ports, and a rule with ports is about tcp, udp and sctp only", c.Protocol)
	case p.Protocol != c.Protocol && (p.Name == "" || p.Protocol != 0):
		return No, fmt.Sprintf("the protocol is %s, not %s", c.Protocol, p.Protocol)
	case p.Name != "":
		return q.matchNamed(p)
	case c.Port < p.First || c.Port > p.Last:
		return No, fmt.Sprintf("port %d is not %s", c.Port, p)
	}
	return Yes, fmt.Sprintf("port %d/%s is in it", c.Port, c.Protocol)
}

// matchNamed resolves a name on the server, whichever side is judged.
func (q question) matchNamed(p policy.Port) (Match, string) {
	server := q.conn.To
	switch {
	case server.Unknown:
		return Maybe, fmt.Sprintf("%s is a pod that is not known yet: nobody knows which port it calls %q", server.Addr, p.Name)
	case server.Endpoint == nil:
		return No, fmt.Sprintf("%s is no pod, and only pods name their ports", server)
	}
	declared := server.Endpoint.PortsNamed(p.Name, q.conn.Protocol)
	if len(declared) == 0 {
		return No, fmt.Sprintf("%s declares no %s port named %q", server, q.conn.Protocol, p.Name)
	}
	number := declared[0].Number // of one name and protocol there is only one
	if number != q.conn.Port {
		return No, fmt.Sprintf("%s calls port %d/%s %q, not %d", server, number, q.conn.Protocol, p.Name, q.conn.Port)
	}
	return Yes, fmt.Sprintf("%s calls port %d/%s %q", server, number, q.conn.Protocol, p.Name)
}

// selects reports whether want selects e, and the first requirement that is not met.
func selects(s *cluster.State, want policy.Pods, e *cluster.Endpoint) (bool, string) {
	if reason := unmet(want.Namespaces, s.Namespace(e.Namespace).Labels, "namespace "+e.Namespace); reason != "" {
		return false, reason
	}
	if reason := unmet(want.Pods, e.Labels, "pod "+e.Key.String()); reason != "" {
		return false, reason
	}
	return true, "the labels of pod " + e.Key.String() + " match"
}

// unmet says which requirement of sel the labels of the thing do not meet; "" if they meet all.
func unmet(sel label.Selector, labels label.Set, thing string) string {
	if sel.IsNothing() {
		return "the selector selects nothing"
	}
	r, failed := sel.FirstUnmet(labels)
	if !failed {
		return ""
	}
	if r.Key == cluster.NameLabel && r.Op == label.In {
		return fmt.Sprintf("%s is not %s", thing, strings.Join(r.Values, " or "))
	}
	has := "has no label " + r.Key
	if v, ok := labels.Get(r.Key); ok {
		has = "has " + r.Key + "=" + v
	}
	return fmt.Sprintf("label %s unmet: %s %s", r, thing, has)
}

func (q question) notAPod() string {
	if q.peer.Node != nil {
		return fmt.Sprintf("%s is a node (or a pod on its network)", q.peer)
	}
	if !q.peer.Addr.IsValid() {
		return "the other end is no pod"
	}
	return fmt.Sprintf("%s is outside the cluster", q.peer)
}

func answer(ok bool) Match {
	if ok {
		return Yes
	}
	return No
}
