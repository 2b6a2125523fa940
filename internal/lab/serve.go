//go:build linux

package lab

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

// servers are the echo servers of all hosts.
type servers struct {
	mu      sync.Mutex
	sockets []io.Closer
	closed  bool
	running sync.WaitGroup
}

// start listens on every address and port of every host. Sockets are opened on threads inside the hosts'
// namespaces and stay there; everything else happens outside.
func (s *servers) start(hosts []*station) error {
	for _, h := range hosts {
		err := h.ns.Do(func() error {
			for _, a := range h.addresses {
				for _, p := range h.listen {
					if err := s.listen(a, p); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("listen in %s: %w", h.name(), err)
		}
	}
	return nil
}

func (s *servers) listen(a netip.Addr, p cluster.Port) error {
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
		if !hasSCTP() {
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

// run keeps c until close, and serves it.
func (s *servers) run(c io.Closer, serve func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets = append(s.sockets, c)
	s.running.Go(serve)
}

func (s *servers) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		// Probes end by themselves, and Close of the lab ends them too: nobody has to wait for these.
		go func() {
			defer c.Close()
			buf := make([]byte, 64)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func echoDatagrams(c *net.UDPConn) {
	buf := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(buf[:n], from) // the probe counts what is lost
		}
	}
}

func (s *servers) close() {
	s.mu.Lock()
	for _, c := range s.sockets {
		c.Close()
	}
	s.sockets = nil
	s.mu.Unlock()
	s.running.Wait()
}

// hasSCTP reports whether the kernel can open SCTP sockets.
var hasSCTP = sync.OnceValue(func() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
})

// listenSCTP opens a one-to-one style socket, which behaves as a TCP one.
func listenSCTP(at netip.AddrPort) (net.Listener, error) {
	fd, err := unix.Socket(domainOf(at.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "sctp")
	defer f.Close() // FileListener has its own copy
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, 128); err != nil {
		return nil, err
	}
	return net.FileListener(f)
}
