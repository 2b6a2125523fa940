//go:build linux

// Package echo is the listener that stands for a program: it sends back what it gets, over TCP, UDP and SCTP.
package echo

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Servers are listening sockets with those who serve them. The zero value is ready to use.
type Servers struct {
	mu      sync.Mutex
	sockets map[io.Closer]bool
	closed  bool
	running sync.WaitGroup
}

// Listen opens a listener on a port of an address, in the calling thread's network namespace, and serves it until Close.
// A kernel without SCTP listens to none, and that is no error.
func (s *Servers) Listen(a netip.Addr, p cluster.Port) error {
	at := netip.AddrPortFrom(a, p.Number)
	switch p.Protocol {
	case flow.UDP:
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		s.run(c, func() { echoDatagrams(c) })
	case flow.TCP:
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		s.run(l, func() { s.accept(l) })
	case flow.SCTP:
		if !HasSCTP() {
			return nil
		}
		l, err := listenSCTP(at)
		if err != nil {
			return fmt.Errorf("listen on %s/sctp: %w", at, err)
		}
		s.run(l, func() { s.accept(l) })
	}
	return nil
}

// run keeps c until it is served to its end or Close, and closes it then.
func (s *Servers) run(c io.Closer, serve func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return
	}
	if s.sockets == nil {
		s.sockets = map[io.Closer]bool{}
	}
	s.sockets[c] = true
	s.running.Go(func() {
		serve()
		c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sockets, c)
	})
}

func (s *Servers) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			s.run(c, func() { echoStream(c) })
		}
	}
}

func echoStream(c net.Conn) {
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func echoDatagrams(c *net.UDPConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(buf[:n], from) // whoever asked counts what is lost
		}
	}
}

// Close closes all sockets, connections too, and returns when nobody serves them any more.
func (s *Servers) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.sockets {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// HasSCTP reports whether the kernel can open SCTP sockets.
var HasSCTP = sync.OnceValue(func() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
})

// listenSCTP opens a one-to-one style socket, which behaves as a TCP one.
func listenSCTP(at netip.AddrPort) (net.Listener, error) {
	domain, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		domain, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close() // FileListener has its own copy
	if err := unix.Bind(fd, to); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return nil, err
	}
	return net.FileListener(f)
}
