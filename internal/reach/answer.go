package reach

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

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

// Text is the allowed ports in short: "all", "none", "389, 636", "all but 22", or "" if no policy is asked.
func (a *Answer) Text() string {
	var texts []string
	for i := range a.Parts {
		t := a.Parts[i].Text()
		if f := a.Parts[i].Family; f != "" && len(a.Parts) > 1 {
			t = f + ": " + t
		}
		texts = append(texts, t)
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
	text := joinPorts(others)
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
	return joinPorts(c.Ports)
}

// joinPorts lists ranges in order, neighbours as one.
func joinPorts(all []Ports) string {
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

func (m *Map) newAnswer(k answerKey) Answer {
	a := Answer{Note: noteOf(k)}
	for f, name := range []string{"IPv4", "IPv6"} {
		if p := k.families[f]; p.egress || p.ingress {
			a.Parts = append(a.Parts, Part{Family: name, Clauses: m.clauses(p)})
		}
	}
	if len(a.Parts) == 2 && slices.EqualFunc(a.Parts[0].Clauses, a.Parts[1].Clauses, Clause.equal) {
		a.Parts = a.Parts[:1]
		a.Parts[0].Family = ""
	}
	for _, p := range a.Parts {
		for _, c := range p.Clauses {
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

// halves are what both ends say of a port.
type halves struct{ egress, ingress Half }

func (h halves) verdict() flow.Verdict {
	if h.egress.Judged && h.egress.Verdict != flow.Allow || h.ingress.Judged && h.ingress.Verdict != flow.Allow {
		return flow.Deny
	}
	return flow.Allow
}

// clauses shares out all protocols and ports among what both rows say.
func (m *Map) clauses(k familyKey) []Clause {
	out, in := m.row(k.egressRow), m.row(k.ingressRow)
	half := func(judged bool, c ruleset.Cell) Half {
		if !judged {
			return Half{}
		}
		return Half{true, c.Verdict, m.rules.Rules[c.Rule]}
	}
	at := func(p flow.Protocol, port uint16) halves {
		return halves{half(k.egress, out.Lookup(p, port)), half(k.ingress, in.Lookup(p, port))}
	}
	index := map[halves]int{}
	var all []Clause
	add := func(h halves, r Ports) {
		i, ok := index[h]
		if !ok {
			i = len(all)
			index[h] = i
			all = append(all, Clause{Verdict: h.verdict(), Egress: h.egress, Ingress: h.ingress})
		}
		c := &all[i]
		if n := len(c.Ports); n > 0 && c.Ports[n-1].Protocol == r.Protocol && int(c.Ports[n-1].Last)+1 == int(r.First) {
			c.Ports[n-1].Last = r.Last
			return
		}
		c.Ports = append(c.Ports, r)
	}
	for _, p := range flow.PortProtocols {
		starts := startsOf(&out, &in, p)
		for i, first := range starts {
			last := uint16(65535)
			if i+1 < len(starts) {
				last = starts[i+1] - 1
			}
			add(at(p, first), Ports{p, first, last})
		}
	}
	rest := at(0, 0)
	add(rest, Ports{})
	slices.SortStableFunc(all, func(a, b Clause) int {
		return cmp.Or(rank(a, rest)-rank(b, rest), comparePorts(a.Ports[0], b.Ports[0]))
	})
	return all
}

// rank puts what is allowed first and everything else last.
func rank(c Clause, rest halves) int {
	switch {
	case halves{c.Egress, c.Ingress} == rest:
		return 2
	case c.Verdict == flow.Allow:
		return 0
	}
	return 1
}

// row returns a row of the ruleset; row 0 is everything allowed by no policy.
func (m *Map) row(id ruleset.RowID) ruleset.Row {
	if id == 0 {
		return ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow})
	}
	return m.rules.Rows[id]
}

// startsOf returns the ports at which one of the rows may change.
func startsOf(a, b *ruleset.Row, p flow.Protocol) []uint16 {
	starts := []uint16{0}
	for _, r := range []*ruleset.Row{a, b} {
		for _, s := range r.Segments(p) {
			starts = append(starts, s.First)
		}
	}
	slices.Sort(starts)
	return slices.Compact(starts)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
