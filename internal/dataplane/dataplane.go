// Package dataplane is what stands between a compiled ruleset and packets: the interface that the engine drives, a
// faithful fake of it, and the conformance suite that every implementation has to pass.
package dataplane

import (
	"context"
	"errors"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// ErrNotSupported is wrapped by errors that say what the machine lacks. Tests skip on it, and on nothing else.
var ErrNotSupported = errors.New("not supported")

// ErrDrift is wrapped by errors of Realized when what is in force is not of the dataplane's own making: somebody
// edited or removed it. Replace repairs it.
var ErrDrift = errors.New("changed by somebody else")

// Dataplane enforces rulesets. One caller at a time may use Apply, Replace and Realized; Watch runs beside them.
type Dataplane interface {
	// Apply puts the difference in force, whole or not at all. It fails with ErrDrift, and changes nothing, if what
	// is in force is known not to be generation d.From. Where d.Tightens, every established connection is judged
	// again by its next packet.
	Apply(ctx context.Context, d ruleset.Delta) error
	// Replace puts r in force, whatever was before, in one step: there is no moment in which less than the old or
	// the new ruleset is enforced. It is for start, restart and repair. Established connections are judged again.
	Replace(ctx context.Context, r *ruleset.Ruleset) error
	// Realized reads back what is in force. Rules and their attribution are not part of it, as no packet depends on
	// them: Ruleset.Rules is empty, and Cells have no Rule. An empty dataplane gives an empty ruleset.
	Realized(ctx context.Context) (*ruleset.Ruleset, error)
	// Watch calls f for every event, from one goroutine, until ctx ends, which is no error, or until it fails. f must be
	// quick. Denials from between opening and Watch are among the events, so that none is missed at the start.
	Watch(ctx context.Context, f func(Event)) error
	// Close frees what the process holds. What is in force stays in force.
	Close() error
}

// Event is something that the dataplane saw: exactly one of the fields is set.
type Event struct {
	Denial *Denial
	Drift  *Drift
	Lost   int // events that were lost because they came too fast; counters still count them
}

// Denial is one packet that was dropped. The dataplane limits their rate per row, so a flood shows a sample.
type Denial struct {
	Time       time.Time
	Generation uint64        // the one that the row first belonged to
	Row        ruleset.RowID // 0: one end is a pod that the dataplane does not know yet
	Tuple      flow.Tuple    // Local and Translated are not known here and false
}

// Drift is a change to our own tables by somebody else.
type Drift struct{ What string }
