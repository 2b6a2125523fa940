package generation

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// Limits bound what a Store keeps. A zero field is its default. What is in force, the last good generation and pinned
// ones are kept whatever the limits say.
type Limits struct {
	Entries     int   // of the history; default 1,000
	Generations int   // default 200
	Bytes       int64 // of all generations together; default 256 MiB
}

func (l Limits) filled() Limits {
	return Limits{cmp.Or(l.Entries, 1000), cmp.Or(l.Generations, 200), cmp.Or(l.Bytes, 256<<20)}
}

// Store keeps generations in a folder of its own: a file for each, named by its ID, and the history. One process at a
// time writes; any number may read beside it, with a Store of their own. Its methods may be called from any goroutine.
type Store struct {
	folder string
	limits Limits
	mu     sync.Mutex // held by whoever writes
}

const (
	historyFile = "history"
	olderFile   = "history.old" // the one before; it counts where historyFile is gone or damaged
	format      = 1
)

// Open opens the store in a folder, which is made if it is not there.
func Open(folder string, limits Limits) (*Store, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	return &Store{folder: folder, limits: limits.filled()}, nil
}

// ledger is the history's file.
type ledger struct {
	Entries History       `json:"entries"`
	Pins    map[string]ID `json:"pins,omitempty"`
}

// header is the second line of every file; the first is the sum of all that follows it.
type header struct {
	Format int `json:"format"`
	// Of a generation:
	ID    ID        `json:"id,omitempty"`
	First time.Time `json:"first,omitzero"`
	Why   string    `json:"why,omitempty"`
}

// Put notes that policies are in force since at, and keeps them. Where they say what is in force already nothing is
// noted, and the entry that is there is returned. When Put returns, both are on the disk. An error leaves what was kept
// before; the history's own damage is no error here, see History.
func (s *Store) Put(policies []*policy.Policy, at time.Time, why string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, _, err := s.read()
	if err != nil {
		return Entry{}, err
	}
	id := Of(policies)
	last, there := l.Entries.Current()
	kept := s.check(id) == nil
	if there && last.ID == id && kept {
		return last, nil
	}
	if !kept {
		if err := s.keep(id, policies, at, why); err != nil {
			return Entry{}, err
		}
	}
	if there && last.ID == id {
		return last, nil
	}
	e := Entry{Number: last.Number + 1, ID: id, Parent: last.ID, Time: at.UTC(), Why: oneLine(why)}
	l.Entries = append(l.Entries, e)
	return e, s.write(l)
}

// SetMark says what became of the entry with that number. The error wraps ErrUnknown if it is not remembered.
func (s *Store) SetMark(number uint64, m Mark, at time.Time, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, _, err := s.read()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(l.Entries, func(e Entry) bool { return e.Number == number })
	if i < 0 {
		return fmt.Errorf("generations: entry %d: %w", number, ErrUnknown)
	}
	e := &l.Entries[i]
	if e.Mark == m {
		return nil
	}
	e.Mark, e.Marked, e.MarkWhy = m, at.UTC(), oneLine(why)
	return s.write(l)
}

// Pin keeps a generation for somebody, who is told apart by name, until Unpin or another Pin of that name. The error
// wraps ErrUnknown if it is not kept.
func (s *Store) Pin(name string, id ID) error {
	return s.repin(func(l *ledger) error {
		if err := s.check(id); err != nil {
			return err
		}
		l.Pins[name] = id
		return nil
	})
}

// Unpin takes back a Pin; one that is not there is no error.
func (s *Store) Unpin(name string) error {
	return s.repin(func(l *ledger) error { delete(l.Pins, name); return nil })
}

func (s *Store) repin(change func(*ledger) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, _, err := s.read()
	if err != nil {
		return err
	}
	if l.Pins == nil {
		l.Pins = map[string]ID{}
	}
	if err := change(&l); err != nil {
		return err
	}
	return s.write(l)
}

// History returns the entries that are remembered. Damage is told by an error that wraps ErrDamaged, beside what could be
// saved: the history as it was before its last change, or else an entry, without a mark, for each generation. The next
// Put or SetMark goes on from that.
func (s *Store) History() (History, error) {
	l, damage, err := s.read()
	return l.Entries, errors.Join(damage, err)
}

// Get returns a generation. The error wraps ErrUnknown if it is not kept, and ErrDamaged if its file is not what was
// written; then nothing of it is returned, as half of a generation would allow what the whole denies.
func (s *Store) Get(id ID) (Generation, error) {
	h, body, err := s.open(s.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Generation{}, fmt.Errorf("generation %s: %w", id.Short(), ErrUnknown)
	}
	if err != nil {
		return Generation{}, fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	policies, err := decodePolicies(body)
	if err == nil && (h.ID != id || Of(policies) != id) {
		err = fmt.Errorf("it holds other policies than its name says: %w", ErrDamaged)
	}
	if err != nil {
		return Generation{}, fmt.Errorf("generation %s (%s): %w", id.Short(), s.file(id), err)
	}
	return Generation{ID: id, Policies: policies, First: h.First, Why: h.Why}, nil
}

// Check reads everything that is kept and returns what is wrong with it, in order.
func (s *Store) Check() []error {
	var all []error
	l, damage, err := s.read()
	for _, e := range []error{damage, err} {
		if e != nil {
			all = append(all, e)
		}
	}
	seen := map[ID]bool{}
	for _, e := range l.Entries {
		if seen[e.ID] {
			continue
		}
		seen[e.ID] = true
		if _, err := s.Get(e.ID); err != nil {
			all = append(all, err)
		}
	}
	return all
}

const suffix = ".policies"

// file is where a generation is. An ID that is none, for instance one that a person typed, is nowhere.
func (s *Store) file(id ID) string {
	if b, err := hex.DecodeString(string(id)); err != nil || len(b) != idBytes {
		return filepath.Join(s.folder, "none"+suffix)
	}
	return filepath.Join(s.folder, string(id)+suffix)
}

// check returns nil if a generation is kept and whole, without reading its policies.
func (s *Store) check(id ID) error {
	h, _, err := s.open(s.file(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("generation %s: %w", id.Short(), ErrUnknown)
	case err == nil && h.ID != id:
		err = ErrDamaged
	}
	return err
}

func (s *Store) keep(id ID, policies []*policy.Policy, at time.Time, why string) error {
	body, err := encodePolicies(policies)
	if err != nil {
		return fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	if err := s.save(s.file(id), header{ID: id, First: at.UTC(), Why: oneLine(why)}, body); err != nil {
		return fmt.Errorf("generation %s: %w", id.Short(), err)
	}
	return nil
}

// save writes a file with its sum.
func (s *Store) save(path string, h header, body []byte) error {
	h.Format = format
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	text := slices.Concat(head, []byte("\n"), body)
	return wholefile.Write(path, slices.Concat([]byte(sum(text)), []byte("\n"), text))
}

// open reads a file and holds it against its sum.
func (s *Store) open(path string) (header, []byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return header{}, nil, err
	}
	first, text, _ := bytes.Cut(data, []byte("\n"))
	head, body, _ := bytes.Cut(text, []byte("\n"))
	var h header
	if string(first) != sum(text) || json.Unmarshal(head, &h) != nil {
		return h, nil, fmt.Errorf("%s is not what was written: %w", path, ErrDamaged)
	}
	if h.Format != format {
		return h, nil, fmt.Errorf("%s has format %d, of another version of this program", path, h.Format)
	}
	return h, body, nil
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// read returns the history, and what damage it had to go round. err is that nothing could be read for another reason.
func (s *Store) read() (l ledger, damage, err error) {
	for _, name := range []string{historyFile, olderFile} {
		l, err := s.readLedger(filepath.Join(s.folder, name))
		switch {
		case err == nil:
			return l, damage, nil
		case errors.Is(err, ErrDamaged):
			damage = errors.Join(damage, fmt.Errorf("generations: %w", err))
		case !errors.Is(err, fs.ErrNotExist):
			return ledger{}, damage, fmt.Errorf("generations: %w", err)
		}
	}
	if damage == nil {
		return ledger{}, nil, nil // nothing was written yet
	}
	l.Entries, err = s.rebuilt()
	return l, damage, err
}

func (s *Store) readLedger(path string) (ledger, error) {
	_, body, err := s.open(path)
	if err != nil {
		return ledger{}, err
	}
	var l ledger
	if err := json.Unmarshal(body, &l); err != nil {
		return ledger{}, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return l, nil
}

// rebuilt is a history made of the generations themselves: each once, when it first came in force.
func (s *Store) rebuilt() (History, error) {
	names, err := filepath.Glob(filepath.Join(s.folder, "*"+suffix))
	if err != nil {
		return nil, err
	}
	var all History
	for _, name := range names {
		if h, _, err := s.open(name); err == nil {
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

// write replaces the history, after it forgot what is too much, and then removes the generations that are forgotten. A
// crash in between leaves files too many, which the next write removes.
func (s *Store) write(l ledger) error {
	sizes, err := s.sizes()
	if err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	l.Entries = forget(l, sizes, s.limits)
	body, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	path := filepath.Join(s.folder, historyFile)
	if _, _, err := s.open(path); err == nil { // a damaged one does not push out the good one before it
		if err := os.Rename(path, filepath.Join(s.folder, olderFile)); err != nil {
			return fmt.Errorf("generations: %w", err)
		}
	}
	if err := s.save(path, header{}, body); err != nil {
		return fmt.Errorf("generations: %w", err)
	}
	used := l.used()
	for id := range sizes {
		if !used[id] {
			if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("generations: %w", err)
			}
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

// sizes returns the generations that have a file, and its size.
func (s *Store) sizes() (map[ID]int64, error) {
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return nil, err
	}
	sizes := map[ID]int64{}
	for _, e := range entries {
		name, ours := strings.CutSuffix(e.Name(), suffix)
		if info, err := e.Info(); ours && err == nil {
			sizes[ID(name)] = info.Size()
		}
	}
	return sizes, nil
}

// forget returns the entries that stay: the oldest go until the rest is within the limits, but not what is in force, the
// last good one, and those of pinned generations.
func forget(l ledger, sizes map[ID]int64, limits Limits) History {
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
			bytes += sizes[e.ID]
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
			bytes -= sizes[e.ID]
		}
	}
	return out
}
