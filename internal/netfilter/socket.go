//go:build linux

package netfilter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket buffers are limits, not allocations. A transaction is one message to the kernel, so the send buffer bounds
// the largest transaction. What comes back is short: an acknowledgement,
// or one error for each message.
const (
	sendBuffer    = 512 << 20
	receiveBuffer = 64 << 20
)

// answerTime is how long the kernel may take for a transaction. Netlink answers before the send returns, so that this
// only bounds the wait for an answer that never comes.
const answerTime = 10 * time.Second

// ErrStale: somebody committed to nftables since the generation that a transaction was made for.
var ErrStale = errors.New("nftables was changed meanwhile")

// ErrUnanswered: nobody knows whether a transaction was carried out.
var ErrUnanswered = errors.New("no answer to the transaction")

// A Conn talks to netfilter, in one network namespace. One goroutine may use it at a time.
type Conn struct {
	*netlink.Conn
	raw syscall.RawConn
	seq uint32
}

// Dial opens a socket in the namespace with file descriptor ns, 0 for the process's own.
func Dial(ns int) (*Conn, error) {
	conn, err := dial(ns)
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	s := &Conn{Conn: conn}
	err = errors.Join(conn.SetReadBuffer(receiveBuffer), conn.SetWriteBuffer(sendBuffer))
	if err == nil {
		s.raw, err = conn.SyscallConn()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up netfilter socket: %w", err)
	}
	return s, nil
}

// Port numbers of sockets that the kernel chooses by itself are those of processes, which are lower (PID_MAX_LIMIT in its
// threads.h), or negative.
const (
	lowestPort  = 1<<22 + 1
	highestPort = 1<<31 - 1
)

// dial opens a socket whose number was nobody's before and will be nobody's after: by it the kernel names whoever made a
// change, and a number that the kernel chose would be given to the next one who asks, also while changes are still to be
// read that were made under it.
func dial(ns int) (conn *netlink.Conn, err error) {
	for range 5 {
		port := lowestPort + rand.Uint32N(highestPort-lowestPort)
		conn, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns, PID: port})
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return conn, err
}

// Dump sends one request and returns all messages of the answer.
func (s *Conn) Dump(kind uint16, family byte, body Attrs) ([]netlink.Message, error) {
	return s.Request(kind, family, netlink.Dump, body)
}

// Request sends a request and returns the messages of the answer.
func (s *Conn) Request(kind uint16, family byte, flags netlink.HeaderFlags, body Attrs) ([]netlink.Message, error) {
	if err := s.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	return s.Execute(Message(kind, family, 0, flags, body))
}

// Generation asks for the number of nftables' last commit in this namespace.
func (s *Conn) Generation() (uint32, error) {
	answer, err := s.Request(nftMessage(unix.NFT_MSG_GETGEN), unix.NFPROTO_UNSPEC, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, m := range answer {
		if id := Uint32(Parse(m.Data[HeaderLen:])[unix.NFTA_GEN_ID]); id != 0 {
			return id, nil
		}
	}
	return 0, errors.New("read nftables generation: no answer")
}

// steadyTries is how often something is read again because somebody committed to nftables meanwhile.
const steadyTries = 20

// Steady calls read until nobody committed to nftables meanwhile, and returns the generation of what was read.
func (s *Conn) Steady(read func() error) (uint32, error) {
	for range steadyTries {
		before, err := s.Generation()
		if err != nil {
			return 0, err
		}
		err = read()
		after, err2 := s.Generation()
		if err2 != nil {
			return 0, err2
		}
		if before == after {
			return before, err
		}
	}
	return 0, fmt.Errorf("nftables did not hold still for %d attempts", steadyTries)
}

// Commit sends messages as one transaction, which the kernel carries out whole or not at all. It fails with ErrStale
// if nftables is not at the given generation; 0 is any.
func (s *Conn) Commit(messages []netlink.Message, generation uint32) error {
	var gen Attrs
	if generation != 0 {
		gen = gen.U32(nfnlBatchGenID, generation)
	}
	batch := make([]netlink.Message, 0, len(messages)+2)
	batch = append(batch, batchEdge(unix.NFNL_MSG_BATCH_BEGIN, gen))
	batch = append(batch, messages...)
	batch = append(batch, batchEdge(unix.NFNL_MSG_BATCH_END, nil))
	for i := range batch {
		s.seq++
		batch[i].Header.Sequence = s.seq
	}
	// Only the last message asks for an answer: thousands of acknowledgements would need more buffer than the
	// transaction. Errors are answered unasked.
	last := &batch[len(batch)-2]
	last.Header.Flags |= netlink.Acknowledge
	// The send is the transaction, and takes as long as that does: the deadline of an earlier request is not for it.
	if err := s.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if _, err := s.SendMessages(batch); errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("transaction of %d messages is larger than %d MiB: apply it in parts", len(messages), sendBuffer>>20)
	} else if err != nil {
		return fmt.Errorf("send transaction: %w", err)
	}
	return s.answer(batch[0].Header.Sequence, last.Header.Sequence, batch)
}

// answer waits for the kernel's answer to the transaction whose messages have the numbers first to last.
func (s *Conn) answer(first, last uint32, batch []netlink.Message) error {
	if err := s.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	for {
		datagram, err := s.Datagram()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnanswered, err)
		}
		messages, err := syscall.ParseNetlinkMessage(datagram)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnanswered, err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || m.Header.Seq < first || m.Header.Seq > last+1 {
				continue
			}
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			switch {
			case errno == unix.ERESTART:
				return ErrStale
			case errno != 0 && m.Header.Seq == first:
				return fmt.Errorf("commit transaction: %w", errno)
			case errno != 0:
				return fmt.Errorf("%s: %w", Describe(batch[m.Header.Seq-first]), errno)
			case m.Header.Seq == last:
				return nil
			}
		}
	}
}

// Datagram waits for one datagram; ENOBUFS says that some were lost.
func (s *Conn) Datagram() ([]byte, error) {
	buffer := make([]byte, 64<<10)
	var n int
	var err error
	if wait := s.raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	}); wait != nil {
		return nil, wait
	}
	if err != nil {
		return nil, os.NewSyscallError("recvfrom", err)
	}
	return buffer[:n], nil
}

// Listen opens a socket that receives a notice of every change to nftables.
func Listen(ns int) (*Conn, error) {
	s, err := Dial(ns)
	if err != nil {
		return nil, err
	}
	if err := s.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		s.Close()
		return nil, fmt.Errorf("listen to changes of nftables: %w", err)
	}
	return s, nil
}

// Datagrams calls f for every datagram, and for every time that some were lost, until the context ends.
func (s *Conn) Datagrams(ctx context.Context, f func([]byte, error)) error {
	stop := context.AfterFunc(ctx, func() { s.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		datagram, err := s.Datagram()
		switch {
		case ctx.Err() != nil:
			return s.SetReadDeadline(time.Time{})
		case errors.Is(err, unix.ENOBUFS):
			f(nil, err)
		case err != nil:
			return fmt.Errorf("watch: %w", err)
		default:
			f(datagram, nil)
		}
	}
}

// Update sends changes of connections. One that has ended meanwhile is no error.
func (s *Conn) Update(messages []netlink.Message) error {
	if _, err := s.SendMessages(messages); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	for range messages {
		if _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("update: %w", err)
		}
	}
	return nil
}
