//go:build linux

package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// Client speaks with a running shim.
type Client struct {
	Process
	dir Dir
}

// Find returns the shim of d, or os.ErrProcessDone if there is none that runs.
func Find(d Dir) (*Client, error) {
	p, err := d.Process()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("shim %s: %w", d, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fmt.Errorf("shim %s: %w", d, err)
	}
	if !p.Alive() {
		return nil, fmt.Errorf("shim %s: %w", d, os.ErrProcessDone)
	}
	return &Client{p, d}, nil
}

// NetNS opens the network namespace that the shim holds. The caller closes it.
func (c *Client) NetNS() (*netns.NS, error) {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", c.PID))
	if err == nil && !c.Alive() {
		ns.Close()
		return nil, fmt.Errorf("shim %s: %w", c.dir, os.ErrProcessDone)
	}
	return ns, err
}

// Do sends a request and returns the status that it is answered with.
func (c *Client) Do(ctx context.Context, r Request) (Status, error) {
	reply, err := c.once(ctx, r)
	return reply.Status, err
}

// Pod returns what runs in a pod.
func (c *Client) Pod(ctx context.Context) (*Pod, error) {
	reply, err := c.once(ctx, Request{Op: OpStatus})
	if err == nil && reply.Pod == nil {
		err = fmt.Errorf("shim %s: nothing runs in it yet", c.dir)
	}
	return reply.Pod, err
}

func (c *Client) once(ctx context.Context, r Request) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var reply Reply
	err := c.ask(ctx, r, func(r Reply) error { reply = r; return errDone })
	if errors.Is(err, errDone) {
		err = nil
	}
	return reply, err
}

var errDone = errors.New("done")

// Watch calls f with the shim's status, now and whenever it changes, until ctx or the shim ends or f fails.
func (c *Client) Watch(ctx context.Context, f func(Status) error) error {
	return c.ask(ctx, Request{Op: OpWatch}, func(r Reply) error { return f(r.Status) })
}

func (c *Client) ask(ctx context.Context, r Request, f func(Reply) error) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.dir.file("sock"))
	if err != nil {
		return fmt.Errorf("shim %s: %w", c.dir, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	data, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Write(append(data, '\n'))
	}
	lines := bufio.NewReader(conn)
	for err == nil {
		var line []byte
		if line, err = lines.ReadBytes('\n'); err != nil {
			break
		}
		var reply Reply
		if err = json.Unmarshal(line, &reply); err != nil {
			break
		}
		if reply.Error != "" {
			return fmt.Errorf("shim %s: %s", c.dir, reply.Error)
		}
		if err = f(reply); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("shim %s: %w", c.dir, err)
}

// Stop ends the shim and everything in it: kindly, and after the given time by force.
func (c *Client) Stop(ctx context.Context, kindly time.Duration) error {
	if _, err := c.Do(ctx, Request{Op: OpStop}); err == nil && c.Await(kindly) {
		return nil
	}
	if err := c.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end shim %s: %w", c.dir, err)
	}
	if !c.Await(kindly) {
		return fmt.Errorf("shim %s: process %d does not end", c.dir, c.PID)
	}
	return nil
}
