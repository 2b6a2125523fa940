//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// Kind is what a shim holds.
type Kind string

// The kinds.
const (
	PodKind  Kind = "pod"
	NodeKind Kind = "node"
)

// startTimeout is how long a shim may take until it answers.
const startTimeout = 20 * time.Second

// Start is what a shim is started with.
type Start struct {
	Kind     Kind
	Dir      Dir
	Hostname string // of a pod
	// NetNS is the namespace to run in; nil is a new one.
	NetNS *netns.NS
	// Executable is a program that calls Run when its arguments are "shim" and those of Args; "" is this one.
	Executable string
}

// Start makes the folder and starts the shim, which does not end with the caller. It returns when the shim answers.
func (s Start) Start(ctx context.Context) (*Client, error) {
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	said, say, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	defer said.Close()
	cmd, err := s.spawn(say)
	say.Close()
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	go func() { _ = cmd.Wait() }() // how it ended is in its log
	if err := awaitOK(ctx, said); err != nil {
		_ = cmd.Process.Kill() // it may have ended by itself
		return nil, fmt.Errorf("start shim: %w", err)
	}
	return Find(s.Dir)
}

func (s Start) prepare() error {
	if err := os.MkdirAll(string(s.Dir), 0o700); err != nil {
		return err
	}
	if err := os.Remove(s.Dir.file("shim.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if s.Kind == NodeKind {
		return nil
	}
	f, err := os.OpenFile(s.Dir.Resolv(), os.O_CREATE|os.O_WRONLY, 0o644) // something to mount
	if err != nil {
		return err
	}
	return f.Close()
}

// spawn starts the process, with the descriptor 3 to say on whether it came up.
func (s Start) spawn(say *os.File) (*exec.Cmd, error) {
	path := s.Executable
	if path == "" {
		path = "/proc/self/exe"
	}
	log, err := os.OpenFile(s.Dir.file("log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, "shim", string(s.Kind), "--dir", string(s.Dir), "--hostname", s.Hostname)
	cmd.Args[0] = "ringfence"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.Dir = log, log, []*os.File{say}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.Kind == PodKind {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID
	}
	if s.NetNS == nil {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
		return cmd, cmd.Start()
	}
	return cmd, s.NetNS.Do(cmd.Start) // a process begins in the namespaces of the thread that makes it
}

// awaitOK waits for the shim to say that it answers, or why it does not.
func awaitOK(ctx context.Context, said *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it does not come up"))
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = said.SetReadDeadline(time.Now()) })()
	text, err := io.ReadAll(said)
	switch {
	case string(text) == "ok":
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(text) > 0:
		return errors.New(strings.TrimSpace(string(text)))
	case err != nil:
		return err
	}
	return errors.New("it ended before it came up")
}
