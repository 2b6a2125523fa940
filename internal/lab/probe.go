package lab

import (
	"net/netip"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// Outcome is what became of a probe. The zero value is a failure, never a denial.
type Outcome uint8

// The outcomes.
const (
	Lost     Outcome = iota // neither an answer nor a denial was seen in time
	Answered                // the other end got it, and its answer came back
	Denied                  // the dataplane said that it dropped it
	Refused                 // the packet arrived, but nobody listened
	Failed                  // the probe could not be sent
)

// String is the outcome in a word.
func (o Outcome) String() string {
	switch o {
	case Answered:
		return "answered"
	case Denied:
		return "denied"
	case Refused:
		return "refused"
	case Failed:
		return "failed"
	}
	return "lost"
}

// Point is one end of a probe.
type Point struct {
	Name  string     // "namespace/pod", "node/name", or an address outside
	Group string     // the pod's workload, "outside" or the name
	Addr  netip.Addr // the address in use
}

// Result is a probe and what became of it.
type Result struct {
	From, To Point
	Tuple    flow.Tuple
	Outcome  Outcome
	Rule     flow.Rule     // that the dataplane's denial fell to
	Want     flow.Decision // of the reference
	Took     time.Duration
	Error    string // of Failed, or what is known of Lost
	Mismatch string // why this result is not what the reference says; "" if it is
}
