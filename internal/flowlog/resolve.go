package flowlog

import (
	"net/netip"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Names is what a Log asks about a flow at the moment it is seen. All of them are quick, do not block, and may be
// called while the Log is locked, so they must not call it. Only State is needed; without another one its answer is
// not known.
type Names struct {
	// Node is whose log it is, where there are several nodes; else it is empty, and so is each End's Host.
	Node string
	// Resolve says whose addresses they are, by the cluster as it is now.
	Resolve func(flow.Tuple) cluster.Connection
	// Decide gives the rule behind a connection that was let through: of what is in force.
	Decide func(flow.Tuple) flow.Decision
	// Attribute gives the rule behind a denied packet, by the row that dropped it.
	Attribute func(ruleset.RowID, flow.Tuple) (flow.Rule, bool)
	// Rules gives all rules that a row may deny by, for its counter.
	Rules func(ruleset.RowID) []flow.Rule
	// Reason says in a few words what a denied connection lacked. It is asked once for each kind of denial.
	Reason func(flow.Tuple, flow.Rule) string
	// Title begins the message about whoever a rule denies, "" for a general one.
	Title func(flow.Rule) string
	// Beside says of a flow and how it fared what a rollout under way says otherwise; nil for nothing. earlier: the
	// connection was there before. It is asked once for each connection, and for each record of denials.
	Beside func(t flow.Tuple, fared flow.Verdict, earlier bool, at time.Time) *Beside
	// Service names the Service that has an address and port, "" for none.
	Service func(netip.AddrPort, flow.Protocol) string
}

// ends names both ends of t, and completes it: whether the client is the server's own node is known only here.
func (n *Names) ends(t flow.Tuple) (src, dst End, full flow.Tuple) {
	c := n.Resolve(t)
	src, dst = NewEnd(c.From), NewEnd(c.To)
	if n.Node != "" {
		src.Host, dst.Host = hostOf(c.From), hostOf(c.To)
	}
	return src, dst, c.Tuple()
}

func hostOf(p cluster.Party) string {
	if p.Endpoint == nil {
		return ""
	}
	return p.Endpoint.Node
}

// allowedBy gives the rule of a connection that passed. Where what is in force now would deny it, it is not known:
// the connection passed under another generation.
func (n *Names) allowedBy(t flow.Tuple) (flow.Rule, bool) {
	if n.Decide == nil {
		return flow.Rule{}, false
	}
	d := n.Decide(t)
	if d.Verdict != flow.Allow {
		return flow.Rule{}, false
	}
	return d.Rule, true
}

func (n *Names) deniedBy(row ruleset.RowID, t flow.Tuple) (flow.Rule, bool) {
	if n.Attribute == nil {
		return flow.Rule{}, false
	}
	return n.Attribute(row, t)
}

func (n *Names) asked(a netip.AddrPort, p flow.Protocol) *Asked {
	asked := &Asked{Address: a.Addr(), Port: a.Port()}
	if n.Service != nil {
		asked.Service = n.Service(a, p)
	}
	return asked
}

func (n *Names) rules(row ruleset.RowID) []flow.Rule {
	if n.Rules == nil {
		return nil
	}
	return n.Rules(row)
}

func (n *Names) beside(t flow.Tuple, fared flow.Verdict, earlier bool, at time.Time) *Beside {
	if n.Beside == nil {
		return nil
	}
	return n.Beside(t, fared, earlier, at)
}

func (n *Names) reason(t flow.Tuple, r flow.Rule) string {
	if n.Reason == nil {
		return ""
	}
	return n.Reason(t, r)
}
