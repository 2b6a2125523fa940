//go:build linux

package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process, told apart from another one that has its number later: by when it started, and in which boot.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
	Boot  string `json:"boot"`
}

// self is the calling process as the mounted /proc sees it, which may be that of a parent PID namespace.
func self() (Process, error) {
	target, err := os.Readlink("/proc/self")
	if err != nil {
		return Process{}, fmt.Errorf("find own process: %w", err)
	}
	pid, err := strconv.Atoi(target)
	if err != nil {
		return Process{}, fmt.Errorf("find own process: /proc/self is %q", target)
	}
	return identify(pid)
}

// Self is the calling process.
func Self() (Process, error) { return identify(os.Getpid()) }

func identify(pid int) (Process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, fmt.Errorf("read boot id: %w", err)
	}
	now, err := stat(pid)
	return Process{PID: pid, Start: now.start, Boot: strings.TrimSpace(string(boot))}, err
}

// procStat is a part of what the kernel says of a process.
type procStat struct {
	state           byte // a letter
	parent, session int
	start           uint64 // clock ticks since boot
}

func stat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// the name is in brackets and may contain anything, brackets too
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const stateAt, parentAt, sessionAt, startAt = 0, 1, 3, 19 // fields 3, 4, 6 and 22 of proc_pid_stat(5)
	if len(fields) <= startAt {
		return procStat{}, fmt.Errorf("look at process %d: its stat has %d fields", pid, len(fields))
	}
	parent, err1 := strconv.Atoi(string(fields[parentAt]))
	session, err2 := strconv.Atoi(string(fields[sessionAt]))
	start, err3 := strconv.ParseUint(string(fields[startAt]), 10, 64)
	return procStat{fields[stateAt][0], parent, session, start}, errors.Join(err1, err2, err3)
}

// Alive reports whether p still runs.
func (p Process) Alive() bool {
	now, err := identify(p.PID)
	if p.PID <= 0 || err != nil || now != p {
		return false
	}
	s, err := stat(p.PID)
	return err == nil && s.state != 'Z' && s.state != 'X'
}

// open returns a descriptor of p that no other process can come to have.
func (p Process) open() (*os.File, error) {
	if p.PID <= 0 {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrProcessDone)
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK) // so that a goroutine waits for it, and no thread
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !p.Alive() { // looked at after the descriptor is there: it is p's, or p is gone
		f.Close()
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrProcessDone)
	}
	return f, nil
}

// Signal sends p a signal. It is os.ErrProcessDone if p is gone.
func (p Process) Signal(s syscall.Signal) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.PidfdSendSignal(int(f.Fd()), s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", p.PID, os.ErrProcessDone)
	}
	return err
}

// AwaitEnd returns nil when p has ended, or why it stopped waiting.
func (p Process) AwaitEnd(ctx context.Context) error {
	f, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool { // called again whenever the descriptor may have become readable
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Await returns true when p has ended, or false after the given time.
func (p Process) Await(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return p.AwaitEnd(ctx) == nil || !p.Alive()
}
