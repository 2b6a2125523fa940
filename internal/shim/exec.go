//go:build linux

package shim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stdio is what a command of Exec reads and writes, and what it is told.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
	// Terminal says that the three are the caller's terminal: then the command stays in the caller's process group, which
	// the terminal tells of Ctrl-C. Else it has a session of its own.
	Terminal bool
	// Signals are passed on to the command: without Terminal to all that it has started. Nil has none.
	Signals <-chan os.Signal
}

// Exec runs a command in the namespaces of the shim, to its end, and returns its exit code. In a pod it runs as the
// pod's command does: with its environment and user, in its folder, without the rights that a container does not have.
// On the node it runs as the caller, in the node's network. It is killed if the caller ends first, whatever way; in a pod
// so is all that it has started. An error that wraps fs.ErrNotExist or fs.ErrPermission says that there is no such command,
// or that nobody may run it.
func (c *Client) Exec(p *Pod, args []string, stdio Stdio) (int, error) {
	cmd, namespaces := &exec.Cmd{Args: args}, unix.CLONE_NEWNET
	if p != nil {
		cmd, namespaces = command(*p, args...), unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWPID
		if _, err := os.Stat(cmd.Dir); err != nil { // else it would look as if there were no such command
			return 0, fmt.Errorf("the pod's folder: %s", err.(*fs.PathError).Err)
		}
	} else {
		cmd.Path, cmd.Err = lookPath(args[0], os.Environ())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	}
	cmd.SysProcAttr.Setsid = !stdio.Terminal
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	pidfd, err := c.open()
	if err != nil {
		return 0, err
	}
	defer pidfd.Close()
	started, ended := make(chan error), make(chan struct{})
	defer close(ended)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread, which belongs to the pod now, ends with the goroutine
		err := enter(pidfd, namespaces, p != nil)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		<-ended // a parent's death is that of the thread which made the child
	}()
	if err := <-started; err != nil {
		if p != nil {
			err = p.why(err)
		}
		return 0, err
	}
	if p != nil {
		defer c.guard(cmd.Process.Pid)()
	}
	return exitCode(passOn(cmd, stdio))
}

// exitCode is how a command ended, as shells say it.
func exitCode(err error) (int, error) {
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// passOn waits for a command that was started, and passes signals on to it meanwhile.
func passOn(cmd *exec.Cmd, stdio Stdio) error {
	to := cmd.Process.Pid
	if !stdio.Terminal {
		to = -to // its group
	}
	var mu sync.Mutex // once it was waited for, its number may be another's
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-stdio.Signals:
				mu.Lock()
				if number, ok := s.(syscall.Signal); ok && cmd.ProcessState == nil {
					_ = unix.Kill(to, number)
				}
				mu.Unlock()
			case <-ended:
				return
			}
		}
	}()
	err := awaitExit(cmd.Process.Pid)
	mu.Lock()
	defer mu.Unlock()
	close(ended)
	return errors.Join(err, cmd.Wait())
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
