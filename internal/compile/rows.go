package compile

import (
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A side is one direction of some pods of ours: all rules of the policies that select them, in the order in which
// they are asked.
type side struct {
	w         *compilation
	dir       flow.Direction
	names     nameKey // ingress: what the subject calls its ports
	named     bool    // some rule has ports by name
	rules     []rule
	isolating *policy.Policy // the first NetworkPolicy; nil if there is none
	memo      map[rowKey]ruleset.RowID
}

func (s *side) add(p *policy.Policy, rules []rule) {
	if p.Tier == policy.Namespace && s.isolating == nil {
		s.isolating = p
	}
	s.rules = append(s.rules, rules...)
	s.named = s.named || slices.ContainsFunc(rules, func(r rule) bool { return r.named })
}

// hit is a rule whose peers match an identity; rule is its index in side.rules. A hit that is not certain is one on an
// unknown pod that may have the labels asked for.
type hit struct {
	rule    int
	certain bool
}

// peerRows finds the row for every identity. The rules that match everyone are hits for all identities; only those
// that some other rule matches, too, are looked at one by one.
func (s *side) peerRows() peerRows {
	everyone, own := s.hits()
	usual := s.row(everyone, s.server(&class{}))
	count := map[ruleset.RowID]int{usual: len(s.w.classes.byID) - len(own)}
	others := map[ruleset.Identity]ruleset.RowID{}
	for _, id := range sortedIDs(own) {
		others[id] = s.row(merge(everyone, own[id]), s.server(s.w.classes.byID[id]))
		count[others[id]]++
	}
	var best ruleset.RowID
	for _, row := range sortedIDs(count) { // of equals the lowest number: it has been there longest
		if best == 0 || count[row] > count[best] {
			best = row
		}
	}
	out := peerRows{usual: best, others: map[ruleset.Identity]ruleset.RowID{}}
	for id := range s.w.classes.byID {
		row, ok := others[id]
		if !ok {
			row = usual
		}
		if row != best {
			out.others[id] = row
		}
	}
	return out
}

// hits returns the rules that match everyone, and those that match some identities only.
func (s *side) hits() (everyone []hit, own map[ruleset.Identity][]hit) {
	own = map[ruleset.Identity][]hit{}
	if s.dir == flow.Egress && s.named { // the peer is the server: what it calls its ports matters
		for id, c := range s.w.classes.byID {
			if c.names != "" || c.unknown {
				own[id] = nil
			}
		}
	}
	for i, r := range s.rules {
		if r.anyone {
			everyone = append(everyone, hit{i, true})
			continue
		}
		for _, sel := range r.peers {
			for _, id := range s.w.matched[sel] {
				own[id] = addHit(own[id], hit{i, true})
			}
		}
		if r.byLabels {
			for _, id := range s.w.unknown {
				own[id] = addHit(own[id], hit{i, false})
			}
		}
	}
	return everyone, own
}

// addHit adds h, whose rule is the last so far, unless a hit of that rule is there: certain ones come first.
func addHit(hits []hit, h hit) []hit {
	if n := len(hits); n > 0 && hits[n-1].rule == h.rule {
		return hits
	}
	return append(hits, h)
}

// merge joins two lists without a rule in common in the order of the rules.
func merge(a, b []hit) []hit {
	out := slices.Concat(a, b)
	slices.SortFunc(out, func(x, y hit) int { return x.rule - y.rule })
	return out
}

// server is what is known of the ports of the pod that the connection is to.
type server struct {
	names   nameKey
	unknown bool // a pod whose names nobody knows
}

func (s *side) server(peer *class) server {
	if s.dir == flow.Ingress {
		return server{names: s.names}
	}
	return server{peer.names, peer.unknown}
}

// rowKey is all that a row of one side depends on.
type rowKey struct {
	hits string
	to   server // if names matter
}

// row returns the number of the row that hits make.
func (s *side) row(hits []hit, to server) ruleset.RowID {
	var text []byte
	named := false
	for _, h := range hits {
		n := uint64(h.rule) << 1
		if h.certain {
			n++
		}
		text = binary.AppendUvarint(text, n)
		named = named || s.rules[h.rule].named
	}
	key := rowKey{hits: string(text)}
	if named {
		key.to = to
	}
	id, known := s.memo[key]
	if !known {
		row := s.resolve(hits, to)
		id = s.w.numbers.rows.id(row.String())
		s.w.rows[id] = row
		s.memo[key] = id
	}
	return id
}

// span is a range of ports that a hit is about. A span that is not certain is a named port of an unknown pod.
type span struct {
	hit         hit
	first, last uint16
}

// resolve makes a row of hits: tier by tier for every range of ports in which the same of them count.
func (s *side) resolve(hits []hit, to server) ruleset.Row {
	var row ruleset.Row
	row.TCP = s.segments(hits, flow.TCP, to)
	row.UDP = s.segments(hits, flow.UDP, to)
	row.SCTP = s.segments(hits, flow.SCTP, to)
	whole := slices.DeleteFunc(slices.Clone(hits), func(h hit) bool { return len(s.rules[h.rule].ports) > 0 })
	row.Other = s.judge(policy.Admin, whole)
	return row
}

func (s *side) segments(hits []hit, p flow.Protocol, to server) []ruleset.Segment {
	var spans []span
	starts := []int{0}
	for _, h := range hits {
		for _, sp := range s.spans(h, p, to) {
			spans = append(spans, sp)
			starts = append(starts, int(sp.first), int(sp.last)+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	var out []ruleset.Segment
	for i, start := range starts {
		end := 1 << 16
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if start == end { // the port after the last
			continue
		}
		var here []hit
		for _, sp := range spans {
			if int(sp.first) <= start && start <= int(sp.last) {
				here = addSpan(here, sp.hit)
			}
		}
		out = append(out, ruleset.Segment{First: uint16(start), Last: uint16(end - 1), Cell: s.judge(policy.Admin, here)})
	}
	return ruleset.Merge(out)
}

// addSpan adds the hit of a span; of several spans of one rule the certain one counts.
func addSpan(hits []hit, h hit) []hit {
	if n := len(hits); n > 0 && hits[n-1].rule == h.rule {
		hits[n-1].certain = hits[n-1].certain || h.certain
		return hits
	}
	return append(hits, h)
}

// spans returns the ports of protocol p that the rule of h is about.
func (s *side) spans(h hit, p flow.Protocol, to server) []span {
	r := &s.rules[h.rule]
	if len(r.ports) == 0 {
		return []span{{h, 0, 65535}}
	}
	var out []span
	for _, port := range r.ports {
		switch {
		case port.Protocol != p && (port.Name == "" || port.Protocol != 0):
		case port.Name == "":
			out = append(out, span{h, port.First, port.Last})
		case to.unknown:
			out = append(out, span{hit{h.rule, false}, 0, 65535})
		default:
			for _, number := range s.w.names.resolve(to.names, port.Name, p) {
				out = append(out, span{h, number, number})
			}
		}
	}
	return out
}

// judge asks tier, and those after it where that does not decide, about a connection that hits match.
//
// A hit that is not certain is on an unknown pod, which is allowed only what every pod that may be there would be: an
// Accept does not count, a Deny does, and a Pass means that the later tiers have to agree with what this one says.
func (s *side) judge(tier policy.Tier, hits []hit) ruleset.Cell {
	switch {
	case tier > policy.Baseline:
		return ruleset.Cell{Verdict: flow.Allow}
	case tier == policy.Namespace && s.isolating != nil:
		return s.judgeNetworkPolicies(hits)
	}
	var accepts *rule // the one that stands, if the later tiers agree
	passes := false   // a Pass may match
	decided := false
	for i := 0; i < len(hits) && !decided; i++ {
		r, certain := &s.rules[hits[i].rule], hits[i].certain
		switch {
		case r.policy.Tier != tier:
		case r.action == policy.Deny:
			return s.cell(flow.Deny, r)
		case r.action == policy.Pass:
			passes, decided = true, certain
		case certain:
			accepts, decided = r, true
		}
	}
	if accepts != nil && !passes {
		return s.cell(flow.Allow, accepts)
	}
	later := s.judge(tier+1, hits)
	if accepts != nil && later.Verdict == flow.Allow {
		return s.cell(flow.Allow, accepts)
	}
	return later
}

// judgeNetworkPolicies is final: one rule that surely accepts is enough, and none is a denial.
func (s *side) judgeNetworkPolicies(hits []hit) ruleset.Cell {
	for _, h := range hits {
		if r := &s.rules[h.rule]; r.policy.Tier == policy.Namespace && h.certain {
			return s.cell(flow.Allow, r)
		}
	}
	return s.cell(flow.Deny, &rule{policy: s.isolating, index: flow.Isolation})
}

func (s *side) cell(v flow.Verdict, r *rule) ruleset.Cell {
	origin := r.policy.RuleAt(s.dir, r.index)
	id := s.w.numbers.rules.id(origin)
	s.w.rules[id] = origin
	return ruleset.Cell{Verdict: v, Rule: id}
}
