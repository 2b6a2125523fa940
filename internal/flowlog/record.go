// Package flowlog keeps what was seen of connections: who talked to whom, and what policy said to it. A Log is
// bounded in number and bytes however much is seen; what it forgets it has counted.
//
// It is a value that is told things: the goroutines that hear the kernel are in flowlog/watch, those that answer
// on a socket in flowlog/socket.
package flowlog

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// End is one end of a flow, named as it was when the flow was seen: names stay when the pod is gone.
type End struct {
	Address   netip.Addr
	Namespace string // empty for what is no pod
	Pod       string
	Kind      string // of the pod's workload; empty for a bare pod
	Workload  string // the pod's own name for a bare pod
	Labels    label.Set
	Node      string // the node's name, if this end is a node
	Host      string // the node that the pod runs on; empty where all is one node
	Unknown   bool   // an address that only a pod can have, but nobody knew whose
}

// NewEnd names a party, but for its Host.
func NewEnd(p cluster.Party) End {
	e := End{Address: p.Addr, Unknown: p.Unknown}
	if p.Node != nil {
		e.Node = p.Node.Name
		e.Labels = p.Node.Labels
	}
	if pod := p.Endpoint; pod != nil {
		e.Namespace, e.Pod, e.Labels = pod.Namespace, pod.Name, pod.Labels
		e.Kind, e.Workload = pod.Owner.Kind, pod.Owner.Name
		if e.Workload == "" {
			e.Workload = pod.Name
		}
	}
	return e
}

// at is the node that this end is on, or is; empty if that is not known.
func (e *End) at() string { return cmp.Or(e.Host, e.Node) }

// IsPod reports whether this end is a pod, known or not.
func (e *End) IsPod() bool { return e.Pod != "" || e.Unknown }

// String is "namespace/pod", "node/name", "unknown pod 10.0.0.1" or the address.
func (e *End) String() string {
	switch {
	case e.Pod != "":
		return e.Namespace + "/" + e.Pod
	case e.Node != "":
		return "node/" + e.Node
	case e.Unknown:
		return "unknown pod " + e.Address.String()
	}
	return e.Address.String()
}

// Group is what flows are summed up by: "namespace/workload", "node/name", "unknown pods", or the address.
func (e *End) Group() string {
	switch {
	case e.Pod != "":
		return e.Namespace + "/" + e.Workload
	case e.Unknown:
		return "unknown pods"
	}
	return e.String()
}

// Asked is the address that a client asked for where it was translated to another one.
type Asked struct {
	Address netip.Addr
	Port    uint16
	Service string // "namespace/name", if it is a Service's that is known
}

// Ending is what is known of a connection when it is over.
type Ending struct {
	Time time.Time
	// Duration is from the first packet until both ends were done, or, for what has no goodbye (UDP), until the
	// kernel forgot it.
	Duration                     time.Duration
	BytesSent, BytesReceived     uint64 // by the client; with headers
	PacketsSent, PacketsReceived uint64
	Outcome                      flow.Outcome // of a TCP connection; zero if Unseen
	Unseen                       bool         // the end itself was missed: only the time when that was noticed is known
}

// Record is a connection that was let through, or a denial. It is not changed once it is in a Log: what becomes
// known later makes a new one with the same ID.
type Record struct {
	ID                  uint64 // grows; 0 is none
	Node                string // whose log it is of; empty where all is one node. IDs of two nodes are not comparable
	Time                time.Time
	Source, Destination End
	Protocol            flow.Protocol
	Port                uint16
	Asked               *Asked // nil if the client asked for Destination itself
	Verdict             flow.Verdict
	Direction           flow.Direction // the side that denied
	// Rule is the rule that decided; if RuleKnown, the zero Rule means that no policy applies.
	Rule      flow.Rule
	RuleKnown bool
	// Beside is what a rollout says otherwise of the flow; nil if none does.
	Beside *Beside
	// Title begins a denial's message; "" is a general one.
	Title string
	// Reason is why a denied connection met no rule that allows it, as far as somebody could say.
	Reason string
	// Earlier: the connection is older than the log, and its names are those of when the log began.
	Earlier  bool
	Answered bool    // the server answered
	End      *Ending // nil for a denial, and while the connection is open
	// Packets are the denied packets of the same kind that this record stands for, as far as the kernel logged them;
	// Last is the newest one's time.
	Packets int
	Last    time.Time
}

// Beside is the other side of a rollout that is under way, of a flow that fares otherwise there.
type Beside struct {
	Rollout string
	// Candidate: it is what the rollout's candidate says, which is not in force for these pods. Else the candidate is, and
	// it is what the policies before say.
	Candidate bool
	Verdict   flow.Verdict
	Rule      flow.Rule // the zero Rule means that no policy applies
}

// String is "rollout lockdown would deny it by ..." or "before rollout lockdown it was allowed by ...", with the rule's
// place.
func (b *Beside) String() string {
	by := b.Rule.String()
	if place := b.Rule.Place(); place != "" {
		by += " (" + place + ")"
	}
	switch {
	case b.Candidate:
		return "rollout " + b.Rollout + " would " + b.Verdict.String() + " it by " + by
	case b.Verdict == flow.Allow:
		return "before rollout " + b.Rollout + " it was allowed by " + by
	}
	return "before rollout " + b.Rollout + " it was denied by " + by
}

// WouldDeny reports whether a rollout's candidate denies r, which the policies before allow: it did, or would.
func (r *Record) WouldDeny() bool {
	return r.Beside != nil && (r.Beside.Candidate == (r.Beside.Verdict == flow.Deny))
}

// WouldAllow reports the opposite of WouldDeny for a record on which a rollout's two sides differ.
func (r *Record) WouldAllow() bool { return r.Beside != nil && !r.WouldDeny() }

// Denied reports whether r is a denial.
func (r *Record) Denied() bool { return r.Verdict != flow.Allow }

// Onward reports whether r is a connection that this node let through to another one, whose log tells it as well, or tells
// that it was denied there.
func (r *Record) Onward() bool {
	to := r.Destination.at()
	return r.Node != "" && !r.Denied() && to != "" && to != r.Node
}

// By is the rule as text: "no policy" if none applies, "unknown rule" if nobody could tell.
func (r *Record) By() string {
	if !r.RuleKnown {
		return unknownRule
	}
	return r.Rule.String()
}

// size is about what a record costs, in bytes.
func (r *Record) size() int {
	size := 512 + len(r.Reason) + len(r.Title)
	for _, e := range [...]*End{&r.Source, &r.Destination} {
		size += len(e.Namespace) + len(e.Pod) + len(e.Workload) + len(e.Labels.String()) + len(e.Node) + len(e.Host)
	}
	if r.Asked != nil {
		size += 64 + len(r.Asked.Service)
	}
	if r.End != nil {
		size += 96
	}
	if r.Beside != nil {
		size += 256
	}
	return size
}

// Pair is what flows are summed up by.
type Pair struct {
	Source, Destination string // as End.Group gives them
	Protocol            flow.Protocol
	Port                uint16
	Verdict             flow.Verdict
	Rule                flow.Rule
	RuleKnown           bool // if not, Rule is zero
	Onward              bool // to another node, whose sums have it as well; see Record.Onward
}

// By is the rule as text: "no policy" if none applies, "unknown rule" if nobody could tell.
func (p *Pair) By() string {
	if !p.RuleKnown {
		return unknownRule
	}
	return p.Rule.String()
}

// Pair is the pair that r counts for.
func (r *Record) Pair() Pair {
	return Pair{Source: r.Source.Group(), Destination: r.Destination.Group(), Protocol: r.Protocol, Port: r.Port,
		Verdict: r.Verdict, Rule: r.Rule, RuleKnown: r.RuleKnown, Onward: r.Onward()}
}
