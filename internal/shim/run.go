//go:build linux

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Servant is what the node's shim does beside holding its namespace, such as answering DNS queries. Update is called
// with what Request.Node says, from one goroutine at a time; Close ends it.
type Servant interface {
	Update(data json.RawMessage) error
	Close() error
}

// Run is a shim's main function. It returns when the shim was asked to stop, with everything in it ended. servant makes
// the node's, and may be nil.
func Run(kind Kind, d Dir, hostname string, servant func() (Servant, error)) error {
	say := os.NewFile(3, "say")
	err := run(kind, d, hostname, servant, func() {
		fmt.Fprint(say, "ok")
		say.Close()
	})
	if err != nil {
		fmt.Fprint(say, err) // nobody hears it if it came up; it is in the log too
	}
	return err
}

func run(kind Kind, d Dir, hostname string, servant func() (Servant, error), up func()) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	// SIGTERM ends a shim; SIGINT and SIGHUP are for whoever sits at the terminal
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	ctx, unhook := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer unhook()
	unix.CloseOnExec(3)
	if err := d.register(); err != nil {
		return err
	}
	var k keeper
	var err error
	var closeAll func() error
	switch kind {
	case PodKind:
		if err := enterPod(d, hostname); err != nil {
			return err
		}
		p := newPodKeeper(ctx)
		k, closeAll = p, p.close
	case NodeKind:
		n := &nodeKeeper{changes: changes{next: make(chan struct{})}, since: time.Now()}
		if servant != nil {
			if n.servant, err = servant(); err != nil {
				return err
			}
		}
		k, closeAll = n, n.close
	default:
		return fmt.Errorf("no kind of shim is called %q", kind)
	}
	e, err := listen(d, k, stop)
	if err != nil {
		return errors.Join(err, closeAll())
	}
	up()
	e.serve(ctx)
	return closeAll()
}

// register writes which process this is. It comes first, so that a shim which can do anything can also be found.
func (d Dir) register() error {
	p, err := self()
	if err != nil {
		return err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	temporary := d.file("shim.json.new")
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if err := os.Rename(temporary, d.file("shim.json")); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	return nil
}

// enterPod makes the pod's namespaces, which are still like those outside, its own.
func enterPod(d Dir, hostname string) error {
	// what others mount outside still appears here, but nothing from here outside
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	err := unix.Mount(d.Resolv(), "/etc/resolv.conf", "", unix.MS_BIND, "")
	if err != nil && !errors.Is(err, unix.ENOENT) { // without the file, programs ask 127.0.0.1, where nobody answers
		return fmt.Errorf("mount /etc/resolv.conf: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set host name %q: %w", hostname, err)
	}
	return nil
}

// changes lets many wait for the next change of something.
type changes struct{ next chan struct{} }

func (c *changes) happened() {
	close(c.next)
	c.next = make(chan struct{})
}

// nodeKeeper is the node's shim.
type nodeKeeper struct {
	mu      sync.Mutex
	changes changes
	since   time.Time
	servant Servant
	told    bool
}

func (n *nodeKeeper) status() (Status, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := Status{State: Waiting, Since: n.since}
	if n.told || n.servant == nil {
		s.State, s.Ready = Running, true
	}
	return s, n.changes.next
}

func (n *nodeKeeper) update(r Request) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.servant == nil {
		return errors.New("the node's shim serves nothing")
	}
	if err := n.servant.Update(r.Node); err != nil {
		return err
	}
	if !n.told {
		n.told, n.since = true, time.Now()
		n.changes.happened()
	}
	return nil
}

func (n *nodeKeeper) pod() *Pod { return nil }

func (n *nodeKeeper) close() error {
	if n.servant == nil {
		return nil
	}
	return n.servant.Close()
}
