//go:build linux

// Package netns makes network namespaces that need no cleaning up: they have no name, only open files, threads and
// sockets keep them, so the kernel takes them away, with all interfaces and tables in them, when the process
// ends, however it ends.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is an open network namespace.
type NS struct{ file *os.File }

// New makes an empty namespace. It needs CAP_SYS_ADMIN; the caller closes it.
func New() (*NS, error) {
	var ns *NS
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		var err error
		ns, err = Current()
		return err
	})
	return ns, err
}

// Current opens the namespace of the calling thread.
func Current() (*NS, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &NS{f}, nil
}

// FD is the namespace's file descriptor; it is valid until Close. It is 0 for nil, as of the process's own namespace.
func (n *NS) FD() int {
	if n == nil {
		return 0
	}
	return int(n.file.Fd())
}

// Close lets go of the namespace. It lives on while sockets or threads are in it.
func (n *NS) Close() error { return n.file.Close() }

// Do runs f with its thread in the namespace. Sockets that f opens stay there; goroutines that f starts do not.
// /proc/sys/net, read or written by f, is the namespace's. A nil NS is the process's own, and needs none of the rights that
// entering one does.
func (n *NS) Do(f func() error) error {
	if n == nil {
		return f()
	}
	return onOwnThread(func() error {
		if err := n.Enter(); err != nil {
			return err
		}
		return f()
	})
}

// Enter moves the calling thread into the namespace. It is for functions that run under Do and go on to further
// namespaces: Do puts the thread back.
func (n *NS) Enter() error {
	if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// onOwnThread runs f on a thread that f may move to another namespace, and puts it back afterwards. A thread that
// cannot be put back is thrown away: a goroutine that ends while locked takes its thread with it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := Current()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(home.FD(), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Open opens the namespace that a file such as /proc/1/ns/net leads to.
func Open(path string) (*NS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &NS{f}, nil
}

// Dup returns the namespace of a file descriptor, which stays the caller's.
func Dup(fd int) (*NS, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate network namespace %d: %w", fd, err)
	}
	return &NS{os.NewFile(uintptr(n), "netns")}, nil
}

// Same reports whether o is the same namespace.
func (n *NS) Same(o *NS) (bool, error) {
	a, err := n.file.Stat()
	if err != nil {
		return false, fmt.Errorf("look at network namespace: %w", err)
	}
	b, err := o.file.Stat()
	if err != nil {
		return false, fmt.Errorf("look at network namespace: %w", err)
	}
	return os.SameFile(a, b), nil
}
