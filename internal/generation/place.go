package generation

import (
	"context"
	"errors"
	"time"
)

// ErrConflict is wrapped by errors about a history that somebody else wrote since it was read.
var ErrConflict = errors.New("somebody else wrote it meanwhile")

// ErrTooLarge is wrapped by errors about a generation that a Place has no room for.
var ErrTooLarge = errors.New("too large to be kept")

// Place is where a Store keeps what it knows: texts, which it does not understand. Each is there as it was written or, as far
// as its reader is concerned, damaged. Its methods may be called from any goroutine.
type Place interface {
	// Ledger returns the history's texts; none is no error.
	Ledger(context.Context) (Ledger, error)
	// WriteLedger replaces what Ledger returned with that Version. A crash leaves one of the two texts whole. The error wraps
	// ErrConflict if the version is another one by now.
	WriteLedger(context.Context, Ledger) error
	// Read returns the text of a generation. The error wraps ErrUnknown if there is none.
	Read(context.Context, ID) ([]byte, error)
	// Write keeps the text of a generation, in the stead of one that is there. The error wraps ErrTooLarge if there is no room
	// for one of that size.
	Write(context.Context, ID, []byte) error
	// Remove removes a generation; one that is not there is no error.
	Remove(context.Context, ID) error
	// Kept returns what generations have a text.
	Kept(context.Context) (map[ID]Kept, error)
	// Where names, for people, what holds a generation; of the zero ID, the history.
	Where(ID) string
}

// Ledger is the history's texts: the newest one, and the one before, which counts where the newest is gone or damaged. Nil is
// none.
type Ledger struct {
	Newest, Older []byte
	Version       string // tells what was read from what is there later; "" in a place that one process at a time writes
}

// Kept is a generation's text.
type Kept struct {
	Size  int64     // in bytes, as it is kept
	Since time.Time // when it was written
}
