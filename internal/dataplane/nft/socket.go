//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
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
	conn *netlink.Conn
	raw  syscall.RawConn
	seq  uint32
}

// dial opens a socket in the namespace with file descriptor ns, 0 for the process's own.
func dial(ns int) (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", supported(err))
	}
	s := &socket{conn: conn}
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

// supported marks errors that say what the machine lacks.
func supported(err error) error {
	for _, lack := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOPROTOOPT} {
		if errors.Is(err, lack) {
			return fmt.Errorf("%w: %w", dataplane.ErrNotSupported, err)
		}
	}
	return err
}

// dump sends one request and returns all messages of the answer.
func (s *socket) dump(kind uint16, family byte, body attrs) ([]netlink.Message, error) {
	return s.request(kind, family, netlink.Dump, body)
}

func (s *socket) request(kind uint16, family byte, flags netlink.HeaderFlags, body attrs) ([]netlink.Message, error) {
	if err := s.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	return s.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
		Data:   append(header(family, 0), body...),
	})
}

// generation asks for the number of nftables' last commit in this namespace.
func (s *socket) generation() (uint32, error) {
	answer, err := s.request(nftMessage(unix.NFT_MSG_GETGEN), unix.NFPROTO_UNSPEC, 0, nil)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, m := range answer {
		if id := parse(m.Data[headerLen:])[unix.NFTA_GEN_ID]; len(id) == 4 {
			return binary.BigEndian.Uint32(id), nil
		}
	}
	return 0, errors.New("read nftables generation: no answer")
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
	if _, err := s.conn.SendMessages(batch); errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("transaction of %d messages is larger than %d MiB: apply it in parts", len(messages), sendBuffer>>20)
	} else if err != nil {
		return fmt.Errorf("send transaction: %w", err)
	}
	return s.answer(batch[0].Header.Sequence, last.Header.Sequence, batch)
}

// answer waits for the kernel's answer to the transaction whose messages have the numbers first to last.
func (s *socket) answer(first, last uint32, batch []netlink.Message) error {
	if err := s.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
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
				return fmt.Errorf("commit transaction: %w", supported(errno))
			case errno != 0:
				return fmt.Errorf("%s: %w", describe(batch[m.Header.Seq-first]), supported(errno))
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

func (s *socket) close() error { return s.conn.Close() }
