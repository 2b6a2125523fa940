package ruleset_test

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func TestZeroValuesDeny(t *testing.T) {
	var row ruleset.Row
	if c := row.Lookup(flow.TCP, 80); c.Verdict != flow.Deny {
		t.Error("the zero Row allows tcp")
	}
	if c := row.Lookup(flow.ICMP, 0); c.Verdict != flow.Deny {
		t.Error("the zero Row allows icmp")
	}
	if (ruleset.Judgement{}).Verdict != flow.Deny {
		t.Error("the zero Judgement allows")
	}
	a := netip.MustParseAddr("10.0.0.1")
	r := ruleset.New()
	r.Locals[a] = ruleset.Attachment{}
	r.Defaults[ruleset.Subject{Direction: flow.Ingress}] = 7
	if j := r.Judge(flow.Tuple{Source: a.Next(), Destination: a, Protocol: flow.TCP}); j.Verdict != flow.Deny {
		t.Error("a row that is missing allows")
	}
}

// With is checked against a table of all ports.
func TestRowWith(t *testing.T) {
	cells := []ruleset.Cell{{}, {Verdict: flow.Allow}, {Verdict: flow.Allow, Rule: 1}, {Rule: 2}}
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.SampledFrom(cells)
		start := cell.Draw(t, "start")
		row := ruleset.Uniform(start)
		want := make([]ruleset.Cell, 1<<16)
		for i := range want {
			want[i] = start
		}
		for range rapid.IntRange(0, 8).Draw(t, "steps") {
			first, last := rapid.Uint16().Draw(t, "first"), rapid.SampledFrom([]uint16{0, 1, 79, 80, 81, 65534, 65535}).Draw(t, "last")
			first, last = min(first, last), max(first, last)
			c, before := cell.Draw(t, "cell"), row
			was := before.String()
			row = row.With(flow.UDP, first, last, c)
			if before.String() != was {
				t.Fatal("With changed its receiver")
			}
			for p := int(first); p <= int(last); p++ {
				want[p] = c
			}
		}
		if err := row.Check(); err != nil {
			t.Fatal(err)
		}
		for p := range want {
			if got := row.Lookup(flow.UDP, uint16(p)); got != want[p] {
				t.Fatalf("port %d: %s, want %s", p, got, want[p])
			}
		}
		if got := row.Lookup(flow.TCP, 5); got != start {
			t.Fatalf("tcp changed to %s", got)
		}
		if stripped := row.Stripped(); stripped.Check() != nil || stripped.Other.Rule != 0 {
			t.Fatalf("stripped: %v %v", stripped, stripped.Check())
		}
	})
}

func TestRowCheckRefuses(t *testing.T) {
	good := ruleset.Uniform(ruleset.Cell{})
	for name, segments := range map[string][]ruleset.Segment{
		"nothing":         nil,
		"a late start":    {{First: 1, Last: 65535}},
		"an early end":    {{First: 0, Last: 65534}},
		"a gap":           {{First: 0, Last: 9}, {First: 11, Last: 65535, Cell: ruleset.Cell{Rule: 1}}},
		"an overlap":      {{First: 0, Last: 9}, {First: 9, Last: 65535, Cell: ruleset.Cell{Rule: 1}}},
		"a wrong order":   {{First: 0, Last: 65535}, {First: 5, Last: 4, Cell: ruleset.Cell{Rule: 1}}},
		"equal cells":     {{First: 0, Last: 9}, {First: 10, Last: 65535}},
		"a third verdict": {{First: 0, Last: 65535, Cell: ruleset.Cell{Verdict: 2}}},
	} {
		row := good
		row.SCTP = segments
		if row.Check() == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestJudge(t *testing.T) {
	r := parse(t, one+`
local 10.0.0.2
subject egress 2
  default row 4
row 4
  udp 53 deny 1
  else allow 2
`)
	at := func(from, to string, p flow.Protocol, port uint16) flow.Tuple {
		return flow.Tuple{Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), Protocol: p, Port: port}
	}
	local := at("10.0.0.9", "10.0.0.1", flow.TCP, 1)
	local.Local = true
	itself := at("10.0.0.1", "10.0.0.1", flow.TCP, 1)
	viaService := itself
	viaService.Translated = true
	for _, c := range []struct {
		name string
		t    flow.Tuple
		want ruleset.Judgement
	}{
		{"allowed by both", at("10.0.0.2", "10.0.0.1", flow.TCP, 80), ruleset.Judgement{Verdict: flow.Allow, Row: 3, Rule: 2}},
		{"denied by ingress", at("10.0.0.2", "10.0.0.1", flow.TCP, 81), ruleset.Judgement{Direction: flow.Ingress, Row: 3, Rule: 1}},
		{"denied by both", at("10.0.0.2", "10.0.0.1", flow.UDP, 53), ruleset.Judgement{Direction: flow.Egress, Row: 4, Rule: 1}},
		{"egress only", at("10.0.0.2", "192.0.2.1", flow.ICMP, 0), ruleset.Judgement{Verdict: flow.Allow, Row: 4, Rule: 2}},
		{"from outside", at("192.0.2.1", "10.0.0.1", flow.TCP, 80), ruleset.Judgement{Direction: flow.Ingress, Row: 1, Rule: 1}},
		{"nobody's", at("192.0.2.1", "192.0.2.2", flow.TCP, 80), ruleset.Judgement{Verdict: flow.Allow}},
		{"no policy", at("10.0.0.1", "192.0.2.2", flow.TCP, 80), ruleset.Judgement{Verdict: flow.Allow}},
		{"from its own node", local, ruleset.Judgement{Verdict: flow.Allow}},
		{"itself", itself, ruleset.Judgement{Verdict: flow.Allow}},
		{"itself through a Service", viaService, ruleset.Judgement{Direction: flow.Ingress, Row: 1, Rule: 1}},
	} {
		if got := r.Judge(c.t); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		got := r.Decide(c.t)
		if got != (flow.Decision{Verdict: c.want.Verdict, Direction: c.want.Direction, Rule: r.Rules[c.want.Rule]}) {
			t.Errorf("%s: Decide says %+v", c.name, got)
		}
	}
}

func TestJudgeDoesNotAllocate(t *testing.T) {
	r := parse(t, one)
	c := flow.Tuple{Source: netip.MustParseAddr("10.0.0.2"), Destination: netip.MustParseAddr("10.0.0.1"), Protocol: flow.TCP, Port: 80}
	if n := testing.AllocsPerRun(100, func() { r.Judge(c) }); n != 0 {
		t.Errorf("Judge allocates %v times", n)
	}
}

func TestIdentityOfIsTheLongestMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := draw(t, "ruleset")
		for _, p := range space {
			best, want := -1, ruleset.Identity(0)
			for q, id := range r.Addresses {
				if q.Contains(p.Addr()) && q.Bits() > best {
					best, want = q.Bits(), id
				}
			}
			if got := r.IdentityOf(p.Addr()); got != want {
				t.Fatalf("%s has identity %d, want %d", p.Addr(), got, want)
			}
		}
	})
}

// Equivalent rulesets decide alike, and rulesets that decide differently somewhere are not equivalent.
func TestCheckEquivalent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := near(t)
		if rapid.Bool().Draw(t, "renumber") {
			b = renumber(a)
			if err := ruleset.CheckEquivalent(a, b); err != nil {
				t.Fatalf("renumbered: %v", err)
			}
		}
		if ruleset.CheckEquivalent(a, b) != nil {
			return
		}
		connections(func(c flow.Tuple) {
			if x, y := a.Decide(c), b.Decide(c); x != y {
				t.Fatalf("%s: %+v and %+v, and they are said to be equivalent", c, x, y)
			}
		})
	})
}

func TestCheckEquivalentSeesWhatDiffers(t *testing.T) {
	for name, other := range map[string]string{
		"protocols without ports": portsOnly,
		"verdicts only":           strings.Replace(all, "row 1\n  else allow", "row 1\n  else deny", 1),
		"rules only":              strings.Replace(all, "else allow", "else allow 1", 1) + "rule 1 name p\n",
		"pods":                    all + "local 10.0.0.9\n",
		"places":                  strings.Replace(all, "local 10.0.0.1", "local 10.0.0.1 on veth1", 1),
	} {
		for _, pair := range [][2]string{{all, other}, {other, all}} {
			if ruleset.CheckEquivalent(parse(t, pair[0]), parse(t, pair[1])) == nil {
				t.Errorf("%s differ, and are said to be equivalent", name)
			}
		}
	}
	if err := ruleset.CheckEquivalent(parse(t, all), parse(t, "local 10.0.0.1\n")); err != nil {
		t.Errorf("a subject that no policy speaks of is allowed everything, too: %v", err)
	}
}

// renumber returns r with other numbers, and one prefix more that says what the one around it says.
func renumber(r *ruleset.Ruleset) *ruleset.Ruleset {
	n := ruleset.New()
	identity := func(id ruleset.Identity) ruleset.Identity { return (7 - id) % 7 } // 0 stays
	for p, id := range r.Addresses {
		n.Addresses[p] = identity(id)
	}
	extra := netip.MustParsePrefix("192.0.2.0/24")
	n.Addresses[extra] = identity(r.IdentityOf(extra.Addr()))
	for a, at := range r.Locals {
		n.Locals[a] = at
	}
	for s, row := range r.Defaults {
		n.Defaults[ruleset.Subject{Direction: s.Direction, Identity: identity(s.Identity)}] = row + 10
	}
	for p, row := range r.Pairs {
		n.Pairs[ruleset.Pair{Subject: ruleset.Subject{Direction: p.Direction, Identity: identity(p.Identity)}, Peer: identity(p.Peer)}] = row + 10
	}
	for id, row := range r.Rows {
		n.Rows[id+10] = row
	}
	for id, o := range r.Rules {
		n.Rules[id] = o
	}
	return n
}

func TestStrippedKeepsVerdicts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := draw(t, "ruleset")
		s := r.Stripped()
		if err := s.Check(); err != nil || len(s.Rules) != 0 {
			t.Fatalf("stripped: %v, %d rules", err, len(s.Rules))
		}
		connections(func(c flow.Tuple) {
			x, y := r.Judge(c), s.Judge(c)
			x.Rule = 0
			if x.Verdict == flow.Allow {
				x.Row, y.Row = 0, 0 // which of two rows is named depends on their rules, which are stripped
			}
			if x != y {
				t.Fatalf("%s: %+v, stripped %+v", c, x, y)
			}
		})
	})
}
