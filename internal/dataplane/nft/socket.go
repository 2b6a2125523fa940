//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Socket buffers are limits, not allocations. A transaction is one message to the kernel, so the send buffer bounds
// the largest ruleset (about 250 bytes for a pod, 60 for an address). What comes back is short: an acknowledgement,
// or one error for each message.
const (
	sendBuffer    = 512 << 20
	receiveBuffer = 64 << 20
)

// answerTime is how long the kernel may take for a transaction. Netlink answers before the send returns, so that this
// only bounds the wait for an answer that never comes.
const answerTime = 10 * time.Second

// errStale: somebody committed to nftables since the generation that a transaction was made for.
var errStale = errors.New("nftables was changed meanwhile")

// errUnanswered: nobody knows whether a transaction was carried out.
var errUnanswered = errors.New("no answer to the transaction")

// A socket talks to netfilter, in one network namespace.
type socket struct {
	*netlink.Conn
	raw syscall.RawConn
	seq uint32
}

// dial opens a socket in the namespace with file descriptor ns, 0 for the process's own.
func dial(ns int) (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	s := &socket{Conn: conn}
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

// dump sends one request and returns all messages of the answer.
func (s *socket) dump(kind uint16, family byte, body attrs) ([]netlink.Message, error) {
	return s.request(kind, family, netlink.Dump, body)
}

func (s *socket) request(kind uint16, family byte, flags netlink.HeaderFlags, body attrs) ([]netlink.Message, error) {
	if err := s.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	return s.Execute(message(kind, family, 0, flags, body))
}

// generation asks for the number of nftables' last commit in this namespace.
func (s *socket) generation() (uint32, error) {
	answer, err := s.request(nftMessage(unix.NFT_MSG_GETGEN), unix.NFPROTO_UNSPEC, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, m := range answer {
		if id := bigEndian32(parse(m.Data[headerLen:])[unix.NFTA_GEN_ID]); id != 0 {
			return id, nil
		}
	}
	return 0, errors.New("read nftables generation: no answer")
}

// steadyTries is how often something is read again because somebody committed to nftables meanwhile.
const steadyTries = 20

// steady calls read until nobody committed to nftables meanwhile, and returns the generation of what was read.
func (s *socket) steady(read func() error) (uint32, error) {
	for range steadyTries {
		before, err := s.generation()
		if err != nil {
			return 0, err
		}
		err = read()
		after, err2 := s.generation()
		if err2 != nil {
			return 0, err2
		}
		if before == after {
			return before, err
		}
	}
	return 0, fmt.Errorf("nftables did not hold still for %d attempts", steadyTries)
}

// commit sends messages as one transaction, which the kernel carries out whole or not at all. It fails with errStale
// if nftables is not at the given generation; 0 is any.
func (s *socket) commit(messages []netlink.Message, generation uint32) error {
	var gen attrs
	if generation != 0 {
		gen = gen.u32(nfnlBatchGenID, generation)
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
	if _, err := s.SendMessages(batch); errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("transaction of %d messages is larger than %d MiB: apply it in parts", len(messages), sendBuffer>>20)
	} else if err != nil {
		return fmt.Errorf("send transaction: %w", err)
	}
	return s.answer(batch[0].Header.Sequence, last.Header.Sequence, batch)
}

// answer waits for the kernel's answer to the transaction whose messages have the numbers first to last.
func (s *socket) answer(first, last uint32, batch []netlink.Message) error {
	if err := s.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	for {
		datagram, err := s.receive()
		if err != nil {
			return fmt.Errorf("%w: %w", errUnanswered, err)
		}
		messages, err := syscall.ParseNetlinkMessage(datagram)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnanswered, err)
		}
		for _, m := range messages {
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || m.Header.Seq < first || m.Header.Seq > last+1 {
				continue
			}
			errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			switch {
			case errno == unix.ERESTART:
				return errStale
			case errno != 0 && m.Header.Seq == first:
				return fmt.Errorf("commit transaction: %w", errno)
			case errno != 0:
				return fmt.Errorf("%s: %w", describe(batch[m.Header.Seq-first]), errno)
			case m.Header.Seq == last:
				return nil
			}
		}
	}
}

// receive returns one datagram.
func (s *socket) receive() ([]byte, error) {
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

// listen opens a socket that receives a notice of every change to nftables.
func listen(ns int) (*socket, error) {
	s, err := dial(ns)
	if err != nil {
		return nil, err
	}
	if err := s.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		s.Close()
		return nil, fmt.Errorf("listen to changes of nftables: %w", err)
	}
	return s, nil
}

// each calls f for every datagram, and for every time that some were lost, until the context ends.
func (s *socket) each(ctx context.Context, f func([]byte, error)) error {
	stop := context.AfterFunc(ctx, func() { s.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		datagram, err := s.receive()
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

// update sends changes of connections. One that has ended meanwhile is no error.
func (s *socket) update(messages []netlink.Message) error {
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
