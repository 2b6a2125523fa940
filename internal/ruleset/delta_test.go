package ruleset_test

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func TestApplyOfDiffGivesTheNewRuleset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := draw(t, "old"), draw(t, "new")
		old.Generation, new.Generation = 1, 2
		d := ruleset.Diff(old, new)
		got := old.Clone()
		if err := ruleset.Apply(got, d); err != nil {
			t.Fatalf("apply: %v", err)
		}
		if got.String() != new.String() {
			t.Fatalf("got\n%swant\n%s", got, new)
		}
		if again := ruleset.Diff(got, new); len(again.Ops) != 0 || again.Tightens {
			t.Fatalf("the difference of equal rulesets is %+v", again)
		}
		if old.Equal(new) != (len(d.Ops) == 0) {
			t.Fatalf("Equal says %v, Diff has %d ops", old.Equal(new), len(d.Ops))
		}
	})
}

// At every point of a delta nothing refers to what is not there, and a subject and a peer have a verdict that is the
// old one or the new one, or, while a subject comes or goes, a denial.
func TestEveryPrefixOfADeltaIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := draw(t, "old"), draw(t, "new")
		at := old.Clone()
		for _, op := range ruleset.Diff(old, new).Ops {
			if err := ruleset.Apply(at, ruleset.Delta{Ops: []ruleset.Op{op}}); err != nil {
				t.Fatalf("%s: %v", op, err)
			}
			if err := at.Check(); err != nil {
				t.Fatalf("after %s: %v", op, err)
			}
			checkBetween(t, old, at, new, op)
		}
	})
}

func checkBetween(t *rapid.T, old, at, new *ruleset.Ruleset, op ruleset.Op) {
	verdict := func(r *ruleset.Ruleset, s ruleset.Subject, peer ruleset.Identity) string {
		if id := r.RowOf(s, peer); id != 0 {
			row := r.Rows[id]
			return row.String()
		}
		return "open"
	}
	for _, d := range flow.Directions {
		for subject := range ruleset.Identity(4) {
			for peer := range ruleset.Identity(4) {
				s := ruleset.Subject{Direction: d, Identity: subject}
				was, is, will := verdict(old, s, peer), verdict(at, s, peer), verdict(new, s, peer)
				// An open old or new state allows at least what any row allows.
				if is != was && is != will && was != "open" && will != "open" {
					t.Fatalf("after %s, %s with peer %d has %q, which is neither %q nor %q", op, s, peer, is, was, will)
				}
			}
		}
	}
}

func TestTightensIsNeverFalseWhenSomethingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := near(t)
		if ruleset.Diff(old, new).Tightens {
			return
		}
		connections(func(c flow.Tuple) {
			if old.Judge(c).Verdict == flow.Allow && new.Judge(c).Verdict != flow.Allow {
				t.Fatalf("%s is lost, and the delta does not tighten", c)
			}
		})
	})
}

// near draws two rulesets that differ little: two points on the way from one random ruleset to another.
func near(t *rapid.T) (old, new *ruleset.Ruleset) {
	old, end := draw(t, "start"), draw(t, "end")
	ops := ruleset.Diff(old, end).Ops
	first := rapid.IntRange(0, len(ops)).Draw(t, "first")
	last := rapid.IntRange(first, min(first+3, len(ops))).Draw(t, "last")
	apply := func(r *ruleset.Ruleset, ops []ruleset.Op) {
		if err := ruleset.Apply(r, ruleset.Delta{Ops: ops}); err != nil {
			t.Fatal(err)
		}
	}
	apply(old, ops[:first])
	new = old.Clone()
	apply(new, ops[first:last])
	return old, new
}

// one is a ruleset in which pod 10.0.0.1 (identity 1) is isolated but for TCP 80 from 10.0.0.2 (identity 2).
const one = `
local 10.0.0.1
address 10.0.0.1/32 1
address 10.0.0.2/32 2
subject ingress 1
  default row 1
  from 2 row 3
row 1
  else deny 1
row 3
  tcp 80 allow 2
  else deny 1
rule 1 name p0
rule 2 name p1
`

// kin is one in which the isolated kind is admitted to its own kind.
var kin = strings.Replace(one, "from 2 row 3", "from 1 row 2", 1) + "row 2\nelse allow\n"

// all and portsOnly admit everything, and everything that has ports.
const all = `
local 10.0.0.1
address 10.0.0.1/32 1
subject ingress 1
  default row 1
row 1
  else allow
row 2
  tcp 0-65535 allow
  udp 0-65535 allow
  sctp 0-65535 allow
  else deny
`

var portsOnly = strings.Replace(all, "default row 1", "default row 2", 1)

// wider is one with more ports, in a new row.
var wider = strings.ReplaceAll(strings.Replace(one, "tcp 80 ", "tcp 80-90 ", 1), "row 3", "row 4")

func parse(t *testing.T, text string) *ruleset.Ruleset {
	t.Helper()
	r, err := ruleset.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTightens(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           bool
	}{
		{"nothing changes", one, one, false},
		{"a pod is isolated", "local 10.0.0.1\naddress 10.0.0.1/32 1\n", one, true},
		{"the isolation goes", one, "local 10.0.0.1\naddress 10.0.0.1/32 1\n", false},
		{"a rule goes", one, strings.Replace(one, "from 2 row 3", "from 3 row 3", 1), true},
		{"a rule comes", strings.Replace(one, "from 2 row 3", "from 3 row 3", 1), one, false},
		{"ports come", one, wider, false},
		{"ports go", wider, one, true},
		{"a peer of a known kind is born", one, one + "address 10.0.0.3/32 2\n", false},
		{"a peer of a known kind goes", one + "address 10.0.0.3/32 2\n", one, true},
		{"a peer changes its kind", one, strings.Replace(one, "10.0.0.2/32 2", "10.0.0.2/32 3", 1), true},
		{"an isolated pod is born", one, one + "local 10.0.0.3\naddress 10.0.0.3/32 1\n", true},
		{"an isolated pod is born where its kind was a peer", strings.Replace(one, "local 10.0.0.1\n", "", 1), one, true},
		{"a pod becomes one of an isolated kind", one + "local 10.0.0.3\naddress 10.0.0.3/32 2\n", one + "local 10.0.0.3\naddress 10.0.0.3/32 1\n", true},
		{"it may reach its own kind only", kin + "local 10.0.0.3\naddress 10.0.0.3/32 2\n", kin + "local 10.0.0.3\naddress 10.0.0.3/32 1\n", true},
		{"those in no prefix lose", strings.Replace(one, "from 2 row 3", "from 0 row 3", 1), strings.Replace(one, "from 2 row 3", "from 0 row 1", 1), true},
		{"protocols without ports are lost", all, portsOnly, true},
		{"protocols without ports come", portsOnly, all, false},
		{"a pod that no policy speaks of is born", one, one + "local 10.0.0.3\naddress 10.0.0.3/32 2\n", false},
		{"a local pod goes and was no peer", one + "local 10.0.0.3\naddress 10.0.0.3/32 1\n", one, false},
		{"only rules change", one, strings.Replace(one, "name p0", "name p9", 1), false},
		{"an address is covered by longer ones", one + "address 10.0.0.2/31 2\naddress 10.0.0.3/32 4\n", one + "address 10.0.0.2/31 5\naddress 10.0.0.3/32 4\n", false},
	} {
		if got := ruleset.Diff(parse(t, c.old), parse(t, c.new)).Tightens; got != c.want {
			t.Errorf("%s: Tightens is %v, want %v", c.name, got, c.want)
		}
	}
}

func TestApplyRefusesWhatWouldNotHold(t *testing.T) {
	deny := ruleset.Uniform(ruleset.Cell{})
	subject := ruleset.Subject{Direction: flow.Ingress, Identity: 1}
	addr := netip.MustParsePrefix("10.0.0.1/32")
	for _, c := range []struct {
		op   ruleset.Op
		want string
	}{
		{ruleset.Op{}, "unknown operation"},
		{ruleset.Op{Kind: ruleset.AddRow, Row: 1, Value: deny}, "never changes"},
		{ruleset.Op{Kind: ruleset.AddRow, Row: 0, Value: deny}, "want a number"},
		{ruleset.Op{Kind: ruleset.AddRow, Row: ruleset.RowBase, Value: deny}, "want a number"},
		{ruleset.Op{Kind: ruleset.AddRow, Row: 9, Value: ruleset.Row{}}, "cover all ports"},
		{ruleset.Op{Kind: ruleset.AddRow, Row: 9, Value: ruleset.Uniform(ruleset.Cell{Rule: 9})}, "rule 9 does not exist"},
		{ruleset.Op{Kind: ruleset.AddRule, Rule: 0}, "no policy"},
		{ruleset.Op{Kind: ruleset.AddRule, Rule: 1, Origin: flow.Rule{Name: "other"}}, "never changes"},
		{ruleset.Op{Kind: ruleset.SetDefault, Subject: subject, Row: 9}, "row 9 does not exist"},
		{ruleset.Op{Kind: ruleset.SetDefault, Row: 1}, "no direction"},
		{ruleset.Op{Kind: ruleset.SetPair, Subject: subject, Row: 9}, "row 9 does not exist"},
		{ruleset.Op{Kind: ruleset.SetPair, Subject: ruleset.Subject{Direction: flow.Egress, Identity: 1}, Row: 1}, "no default"},
		{ruleset.Op{Kind: ruleset.DeleteRow, Row: 1}, "in use 1 times"},
		{ruleset.Op{Kind: ruleset.DeleteRule, Rule: 1}, "named by 2 rows"},
		{ruleset.Op{Kind: ruleset.DeleteDefault, Subject: subject}, "has 1 pairs"},
		{ruleset.Op{Kind: ruleset.SetAddress, Prefix: netip.MustParsePrefix("10.0.0.1/24")}, "masked"},
		{ruleset.Op{Kind: ruleset.SetAddress, Prefix: addr, Identity: ruleset.RowBase}, "not below"},
		{ruleset.Op{Kind: ruleset.SetLocal, Prefix: netip.MustParsePrefix("10.0.0.0/24")}, "one plain address"},
	} {
		err := ruleset.Apply(parse(t, one), ruleset.Delta{Ops: []ruleset.Op{c.op}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.op, err, c.want)
		}
	}
	if err := ruleset.Apply(parse(t, one), ruleset.Delta{From: 7}); err == nil {
		t.Error("a delta from another generation was taken")
	}
}

// What an earlier Op of the same delta did counts.
func TestApplyCountsAsItGoes(t *testing.T) {
	subject := ruleset.Subject{Direction: flow.Ingress, Identity: 1}
	count := ruleset.Op{Kind: ruleset.DeleteRow, Row: 99} // is not there; from here on it is counted who refers to what
	add := ruleset.Op{Kind: ruleset.AddRow, Row: 5, Value: ruleset.Uniform(ruleset.Cell{Rule: 7})}
	rule := ruleset.Op{Kind: ruleset.AddRule, Rule: 7}
	set := ruleset.Op{Kind: ruleset.SetPair, Subject: subject, Peer: 2, Row: 5}
	unset := ruleset.Op{Kind: ruleset.DeletePair, Subject: subject, Peer: 2}
	setDefault := ruleset.Op{Kind: ruleset.SetDefault, Subject: subject, Row: 5}
	unsetDefault := ruleset.Op{Kind: ruleset.DeleteDefault, Subject: subject}
	noRow, noRule := ruleset.Op{Kind: ruleset.DeleteRow, Row: 5}, ruleset.Op{Kind: ruleset.DeleteRule, Rule: 7}
	for _, c := range []struct {
		name string
		ops  []ruleset.Op
		want string
	}{
		{"a rule of a new row", []ruleset.Op{count, rule, add, noRule}, "named by 1 rows"},
		{"a rule of a row that went", []ruleset.Op{count, rule, add, noRow, noRule}, ""},
		{"a row that a pair got", []ruleset.Op{count, rule, add, set, noRow}, "in use 1 times"},
		{"a row that a pair lost", []ruleset.Op{count, rule, add, set, unset, noRow}, ""},
		{"a row that a default got", []ruleset.Op{count, rule, add, setDefault, noRow}, "in use 1 times"},
		{"a row that a default lost", []ruleset.Op{count, rule, add, set, setDefault, unset, unsetDefault, noRow}, ""},
		{"a subject with a new pair", []ruleset.Op{count, rule, add, unset, set, unsetDefault}, "has 1 pairs"},
		{"a subject without pairs", []ruleset.Op{count, rule, add, set, set, unset, unset, unsetDefault}, ""},
	} {
		for how, err := range map[string]error{
			"at once":    ruleset.Apply(parse(t, one), ruleset.Delta{Ops: c.ops}),
			"one by one": applyEach(ruleset.NewApplier(parse(t, one)), c.ops),
		} {
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: error %v, want %q", c.name, how, err, c.want)
			}
		}
	}
}

// applyEach makes a Delta of each of ops.
func applyEach(a *ruleset.Applier, ops []ruleset.Op) error {
	for _, op := range ops {
		if err := a.Apply(ruleset.Delta{Ops: []ruleset.Op{op}}); err != nil {
			return err
		}
	}
	return nil
}

// What an Applier counted is true for all Deltas that follow.
func TestApplierGoesOn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := ruleset.New()
		a := ruleset.NewApplier(at)
		for range 4 {
			next := draw(t, "next")
			next.Generation = at.Generation + 1
			if err := a.Apply(ruleset.Diff(at, next)); err != nil {
				t.Fatalf("apply: %v", err)
			}
			if !at.Equal(next) {
				t.Fatalf("got\n%swant\n%s", at, next)
			}
		}
		for id := range at.Rows {
			used := ruleset.Delta{From: at.Generation, Ops: []ruleset.Op{{Kind: ruleset.DeleteRow, Row: id}}}
			if ruleset.Apply(at.Clone(), used) == nil {
				continue
			}
			if err := a.Apply(used); err == nil {
				t.Fatalf("row %d is in use and was deleted", id)
			}
			return
		}
	})
}

// What is set twice or deleted twice is no error, so that a delta can be repeated after a crash.
func TestApplyTwice(t *testing.T) {
	r := parse(t, one)
	d := ruleset.Diff(ruleset.New(), r)
	again := ruleset.Diff(r, ruleset.New())
	for range 2 {
		if err := ruleset.Apply(r, d); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := ruleset.Apply(r, again); err != nil {
			t.Error(err)
		}
	}
	if !r.Equal(ruleset.New()) {
		t.Errorf("left over:\n%s", r)
	}
}
