//go:build linux

package shim

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/podspec"
)

// children are the processes of a pod. The shim is the first process of its PID namespace, so those that lose their
// parent become its children, and it has to take note of their end.
type children struct {
	mu    sync.Mutex
	own   map[int]bool     // those that somebody here waits for
	tasks chan func(error) // for the thread that starts commands
	reap  chan os.Signal
}

func newChildren() *children {
	c := &children{own: map[int]bool{}, tasks: make(chan func(error)), reap: make(chan os.Signal, 1)}
	go c.starter()
	signal.Notify(c.reap, syscall.SIGCHLD)
	go func() {
		for range c.reap {
			c.reapOrphans()
		}
	}()
	return c
}

// starter is a thread with fewer rights than the shim. A process has those of the thread that makes it.
func (c *children) starter() {
	runtime.LockOSThread()
	err := DropRights()
	for task := range c.tasks {
		task(err)
	}
}

// startOn starts cmd from the starter's thread.
func (c *children) startOn(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	c.tasks <- func(err error) {
		c.mu.Lock() // until the process is known, it must not be taken for an orphan
		defer c.mu.Unlock()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			c.own[cmd.Process.Pid] = true
		}
		done <- err
	}
	return <-done
}

// wait waits for a command of startOn.
func (c *children) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	c.mu.Lock()
	delete(c.own, cmd.Process.Pid)
	c.mu.Unlock()
	select {
	case c.reap <- syscall.SIGCHLD: // an orphan may have ended behind it
	default:
	}
	return err
}

// reapOrphans takes note of those that have ended, until it meets one that somebody here waits for.
func (c *children) reapOrphans() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		pid, err := endedChild()
		if err != nil || pid == 0 || c.own[pid] {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// child is the pod's command while it runs.
type child struct {
	cmd   *exec.Cmd
	how   string        // it ended, once ended is closed
	ended chan struct{} // closed when it has ended
}

// start starts the command of a pod. What it writes goes to out.
func (c *children) start(p Pod, out *os.File) (*child, error) {
	cmd := command(p, "/bin/sh", "-c", p.Workload.Command)
	cmd.Stdout, cmd.Stderr = out, out
	if err := c.startOn(cmd); err != nil {
		return nil, p.why(err)
	}
	started := &child{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(started.ended)
		started.how = "exit status 0"
		if err := c.wait(cmd); err != nil {
			started.how = err.Error()
		}
	}()
	return started, nil
}

// command is a command of a pod: as its user, in its folder, with its environment, in a session of its own.
func command(p Pod, args ...string) *exec.Cmd {
	w := p.Workload
	cmd := &exec.Cmd{Args: args, Dir: cmp.Or(w.WorkingDir, p.WorkDir), Env: Environ(p)}
	cmd.Path, cmd.Err = lookPath(args[0], cmd.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if w.User != nil || w.Group != nil {
		id := &syscall.Credential{}
		if w.User != nil {
			id.Uid = *w.User
		}
		if w.Group != nil {
			id.Gid = *w.Group
		}
		cmd.SysProcAttr.Credential = id
	}
	return cmd
}

// lookPath finds a command as a shell with that environment does.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			path = value
		}
	}
	err := error(fs.ErrNotExist)
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(cmp.Or(dir, "."), name)
		info, statErr := os.Stat(file)
		switch {
		case statErr != nil || info.IsDir():
		case info.Mode()&0o111 == 0:
			err = fs.ErrPermission
		default:
			return file, nil
		}
	}
	return "", &exec.Error{Name: name, Err: err}
}

// why finds what is behind a command that the pod's user may not start: often a folder above the one it starts in.
func (p Pod) why(err error) error {
	dir := cmp.Or(p.Workload.WorkingDir, p.WorkDir)
	if u := p.Workload.User; !errors.Is(err, fs.ErrPermission) || u == nil || *u == 0 {
		return err
	}
	for above := filepath.Dir(dir); above != "/" && above != "."; above = filepath.Dir(above) {
		if info, statErr := os.Stat(above); statErr == nil && info.Mode()&0o001 == 0 {
			return fmt.Errorf("user %d is not let through %s (mode %04o) to the pod's folder %s: choose another with --state",
				*p.Workload.User, above, info.Mode().Perm(), dir)
		}
	}
	return err
}

// Environ is the environment of a pod's command.
func Environ(p Pod) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + p.WorkDir,
		"HOSTNAME=" + p.Key.Name, "LANG=C.UTF-8"}
	for _, e := range p.Workload.Env {
		value := e.Value
		switch e.Field {
		case podspec.PodName:
			value = p.Key.Name
		case podspec.PodNamespace:
			value = p.Key.Namespace
		case podspec.PodIP:
			if len(p.Addresses) > 0 {
				value = p.Addresses[0].String()
			}
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}

// end ends the command and everything else that runs in the pod: with TERM, and after the grace with KILL.
func (c *child) end(grace time.Duration) {
	pid := c.cmd.Process.Pid
	if c.running() {
		_ = unix.Kill(-pid, unix.SIGTERM) // its group, which is named after it until it was waited for
		select {
		case <-c.ended:
		case <-time.After(cmp.Or(grace, podspec.DefaultGrace)):
		}
	}
	// To the first process of a PID namespace, "all" are all others in it. What the command left behind holds ports
	// and files that the next one wants. There may be nobody.
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL)
	} else if c.running() {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	<-c.ended
}

func (c *child) running() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// keptRights are what a container has that asks for nothing special: enough to run servers as root and to drop root,
// not enough to leave the pod's namespaces or to change its addresses.
var keptRights = map[uintptr]bool{
	unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FSETID: true, unix.CAP_FOWNER: true, unix.CAP_MKNOD: true,
	unix.CAP_NET_RAW: true, unix.CAP_SETGID: true, unix.CAP_SETUID: true, unix.CAP_SETFCAP: true, unix.CAP_SETPCAP: true,
	unix.CAP_NET_BIND_SERVICE: true, unix.CAP_SYS_CHROOT: true, unix.CAP_KILL: true, unix.CAP_AUDIT_WRITE: true,
}

// DropRights takes from the processes that the calling thread makes from now on the capabilities that a container does
// not have. The thread, which has to be locked, keeps its own.
func DropRights() error {
	for right := uintptr(0); right <= unix.CAP_LAST_CAP; right++ {
		if keptRights[right] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, right, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) { // a kernel that is older than the right
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
