package dataplanetest

import (
	"context"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// The identities of the hosts that have one, and a few rows.
const (
	idA ruleset.Identity = 11 + iota
	idB
	idC
	idBlock
	idInnerBlock
	idNode

	denyAll ruleset.RowID = 1 + iota
	allowAll
	allowTCP80
	allowUDP81
	allowPing
	denyTCP80
)

var allow = ruleset.Cell{Verdict: flow.Allow}

func rows() map[ruleset.RowID]ruleset.Row {
	none := ruleset.Uniform(ruleset.Cell{})
	return map[ruleset.RowID]ruleset.Row{
		denyAll:    none,
		allowAll:   ruleset.Uniform(allow),
		allowTCP80: none.With(flow.TCP, 80, 80, allow),
		allowUDP81: none.With(flow.UDP, 81, 65535, allow).With(flow.SCTP, 0, 7, allow),
		allowPing:  none.With(flow.ICMP, 0, 0, allow),
		denyTCP80:  ruleset.Uniform(allow).With(flow.TCP, 80, 80, ruleset.Cell{}),
	}
}

// pods makes A, B and C pods of the node, with identities and all rows, but no policy.
func (s *suite) pods(r *ruleset.Ruleset) {
	for h, id := range map[Host]ruleset.Identity{A: idA, B: idB, C: idC} {
		for _, a := range h {
			r.Addresses[host(a)] = id
			r.Locals[a] = s.harness.Attachment(a)
		}
	}
	for _, a := range Node {
		r.Addresses[host(a)] = idNode
	}
	r.Rows = rows()
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func to(id ruleset.Identity) ruleset.Subject {
	return ruleset.Subject{Direction: flow.Ingress, Identity: id}
}
func from(id ruleset.Identity) ruleset.Subject {
	return ruleset.Subject{Direction: flow.Egress, Identity: id}
}

func pair(s ruleset.Subject, peer ruleset.Identity) ruleset.Pair {
	return ruleset.Pair{Subject: s, Peer: peer}
}

func testEmpty(s *suite) {
	s.realized()
	s.allow(tcp(A, B, 80)...)
	s.apply(s.pods) // a delta on nothing makes everything that it needs
	s.realized()
	s.allow(tcp(A, B, 80)...)
	s.allow(udp(A, B, 80)...)
	s.allow(echo(A, B)...)
	s.allow(tcp(Outside, A, 80)...)
	s.allow(tcp(A, Outside, 80)...)
}

func testRows(s *suite) {
	s.replace(func(r *ruleset.Ruleset) {
		s.pods(r)
		r.Defaults[to(idB)] = denyAll
		r.Pairs[pair(to(idB), idA)] = allowTCP80
	})
	s.realized()
	s.allow(tcp(A, B, 80)...)
	s.deny(tcp(A, B, 81)...)
	s.deny(udp(A, B, 80)...)
	s.deny(echo(A, B)...)
	s.deny(tcp(C, B, 80)...)
	s.deny(tcp(Outside, B, 80)...)
	s.allow(tcp(B, C, 81)...) // nobody speaks of B's egress or of C

	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = allowUDP81 })
	s.deny(udp(A, B, 80)...)
	s.allow(udp(A, B, 81)...)
	s.deny(tcp(A, B, 81)...)
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = allowPing })
	s.allow(echo(A, B)...)
	s.deny(tcp(A, B, 80)...)
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = denyTCP80 })
	s.deny(tcp(A, B, 80)...)
	s.allow(tcp(A, B, 81)...)
	s.allow(udp(A, B, 80)...)
	s.allow(echo(A, B)...)
	s.realized()
}

func testDirections(s *suite) {
	s.replace(func(r *ruleset.Ruleset) {
		s.pods(r)
		r.Defaults[from(idA)] = denyAll
		r.Pairs[pair(from(idA), idB)] = allowAll
		r.Defaults[to(idB)] = allowTCP80
		r.Defaults[to(idC)] = denyAll
	})
	s.allow(tcp(A, B, 80)...)
	s.deny(tcp(A, B, 81)...) // B does not agree
	s.deny(tcp(A, Outside, 80)...)
	s.allow(tcp(B, Outside, 80)...)
	s.allow(tcp(Outside, A, 80)...) // nobody speaks of what comes to A, and A's answers belong to it
	s.allow(tcp(Node, C, 80)...)    // the node reaches its pods
	s.allow(tcp(Node, A, 80)...)    // and gets their answers
	s.allow(udp(Node, C, 80)...)
	s.allow(echo(Node, C)...)
	s.deny(tcp(A, Node, 80)...) // but pods reach the node as their egress says
	s.deny(udp(A, Node, 80)...)
	s.allow(tcp(B, Node, 80)...)
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(from(idA), idNode)] = allowTCP80 })
	s.allow(tcp(A, Node, 80)...)
	s.deny(echo(A, Node)...)
}

func testIdentities(s *suite) {
	prefix := func(v int, bits int) netip.Prefix {
		p, err := Outside[v].Prefix(bits)
		if err != nil {
			s.Fatal(err)
		}
		return p
	}
	s.replace(func(r *ruleset.Ruleset) {
		s.pods(r)
		r.Defaults[to(idB)] = denyAll
		r.Pairs[pair(to(idB), 0)] = allowAll
		r.Pairs[pair(to(idB), idBlock)] = allowTCP80
		r.Pairs[pair(to(idB), idInnerBlock)] = allowUDP81
		for v := range 2 { // own addresses, and identity 0 among them, beat blocks
			r.Addresses[netip.PrefixFrom(A[v], 8).Masked()] = idBlock
			r.Addresses[host(A[v])] = 0
		}
	})
	s.deny(tcp(C, B, 80)...)
	s.allow(tcp(A, B, 81)...)
	s.allow(tcp(Outside, B, 81)...) // matched by nothing: identity 0
	steps := []struct {
		bits [2]int
		id   ruleset.Identity
	}{{[2]int{16, 24}, idBlock}, {[2]int{24, 64}, idInnerBlock}, {[2]int{32, 128}, 0}}
	for _, step := range steps {
		s.apply(func(r *ruleset.Ruleset) {
			for v := range 2 {
				r.Addresses[prefix(v, step.bits[v])] = step.id
			}
		})
		s.realized()
		s.outsideIs(step.id)
	}
	for i := len(steps) - 1; i > 0; i-- {
		s.apply(func(r *ruleset.Ruleset) {
			for v := range 2 {
				delete(r.Addresses, prefix(v, steps[i].bits[v]))
			}
		})
		s.realized()
		s.outsideIs(steps[i-1].id)
	}
}

func (s *suite) outsideIs(id ruleset.Identity) {
	s.Helper()
	switch id {
	case 0:
		s.allow(tcp(Outside, B, 81)...)
	case idBlock:
		s.allow(tcp(Outside, B, 80)...)
		s.deny(udp(Outside, B, 81)...)
	case idInnerBlock:
		s.deny(tcp(Outside, B, 80)...)
		s.allow(udp(Outside, B, 81)...)
	}
}

// established opens connections between two hosts.
func (s *suite) established(tuples []flow.Tuple) []*connection {
	s.Helper()
	var open []*connection
	for _, t := range tuples {
		c := s.connect(t)
		c.passes()
		open = append(open, c)
	}
	return open
}

func pass(conns []*connection) {
	for _, c := range conns {
		c.Helper()
		c.passes()
	}
}

func block(conns []*connection) {
	for _, c := range conns {
		c.Helper()
		c.blocked()
	}
}

func testTighten(s *suite) {
	s.replace(func(r *ruleset.Ruleset) { s.pods(r); r.Defaults[to(idB)] = allowAll })
	fromA := append(s.established(tcp(A, B, 80)), s.established(udp(A, B, 80))...)
	fromC := s.established(tcp(C, B, 80))
	fromNode := s.established(tcp(Node, B, 80))
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = denyAll })
	block(fromA)
	pass(fromC)
	pass(fromNode)
	s.apply(func(r *ruleset.Ruleset) { delete(r.Pairs, pair(to(idB), idA)) })
	pass(fromA) // what was lost is sent again
	// An address that gets another identity loses what the old one was allowed.
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idC)] = denyAll })
	block(fromC)
	s.apply(func(r *ruleset.Ruleset) {
		for _, a := range A {
			r.Addresses[host(a)] = idC
		}
	})
	block(fromA)
}

func testEpochs(s *suite) {
	const others = 20
	s.replace(func(r *ruleset.Ruleset) {
		s.pods(r)
		r.Defaults[to(idB)] = allowAll
		for i := range others {
			r.Addresses[host(netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}))] = ruleset.Identity(100 + i)
		}
	})
	busy, idle := s.established(tcp(A, B, 80)), s.established(tcp(C, B, 80))
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idC)] = denyAll })
	// As many tightenings as there are epochs, and a few more: idle's label comes into use again, and must not count.
	for i := range ruleset.Identity(others) {
		s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), 100+i)] = denyAll })
		pass(busy)
	}
	block(idle)
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = denyAll })
	block(busy)
	s.realized()
}

func testReplace(s *suite) {
	s.replace(func(r *ruleset.Ruleset) { s.pods(r); r.Defaults[to(idB)] = allowAll })
	fromA, fromC := s.established(tcp(A, B, 80)), s.established(tcp(C, B, 80))
	s.replace(func(r *ruleset.Ruleset) {
		r.Defaults[to(idB)] = denyAll
		r.Pairs[pair(to(idB), idA)] = allowTCP80
	})
	s.realized()
	pass(fromA)
	block(fromC)
	s.replace(func(r *ruleset.Ruleset) { *r = *ruleset.New(); r.Generation = s.rules.Generation + 1 })
	s.realized()
	pass(fromC)
}

func testRestart(s *suite) {
	s.replace(func(r *ruleset.Ruleset) { s.pods(r); r.Defaults[to(idB)] = allowTCP80 })
	conns := s.established(tcp(A, B, 80))
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idC)] = denyAll })
	s.close()
	pass(conns) // nothing depends on the process
	s.open()
	s.realized()
	s.deny(tcp(C, B, 80)...)
	s.apply(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = denyAll })
	s.realized()
	block(conns)
}

func testDrift(s *suite) {
	s.replace(func(r *ruleset.Ruleset) { s.pods(r); r.Defaults[to(idB)] = allowTCP80 })
	s.seesEdit()
	next := s.next(func(r *ruleset.Ruleset) { r.Pairs[pair(to(idB), idA)] = allowAll })
	s.drifts(s.dp.Apply(s.Context(), ruleset.Diff(s.rules, next)), "apply after an edit")
	_, err := s.dp.Realized(s.Context())
	s.drifts(err, "read back after an edit")
	s.replace(func(*ruleset.Ruleset) {})
	s.realized()
	s.allow(tcp(A, B, 80)...)
	s.deny(tcp(A, B, 81)...)
}

// seesEdit edits what is in force until that is seen: edits from before Watch began do not count.
func (s *suite) seesEdit() {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	for from := s.eventsSoFar(); ctx.Err() == nil; {
		if err := s.harness.Edit(); err != nil {
			s.Fatal(err)
		}
		short, stop := context.WithTimeout(ctx, patience/100)
		_, err := s.await(short, from, func(e dataplane.Event) bool { return e.Drift != nil })
		stop()
		if err == nil {
			return
		}
	}
	s.Error("no event for edits")
}

func testAtomic(s *suite) {
	s.replace(func(r *ruleset.Ruleset) {
		s.pods(r)
		r.Defaults[to(idB)] = denyAll
		r.Pairs[pair(to(idB), idA)] = allowTCP80
	})
	good := s.next(func(r *ruleset.Ruleset) {
		r.Pairs[pair(to(idB), idC)] = allowTCP80
		delete(r.Pairs, pair(to(idB), idA))
		delete(r.Addresses, host(B[0]))
	})
	delta := ruleset.Diff(s.rules, good)
	for _, bad := range []ruleset.Op{
		{},
		{Kind: ruleset.DeleteRow, Row: denyAll},
		{Kind: ruleset.AddRow, Row: denyAll, Value: ruleset.Uniform(allow)},
		{Kind: ruleset.SetDefault, Subject: to(idC), Row: 999},
		{Kind: ruleset.SetPair, Subject: to(idC), Peer: idA, Row: denyAll},
		{Kind: ruleset.DeleteDefault, Subject: to(idB)},
	} {
		spoiled := delta
		spoiled.Ops = append(append([]ruleset.Op(nil), delta.Ops...), bad)
		if err := s.dp.Apply(s.Context(), spoiled); err == nil {
			s.Fatalf("a delta that ends with %s was applied", bad)
		}
		s.realized()
		s.allow(tcp(A, B, 80)...)
	}
	wrong := delta
	wrong.From += 7
	s.drifts(s.dp.Apply(s.Context(), wrong), "apply from another generation")
	s.apply(func(r *ruleset.Ruleset) { *r = *good })
	s.realized()
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	if err := s.dp.Replace(ended, ruleset.New()); err == nil {
		s.Error("replace went on after its context had ended")
	}
	s.realized()
}

func testDenials(s *suite) {
	s.replace(func(r *ruleset.Ruleset) { s.pods(r); r.Defaults[to(idB)] = denyAll })
	first := s.rules.Generation
	check := func(t flow.Tuple, row ruleset.RowID, generation uint64) {
		s.Helper()
		d := s.connect(t).blocked()
		if d.Row != row || d.Generation != generation || d.Time.IsZero() {
			s.Errorf("%s was dropped by row %d of generation %d at %s, want row %d of generation %d", t, d.Row, d.Generation, d.Time, row, generation)
		}
	}
	for _, list := range [][]flow.Tuple{tcp(A, B, 80), udp(A, B, 80), echo(A, B)} {
		for _, t := range list {
			check(t, denyAll, first)
		}
	}
	const late = 77
	s.apply(func(r *ruleset.Ruleset) {
		r.Rows[late] = ruleset.Uniform(ruleset.Cell{}).With(flow.TCP, 81, 81, allow)
		r.Defaults[from(idC)] = late
	})
	for _, t := range tcp(C, B, 80) {
		check(t, late, first+1)
	}
	for _, t := range tcp(A, B, 80) {
		check(t, denyAll, first)
	}
}

func testPods(s *suite) {
	s.replace(func(r *ruleset.Ruleset) {
		r.Rows = rows()
		r.Defaults[to(idB)] = denyAll
		r.Defaults[from(idB)] = allowTCP80
	})
	s.allow(tcp(A, B, 80)...)
	be := func(id ruleset.Identity) func(r *ruleset.Ruleset) {
		return func(r *ruleset.Ruleset) {
			for _, a := range B {
				r.Locals[a] = s.harness.Attachment(a)
				r.Addresses[host(a)] = id
			}
		}
	}
	s.apply(be(idB))
	s.realized()
	s.deny(tcp(A, B, 80)...)
	s.deny(tcp(B, A, 81)...)
	s.apply(be(idC))
	s.allow(tcp(A, B, 80)...)
	// A pod without an identity of its own has the one of the block that it is in.
	s.apply(func(r *ruleset.Ruleset) {
		for _, a := range B {
			delete(r.Addresses, host(a))
			r.Addresses[netip.PrefixFrom(a, 16).Masked()] = idB
		}
	})
	s.realized()
	s.deny(tcp(A, B, 80)...)
	s.apply(func(r *ruleset.Ruleset) {
		for _, a := range B {
			delete(r.Locals, a)
		}
	})
	s.realized()
	s.allow(tcp(A, B, 80)...)
}
