package plan

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/explain"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// maxReasons bounds how many reasons are looked for: each reads all policies.
const maxReasons = 200

// giveReasons says of what is newly denied what it lacks now.
func (c *comparison) giveReasons() {
	left := maxReasons
	if c.plan.Flows != nil {
		for _, list := range [][]Seen{c.plan.Flows.Breaks, c.plan.Flows.Opens} {
			for i := range list {
				s := &list[i]
				c.credit(s)
				if conn, ok := c.connection(s.from, s.to, s.pods, reach.Ports{Protocol: s.protocol, First: s.port}, s.ipv4); ok && left > 0 {
					left--
					s.Lost = c.lost(conn, s.By.flow, s.New.flow)
					s.Try = c.try(conn)
				}
			}
		}
	}
	for i := range c.plan.Changes {
		change := &c.plan.Changes[i]
		if change.Effect != NewlyDenied || left == 0 {
			continue
		}
		for _, pair := range firstPair(change) {
			if conn, ok := c.connection(pair[0], pair[1], [2]*cluster.Endpoint{}, c.likely(pair[1], change.ports), change.Family != "IPv6"); ok {
				left--
				change.Lost = c.lost(conn, change.Old.flow, change.New.flow)
			}
		}
	}
}

// firstPair is the first pair of a change with two ends, or none.
func firstPair(change *Change) [][2]int {
	for _, a := range change.from {
		for _, b := range change.to {
			if a != b {
				return [][2]int{{a, b}}
			}
		}
	}
	return nil
}

// likely is the port of ports that the server declares, or else the first.
func (c *comparison) likely(server int, ports []reach.Ports) reach.Ports {
	if k := &c.classes[server]; k.kind == reach.Workload {
		for _, p := range c.maps[1].Boxes[k.box[1]].Ports {
			if holds(ports, p.Protocol, p.Number) {
				return reach.Ports{Protocol: p.Protocol, First: p.Number}
			}
		}
	}
	for _, r := range ports {
		if r.Protocol != 0 {
			r.First = max(r.First, min(1, r.Last)) // nobody connects to port 0
			return r
		}
	}
	return reach.Ports{Protocol: flow.ICMP}
}

// connection is one of the connections from a class to another, as the new state sees it.
func (c *comparison) connection(from, to int, pods [2]*cluster.Endpoint, port reach.Ports, ipv4 bool) (cluster.Connection, bool) {
	f := 0
	if !ipv4 || !c.classes[from].has[1][0] || !c.classes[to].has[1][0] {
		f = 1
	}
	conn := cluster.Connection{From: c.party(from, pods[0], f), To: c.party(to, pods[1], f), Protocol: port.Protocol, Port: port.First}
	if port.Protocol == flow.ICMP && f == 1 {
		conn.Protocol = flow.ICMPv6
	}
	if !port.Protocol.HasPorts() {
		conn.Port = 0
	}
	return conn, conn.From.Addr.IsValid() && conn.To.Addr.IsValid() && conn.From.Addr != conn.To.Addr
}

// party is a member of a class in the new state, with an address of a family: the given pod if it is there.
func (c *comparison) party(class int, pod *cluster.Endpoint, f int) cluster.Party {
	state, k := c.states[1], &c.classes[class]
	of := func(addresses []netip.Addr) netip.Addr {
		for _, a := range addresses {
			if family(a) == f {
				return a
			}
		}
		return netip.Addr{}
	}
	for _, p := range k.samples {
		if family(p.Addr) == f {
			return state.At(p.Addr)
		}
	}
	for _, m := range k.members {
		e := m[1]
		if pod != nil {
			e = state.Endpoint(pod.Key)
		}
		if e == nil {
			continue
		}
		p := state.PartyOf(e, of(e.Addresses))
		if p.Node != nil && !p.Addr.IsValid() {
			p.Addr = of(p.Node.Addresses)
		}
		return p
	}
	for _, n := range state.Nodes() {
		if len(k.nodes) > 0 && n.Name == k.nodes[0] {
			return cluster.Party{Node: &n, Addr: of(n.Addresses)}
		}
	}
	return cluster.Party{}
}

// lost says why what allowed a connection before does so no more, as briefly as can be, with the place to look at.
func (c *comparison) lost(conn cluster.Connection, old, new flow.Decision) string {
	d := eval.Evaluate(c.states[1], conn)
	if d.Verdict == flow.Allow || new.Verdict == flow.Allow {
		return ""
	}
	if old.Rule.IsZero() {
		return c.fenced(d, new)
	}
	if why, rule := explain.Lacks(d, old.Rule); why != "" {
		return why + inPlace(rule)
	}
	if !c.has(old.Rule) {
		return fmt.Sprintf("%s %s is gone%s", old.Rule.Kind, old.Rule.Policy(), inPlace(old.Rule))
	}
	if old.Rule.Policy() != new.Rule.Policy() {
		return new.Rule.String() + " is asked before " + old.Rule.String()
	}
	return new.Rule.String() + " denies it now"
}

// fenced says what a connection lacks that no policy was about before.
func (c *comparison) fenced(d eval.Decision, new flow.Decision) string {
	text := new.Rule.String() + " denies it now"
	if new.Rule.Index == flow.Isolation {
		text = fmt.Sprintf("%s %s isolates it now, and no rule accepts it", new.Rule.Kind, new.Rule.Policy())
		if why, rule := explain.Lacks(d, new.Rule); why != "" {
			return text + ": " + why + inPlace(rule)
		}
	}
	return text
}

func inPlace(r flow.Rule) string {
	if p := r.Place(); p != "" {
		return " (" + p + ")"
	}
	return ""
}

// has reports whether the new state has the policy of a rule.
func (c *comparison) has(r flow.Rule) bool {
	for _, p := range c.states[1].Policies() {
		if p.Kind() == r.Kind && p.Namespace == r.Namespace && p.Name == r.Name {
			return true
		}
	}
	return false
}

// try is the command that explains a connection.
func (c *comparison) try(conn cluster.Connection) string {
	words := []string{"ringfence explain"}
	if c.plan.explain != "" {
		words = append(words, c.plan.explain)
	}
	port := conn.Protocol.String()
	if conn.Protocol == flow.ICMPv6 {
		port = flow.ICMP.String()
	}
	if conn.Protocol.HasPorts() {
		port = strconv.Itoa(int(conn.Port))
		if conn.Protocol != flow.TCP {
			port += "/" + conn.Protocol.String()
		}
	}
	for _, p := range []cluster.Party{conn.From, conn.To} {
		name := p.String()
		if p.Unknown {
			name = p.Addr.String()
		}
		words = append(words, name)
	}
	return strings.Join(append(words, port), " ")
}
