package plan

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// end is something that is there before and after, with an address of one family in each state.
type end struct {
	class   int
	name    string
	parties [2]cluster.Party
}

// ends lists all ends of a family, as a person would: each pod, node and sample for itself.
func (c *comparison) ends(f int) []end {
	var all []end
	address := func(s int, own func(cluster.Party) bool, list []netip.Addr) netip.Addr {
		for _, a := range list {
			if family(a) == f && own(c.states[s].At(a)) {
				return a
			}
		}
		return netip.Addr{}
	}
	add := func(e end) {
		if e.parties[0].Addr.IsValid() && e.parties[1].Addr.IsValid() {
			all = append(all, e)
		}
	}
	for _, old := range c.states[0].Endpoints() {
		new := c.states[1].Endpoint(old.Key)
		if new == nil {
			continue
		}
		e := end{class: c.index.pods[old.Key], name: old.Key.String()}
		for s, p := range []*cluster.Endpoint{old, new} {
			e.parties[s] = c.states[s].PartyOf(p, netip.Addr{})
			list := p.Addresses
			if n := e.parties[s].Node; n != nil {
				list = n.Addresses
			}
			e.parties[s].Addr = address(s, func(at cluster.Party) bool {
				return at.Endpoint == p && !p.HostNetwork || p.HostNetwork && at.Node != nil && at.Node.Name == p.Node
			}, list)
		}
		add(e)
	}
	for _, old := range c.states[0].Nodes() {
		for _, new := range c.states[1].Nodes() {
			if old.Name != new.Name {
				continue
			}
			e := end{class: c.index.nodes[old.Name], name: "node " + old.Name}
			for s, n := range []cluster.Node{old, new} {
				e.parties[s] = cluster.Party{Node: &n, Addr: address(s, func(at cluster.Party) bool { return at.Node != nil && at.Node.Name == n.Name }, n.Addresses)}
			}
			add(e)
		}
	}
	for i, p := range c.samples {
		if family(p.Addr) == f {
			add(end{c.index.samples[i], p.Prefix.String(), [2]cluster.Party{c.states[0].At(p.Addr), c.states[1].At(p.Addr)}})
		}
	}
	return all
}

// TestPlanIsTheDifferenceOfEval holds a plan against the reference, connection by connection: what changes is said exactly
// once, with the rules that matter before and after, and nothing else is.
func TestPlanIsTheDifferenceOfEval(t *testing.T) {
	seen := map[Verb]int{}
	kinds := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		old := clustertest.State(t)
		new := clustertest.Mutate(t, old)
		for range rapid.IntRange(0, 3).Draw(t, "more mutations") {
			new = clustertest.Mutate(t, new)
		}
		p, c, err := compute(Side{Name: "old", State: old}, Side{Name: "new", State: new}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for f := range 2 {
			ends := c.ends(f)
			for _, from := range ends {
				for _, to := range ends {
					c.compareWithEval(t, p, from, to, f, seen, kinds)
				}
			}
		}
	})
	if seen[NewlyDenied] < 100 || seen[NewlyAllowed] < 100 {
		t.Errorf("hardly anything changed: %v", seen)
	}
	for _, k := range []string{"pod", "node", "unknown", "outside"} {
		if kinds[k] == 0 {
			t.Errorf("nothing changed for any %s", k)
		}
	}
}

var probedPorts = []struct {
	protocol flow.Protocol
	port     uint16
}{{flow.TCP, 80}, {flow.TCP, 81}, {flow.UDP, 53}, {flow.SCTP, 8080}, {flow.TCP, 65535}, {flow.TCP, 0}, {flow.ICMP, 0}}

func (c *comparison) compareWithEval(t *rapid.T, p *Plan, from, to end, f int, seen map[Verb]int, kinds map[string]int) {
	for _, port := range probedPorts {
		var judged [2]eval.Decision
		var want [2]flow.Decision
		own := false
		for s := range want {
			conn := cluster.Connection{From: from.parties[s], To: to.parties[s], Protocol: port.protocol, Port: port.port}
			if port.protocol == flow.ICMP && f == 1 {
				conn.Protocol = flow.ICMPv6
			}
			own = own || conn.FromOwnNode()
			judged[s] = eval.Evaluate(c.states[s], conn)
			want[s] = judged[s].Flow()
		}
		if want[0].Verdict != want[1].Verdict {
			for s := range want {
				if want[s].Verdict == flow.Allow {
					want[s].Rule = ruleOn(judged[s], want[1-s].Direction)
				}
			}
		}
		if own || from.name == to.name {
			continue
		}
		var about []Change
		for _, change := range p.Changes {
			if slices.Contains(change.from, from.class) && slices.Contains(change.to, to.class) && holds(change.ports, port.protocol, port.port) &&
				(change.Family == "" || change.Family == []string{"IPv4", "IPv6"}[f]) {
				about = append(about, change)
			}
		}
		switch {
		case want[0].Verdict == want[1].Verdict && len(about) > 0:
			t.Fatalf("%s -> %s %d/%s is %s before and after, but the plan says %+v", from.name, to.name, port.port, port.protocol, want[0].Verdict, about)
		case want[0].Verdict == want[1].Verdict:
		case len(about) != 1:
			t.Fatalf("%s -> %s %d/%s is %+v and then %+v, but the plan says it %d times: %+v", from.name, to.name, port.port, port.protocol, want[0], want[1], len(about), about)
		case about[0].Old.flow != want[0] || about[0].New.flow != want[1]:
			t.Fatalf("%s -> %s %d/%s\n is %+v and %+v,\nnot %+v and %+v", from.name, to.name, port.port, port.protocol, want[0], want[1], about[0].Old.flow, about[0].New.flow)
		default:
			seen[about[0].Effect]++
			for _, e := range []cluster.Party{from.parties[1], to.parties[1]} {
				kinds[kindOfParty(e)]++
			}
		}
	}
}

func ruleOn(d eval.Decision, side flow.Direction) flow.Rule {
	of := d.Ingress
	if side == flow.Egress {
		of = d.Egress
	}
	if of == nil {
		return flow.Rule{}
	}
	return of.Rule
}

func kindOfParty(p cluster.Party) string {
	switch {
	case p.Endpoint != nil:
		return "pod"
	case p.Node != nil:
		return "node"
	case p.Unknown:
		return "unknown"
	}
	return "outside"
}

// TestNothingIsNothing: a cluster compared with itself has no changes, and the same pairs before and after.
func TestNothingIsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		p, err := Compute(Side{State: s}, Side{State: s}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !p.Empty() || p.Radius.Before != p.Radius.After || len(p.Radius.Workloads) != 0 {
			t.Fatalf("%+v", p)
		}
	})
}
