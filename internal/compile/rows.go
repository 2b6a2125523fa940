package compile

import (
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A row is one that some side has made. It has a number for the outside only while the ruleset holds it.
type row struct {
	value   ruleset.Row
	id      ruleset.RowID // 0: the ruleset does not hold it
	uses    int           // defaults and pairs of the ruleset
	holders int           // sides that remember it
	held    bool          // the ruleset holds it
	marked  bool          // is in plan.marked
	allows  bool          // something
	denies  bool          // something
}

// The rows that allow nothing and everything.
var denied, allowed = ruleset.Uniform(ruleset.Cell{}), ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow})

// intern returns the number of a row.
func (c *Compiler) intern(r ruleset.Row) uint32 {
	hash := c.hashRow(&r)
	id := c.rowIndex.find(hash, func(i uint32) bool { return c.rows.at(i).value.Equal(r) })
	if id != 0 {
		return id
	}
	id = c.rows.take()
	x := c.rows.at(id)
	x.value = r
	x.allows, x.denies = rowLoses(&r, &denied), rowLoses(&allowed, &r)
	c.rowIndex.insert(hash, id, func(i uint32) uint64 { return c.hashRow(&c.rows.at(i).value) })
	c.eachRule(&r, func(o *origin) { o.refs++ })
	return id
}

// dropRow ends a side's holding of a row.
func (c *Compiler) dropRow(id uint32) {
	x := c.rows.at(id)
	if x.holders--; x.holders > 0 {
		return
	}
	c.rowIndex.remove(c.hashRow(&x.value), id)
	c.eachRule(&x.value, func(o *origin) { c.release(o.id) })
	clear(c.loss)
	c.rows.drop(id)
}

func (c *Compiler) hashRow(r *ruleset.Row) uint64 {
	text := c.scratch.text[:0]
	cell := func(x ruleset.Cell) {
		text = binary.LittleEndian.AppendUint32(append(text, byte(x.Verdict)), uint32(x.Rule))
	}
	cell(r.Other)
	for _, p := range flow.PortProtocols {
		for _, s := range r.Segments(p) {
			text = binary.LittleEndian.AppendUint16(text, s.Last)
			cell(s.Cell)
		}
	}
	c.scratch.text = text
	return maphash.Bytes(c.seed, text)
}

// eachRule calls f for each rule that a row names, once.
func (c *Compiler) eachRule(r *ruleset.Row, f func(*origin)) {
	ids := c.scratch.ids[:0]
	ids = append(ids, r.Other.Rule)
	for _, p := range flow.PortProtocols {
		for _, s := range r.Segments(p) {
			ids = append(ids, s.Rule)
		}
	}
	slices.Sort(ids)
	c.scratch.ids = ids
	for _, id := range slices.Compact(ids) {
		if id != 0 {
			f(c.origins[id])
		}
	}
}

// row returns the number of the row that the rules that match everyone and own make, for a peer of a class.
func (c *Compiler) row(s *side, own []hit, peer *class) uint32 {
	hits := mergeHits(c.scratch.merged[:0], s.everyone, own)
	c.scratch.merged = hits
	names, unknown := s.names, false
	if s.listeners {
		names, unknown = peer.names, peer.unknown
	}
	key := c.scratch.key[:0]
	named := false
	for _, h := range hits {
		key = binary.AppendUvarint(key, uint64(h)+2)
		named = named || s.rules[h.rule()].named
	}
	if named {
		key = append(key, 0)
		key = binary.AppendUvarint(key, uint64(names))
		if unknown {
			key = append(key, 1)
		}
	}
	c.scratch.key = key
	if id, ok := s.memo[string(key)]; ok {
		return id
	}
	v := resolver{c: c, side: s, names: names, unknown: unknown}
	id := c.intern(v.resolve(hits))
	c.rows.at(id).holders++
	s.memo[string(key)] = id
	return id
}

// mergeHits joins two lists in order, without a rule in common.
func mergeHits(out, a, b []hit) []hit {
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// A resolver makes a row of hits: tier by tier for every range of ports in which the same of them count.
type resolver struct {
	c       *Compiler
	side    *side
	names   uint32 // what the server calls its ports
	unknown bool   // the server is a pod whose names nobody knows
	spans   []span
	starts  []int
	here    []hit
}

// span is a range of ports that a hit is about. A span that is not certain may be a named port of an unknown pod.
type span struct {
	hit         hit
	first, last uint16
}

func (v *resolver) resolve(hits []hit) ruleset.Row {
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
	whole := slices.DeleteFunc(slices.Clone(hits), func(h hit) bool { return len(v.side.rules[h.rule()].ports) > 0 })
	row.Other = v.judge(policy.Admin, whole)
	return row
}

// segments appends those of one protocol.
func (v *resolver) segments(out []ruleset.Segment, hits []hit, p flow.Protocol) []ruleset.Segment {
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
func addSpan(hits []hit, h hit) []hit {
	if n := len(hits); n > 0 && hits[n-1].rule() == h.rule() {
		hits[n-1] = min(hits[n-1], h)
		return hits
	}
	return append(hits, h)
}

// addSpans adds the ports of protocol p that the rule of h is about.
func (v *resolver) addSpans(h hit, p flow.Protocol) {
	r := &v.side.rules[h.rule()]
	if len(r.ports) == 0 {
		v.spans = append(v.spans, span{h, 0, 65535})
		return
	}
	for _, port := range r.ports {
		switch {
		case port.Protocol != p && (port.Name == "" || port.Protocol != 0):
		case port.Name == "":
			v.spans = append(v.spans, span{h, port.First, port.Last})
		case v.unknown:
			v.spans = append(v.spans, span{h | 1, 0, 65535})
		default:
			if number, ok := v.c.ports.resolve(v.names, port.Name, p); ok {
				v.spans = append(v.spans, span{h, number, number})
			}
		}
	}
}

// judge asks tier, and those after it where that does not decide, about a connection that hits match.
//
// A hit that is not certain is on an unknown pod, which is allowed only what every pod that may be there would be: an
// Accept does not count, a Deny does, and a Pass means that the later tiers have to agree with what this one says.
func (v *resolver) judge(tier policy.Tier, hits []hit) ruleset.Cell {
	switch {
	case tier > policy.Baseline:
		return ruleset.Cell{Verdict: flow.Allow}
	case tier == policy.Namespace && v.side.isolated:
		return v.judgeNetworkPolicies(hits)
	}
	var accepts *rule // the one that stands, if the later tiers agree
	passes := false   // a Pass may match
	decided := false
	for i := 0; i < len(hits) && !decided; i++ {
		r, certain := &v.side.rules[hits[i].rule()], hits[i].certain()
		switch {
		case r.tier != tier:
		case r.action == policy.Deny:
			return ruleset.Cell{Verdict: flow.Deny, Rule: r.origin}
		case r.action == policy.Pass:
			passes, decided = true, certain
		case certain:
			accepts, decided = r, true
		}
	}
	if accepts != nil && !passes {
		return ruleset.Cell{Verdict: flow.Allow, Rule: accepts.origin}
	}
	later := v.judge(tier+1, hits)
	if accepts != nil && later.Verdict == flow.Allow {
		return ruleset.Cell{Verdict: flow.Allow, Rule: accepts.origin}
	}
	return later
}

// judgeNetworkPolicies is final: one rule that surely accepts is enough, and none is a denial.
func (v *resolver) judgeNetworkPolicies(hits []hit) ruleset.Cell {
	for _, h := range hits {
		if r := &v.side.rules[h.rule()]; r.tier == policy.Namespace && h.certain() {
			return ruleset.Cell{Verdict: flow.Allow, Rule: r.origin}
		}
	}
	return ruleset.Cell{Verdict: flow.Deny, Rule: ruleset.RuleID(v.side.denial)}
}
