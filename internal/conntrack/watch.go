//go:build linux

package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// receiveBuffer bounds what waits in the kernel while we are busy: about 100,000 events. It is a limit, not an
// allocation.
const receiveBuffer = 64 << 20

// What ctnetlink calls its messages and multicast groups (enum cntl_msg_types, enum nfnetlink_groups).
const (
	messageNew    = unix.NFNL_SUBSYS_CTNETLINK << 8
	messageGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	messageDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	groupNew     = 1 << 0
	groupUpdate  = 1 << 1
	groupDestroy = 1 << 2
)

// settings make the kernel count and time connections, and tell of all of them: by default it tells only of those
// that began while somebody listened, so that a restart would miss the end of every older one.
var settings = []string{"nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events"}

// Prepare turns on, in a namespace, what a Watcher there needs to tell bytes and durations. Connections that are
// older keep what they have, and of them no event is ever told: only a List knows. Where /proc/sys may not be written, as in
// a container, the kernel's settings stay: by default it tells of connections that begin while somebody listens, without
// bytes and durations. It fails with errors.ErrUnsupported where the kernel has no connection tracking.
func Prepare(ns *netns.NS) error {
	return ns.Do(func() error {
		for _, name := range settings {
			err := os.WriteFile("/proc/sys/net/netfilter/"+name, []byte("1"), 0)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("set net.netfilter.%s: %w: load the module nf_conntrack", name, errors.ErrUnsupported)
			}
			if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
				continue
			}
			if err != nil {
				return fmt.Errorf("set net.netfilter.%s: %w", name, err)
			}
		}
		return nil
	})
}

// Options say what a Watcher tells.
type Options struct {
	// Updates: tell changes of status too, of which the first answer is one. They are several for each connection.
	Updates bool
}

// Watcher hears of connections in one namespace, from Open on.
type Watcher struct{ *socket }

// Open subscribes to a namespace's connections, which the kernel queues until Run reads them. The caller closes
// the watcher; ns may be closed before.
func Open(ns *netns.NS, o Options) (*Watcher, error) {
	groups := uint32(groupNew | groupDestroy)
	if o.Updates {
		groups |= groupUpdate
	}
	s, err := dial(ns, groups)
	if err != nil {
		return nil, err
	}
	return &Watcher{s}, nil
}

// Run calls f for every event, from one goroutine, until ctx ends (and then returns its error) or reading fails. f
// must be quick. A message that cannot be read is left out: no other one depends on it.
func (w *Watcher) Run(ctx context.Context, f func(Event)) error {
	return w.read(ctx, func(m message) (bool, error) {
		if e := (Event{Kind: kindOf(m.kind, m.flags)}); e.Kind != 0 {
			var err error
			if e.Conn, e.Time, err = parse(m.body); err == nil {
				if e.Time.IsZero() {
					e.Time = time.Now()
				}
				f(e)
			}
		}
		return true, nil
	}, func() { f(Event{Kind: Lost, Time: time.Now()}) })
}

func kindOf(message, flags uint16) Kind {
	switch {
	case message == messageDelete:
		return Ended
	case message == messageNew && flags&unix.NLM_F_CREATE != 0:
		return New
	case message == messageNew:
		return Updated
	}
	return 0
}

// List calls f for every connection that is tracked in a namespace. Connections that come or go meanwhile may be
// left out or be there twice. The kernel forgets, and tells watchers of, the overdue ones that it meets on the way.
func List(ctx context.Context, ns *netns.NS, f func(Conn)) error {
	s, err := dial(ns, 0)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.ask(ctx, netlink.Dump, unix.AF_UNSPEC, nil, f); err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	return nil
}

// Lookup asks for single connections of one namespace. One caller at a time may use it.
type Lookup struct{ *socket }

// OpenLookup opens a Lookup, which the caller closes; ns may be closed before.
func OpenLookup(ns *netns.NS) (*Lookup, error) {
	s, err := dial(ns, 0)
	if err != nil {
		return nil, err
	}
	return &Lookup{s}, nil
}

// Get returns the connection of that key as it is now; false if there is none, or only a newer one.
func (l *Lookup) Get(ctx context.Context, k Key) (Conn, bool, error) {
	family := byte(unix.AF_INET)
	if k.Original.Source.Addr.Is6() {
		family = unix.AF_INET6
	}
	var found Conn
	err := l.ask(ctx, netlink.Acknowledge, family, keyAttributes(k), func(c Conn) { found = c })
	if errors.Is(err, unix.ENOENT) {
		return Conn{}, false, nil
	}
	if err != nil {
		return Conn{}, false, fmt.Errorf("look up connection: %w", err)
	}
	return found, found.Key == k, nil
}

// ask sends a request for connections and calls f for each one in the answer.
func (s *socket) ask(ctx context.Context, flags netlink.HeaderFlags, family byte, body []byte, f func(Conn)) error {
	sent, err := s.conn.Send(netlink.Message{
		Header: netlink.Header{Type: messageGet, Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, body...),
	})
	if err != nil {
		return err
	}
	lost := false
	err = s.read(ctx, func(m message) (bool, error) {
		switch {
		case m.sequence != sent.Header.Sequence:
		case m.kind == unix.NLMSG_DONE:
			return false, nil
		case m.kind == unix.NLMSG_ERROR:
			return false, errnoOf(m.body)
		case m.kind == messageNew:
			if c, _, err := parse(m.body); err == nil {
				f(c)
			}
		}
		return true, nil
	}, func() { lost = true })
	if err == nil && lost {
		err = errors.New("the answer did not fit the receive buffer")
	}
	return err
}

func errnoOf(body []byte) error {
	if len(body) < 4 {
		return errShort
	}
	if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); errno != 0 {
		return errno
	}
	return nil
}

// socket is a netfilter netlink socket that is read without an allocation for each message.
type socket struct {
	conn *netlink.Conn
	raw  syscall.RawConn
}

func dial(ns *netns.NS, groups uint32) (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD(), Groups: groups})
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		return nil, fmt.Errorf("open conntrack socket: %w", err)
	}
	s := &socket{conn: conn}
	if err = conn.SetReadBuffer(receiveBuffer); err == nil {
		s.raw, err = conn.SyscallConn()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up conntrack socket: %w", err)
	}
	return s, nil
}

// Close frees the socket.
func (s *socket) Close() error { return s.conn.Close() }

// read calls f for each netlink message until it returns false or an error, or ctx ends; and lost where the kernel
// had to drop some.
func (s *socket) read(ctx context.Context, f func(message) (bool, error), lost func()) error {
	if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("read conntrack socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buffer := make([]byte, 64<<10)
	for {
		n, err := s.receive(buffer)
		if err == nil { // also if ctx ended meanwhile: what was read is not told again
			if more, err := split(buffer[:n], f); err != nil || !more {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			lost()
		case errors.Is(err, os.ErrDeadlineExceeded): // set by the end of an earlier context
			if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
				return fmt.Errorf("read conntrack socket: %w", err)
			}
			if ctx.Err() != nil { // the deadline that we just took away may have been this context's
				return ctx.Err()
			}
		default:
			return fmt.Errorf("read conntrack socket: %w", err)
		}
	}
}

func (s *socket) receive(buffer []byte) (n int, err error) {
	wait := s.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buffer)
		return err != unix.EAGAIN
	})
	if wait != nil {
		return 0, wait
	}
	return n, err
}

// message is a netlink message; its body is only good until the next one is read.
type message struct {
	kind, flags uint16
	sequence    uint32
	body        []byte
}

// split calls f for each message of a datagram.
func split(datagram []byte, f func(message) (bool, error)) (bool, error) {
	for len(datagram) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(datagram))
		if size < unix.NLMSG_HDRLEN || size > len(datagram) {
			return true, nil // the rest cannot be read, and the next datagram does not depend on it
		}
		m := message{kind: binary.NativeEndian.Uint16(datagram[4:]), flags: binary.NativeEndian.Uint16(datagram[6:]),
			sequence: binary.NativeEndian.Uint32(datagram[8:]), body: datagram[unix.NLMSG_HDRLEN:size]}
		if more, err := f(m); err != nil || !more {
			return more, err
		}
		datagram = datagram[min((size+3)&^3, len(datagram)):]
	}
	return true, nil
}
