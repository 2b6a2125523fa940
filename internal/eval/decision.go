package eval

import (
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// Decision is the verdict on a connection with everything that led to it.
type Decision struct {
	Connection cluster.Connection
	Verdict    flow.Verdict
	// Egress and Ingress are what each end's policies say; nil for a side that is not judged, and then
	// EgressUnjudged or IngressUnjudged says why.
	Egress, Ingress                 *Side
	EgressUnjudged, IngressUnjudged string
}

// Flow is the decision without its trace, in the form that every engine gives.
func (d Decision) Flow() flow.Decision {
	for _, s := range []*Side{d.Egress, d.Ingress} {
		if s != nil && s.Verdict == flow.Deny {
			return flow.Decision{Verdict: flow.Deny, Direction: s.Direction, Rule: s.Rule}
		}
	}
	f := flow.Decision{Verdict: d.Verdict}
	for _, s := range []*Side{d.Egress, d.Ingress} {
		if s != nil && !s.Rule.IsZero() {
			f.Rule = s.Rule
		}
	}
	return f
}

// Side is one direction of a connection: the policies of one end, its subject, about the other end, its peer.
type Side struct {
	Direction flow.Direction
	Subject   *cluster.Endpoint
	Peer      cluster.Party
	Verdict   flow.Verdict
	Rule      flow.Rule // the rule that decided; zero if no policy did
	Tiers     []Tier    // all of them in order, also those that were not asked
}

// Tier is what one tier said about a side.
type Tier struct {
	Tier     policy.Tier
	Outcome  Outcome
	Rule     flow.Rule // the rule behind the outcome; zero for NotAsked and NoEffect
	Policies []Policy  // those looked at, in order; the walk ends where the tier is decided
}

// Outcome is what a tier did with a side.
type Outcome uint8

// The outcomes.
const (
	NotAsked Outcome = iota // an earlier tier decided
	NoEffect                // nothing in it applied: the next tier is asked
	Passed                  // a rule says Pass: the next tier is asked
	Accepted                // allowed for good
	Stands                  // an Accept for an unknown pod that an earlier Pass may have matched: later tiers may deny
	Denied                  // denied for good
)

// String is a word or two.
func (o Outcome) String() string {
	return [...]string{"not asked", "no effect", "passed", "accepted", "accepted unless a later tier denies", "denied"}[o]
}

// Policy is what was seen of one policy.
type Policy struct {
	Policy *policy.Policy
	// Applies: it selects the subject and says something about the direction. Reason says why, or why not.
	Applies bool
	Reason  string
	Rules   []Rule // those looked at; the walk ends where the tier is decided
}

// Rule is what was seen of one rule.
type Rule struct {
	Rule   flow.Rule
	Action policy.Action
	Match  Match // the lesser of the best of Peers and the best of Ports
	Peers  []Peer
	Ports  []Port // none if the rule names no ports: every protocol and port matches
}

// Peer is one peer of a rule, compared with the connection's other end.
type Peer struct {
	Peer   policy.Peer
	Match  Match
	Reason string
}

// Port is one port of a rule, compared with the connection's.
type Port struct {
	Port   policy.Port
	Match  Match
	Reason string
}

// Match is a three-valued answer. The zero value is none of them: nobody asked.
type Match uint8

// The answers, the lesser first. Only what concerns unknown pods is ever Maybe.
const (
	No Match = 1 + iota
	Maybe
	Yes
)

// String is "no", "maybe" or "yes".
func (m Match) String() string { return [...]string{"not asked", "no", "maybe", "yes"}[m] }
