//go:build linux

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stdio is what a command of Exec reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec runs a command in the namespaces of the shim, to its end, and returns its exit code. In a pod it runs as the
// pod's command does: with its environment and user, in its folder, without the rights that a container does not have.
// On the node it runs as the caller, in the node's network.
func (c *Client) Exec(p *Pod, args []string, stdio Stdio) (int, error) {
	cmd, namespaces := exec.Command(args[0], args[1:]...), unix.CLONE_NEWNET
	if p != nil {
		cmd, namespaces = command(*p, args...), unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWPID
		cmd.SysProcAttr.Setsid = false // it stays at the caller's terminal
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	pidfd, err := c.open()
	if err != nil {
		return 0, err
	}
	defer pidfd.Close()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread, which belongs to the pod now, ends with the goroutine
		err := enter(pidfd, namespaces, p != nil)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	if err := <-started; err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil // as shells say it
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// enter moves the calling thread, which is locked, into namespaces of a process. A new PID namespace is for those that
// the thread starts.
func enter(pidfd *os.File, namespaces int, drop bool) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // the other threads stay where they are
		return fmt.Errorf("enter: %w", err)
	}
	if err := unix.Setns(int(pidfd.Fd()), namespaces); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	if drop {
		return DropRights()
	}
	return nil
}
