//go:build linux

package dir

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/manifest"
)

// How changes are gathered. A change is taken when nothing has happened for a moment, or when things have happened for
// long; a file that somebody has open for writing is left as it was until it is closed, or nothing was written for
// a while. All files are looked at now and then, for what the kernel does not tell: network file systems, files
// behind links.
const (
	quiet   = 20 * time.Millisecond
	longest = 250 * time.Millisecond
	written = time.Second
	rescan  = 5 * time.Second
)

// Snapshot is what the manifests say at one moment.
type Snapshot struct {
	manifest.Result
	Changed []string      // files that are new, changed or gone since the snapshot before; sorted
	Held    []string      // files whose last good version counts, as they are bad; sorted
	Event   time.Time     // when the first of the changes was noticed
	Read    time.Duration // how long reading took
}

// Watch reads the manifests of paths now, and again whenever one has changed, until ctx ends. put is called from one
// goroutine, with err set and the rest not if the manifests cannot be found: what they said before still counts then.
// A bad file counts as its last good version, if store has one; then its problems say so.
func Watch(ctx context.Context, paths []string, store *Store, put func(s Snapshot, err error)) error {
	if slices.Contains(paths, Stdin) {
		return errors.New("standard input cannot be watched: name files or folders")
	}
	in, err := newNotifier()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer in.close()
	w := &watcher{reader: newReader(paths, store), notifier: in, put: put}
	return w.run(ctx)
}

// watcher decides when to read.
type watcher struct {
	reader   *reader
	notifier *notifier
	put      func(Snapshot, error)
	failed   string // the last error, which is said once

	first, last time.Time            // of the events that were not taken yet; zero if there are none
	writing     map[string]time.Time // files that are open for writing, and when they were last written to
}

func (w *watcher) run(ctx context.Context) error {
	w.writing = map[string]time.Time{}
	w.read(time.Now(), true)
	look := time.NewTicker(rescan)
	defer look.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(w.due(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.notifier.failed:
			return fmt.Errorf("watch manifests: %w", err)
		case e := <-w.notifier.events:
			w.note(e)
		case <-timer.C:
			w.take()
		case now := <-look.C:
			if w.first.IsZero() {
				w.read(now, false)
			}
		}
	}
}

// note takes an event in.
func (w *watcher) note(e event) {
	switch {
	case e.lost: // anything may have happened
		w.reader.forgetAll()
	case e.path == "":
	case e.closed:
		delete(w.writing, e.path)
		w.reader.dirty[e.path] = true
	case e.written:
		w.writing[e.path] = e.at
		w.reader.dirty[e.path] = true
	default: // made, removed or renamed: what has the name now is complete, or will be written to
		w.reader.dirty[e.path] = true
		if e.gone {
			delete(w.writing, e.path)
		}
	}
	if w.first.IsZero() {
		w.first = e.at
	}
	w.last = e.at
}

// due is how long to wait until the events should be taken.
func (w *watcher) due(now time.Time) time.Duration {
	if w.first.IsZero() {
		return time.Hour
	}
	at := w.last.Add(quiet)
	for _, t := range w.writing {
		if until := t.Add(written); until.After(at) {
			at = until
		}
	}
	if limit := w.first.Add(longest); limit.Before(at) {
		at = limit
	}
	return max(at.Sub(now), 0)
}

// take reads what has changed. Files that are being written are read when they are done.
func (w *watcher) take() {
	now, event := time.Now(), w.first
	w.first, w.reader.busy = time.Time{}, map[string]bool{}
	for path, t := range w.writing {
		if now.Sub(t) >= written { // it stays open, but nothing comes any more
			delete(w.writing, path)
			continue
		}
		w.reader.busy[path] = true
		w.first, w.last = now, now // look again
	}
	w.read(event, false)
}

// read reads the manifests and puts what they say, if they say something new.
func (w *watcher) read(event time.Time, always bool) {
	var changed []string
	for {
		s, err := w.reader.read()
		if err != nil {
			if w.failed != err.Error() {
				w.put(Snapshot{}, err)
			}
			w.failed = err.Error()
			return
		}
		changed = append(changed, s.Changed...)
		again, err := w.notifier.watch(w.reader.places())
		if err == nil && again { // something may have come into a folder before we listened
			continue
		}
		if err != nil && w.failed != err.Error() {
			w.failed = err.Error()
			w.put(Snapshot{}, err)
		}
		if len(changed) > 0 || always || err == nil && w.failed != "" {
			slices.Sort(changed)
			s.Event, s.Changed = event, slices.Compact(changed)
			w.put(s, nil)
		}
		if err == nil {
			w.failed = ""
		}
		return
	}
}
