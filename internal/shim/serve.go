//go:build linux

package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	maxRequest     = 8 << 20 // bytes; a zone with all names of a cluster is a few hundred kilobytes
	maxConnections = 256     // one for each running `exec`, and some
	requestTimeout = 5 * time.Second
)

// keeper is what the two kinds of shims have in common for those who ask.
type keeper interface {
	status() (now Status, changed <-chan struct{}) // changed is closed at the next change
	update(Request) error
	pod() *Pod // what runs; nil if nothing does, or it is no pod
}

// endpoint is a shim's control socket.
type endpoint struct {
	listener net.Listener
	keeper   keeper
	stop     context.CancelFunc
	slots    chan struct{}
}

func listen(d Dir, k keeper, stop context.CancelFunc) (*endpoint, error) {
	const longest = 107 // of sun_path, less its end
	path := d.file("sock")
	if len(path) > longest {
		return nil, fmt.Errorf("control socket: %s is longer than the %d bytes that a socket's path may have: use a shorter run folder", path, longest)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path) // the folder is the owner's alone, so there is no moment of another mode
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &endpoint{listener: l, keeper: k, stop: stop, slots: make(chan struct{}, maxConnections)}, nil
}

// serve answers until ctx ends.
func (e *endpoint) serve(ctx context.Context) {
	context.AfterFunc(ctx, func() { e.listener.Close() })
	for {
		c, err := e.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		select {
		case e.slots <- struct{}{}:
			go func() {
				defer func() { <-e.slots }()
				defer c.Close()
				e.answer(ctx, c)
			}()
		default:
			c.Close() // whoever holds all the others has the same rights
		}
	}
}

func (e *endpoint) answer(ctx context.Context, c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(requestTimeout))
	var r Request
	said := bufio.NewReader(io.LimitReader(c, maxRequest))
	line, err := said.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		e.reply(c, fmt.Errorf("read request: %w", err))
		return
	}
	switch r.Op {
	case OpStatus:
		e.reply(c, nil)
	case OpUpdate:
		e.reply(c, e.keeper.update(r))
	case OpStop:
		e.reply(c, nil)
		e.stop()
	case OpWatch:
		e.watch(ctx, c)
	case OpGuard:
		e.guard(c, said, r.Process)
	default:
		e.reply(c, fmt.Errorf("unknown operation %q: is the shim older than what asks it?", r.Op))
	}
}

func (e *endpoint) reply(c net.Conn, err error) {
	now, _ := e.keeper.status()
	send(c, Reply{Status: now, Pod: e.keeper.pod()}, err)
}

func send(c net.Conn, r Reply, err error) bool {
	if err != nil {
		r.Error = err.Error()
	}
	_ = c.SetWriteDeadline(time.Now().Add(requestTimeout))
	return json.NewEncoder(c).Encode(r) == nil // what cannot be sent, nobody waits for any more
}

// watch sends the status at each change, until ctx ends or the other side goes.
func (e *endpoint) watch(ctx context.Context, c net.Conn) {
	_ = c.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = c.Read(make([]byte, 1)) // nothing more is said on it: it returns when the other side goes
	}()
	for {
		now, changed := e.keeper.status()
		if !send(c, Reply{Status: now}, nil) {
			return
		}
		select {
		case <-changed:
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}
