package ruleset_test

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// What numbers mean to the rulesets drawn here, as if one compiler had given them out.
var (
	origins = map[ruleset.RuleID]flow.Rule{}
	rows    = map[ruleset.RowID]ruleset.Row{}
	space   = []netip.Prefix{} // prefixes that meet: a few addresses and what is around them
)

func init() {
	for i := range ruleset.RuleID(4) {
		origins[i+1] = flow.Rule{Kind: "NetworkPolicy", Namespace: "shop", Name: fmt.Sprintf("p%d", i),
			Direction: flow.Direction(1 + i%2), Index: int(i) - 1, File: "a b.yaml", Line: int(i)}
	}
	deny, allow := ruleset.Cell{Rule: 1}, ruleset.Cell{Verdict: flow.Allow, Rule: 2}
	other := ruleset.Cell{Verdict: flow.Allow, Rule: 3}
	for i, r := range []ruleset.Row{
		ruleset.Uniform(deny),
		ruleset.Uniform(allow),
		ruleset.Uniform(deny).With(flow.TCP, 80, 80, allow),
		ruleset.Uniform(deny).With(flow.TCP, 80, 81, allow).With(flow.UDP, 0, 53, other),
		ruleset.Uniform(other).With(flow.ICMP, 0, 0, deny).With(flow.SCTP, 1, 65535, ruleset.Cell{Rule: 4}),
		ruleset.Uniform(ruleset.Cell{}),
	} {
		rows[ruleset.RowID(i+1)] = r
	}
	for _, p := range []string{"10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.0.0.0/31", "10.0.0.0/30",
		"0.0.0.0/0", "fd00::/128", "fd00::1/128", "fd00::/127", "::/0"} {
		space = append(space, netip.MustParsePrefix(p))
	}
}

func draw(t *rapid.T, what string) *ruleset.Ruleset {
	r := ruleset.New()
	identity := rapid.Map(rapid.IntRange(0, 3), func(i int) ruleset.Identity { return ruleset.Identity(i) })
	row := rapid.Map(rapid.IntRange(1, len(rows)), func(i int) ruleset.RowID { return ruleset.RowID(i) })
	for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(space), 0, 6, rapid.ID).Draw(t, what+" addresses") {
		r.Addresses[p] = identity.Draw(t, "identity")
		if p.IsSingleIP() && rapid.Bool().Draw(t, "local") {
			r.Locals[p.Addr()] = ruleset.Attachment{Interface: rapid.SampledFrom([]string{"", "veth1", "br 0"}).Draw(t, "interface")}
		}
	}
	use := func(id ruleset.RowID) ruleset.RowID {
		r.Rows[id] = rows[id]
		return id
	}
	for range rapid.IntRange(0, 3).Draw(t, "subjects") {
		s := ruleset.Subject{Direction: rapid.SampledFrom(flow.Directions[:]).Draw(t, "direction"), Identity: identity.Draw(t, "subject")}
		r.Defaults[s] = row.Draw(t, "default")
		for range rapid.IntRange(0, 2).Draw(t, "pairs") {
			r.Pairs[ruleset.Pair{Subject: s, Peer: identity.Draw(t, "peer")}] = row.Draw(t, "row")
		}
	}
	for _, id := range r.Defaults {
		use(id)
	}
	for _, id := range r.Pairs {
		use(id)
	}
	for _, row := range r.Rows {
		for _, s := range append(append(append([]ruleset.Segment{{Cell: row.Other}}, row.TCP...), row.UDP...), row.SCTP...) {
			if s.Rule != 0 {
				r.Rules[s.Rule] = origins[s.Rule]
			}
		}
	}
	return r
}

// connections returns every connection worth asking about: all addresses of space with its edges, a few ports.
func connections(visit func(flow.Tuple)) {
	var addrs []netip.Addr
	for _, a := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::", "fd00::1", "fd00::2"} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	for _, from := range addrs {
		for _, to := range addrs {
			if from.Is4() != to.Is4() {
				continue
			}
			for _, p := range []flow.Protocol{flow.TCP, flow.UDP, flow.SCTP} {
				for _, port := range []uint16{0, 1, 53, 54, 80, 81, 82} {
					visit(flow.Tuple{Source: from, Destination: to, Protocol: p, Port: port})
				}
			}
			visit(flow.Tuple{Source: from, Destination: to, Protocol: flow.ICMP})
		}
	}
}
