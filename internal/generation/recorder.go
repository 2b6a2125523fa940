package generation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/policy"
)

// GoodAfter is how long a generation has to be in force, while somebody looks, to be marked Good.
const GoodAfter = 10 * time.Minute

// returnPin keeps what was returned to, however old it gets.
const returnPin = "returned to"

// Arrival is what is in force for everyone.
type Arrival struct {
	Policies []*policy.Policy
	Rollouts []string // that are complete and in it; see Entry
	Returned *Return  // what a person returned to; nil if nobody did
	Changes  string   // what changed, in the words of whoever knows; may be ""
}

// Recorder tells a Store what comes in force, and marks it: Good where a rollout led to it through all its steps, or once it
// was in force for GoodAfter; Bad where somebody returned from it. Its methods may be called from any goroutine.
type Recorder struct {
	store     *Store
	otherwise string // why something came in force, where nobody knows

	mu    sync.Mutex
	last  Arrival // that was noted
	entry Entry   // zero before the first
	since time.Time
}

// NewRecorder returns a recorder of a store. otherwise is why something came in force where nobody says why.
func NewRecorder(s *Store, otherwise string) *Recorder {
	return &Recorder{store: s, otherwise: otherwise}
}

// Note says what is in force now. It goes on from what is stored, so that it makes no difference who noted what was before.
// What was noted already costs nothing. The entry says so where it is not kept.
func (r *Recorder) Note(ctx context.Context, a Arrival, now time.Time) (Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entry.Number > 0 && slices.Equal(a.Policies, r.last.Policies) && slices.Equal(a.Rollouts, r.last.Rollouts) && number(a.Returned) == number(r.last.Returned) {
		return r.entry, nil
	}
	if a.Returned != nil {
		if err := r.store.returned(ctx, *a.Returned, now); err != nil {
			return Entry{}, err
		}
	}
	entry, err := r.store.arrive(ctx, a.Policies, now, func(last Entry, next *Entry) {
		completed := missing(a.Rollouts, last.Rollouts)
		if next.Number != last.Number {
			next.Why = r.why(last, a)
		}
		if len(completed) > 0 && a.Returned == nil && last.ReturnedTo == 0 { // else they are only back
			next.mark(Good, now, "rollout "+names(completed)+" went through its steps")
		}
		next.Rollouts, next.ReturnedTo = nil, number(a.Returned)
		if len(a.Rollouts) > 0 {
			next.Rollouts = slices.Clone(a.Rollouts)
		}
	})
	if err == nil && a.Returned == nil {
		err = r.store.Unpin(ctx, returnPin)
	}
	if err != nil {
		return Entry{}, err
	}
	if entry.Number != r.entry.Number {
		r.since = now
	}
	r.last, r.entry = a, entry
	return entry, nil
}

func number(r *Return) uint64 {
	if r == nil {
		return 0
	}
	return r.Number
}

// why says what made a come in force.
func (r *Recorder) why(last Entry, a Arrival) string {
	var parts []string
	switch to := number(a.Returned); {
	case to != 0 && to != last.ReturnedTo:
		parts = append(parts, "returned to "+a.Returned.String())
	case to == 0 && last.ReturnedTo != 0:
		parts = append(parts, "resumed")
	case to == 0 && last.Number > 0:
		for _, name := range missing(a.Rollouts, last.Rollouts) {
			parts = append(parts, "rollout "+names([]string{name})+" complete")
		}
		for _, name := range missing(last.Rollouts, a.Rollouts) {
			parts = append(parts, "rollout "+names([]string{name})+" no more in force")
		}
	}
	if a.Changes != "" {
		parts = append(parts, a.Changes)
	}
	if len(parts) == 0 {
		return r.otherwise
	}
	return strings.Join(parts, "; ")
}

// missing are those of list that others does not have.
func missing(list, others []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(others, s) })
}

// names leaves out the revisions of rollouts.
func names(rollouts []string) string {
	var all []string
	for _, r := range rollouts {
		name, _, _ := strings.Cut(r, "@")
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

// Prove marks what was noted last Good once it was in force for long enough.
func (r *Recorder) Prove(ctx context.Context, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entry.Number == 0 || r.entry.Mark != Unproven || now.Sub(r.since) < GoodAfter {
		return nil
	}
	if r.entry.NotKept == "" { // what is good has to be there
		if err := r.store.keepUnlessKept(ctx, r.entry.ID, r.last.Policies, r.entry.Time, r.entry.Why); err != nil {
			return err
		}
	}
	err := r.store.SetMark(ctx, r.entry.Number, Good, now, fmt.Sprintf("in force for %s", GoodAfter))
	if err == nil || errors.Is(err, ErrUnknown) {
		r.entry.Mark = Good
	}
	return err
}

// Return keeps what a person returns to, however old it gets, and marks what it is returned from. The error wraps ErrUnknown
// if it is not kept.
func (s *Store) Return(ctx context.Context, to Return, now time.Time) error {
	if err := s.check(ctx, to.ID); err != nil {
		return err
	}
	return s.returned(ctx, to, now)
}

// returned is Return, also where what was returned to is not kept any more. What came in force since the return is not what
// was returned from.
func (s *Store) returned(ctx context.Context, to Return, now time.Time) error {
	return s.update(ctx, func(l *ledger) error {
		l.Pins[returnPin] = to.ID
		current, there := l.Entries.Current()
		if there && current.ID != to.ID && current.ReturnedTo != to.Number {
			l.Entries[len(l.Entries)-1].mark(Bad, now, "returned from, to "+to.String())
		}
		return nil
	})
}
