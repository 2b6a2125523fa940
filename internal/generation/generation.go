// Package generation keeps every set of policies that was in force, so that it can be shown, compared and returned to
// when the manifests that it came from are long changed or gone.
//
// A generation is a set of policies under the hash of what they say. The history is the list of when which generation
// came in force, why, and what became of it. A generation that comes in force again is a new entry of the history and no
// new generation.
//
// What is kept is policies as they were understood, not the text of manifests: a newer program may read a manifest
// otherwise, or refuse it, but a return has to bring back what was in force. That includes the stand-ins of policies that
// could not be read, for which no manifest could be written. Every file carries its own sum, so damage is noticed.
package generation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/policy"
)

// ErrDamaged is wrapped by errors about a file that is not what was written: it was changed, cut off or mixed up.
var ErrDamaged = errors.New("damaged")

// ErrUnknown is wrapped by errors about a generation that is not kept, or never was.
var ErrUnknown = errors.New("not kept")

// idBytes is how much of the hash an ID holds.
const idBytes = 16

// ID names a generation by what its policies say: 32 hexadecimal digits; see Of. The zero value is none.
type ID string

// Short is enough of an ID for people.
func (id ID) Short() string { return string(id[:min(len(id), 12)]) }

// Mark is what became of a generation once it was in force.
type Mark string

// The marks. A generation is unproven until somebody says otherwise.
const (
	Unproven Mark = ""
	Good     Mark = "good" // worth returning to
	Bad      Mark = "bad"  // returned from
)

// Entry is one time that a generation came in force.
type Entry struct {
	Number uint64 `json:"number"` // of the entry; grows by one, and is never used again
	ID     ID     `json:"id"`
	// Parent is the generation that was in force before; zero for the first. It may be forgotten since.
	Parent ID        `json:"parent,omitempty"`
	Time   time.Time `json:"time"` // when it came in force
	Why    string    `json:"why"`  // one line for people: what made it come in force
	Mark   Mark      `json:"mark,omitempty"`
	// Marked and MarkWhy are when and why Mark was set; zero for Unproven.
	Marked  time.Time `json:"marked,omitzero"`
	MarkWhy string    `json:"markWhy,omitempty"`
	// Rollouts are those that were complete and in it; of two of one rollout, the revision follows an "@".
	Rollouts []string `json:"rollouts,omitempty"`
	// ReturnedTo is the entry that a person had returned to then; 0 if nobody had.
	ReturnedTo uint64 `json:"returnedTo,omitempty"`
	// NotKept says why the generation itself is not kept; "" if it is.
	NotKept string `json:"notKept,omitempty"`
}

// Generation is a set of policies.
type Generation struct {
	ID ID
	// Policies in the order in which they are asked. Their files and lines are those of when the generation was first
	// kept, and may lead nowhere now.
	Policies []*policy.Policy
	First    time.Time // when it first came in force
	Why      string    // why it first did
}

// Return is that a person had an earlier generation put in force in the stead of what would be.
type Return struct {
	Number uint64    `json:"number"` // of the entry that was returned to
	ID     ID        `json:"id"`
	Time   time.Time `json:"time"`
}

// String is for instance "entry 3 (0a1b2c3d)".
func (r Return) String() string { return fmt.Sprintf("entry %d (%s)", r.Number, r.ID.Short()) }

// History is the entries that are remembered, the oldest first.
type History []Entry

// Current returns the newest entry, which is what is in force; false if there is none.
func (h History) Current() (Entry, bool) {
	if len(h) == 0 {
		return Entry{}, false
	}
	return h[len(h)-1], true
}

// LastGood returns the newest entry that is marked Good; false if there is none.
func (h History) LastGood() (Entry, bool) {
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].Mark == Good {
			return h[i], true
		}
	}
	return Entry{}, false
}

// minPrefix is how many digits of an ID a person has to give.
const minPrefix = 4

// Find returns the newest entry that a person's reference means: "current", "good" (the last good one), an entry's number,
// or an ID or its first digits, at least four. The error wraps ErrUnknown if there is none.
func (h History) Find(ref string) (Entry, error) {
	e, ok := Entry{}, false
	switch n, err := strconv.ParseUint(ref, 10, 32); {
	case ref == "current":
		e, ok = h.Current()
	case ref == "good":
		e, ok = h.LastGood()
	case err == nil:
		if e, ok = h.number(n); ok || len(ref) < minPrefix {
			break
		}
		fallthrough // digits can be the start of an ID too
	default:
		return h.byPrefix(ref)
	}
	if !ok {
		return Entry{}, fmt.Errorf("generation %s: %w", ref, ErrUnknown)
	}
	return e, nil
}

func (h History) number(n uint64) (Entry, bool) {
	for _, e := range h {
		if e.Number == n {
			return e, true
		}
	}
	return Entry{}, false
}

func (h History) byPrefix(ref string) (Entry, error) {
	var found Entry
	if len(ref) < minPrefix {
		return found, fmt.Errorf("generation %q: want current, good, a number, or %d digits of an ID", ref, minPrefix)
	}
	for _, e := range h {
		if !strings.HasPrefix(string(e.ID), ref) {
			continue
		}
		if found.ID != "" && found.ID != e.ID {
			return Entry{}, fmt.Errorf("generation %s could be %s or %s: give more digits", ref, found.ID.Short(), e.ID.Short())
		}
		found = e
	}
	if found.ID == "" {
		return found, fmt.Errorf("generation %s: %w", ref, ErrUnknown)
	}
	return found, nil
}
