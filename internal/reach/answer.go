package reach

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Level is how much of a pair is allowed. The zero value is that no policy is asked.
type Level uint8

// The levels.
const (
	Unjudged Level = iota // no policy is asked: a pod and itself, two nodes, two parts of the outside
	None
	Some
	All
)

// String is a word.
func (l Level) String() string { return [...]string{"unjudged", "none", "some", "all"}[min(l, All)] }

// Answer is what holds for connections of one pair of boxes. It does not depend on what the destination declares.
type Answer struct {
	Level Level
	// Parts are one, for both families or the only one in common, or two, where the families differ.
	Parts []Part
	// Note is what else there is to say, or why no policy is asked.
	Note string
	// Ruled: a rule of some policy has to do with it. An answer that is not ruled is what holds without policies.
	Ruled bool
}

// Part is the answer of a family.
type Part struct {
	Family string // "IPv4" or "IPv6", where the families differ or have not both; else ""
	// Clauses share out all protocols and ports: each is in exactly one. The last is "everything else".
	Clauses []Clause
}

// Clause is a set of ports that the same rules decide.
type Clause struct {
	Verdict         flow.Verdict
	Egress, Ingress Half
	Ports           []Ports
}

// Half is what the policies of one end say.
type Half struct {
	Judged  bool // false: policies are not asked about this end
	Verdict flow.Verdict
	Rule    flow.Rule // zero: no policy applies
}

// Ports is a range of ports of a protocol, both ends included. Protocol 0 is every protocol that has no ports.
type Ports struct {
	Protocol    flow.Protocol
	First, Last uint16
}

// String is "389", "53/udp", "8000-8080", "tcp" for all of a protocol. A number without a protocol is TCP.
func (p Ports) String() string {
	if p.Protocol == 0 {
		return "other protocols"
	}
	if p.First == 0 && p.Last == 65535 {
		return p.Protocol.String()
	}
	text := strconv.Itoa(int(p.First))
	if p.Last != p.First {
		text += "-" + strconv.Itoa(int(p.Last))
	}
	if p.Protocol != flow.TCP {
		text += "/" + p.Protocol.String()
	}
	return text
}

// Lookup returns the clause for a protocol and port; nil if no policy is asked or the family is not there.
func (a *Answer) Lookup(ipv4 bool, p flow.Protocol, port uint16) *Clause {
	want := "IPv6"
	if ipv4 {
		want = "IPv4"
	}
	for i := range a.Parts {
		if f := a.Parts[i].Family; f == "" || f == want {
			return a.Parts[i].lookup(p, port)
		}
	}
	return nil
}

func (p *Part) lookup(protocol flow.Protocol, port uint16) *Clause {
	if !protocol.HasPorts() {
		protocol, port = 0, 0
	}
	for i := range p.Clauses {
		for _, r := range p.Clauses[i].Ports {
			if r.Protocol == protocol && r.First <= port && port <= r.Last {
				return &p.Clauses[i]
			}
		}
	}
	return nil
}

// Decision is the clause in the form that every engine gives.
func (c *Clause) Decision() flow.Decision {
	switch {
	case c.Egress.Judged && c.Egress.Verdict != flow.Allow:
		return flow.Decision{Verdict: flow.Deny, Direction: flow.Egress, Rule: c.Egress.Rule}
	case c.Ingress.Judged && c.Ingress.Verdict != flow.Allow:
		return flow.Decision{Verdict: flow.Deny, Direction: flow.Ingress, Rule: c.Ingress.Rule}
	}
	f := flow.Decision{Verdict: flow.Allow, Rule: c.Egress.Rule}
	if !c.Ingress.Rule.IsZero() {
		f.Rule = c.Ingress.Rule
	}
	return f
}

// Declared is a port that a destination declares, and whether it can be reached.
type Declared struct {
	cluster.Port
	Allowed Level // All, None, or Some where the families differ
}

// Declared says which of the ports that a destination declares can be reached.
func (a *Answer) Declared(ports []cluster.Port) []Declared {
	var out []Declared
	for _, p := range ports {
		d := Declared{Port: p}
		for i := range a.Parts {
			is := None
			if c := a.Parts[i].lookup(p.Protocol, p.Number); c != nil && c.Verdict == flow.Allow {
				is = All
			}
			if i > 0 && is != d.Allowed {
				is = Some
			}
			d.Allowed = is
		}
		out = append(out, d)
	}
	return out
}

// Text is the allowed ports in short: "all", "none", "389, 636", "all but 22", or "" if no policy is asked. It names the
// families where they are allowed different ports.
func (a *Answer) Text() string {
	var texts []string
	same := true
	for i := range a.Parts {
		texts = append(texts, a.Parts[i].Text())
		same = same && texts[i] == texts[0]
	}
	switch {
	case texts == nil:
		return ""
	case same:
		return texts[0]
	}
	for i := range texts {
		texts[i] = a.Parts[i].Family + ": " + texts[i]
	}
	return strings.Join(texts, "; ")
}

// Text is the allowed ports of a family in short.
func (p *Part) Text() string {
	rest := p.Clauses[len(p.Clauses)-1].Verdict
	var others []Ports
	for _, c := range p.Clauses {
		if c.Verdict != rest {
			others = append(others, c.Ports...)
		}
	}
	text := JoinPorts(others)
	switch {
	case rest == flow.Allow && text == "":
		return "all"
	case rest == flow.Allow:
		return "all but " + text
	case text == "":
		return "none"
	}
	return text
}

// PortsText is what a clause is about; last says that it is the last of its Part.
func (c *Clause) PortsText(last, only bool) string {
	switch {
	case only:
		return "everything"
	case last:
		return "everything else"
	}
	return JoinPorts(c.Ports)
}

// JoinPorts lists ranges in order, neighbours as one: "53/udp, 8000-8080".
func JoinPorts(all []Ports) string {
	all = slices.Clone(all)
	slices.SortFunc(all, comparePorts)
	var texts []string
	for i := 0; i < len(all); {
		r := all[i]
		for i++; i < len(all) && all[i].Protocol == r.Protocol && int(r.Last)+1 == int(all[i].First); i++ {
			r.Last = all[i].Last
		}
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ", ")
}

func comparePorts(a, b Ports) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
}

func newAnswers(n int) []atomic.Pointer[Answer] { return make([]atomic.Pointer[Answer], n) }

// AnswerAt returns the answer that AnswerIndex names. Answers are made when they are first asked for: a large cluster has
// a hundred thousand, of which a picture shows a few.
func (m *Map) AnswerAt(i int) *Answer {
	if a := m.answers[i].Load(); a != nil {
		return a
	}
	a := m.newAnswer(m.pairs.keys[i])
	if !m.answers[i].CompareAndSwap(nil, a) {
		return m.answers[i].Load()
	}
	return a
}

func (m *Map) newAnswer(k answerKey) *Answer {
	a := &Answer{Note: noteOf(k)}
	four, six := k.families[0], k.families[1]
	nothing := rowPair{unjudged, unjudged}
	switch {
	case four == six && four != nothing:
		a.Parts = []Part{{Clauses: m.clauses(four)}}
	default:
		if four != nothing {
			a.Parts = append(a.Parts, Part{Family: "IPv4", Clauses: m.clauses(four)})
		}
		if six != nothing {
			a.Parts = append(a.Parts, Part{Family: "IPv6", Clauses: m.clauses(six)})
		}
		if len(a.Parts) == 2 && slices.EqualFunc(a.Parts[0].Clauses, a.Parts[1].Clauses, Clause.equal) {
			a.Parts = a.Parts[:1]
			a.Parts[0].Family = ""
		}
	}
	for _, p := range a.Parts {
		for i := range p.Clauses {
			c := &p.Clauses[i]
			is := None
			if c.Verdict == flow.Allow {
				is = All
			}
			if a.Level != Unjudged && a.Level != is {
				is = Some
			}
			a.Level = is
			a.Ruled = a.Ruled || !c.Egress.Rule.IsZero() || !c.Ingress.Rule.IsZero()
		}
	}
	return a
}

func noteOf(k answerKey) string {
	switch k.own {
	case allOwn:
		return "a node always reaches its own pods"
	case partlyOwn:
		return "a node always reaches its own pods; this is about pods on other nodes"
	}
	return ""
}

func (c Clause) equal(o Clause) bool {
	return c.Verdict == o.Verdict && c.Egress == o.Egress && c.Ingress == o.Ingress && slices.Equal(c.Ports, o.Ports)
}

// sharer collects what both rows say of each range of ports. Ranges of which they say the same are one clause.
type sharer struct {
	m               *Map
	pair            rowPair
	egress, ingress *ruleset.Row
	cells           [][2]ruleset.Cell // by clause
	clauses         []Clause
}

var openRow = ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow})

// clauses shares out all protocols and ports among what both rows say.
func (m *Map) clauses(p rowPair) []Clause {
	s := sharer{m: m, pair: p, egress: m.rowOf(p.egress), ingress: m.rowOf(p.ingress)}
	for _, proto := range flow.PortProtocols {
		s.share(proto, s.egress.Segments(proto), s.ingress.Segments(proto))
	}
	rest := s.add(s.egress.Other, s.ingress.Other, Ports{})
	rank := func(c *Clause, is *Clause) int {
		switch {
		case c == is:
			return 2
		case c.Verdict == flow.Allow:
			return 0
		}
		return 1
	}
	order := make([]*Clause, len(s.clauses))
	for i := range order {
		order[i] = &s.clauses[i]
	}
	last := order[rest]
	slices.SortStableFunc(order, func(a, b *Clause) int {
		return cmp.Or(rank(a, last)-rank(b, last), comparePorts(a.Ports[0], b.Ports[0]))
	})
	out := make([]Clause, len(order))
	for i, c := range order {
		out[i] = *c
	}
	return out
}

// rowOf is a row of the links; what is not judged is allowed.
func (m *Map) rowOf(row uint32) *ruleset.Row {
	if row == unjudged {
		return &openRow
	}
	return &m.links.rows[row]
}

// share walks the segments of both rows at once.
func (s *sharer) share(p flow.Protocol, egress, ingress []ruleset.Segment) {
	for first, i, j := 0, 0, 0; first <= 65535; {
		last := min(egress[i].Last, ingress[j].Last)
		s.add(egress[i].Cell, ingress[j].Cell, Ports{p, uint16(first), last})
		if first = int(last) + 1; egress[i].Last == last {
			i++
		}
		if ingress[j].Last == last {
			j++
		}
	}
}

// add adds a range to the clause of its cells, and returns which that is.
func (s *sharer) add(egress, ingress ruleset.Cell, r Ports) int {
	cells := [2]ruleset.Cell{egress, ingress}
	i := slices.Index(s.cells, cells)
	if i < 0 {
		i = len(s.cells)
		s.cells = append(s.cells, cells)
		c := Clause{Egress: s.half(s.pair.egress, egress), Ingress: s.half(s.pair.ingress, ingress)}
		c.Verdict = c.Decision().Verdict
		s.clauses = append(s.clauses, c)
	}
	c := &s.clauses[i]
	if n := len(c.Ports); n > 0 && c.Ports[n-1].Protocol == r.Protocol && int(c.Ports[n-1].Last)+1 == int(r.First) {
		c.Ports[n-1].Last = r.Last
		return i
	}
	c.Ports = append(c.Ports, r)
	return i
}

func (s *sharer) half(row uint32, c ruleset.Cell) Half {
	if row == unjudged {
		return Half{}
	}
	return Half{true, c.Verdict, s.m.rules.Rules[c.Rule]}
}
