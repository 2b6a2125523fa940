package ruleset

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Judgement is what a ruleset says of one connection. The zero value denies.
type Judgement struct {
	Verdict   flow.Verdict
	Direction flow.Direction // which side denied; for an allowed connection, zero
	// Row and Rule are those of the side that denied; for an allowed connection, those of the last side at which a
	// rule accepted. 0 if no policy speaks.
	Row  RowID
	Rule RuleID
}

// Judge gives the verdict for a connection, as a dataplane that has r in force gives it to the packets. It does
// not allocate.
func (r *Ruleset) Judge(t flow.Tuple) Judgement {
	allowed := Judgement{Verdict: flow.Allow}
	if t.Source == t.Destination && !t.Translated {
		return allowed // a pod may always reach itself
	}
	if _, ours := r.Locals[t.Source]; ours {
		j := r.judgeSide(flow.Egress, t.Source, t.Destination, t)
		if j.Verdict != flow.Allow {
			return j
		}
		allowed = j
	}
	// The node that a pod runs on always reaches it: otherwise no health check of a denied pod would pass.
	if _, ours := r.Locals[t.Destination]; ours && !t.Local {
		if j := r.judgeSide(flow.Ingress, t.Destination, t.Source, t); j.Verdict != flow.Allow || j.Rule != 0 {
			return j
		}
	}
	return allowed
}

func (r *Ruleset) judgeSide(d flow.Direction, subject, peer netip.Addr, t flow.Tuple) Judgement {
	id := r.RowOf(Subject{d, r.IdentityOf(subject)}, r.IdentityOf(peer))
	if id == 0 {
		return Judgement{Verdict: flow.Allow}
	}
	row := r.Rows[id] // a row that is missing is the zero Row, which denies
	cell := row.Lookup(t.Protocol, t.Port)
	j := Judgement{Verdict: cell.Verdict, Row: id, Rule: cell.Rule}
	if cell.Verdict != flow.Allow {
		j.Direction = d
	}
	return j
}

// Decide is Judge with the rule itself in place of its number.
func (r *Ruleset) Decide(t flow.Tuple) flow.Decision {
	j := r.Judge(t)
	return flow.Decision{Verdict: j.Verdict, Direction: j.Direction, Rule: r.Rules[j.Rule]}
}

// RowOf returns the row of a subject and a peer; 0 if the subject is allowed everything.
func (r *Ruleset) RowOf(s Subject, peer Identity) RowID {
	if id, ok := r.Pairs[Pair{s, peer}]; ok {
		return id
	}
	return r.Defaults[s]
}

// IdentityOf returns the identity of an address by longest match; 0 if no prefix contains it.
func (r *Ruleset) IdentityOf(a netip.Addr) Identity {
	for bits := a.BitLen(); bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			return 0
		}
		if id, ok := r.Addresses[p]; ok {
			return id
		}
	}
	return 0
}
