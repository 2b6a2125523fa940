package rows

import (
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A Rule is a policy's rule with its selectors as numbers.
type Rule struct {
	Origin   ruleset.RuleID
	Tier     policy.Tier
	Action   policy.Action
	Anyone   bool     // matches every peer
	ByLabels bool     // has peers by labels, so that it may match an unknown pod
	Named    bool     // has ports by name
	Peers    []uint32 // selectors
	Ports    []policy.Port
}

// An Order is rules in the order in which they are asked, of all tiers.
type Order struct {
	Rules    []Rule
	Isolated bool           // by a NetworkPolicy
	Denial   ruleset.RuleID // the first such policy's implicit denial
}

// A Hit is a rule that matches a peer: its index in Order.Rules, doubled, and one more if it is not certain, which is
// so for an unknown pod that may have the labels asked for. So the certain hit of a rule comes first.
type Hit uint32

// CertainHit returns the hit of the rule with an index.
func CertainHit(rule int) Hit { return Hit(rule << 1) }

// Rule is the index of the rule.
func (h Hit) Rule() int { return int(h >> 1) }

// Certain reports whether the rule matches for sure.
func (h Hit) Certain() bool { return h&1 == 0 }

// Resolve returns the row that hits make; they must be in order and of different rules. Names is the number of what the
// server calls its ports; unknown says that it is a pod whose names nobody knows.
func (r *Rows) Resolve(o *Order, hits []Hit, names uint32, unknown bool) ruleset.Row {
	v := resolver{ports: &r.Ports, order: o, names: names, unknown: unknown}
	return v.resolve(hits)
}

// A resolver makes a row of hits: tier by tier for every range of ports in which the same of them count.
type resolver struct {
	ports   *Ports
	order   *Order
	names   uint32 // what the server calls its ports
	unknown bool   // the server is a pod whose names nobody knows
	spans   []span
	starts  []int
	here    []Hit
}

// span is a range of ports that a hit is about. A span that is not certain may be a named port of an unknown pod.
type span struct {
	hit         Hit
	first, last uint16
}

func (v *resolver) resolve(hits []Hit) ruleset.Row {
	var row ruleset.Row
	var segments []ruleset.Segment // of all protocols: one piece of memory
	var ends [3]int
	for i, p := range flow.PortProtocols {
		segments = v.segments(segments, hits, p)
		ends[i] = len(segments)
	}
	segments = slices.Clip(slices.Clone(segments))
	row.TCP = segments[:ends[0]:ends[0]]
	row.UDP = segments[ends[0]:ends[1]:ends[1]]
	row.SCTP = segments[ends[1]:]
	whole := slices.DeleteFunc(slices.Clone(hits), func(h Hit) bool { return len(v.order.Rules[h.Rule()].Ports) > 0 })
	row.Other = v.judge(policy.Admin, whole)
	return row
}

// segments appends those of one protocol.
func (v *resolver) segments(out []ruleset.Segment, hits []Hit, p flow.Protocol) []ruleset.Segment {
	v.spans, v.starts = v.spans[:0], append(v.starts[:0], 0)
	for _, h := range hits {
		before := len(v.spans)
		v.addSpans(h, p)
		for _, sp := range v.spans[before:] {
			v.starts = append(v.starts, int(sp.first), int(sp.last)+1)
		}
	}
	slices.Sort(v.starts)
	starts := slices.Compact(v.starts)
	from := len(out)
	for i, start := range starts {
		if start == 1<<16 { // the port after the last
			continue
		}
		end := 1 << 16
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		v.here = v.here[:0]
		for _, sp := range v.spans {
			if int(sp.first) <= start && start <= int(sp.last) {
				v.here = addSpan(v.here, sp.hit)
			}
		}
		cell := v.judge(policy.Admin, v.here)
		if n := len(out); n > from && out[n-1].Cell == cell {
			out[n-1].Last = uint16(end - 1)
			continue
		}
		out = append(out, ruleset.Segment{First: uint16(start), Last: uint16(end - 1), Cell: cell})
	}
	return out
}

// addSpan adds the hit of a span; of several spans of one rule the certain one counts.
func addSpan(hits []Hit, h Hit) []Hit {
	if n := len(hits); n > 0 && hits[n-1].Rule() == h.Rule() {
		hits[n-1] = min(hits[n-1], h)
		return hits
	}
	return append(hits, h)
}

// addSpans adds the ports of protocol p that the rule of h is about.
func (v *resolver) addSpans(h Hit, p flow.Protocol) {
	r := &v.order.Rules[h.Rule()]
	if len(r.Ports) == 0 {
		v.spans = append(v.spans, span{h, 0, 65535})
		return
	}
	for _, port := range r.Ports {
		switch {
		case port.Protocol != p && (port.Name == "" || port.Protocol != 0):
		case port.Name == "":
			v.spans = append(v.spans, span{h, port.First, port.Last})
		case v.unknown:
			v.spans = append(v.spans, span{h | 1, 0, 65535})
		default:
			if number, ok := v.ports.resolve(v.names, port.Name, p); ok {
				v.spans = append(v.spans, span{h, number, number})
			}
		}
	}
}

// judge asks tier, and those after it where that does not decide, about a connection that hits match.
//
// A hit that is not certain is on an unknown pod, which is allowed only what every pod that may be there would be: an
// Accept does not count, a Deny does, and a Pass means that the later tiers have to agree with what this one says.
func (v *resolver) judge(tier policy.Tier, hits []Hit) ruleset.Cell {
	switch {
	case tier > policy.Baseline:
		return ruleset.Cell{Verdict: flow.Allow}
	case tier == policy.Namespace && v.order.Isolated:
		return v.judgeNetworkPolicies(hits)
	}
	var accepts *Rule // the one that stands, if the later tiers agree
	passes := false   // a Pass may match
	decided := false
	for i := 0; i < len(hits) && !decided; i++ {
		r, certain := &v.order.Rules[hits[i].Rule()], hits[i].Certain()
		switch {
		case r.Tier != tier:
		case r.Action == policy.Deny:
			return ruleset.Cell{Verdict: flow.Deny, Rule: r.Origin}
		case r.Action == policy.Pass:
			passes, decided = true, certain
		case certain:
			accepts, decided = r, true
		}
	}
	if accepts != nil && !passes {
		return ruleset.Cell{Verdict: flow.Allow, Rule: accepts.Origin}
	}
	later := v.judge(tier+1, hits)
	if accepts != nil && later.Verdict == flow.Allow {
		return ruleset.Cell{Verdict: flow.Allow, Rule: accepts.Origin}
	}
	return later
}

// judgeNetworkPolicies is final: one rule that surely accepts is enough, and none is a denial.
func (v *resolver) judgeNetworkPolicies(hits []Hit) ruleset.Cell {
	for _, h := range hits {
		if r := &v.order.Rules[h.Rule()]; r.Tier == policy.Namespace && h.Certain() {
			return ruleset.Cell{Verdict: flow.Allow, Rule: r.Origin}
		}
	}
	return ruleset.Cell{Verdict: flow.Deny, Rule: v.order.Denial}
}
