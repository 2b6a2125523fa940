//go:build linux

// Package socket lets other processes of the machine read a flowlog.Log: over a unix socket that its owner alone may
// open, and never over a network. A request is one line of JSON, an answer is one line for each Message.
package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// Bounds of what clients may cost.
const (
	maxRequest  = 64 << 10
	maxClients  = 64
	queue       = 10_000           // records that wait for one slow client
	requestTime = 5 * time.Second  // for a client to say what it wants
	writeTime   = 30 * time.Second // for a client to take anything at all
)

// Request is what a client wants.
type Request struct {
	flowlog.Options
	Follow bool `json:"follow,omitempty"` // go on with what comes, until the client hangs up
	Totals bool `json:"totals,omitempty"` // the sums in place of records; the options do not count
}

// Message is one line of an answer: exactly one of the fields is set.
type Message struct {
	Record *flowlog.Record `json:"record,omitempty"`
	Totals *flowlog.Totals `json:"totals,omitempty"`
	Lost   int             `json:"lost,omitempty"`  // records that came faster than the client took them
	Error  string          `json:"error,omitempty"` // the last line
	Done   bool            `json:"done,omitempty"`  // the last line: all there is was told
}

// Listen opens the socket for its owner only, in a folder that it makes if need be. A socket that a dead process left
// behind is replaced; one that somebody answers on is an error.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("flow socket: %w", err)
	}
	// The mode is set before the socket has a name, so that there is no moment in which others may open it.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if outer := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); outer != nil {
			return outer
		}
		return err
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		l, err = lc.Listen(context.Background(), "unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("flow socket: %w", err)
	}
	return l, nil
}

func removeStale(path string) error {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("flow socket %s: another instance answers there: stop it, or choose another name", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("flow socket %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("flow socket %s: there is something that is no socket", path)
	}
	return os.Remove(path)
}

// Serve answers clients until ctx ends, then closes l, hangs up on all of them and returns nil.
func Serve(ctx context.Context, l net.Listener, log *flowlog.Log) error {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	defer l.Close() // also if the next line is overtaken
	defer context.AfterFunc(ctx, func() { l.Close() })()
	places := make(chan struct{}, maxClients)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("flow socket: %w", err)
		}
		select {
		case places <- struct{}{}:
			clients.Go(func() {
				defer func() { <-places }()
				serve(ctx, conn, log)
			})
		default:
			c := client{conn: conn, out: bufio.NewWriter(conn)}
			_ = c.send(Message{Error: fmt.Sprintf("%d clients are served already", maxClients)}) // it may be gone
			conn.Close()
		}
	}
}

// client is one open connection.
type client struct {
	conn net.Conn
	out  *bufio.Writer
}

func serve(ctx context.Context, conn net.Conn, log *flowlog.Log) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	c := client{conn, bufio.NewWriterSize(conn, 64<<10)}
	request, err := c.request()
	if err != nil {
		_ = c.send(Message{Error: err.Error()}) // it may be gone
		return
	}
	var hungUp sync.WaitGroup
	defer hungUp.Wait()
	defer cancel()
	hungUp.Go(func() { // a client has nothing more to say: what comes is its end
		_, _ = io.Copy(io.Discard, conn)
		cancel()
	})
	_ = c.answer(ctx, request, log) // an error is the client's end
}

func (c *client) request() (Request, error) {
	var r Request
	if err := c.conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
		return r, err
	}
	limited := &io.LimitedReader{R: c.conn, N: maxRequest}
	line, err := bufio.NewReader(limited).ReadBytes('\n')
	if err != nil {
		if limited.N <= 0 {
			return r, fmt.Errorf("request is longer than %d bytes", maxRequest)
		}
		return r, fmt.Errorf("read request: %w", err)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("read request: %w", err)
	}
	return r, c.conn.SetReadDeadline(time.Time{})
}

func (c *client) answer(ctx context.Context, r Request, log *flowlog.Log) error {
	if r.Totals {
		totals := log.Totals()
		return c.send(Message{Totals: &totals}, Message{Done: true})
	}
	q, err := r.Query()
	if err != nil {
		return c.send(Message{Error: err.Error()})
	}
	if !r.Follow {
		if err := c.records(log.Records(q)); err != nil {
			return err
		}
		return c.send(Message{Done: true})
	}
	old, s := log.Subscribe(q, queue)
	defer s.Close()
	if err := c.records(old); err != nil {
		return err
	}
	for {
		records, lost, err := s.Next(ctx)
		if err != nil {
			return err
		}
		if lost > 0 {
			if err := c.send(Message{Lost: lost}); err != nil {
				return err
			}
		}
		if err := c.records(records); err != nil {
			return err
		}
	}
}

func (c *client) records(records []*flowlog.Record) error {
	const batch = 256 // one deadline for all of them would be unfair to a slow client
	for len(records) > 0 {
		n := min(batch, len(records))
		messages := make([]Message, n)
		for i, r := range records[:n] {
			messages[i].Record = r
		}
		if err := c.send(messages...); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

func (c *client) send(messages ...Message) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	enc := json.NewEncoder(c.out)
	for _, m := range messages {
		if err := enc.Encode(m); err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// Stream sends a request to the instance that listens on path and calls f for each message of the answer until it is
// Done, f fails, or ctx ends, whose error it then returns. An Error of the answer is returned, not passed on.
func Stream(ctx context.Context, path string, r Request, f func(Message) error) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("flow socket %s: %w", path, explain(err))
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sent := json.NewEncoder(conn).Encode(r) // it may fail because the answer is "no" already: that says more
	dec := json.NewDecoder(conn)
	for {
		var m Message
		err := dec.Decode(&m)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && sent != nil:
			return fmt.Errorf("flow socket: send request: %w", sent)
		case errors.Is(err, io.EOF):
			return errors.New("flow socket: the instance hung up: it was stopped, or this client was too slow")
		case err != nil:
			return fmt.Errorf("flow socket: read answer: %w", err)
		case m.Error != "":
			return errors.New(m.Error)
		}
		if m.Done {
			return nil
		}
		if err := f(m); err != nil {
			return err
		}
	}
}

func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: no instance is running there; start one with: ringfence up DIR", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: only the user who runs the instance may ask it", err)
	}
	return err
}
