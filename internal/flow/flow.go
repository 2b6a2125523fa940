// Package flow says what a connection is and how it was judged: protocols, tuples, verdicts, and the rule
// that a verdict comes from. It knows no pods and no policies, so that every engine can speak of flows.
package flow

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Protocol is an IANA protocol number. The zero value is no protocol.
type Protocol uint8

// The protocols that policies or probes name.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	SCTP   Protocol = 132
)

// PortProtocols are the protocols that have ports which policies can name, in the order of their numbers.
var PortProtocols = [...]Protocol{TCP, UDP, SCTP}

// HasPorts reports whether policies can name ports of p.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

var protocolNames = map[Protocol]string{ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPv6: "icmpv6", SCTP: "sctp"}

// String is the protocol's name in lower case, or its number.
func (p Protocol) String() string {
	if n, ok := protocolNames[p]; ok {
		return n
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads a name in any case, or a number from 1 to 255.
func ParseProtocol(s string) (Protocol, error) {
	for p, n := range protocolNames {
		if strings.EqualFold(s, n) {
			return p, nil
		}
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n > 0 {
		return Protocol(n), nil
	}
	return 0, fmt.Errorf("unknown protocol %q: want tcp, udp, sctp, icmp or icmpv6", s)
}

// Verdict is the answer for a connection. The zero value denies.
type Verdict uint8

// The verdicts.
const (
	Deny Verdict = iota
	Allow
)

// String is "deny" or "allow".
func (v Verdict) String() string {
	if v == Allow {
		return "allow"
	}
	return "deny"
}

// Direction is seen from the pod that a policy selects. The zero value is neither.
type Direction uint8

// The directions, in the order in which a connection meets them.
const (
	Egress Direction = 1 + iota
	Ingress
)

// Directions are both, in the order in which a connection meets them.
var Directions = [...]Direction{Egress, Ingress}

// String is "egress" or "ingress".
func (d Direction) String() string {
	switch d {
	case Egress:
		return "egress"
	case Ingress:
		return "ingress"
	}
	return "neither"
}

// Outcome is how a TCP connection ended. The zero value is not known.
type Outcome uint8

// The outcomes.
const (
	Well       Outcome = 1 + iota // it was answered, and nobody broke it off
	Unanswered                    // nothing came back
	Refused                       // a reset answered its first packet: it was never established
	Reset                         // it was established, and one end broke it off with a reset
)

var outcomeNames = [...]string{"unknown", "well", "unanswered", "refused", "reset"}

// String is "well", "unanswered", "refused" or "reset"; "unknown" for what is none of these.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return outcomeNames[0]
}

// ParseOutcome reads what String writes. Another word, such as one of a later version, is not known.
func ParseOutcome(s string) Outcome {
	return Outcome(max(0, slices.Index(outcomeNames[:], s)))
}

// Failed reports whether the connection never was one, although it was let through.
func (o Outcome) Failed() bool { return o == Unanswered || o == Refused }

// Tuple is one connection as it is judged: after the translation of a Service address to a backend and before
// any translation of the source, whichever way its packets flow.
type Tuple struct {
	Source, Destination netip.Addr // client and server, of one family, never 4-in-6 mapped
	Protocol            Protocol
	Port                uint16 // the server's port; 0 for protocols without ports
	// Local: the client is the judging node itself. It is a fact of the packet (generated here), never
	// concluded from an address, which anybody could write into a packet.
	Local bool
	// Translated: the client asked for another address (a Service) than Destination.
	Translated bool
}

// String is "10.0.0.1 -> 10.0.0.2:80/tcp", with " (local)" and " (translated)" where they hold.
func (t Tuple) String() string {
	s := t.Source.String() + " -> "
	if t.Protocol.HasPorts() {
		s += netip.AddrPortFrom(t.Destination, t.Port).String() + "/" + t.Protocol.String()
	} else {
		s += t.Destination.String() + " " + t.Protocol.String()
	}
	if t.Local {
		s += " (local)"
	}
	if t.Translated {
		s += " (translated)"
	}
	return s
}

// Rule names the rule that a verdict comes from. The zero value is "no policy applies", which allows.
type Rule struct {
	Kind      string // "NetworkPolicy" or "ClusterNetworkPolicy"
	Namespace string // empty for a ClusterNetworkPolicy
	Name      string
	Direction Direction
	// Index is the rule's place in the policy's list for Direction, from 0; Isolation for a NetworkPolicy's
	// implicit "and nothing else".
	Index int
	Label string // the rule's own name, if it has one
	File  string // the manifest, "" if the policy did not come from a file
	Line  int    // from 1; 0 if unknown
}

// Isolation is the Index of a NetworkPolicy's implicit denial of what none of its rules allow.
const Isolation = -1

// IsZero reports whether r is "no policy applies".
func (r Rule) IsZero() bool { return r == Rule{} }

// Policy is "customers/ldap-clients", or the bare name of a cluster-wide policy.
func (r Rule) Policy() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// Is reports whether text names r: as String writes it, with or without the rule's own name, or by its policy alone.
func (r Rule) Is(text string) bool {
	plain := r
	plain.Label = ""
	return text == r.String() || text == plain.String() || !r.IsZero() && text == r.Policy()
}

// Place is "file:line", "file" or "".
func (r Rule) Place() string {
	if r.File == "" || r.Line == 0 {
		return r.File
	}
	return r.File + ":" + strconv.Itoa(r.Line)
}

// String is for instance `customers/ldap-clients ingress[0] "name"`, without the place; "no policy" if zero.
func (r Rule) String() string {
	if r.IsZero() {
		return "no policy"
	}
	s := r.Policy() + " " + r.Direction.String()
	if r.Index != Isolation {
		s += "[" + strconv.Itoa(r.Index) + "]"
	}
	if r.Label != "" {
		s += " " + strconv.Quote(r.Label)
	}
	return s
}

// Decision is a verdict and where it comes from.
type Decision struct {
	Verdict   Verdict
	Direction Direction // which side denied; for an allowed connection, zero
	// Rule is the one that denied; or the one that accepted at ingress, else at egress; zero if no policy said
	// anything.
	Rule Rule
}
