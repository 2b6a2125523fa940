//go:build linux

package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
)

// denials carries what the dataplane saw from its watcher to the prober, which sleeps in epoll and is woken by an
// event descriptor.
type denials struct {
	fd   int // -1 without one
	mu   sync.Mutex
	seen []dataplane.Denial
	lost int
	err  error // why the watcher ended
}

func newDenials() (*denials, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open event descriptor: %w", err)
	}
	return &denials{fd: fd}, nil
}

// put is the watcher's callback.
func (d *denials) put(ev dataplane.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost += ev.Lost
	if ev.Drift != nil {
		d.err = errors.Join(d.err, fmt.Errorf("somebody changed the lab's rules: %s", ev.Drift.What))
	}
	if ev.Denial != nil {
		d.seen = append(d.seen, *ev.Denial)
	}
	d.wake()
}

// fail tells that the watcher ended.
func (d *denials) fail(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = errors.Join(d.err, fmt.Errorf("watch denials: %w", err))
	d.wake()
}

func (d *denials) wake() {
	_, _ = unix.Write(d.fd, binary.NativeEndian.AppendUint64(nil, 1)) // it can only be full, and then it wakes too
}

// take returns what was seen since the last time.
func (d *denials) take() ([]dataplane.Denial, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var buf [8]byte
	_, _ = unix.Read(d.fd, buf[:]) // only to reset it
	seen := d.seen
	d.seen = nil
	return seen, d.err
}

func (d *denials) close() { unix.Close(d.fd) }

func (d *denials) lostSoFar() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}
