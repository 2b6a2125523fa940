package dataplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// ErrInjected is wrapped by the faults of a FakeKernel.
var ErrInjected = errors.New("injected fault")

// FakeKernel stands for a machine's kernel: what is in force there, and the connections that pass it. It outlives the
// dataplanes that are opened on it, as a kernel does. Its methods may be called from any goroutine.
type FakeKernel struct {
	mu       sync.Mutex
	rules    *ruleset.Ruleset // stripped
	born     map[ruleset.RowID]uint64
	edited   string // what somebody else changed, until Replace
	epoch    int
	watchers map[chan Event]int // with the number of events that each has lost
	faults   *rand.Rand
	chance   float64
}

// NewFakeKernel returns a kernel with nothing in force.
func NewFakeKernel() *FakeKernel {
	return &FakeKernel{rules: ruleset.New(), born: map[ruleset.RowID]uint64{}, watchers: map[chan Event]int{}, epoch: 1}
}

// Fail makes every operation of a dataplane fail with the given probability. Half of the faults of Apply and Replace
// come after the work is done: the caller cannot know, as when the answer of a kernel is lost.
func (k *FakeKernel) Fail(chance float64, seed uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.chance, k.faults = chance, rand.New(rand.NewPCG(seed, seed))
}

// eventBuffer is how many events wait for Watch.
const eventBuffer = 1024

// fault draws whether an operation fails, before or after its work.
func (k *FakeKernel) fault() (before, after error) {
	if k.faults == nil || k.faults.Float64() >= k.chance {
		return nil, nil
	}
	if k.faults.IntN(2) == 0 {
		return fmt.Errorf("%w: nothing was done", ErrInjected), nil
	}
	return nil, fmt.Errorf("%w: the answer was lost", ErrInjected)
}

// Open returns a dataplane on this kernel.
func (k *FakeKernel) Open() *Fake {
	f := &Fake{kernel: k, events: make(chan Event, eventBuffer)}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watchers[f.events] = 0
	return f
}

// String is the text of what is in force.
func (k *FakeKernel) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rules.String()
}

// Edit changes what is in force behind the back of the dataplane.
func (k *FakeKernel) Edit(what string, f func(*ruleset.Ruleset)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(k.rules)
	k.edited = what
	k.emit(Event{Drift: &Drift{What: what}})
}

// emit gives an event to every open dataplane; one that is not watched loses it when its buffer is full.
func (k *FakeKernel) emit(e Event) {
	for w, lost := range k.watchers {
		if lost > 0 && offer(w, Event{Lost: lost}) {
			k.watchers[w] = 0
		}
		if !offer(w, e) {
			k.watchers[w]++
		}
	}
}

func offer(to chan Event, e Event) bool {
	select {
	case to <- e:
		return true
	default:
		return false
	}
}

// install puts r in force. Rows that were there keep the generation of their birth if keep is set.
func (k *FakeKernel) install(r *ruleset.Ruleset, keep bool) {
	born := map[ruleset.RowID]uint64{}
	for id := range r.Rows {
		generation, ok := k.born[id]
		if !ok || !keep {
			generation = r.Generation
		}
		born[id] = generation
	}
	k.rules, k.born = r, born
}

// FakeConn is a connection through a FakeKernel.
type FakeConn struct {
	kernel *FakeKernel
	tuple  flow.Tuple
	epoch  int // in which it was last accepted; 0 for never
}

// Connect makes a connection, which no packet has passed yet.
func (k *FakeKernel) Connect(t flow.Tuple) *FakeConn { return &FakeConn{kernel: k, tuple: t} }

// Send sends a packet and reports whether it arrives. An accepted connection is judged again only after a change that
// may forbid something.
func (c *FakeConn) Send() bool {
	k := c.kernel
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.epoch == k.epoch {
		return true
	}
	j := k.rules.Judge(c.tuple)
	if j.Verdict != flow.Allow {
		seen := c.tuple
		seen.Local, seen.Translated = false, false
		k.emit(Event{Denial: &Denial{Time: time.Now(), Generation: k.born[j.Row], Row: j.Row, Tuple: seen}})
		return false
	}
	c.epoch = k.epoch
	return true
}

// Fake is a Dataplane on a FakeKernel. It refuses what a kernel would refuse, and changes all or nothing.
type Fake struct {
	kernel *FakeKernel
	events chan Event
	closed bool
}

var _ Dataplane = (*Fake)(nil)

// start checks what all operations have in common, and draws a fault. It leaves the kernel locked if it succeeds.
func (f *Fake) start(ctx context.Context) (after error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.kernel.mu.Lock()
	before, after := f.kernel.fault()
	if f.closed {
		before = errors.New("the dataplane is closed: open another")
	}
	if before != nil {
		f.kernel.mu.Unlock()
	}
	return after, before
}

// Apply implements Dataplane.
func (f *Fake) Apply(ctx context.Context, d ruleset.Delta) error {
	after, err := f.start(ctx)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	k := f.kernel
	defer k.mu.Unlock()
	if k.edited != "" {
		return fmt.Errorf("apply: %s: %w", k.edited, ErrDrift)
	}
	if k.rules.Generation != d.From {
		return fmt.Errorf("apply: generation %d is in force, not %d, which the delta starts from: %w", k.rules.Generation, d.From, ErrDrift)
	}
	next := k.rules.Clone()
	if err := ruleset.Apply(next, ruleset.Delta{From: d.From, To: d.To, Ops: StripOps(d.Ops)}); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	k.install(next, true)
	if d.Tightens {
		k.epoch++
	}
	return after
}

// Replace implements Dataplane.
func (f *Fake) Replace(ctx context.Context, r *ruleset.Ruleset) error {
	after, err := f.start(ctx)
	if err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	k := f.kernel
	defer k.mu.Unlock()
	if err := r.Check(); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	k.install(r.Stripped(), false)
	k.edited = ""
	k.epoch++
	return after
}

// Realized implements Dataplane.
func (f *Fake) Realized(ctx context.Context) (*ruleset.Ruleset, error) {
	after, err := f.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	defer f.kernel.mu.Unlock()
	if after != nil {
		return nil, fmt.Errorf("read back: %w", after)
	}
	if f.kernel.edited != "" {
		return nil, fmt.Errorf("read back: %s: %w", f.kernel.edited, ErrDrift)
	}
	return f.kernel.rules.Clone(), nil
}

// Watch implements Dataplane. Events that came since Open, while nobody watched, are seen too.
func (f *Fake) Watch(ctx context.Context, see func(Event)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-f.events:
			see(e)
		}
	}
}

// Close implements Dataplane.
func (f *Fake) Close() error {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	f.closed = true
	delete(f.kernel.watchers, f.events)
	return nil
}
