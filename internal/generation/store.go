package generation

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/policy"
)

// Limits bound what a Store keeps. A zero field is its default. What is in force, the last good generation and pinned
// ones are kept whatever the limits say.
type Limits struct {
	Entries     int   // of the history; default 1,000
	Generations int   // default 200
	Bytes       int64 // of all generations together, as they are kept; default 256 MiB
}

func (l Limits) filled() Limits {
	return Limits{cmp.Or(l.Entries, 1000), cmp.Or(l.Generations, 200), cmp.Or(l.Bytes, 256<<20)}
}

// Store keeps generations, and the history of when which was in force, in a Place. Any number may read one place; of those
// that write, each writes over what it has read, or not at all. Its methods may be called from any goroutine.
type Store struct {
	place  Place
	limits Limits
	mu     sync.Mutex // held by whoever writes
}

// New returns the store in a place.
func New(p Place, limits Limits) *Store { return &Store{place: p, limits: limits.filled()} }

const format = 1

// ledger is the history's text.
type ledger struct {
	Entries History       `json:"entries"`
	Pins    map[string]ID `json:"pins,omitempty"`
}

// header is the second line of every text; the first is the sum of all that follows it.
type header struct {
	Format int `json:"format"`
	// Of a generation:
	ID    ID        `json:"id,omitempty"`
	First time.Time `json:"first,omitzero"`
	Why   string    `json:"why,omitempty"`
}

// Put notes that policies are in force since at, and keeps them. Where they say what is in force already nothing is
// noted, and the entry that is there is returned. When Put returns, both are kept; of one that is too large for the place
// the entry says that it is not. An error leaves what was kept before; the history's own damage is no error here, see
// History.
func (s *Store) Put(ctx context.Context, policies []*policy.Policy, at time.Time, why string) (Entry, error) {
	return s.arrive(ctx, policies, at, func(last Entry, next *Entry) {
		if next.Number != last.Number {
			next.Why = why
		}
	})
}

// arrive is Put, where describe says the rest of the entry: of next, which is last where the same policies are in force.
func (s *Store) arrive(ctx context.Context, policies []*policy.Policy, at time.Time, describe func(last Entry, next *Entry)) (Entry, error) {
	id := Of(policies)
	var next Entry
	err := s.update(ctx, func(l *ledger) error {
		last, there := l.Entries.Current()
		next = Entry{Number: last.Number + 1, ID: id, Parent: last.ID, Time: at.UTC()}
		if there && last.ID == id {
			next = last
			l.Entries = l.Entries[:len(l.Entries)-1]
		}
		describe(last, &next)
		next.Why = oneLine(next.Why)
		next.NotKept = ""
		err := s.keepUnlessKept(ctx, id, policies, at, next.Why)
		if errors.Is(err, ErrTooLarge) {
			next.NotKept, err = oneLine(err.Error()), nil
		}
		l.Entries = append(l.Entries, next)
		return err
	})
	return next, err
}

// SetMark says what became of the entry with that number. The error wraps ErrUnknown if it is not remembered.
func (s *Store) SetMark(ctx context.Context, number uint64, m Mark, at time.Time, why string) error {
	return s.update(ctx, func(l *ledger) error {
		i := slices.IndexFunc(l.Entries, func(e Entry) bool { return e.Number == number })
		if i < 0 {
			return fmt.Errorf("generations: entry %d: %w", number, ErrUnknown)
		}
		l.Entries[i].mark(m, at, why)
		return nil
	})
}

func (e *Entry) mark(m Mark, at time.Time, why string) {
	if e.Mark != m {
		e.Mark, e.Marked, e.MarkWhy = m, at.UTC(), oneLine(why)
	}
}

// Pin keeps a generation for somebody, who is told apart by name, until Unpin or another Pin of that name. The error
// wraps ErrUnknown if it is not kept.
func (s *Store) Pin(ctx context.Context, name string, id ID) error {
	return s.update(ctx, func(l *ledger) error {
		if err := s.check(ctx, id); err != nil {
			return err
		}
		l.Pins[name] = id
		return nil
	})
}

// Unpin takes back a Pin; one that is not there is no error.
func (s *Store) Unpin(ctx context.Context, name string) error {
	return s.update(ctx, func(l *ledger) error { delete(l.Pins, name); return nil })
}

// tries is how often a change is tried that somebody else comes before.
const tries = 5

// update changes the history. Where somebody else writes meanwhile, it changes what is there then.
func (s *Store) update(ctx context.Context, change func(*ledger) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for try := 1; ; try++ {
		l, texts, damage, err := s.read(ctx)
		if err != nil {
			return err
		}
		next := ledger{Entries: slices.Clone(l.Entries), Pins: maps.Clone(l.Pins)}
		if next.Pins == nil {
			next.Pins = map[string]ID{}
		}
		if err := change(&next); err != nil {
			return err
		}
		if damage == nil && reflect.DeepEqual(l.Entries, next.Entries) && maps.Equal(l.Pins, next.Pins) {
			return nil
		}
		if err = s.write(ctx, next, l.used(), texts); !errors.Is(err, ErrConflict) || try == tries {
			return err
		}
	}
}

// History returns the entries that are remembered. Damage is told by an error that wraps ErrDamaged, beside what could be
// saved: the history as it was before its last change, or else an entry, without a mark, for each generation. The next
// Put or SetMark goes on from that.
func (s *Store) History(ctx context.Context) (History, error) {
	l, _, damage, err := s.read(ctx)
	return l.Entries, errors.Join(damage, err)
}

// Get returns a generation. The error wraps ErrUnknown if it is not kept, and ErrDamaged if its text is not what was
// written; then nothing of it is returned, as half of a generation would allow what the whole denies.
func (s *Store) Get(ctx context.Context, id ID) (Generation, error) {
	h, body, err := s.open(ctx, id)
	if err != nil {
		return Generation{}, fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	policies, err := decodePolicies(body)
	if err == nil && (h.ID != id || Of(policies) != id) {
		err = fmt.Errorf("it holds other policies than its name says: %w", ErrDamaged)
	}
	if err != nil {
		return Generation{}, fmt.Errorf("generation %s (%s): %w", id.Short(), s.place.Where(id), err)
	}
	return Generation{ID: id, Policies: policies, First: h.First, Why: h.Why}, nil
}

// Check reads everything that is kept and returns what is wrong with it, in order.
func (s *Store) Check(ctx context.Context) []error {
	var all []error
	l, _, damage, err := s.read(ctx)
	for _, e := range []error{damage, err} {
		if e != nil {
			all = append(all, e)
		}
	}
	seen := map[ID]bool{}
	for _, e := range l.Entries {
		if seen[e.ID] || e.NotKept != "" {
			continue
		}
		seen[e.ID] = true
		if _, err := s.Get(ctx, e.ID); err != nil {
			all = append(all, err)
		}
	}
	return all
}

// open reads a generation's text. An ID that is none, for instance one that a person typed, is not kept.
func (s *Store) open(ctx context.Context, id ID) (header, []byte, error) {
	if b, err := hex.DecodeString(string(id)); err != nil || len(b) != idBytes {
		return header{}, nil, ErrUnknown
	}
	text, err := s.place.Read(ctx, id)
	if err != nil {
		return header{}, nil, err
	}
	return unpack(text, s.place.Where(id))
}

// check returns nil if a generation is kept and whole, without reading its policies.
func (s *Store) check(ctx context.Context, id ID) error {
	h, _, err := s.open(ctx, id)
	if err == nil && h.ID != id {
		err = ErrDamaged
	}
	if err != nil {
		return fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	return nil
}

// keepUnlessKept keeps a generation that is not kept whole.
func (s *Store) keepUnlessKept(ctx context.Context, id ID, policies []*policy.Policy, at time.Time, why string) error {
	if s.check(ctx, id) == nil {
		return nil
	}
	body, err := encodePolicies(policies)
	if err != nil {
		return fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	text, err := pack(header{ID: id, First: at.UTC(), Why: oneLine(why)}, body)
	if err != nil {
		return fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	if err := s.place.Write(ctx, id, text); err != nil {
		return fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	return nil
}

// pack makes a text with its sum.
func pack(h header, body []byte) ([]byte, error) {
	h.Format = format
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	text := slices.Concat(head, []byte("\n"), body)
	return slices.Concat([]byte(sum(text)), []byte("\n"), text), nil
}

// unpack holds a text against its sum.
func unpack(data []byte, where string) (header, []byte, error) {
	first, text, _ := bytes.Cut(data, []byte("\n"))
	head, body, _ := bytes.Cut(text, []byte("\n"))
	var h header
	if string(first) != sum(text) || json.Unmarshal(head, &h) != nil {
		return h, nil, fmt.Errorf("%s is not what was written: %w", where, ErrDamaged)
	}
	if h.Format != format {
		return h, nil, fmt.Errorf("%s has format %d, of another version of this program", where, h.Format)
	}
	return h, body, nil
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// read returns the history, its texts, and what damage it had to go round. err is that nothing could be read for another
// reason.
func (s *Store) read(ctx context.Context) (l ledger, texts Ledger, damage, err error) {
	if texts, err = s.place.Ledger(ctx); err != nil {
		return ledger{}, texts, nil, fmt.Errorf("generations: %w", err)
	}
	for _, text := range [][]byte{texts.Newest, texts.Older} {
		if text == nil {
			continue
		}
		l, err := readLedger(text, s.place.Where(""))
		switch {
		case err == nil:
			return l, texts, damage, nil
		case errors.Is(err, ErrDamaged):
			damage = errors.Join(damage, fmt.Errorf("generations: %w", err))
		default:
			return ledger{}, texts, damage, fmt.Errorf("generations: %w", err)
		}
	}
	if damage == nil {
		return ledger{}, texts, nil, nil // nothing was written yet
	}
	l.Entries, err = s.rebuilt(ctx)
	return l, texts, damage, err
}

func readLedger(text []byte, where string) (ledger, error) {
	_, body, err := unpack(text, where)
	if err != nil {
		return ledger{}, err
	}
	var l ledger
	if err := json.Unmarshal(body, &l); err != nil {
		return ledger{}, fmt.Errorf("%s: %w: %w", where, ErrDamaged, err)
	}
	return l, nil
}

// rebuilt is a history made of the generations themselves: each once, when it first came in force.
func (s *Store) rebuilt(ctx context.Context) (History, error) {
	kept, err := s.place.Kept(ctx)
	if err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	var all History
	for id := range kept {
		if h, _, err := s.open(ctx, id); err == nil {
			all = append(all, Entry{ID: h.ID, Time: h.First, Why: h.Why})
		}
	}
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(string(a.ID), string(b.ID)))
	})
	for i := range all {
		all[i].Number = uint64(i + 1)
		if i > 0 {
			all[i].Parent = all[i-1].ID
		}
	}
	return all, nil
}

// strayAfter is how long a generation is left alone that no history names: somebody may be about to name it.
const strayAfter = time.Hour

// write replaces the history that was read, after it forgot what is too much, and then removes the generations that are
// forgotten: those that were in use before, and what a crash left behind.
func (s *Store) write(ctx context.Context, l ledger, before map[ID]bool, read Ledger) error {
	kept, err := s.place.Kept(ctx)
	if err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	l.Entries = forget(l, kept, s.limits)
	body, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	next := Ledger{Older: read.Older, Version: read.Version}
	if _, err := readLedger(read.Newest, ""); err == nil { // a damaged one does not push out the good one before it
		next.Older = read.Newest
	}
	if next.Newest, err = pack(header{}, body); err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	if err := s.place.WriteLedger(ctx, next); err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	used := l.used()
	for id, k := range kept {
		if used[id] || !before[id] && time.Since(k.Since) < strayAfter {
			continue
		}
		if err := s.place.Remove(ctx, id); err != nil {
			return fmt.Errorf("generations: %w", err)
		}
	}
	return nil
}

func (l *ledger) used() map[ID]bool {
	used := map[ID]bool{}
	for _, e := range l.Entries {
		used[e.ID] = true
	}
	for _, id := range l.Pins {
		used[id] = true
	}
	return used
}

// forget returns the entries that stay: the oldest go until the rest is within the limits, but not what is in force, the
// last good one, and those of pinned generations.
func forget(l ledger, kept map[ID]Kept, limits Limits) History {
	keep := map[uint64]bool{}
	if e, ok := l.Entries.Current(); ok {
		keep[e.Number] = true
	}
	if e, ok := l.Entries.LastGood(); ok {
		keep[e.Number] = true
	}
	pinned := map[ID]bool{}
	for _, id := range l.Pins {
		pinned[id] = true
	}
	times := map[ID]int{} // how often a generation is in the history
	var bytes int64
	for _, e := range l.Entries {
		if times[e.ID]++; times[e.ID] == 1 {
			bytes += kept[e.ID].Size
		}
	}
	left, out := len(l.Entries), History(nil)
	for _, e := range l.Entries {
		enough := left <= limits.Entries && len(times) <= limits.Generations && bytes <= limits.Bytes
		if enough || keep[e.Number] || pinned[e.ID] {
			out = append(out, e)
			continue
		}
		left--
		if times[e.ID]--; times[e.ID] == 0 {
			delete(times, e.ID)
			bytes -= kept[e.ID].Size
		}
	}
	return out
}
