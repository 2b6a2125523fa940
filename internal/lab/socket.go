//go:build linux

package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// socket is one probe's own end: a client that sends a number and waits for it to come back.
type socket struct {
	fd        int
	proto     flow.Protocol
	number    uint64 // no two sockets of a lab send the same
	connected bool   // of a stream
}

// openSocket makes a client of t in the calling thread's namespace and sends what it can at once.
func openSocket(t flow.Tuple, number uint64) (*socket, error) {
	kind, proto := unix.SOCK_STREAM, int(t.Protocol)
	switch t.Protocol {
	case flow.UDP, flow.ICMP, flow.ICMPv6:
		kind = unix.SOCK_DGRAM
	case flow.TCP, flow.SCTP:
	default:
		return nil, fmt.Errorf("no probe for protocol %s", t.Protocol)
	}
	fd, err := unix.Socket(domainOf(t.Source), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", t.Protocol, err)
	}
	s := &socket{fd: fd, proto: t.Protocol, number: number}
	if err := s.dial(t); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) dial(t flow.Tuple) error {
	if err := unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(t.Source, 0))); err != nil {
		return fmt.Errorf("bind to %s: %w", t.Source, err)
	}
	if s.stream() { // closing resets: no state stays behind for thousands of probes
		if err := unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return fmt.Errorf("set linger: %w", err)
		}
	}
	err := unix.Connect(s.fd, sockaddr(netip.AddrPortFrom(t.Destination, t.Port)))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	if s.stream() {
		return nil
	}
	return s.send()
}

func (s *socket) stream() bool { return s.proto == flow.TCP || s.proto == flow.SCTP }

// send sends the number. For a datagram it may be called again; that it was lost on the way is no error.
func (s *socket) send() error {
	if _, err := unix.Write(s.fd, s.message()); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// message is the number, for ICMP in an echo request; the kernel fills in the identifier and the checksum.
func (s *socket) message() []byte {
	number := binary.BigEndian.AppendUint64(nil, s.number)
	switch s.proto {
	case flow.ICMP:
		return append([]byte{8, 0, 0, 0, 0, 0, 0, 1}, number...)
	case flow.ICMPv6:
		return append([]byte{128, 0, 0, 0, 0, 0, 0, 1}, number...)
	}
	return number
}

// ready looks at what happened to the socket; done is false while there is nothing to tell yet. An error that wraps
// ECONNREFUSED means that the packet arrived where nobody listens.
func (s *socket) ready() (done bool, err error) {
	if errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		return true, fmt.Errorf("read socket error: %w", err)
	} else if errno != 0 {
		return true, unix.Errno(errno)
	}
	if s.stream() && !s.connected {
		s.connected = true
		if err := s.send(); err != nil {
			return true, err
		}
	}
	return s.receive()
}

func (s *socket) receive() (bool, error) {
	var buf [64]byte
	for {
		n, err := unix.Read(s.fd, buf[:])
		if errors.Is(err, unix.EAGAIN) {
			return false, nil
		}
		if err != nil {
			return true, fmt.Errorf("receive: %w", err)
		}
		if n == 0 && s.stream() {
			return true, errors.New("the other end hung up")
		}
		if bytes.HasSuffix(buf[:n], binary.BigEndian.AppendUint64(nil, s.number)) {
			return true, nil
		}
	}
}

// progress says how far a socket came that got no answer; nil if nothing is known.
func (s *socket) progress() error {
	if s.connected {
		return errors.New("it was connected, but nothing came back")
	}
	return nil
}

func (s *socket) close() { unix.Close(s.fd) }

func domainOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
