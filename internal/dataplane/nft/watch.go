//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A notice is what one datagram says of changes to nftables.
type notice struct {
	foreign string // what others did to our tables
	commit  uint32 // the generation that the last transaction in it led to
}

func (d *Dataplane) readNotice(datagram []byte) notice {
	var n notice
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return n
	}
	for _, m := range messages {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < netfilter.HeaderLen {
			continue
		}
		body := netfilter.Parse(m.Data[netfilter.HeaderLen:])
		if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
			n.commit = netfilter.Uint32(body[unix.NFTA_GEN_ID])
			continue
		}
		family := m.Data[0]
		mine := (family == netfilter.Inet || family == netfilter.Bridge) && netfilter.Text(body[unix.NFTA_CHAIN_TABLE]) == d.opts.Table
		if n.foreign == "" && mine && !d.isOurs(m.Header.Pid) {
			n.foreign = netfilter.Describe(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(m.Header.Type)}, Data: m.Data})
		}
	}
	return n
}

func (d *Dataplane) isOurs(pid uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ours[pid]
}

// Watch implements dataplane.Dataplane. Denials that came since New, while nobody watched, are reported too.
func (d *Dataplane) Watch(ctx context.Context, f func(dataplane.Event)) error {
	notices, err := netfilter.Listen(d.opts.NetNS)
	if err != nil {
		return supported(err)
	}
	defer notices.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, done := make(chan dataplane.Event, 64), make(chan error, 2)
	send := func(e dataplane.Event) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	readers := 1
	go func() { done <- notices.Datagrams(ctx, d.onNotice(send)) }()
	if d.denials != nil && d.denials.taken != nil {
		return d.denials.taken
	}
	if d.denials != nil {
		readers++
		go func() { done <- d.denials.socket.Datagrams(ctx, d.denials.onDatagram(send)) }()
	}
	for readers > 0 {
		select {
		case e := <-events:
			f(e)
		case e := <-done:
			err = errors.Join(err, e)
			readers--
			cancel()
		}
	}
	return err
}

func (d *Dataplane) onNotice(send func(dataplane.Event)) func([]byte, error) {
	return func(datagram []byte, err error) {
		if err != nil {
			send(dataplane.Event{Drift: &dataplane.Drift{What: "too many changes of nftables to follow: read back what is in force"}})
		} else if what := d.readNotice(datagram).foreign; what != "" {
			send(dataplane.Event{Drift: &dataplane.Drift{What: "somebody else did: " + what}})
		}
	}
}

// A denialLog receives the packets that rows log.
type denialLog struct {
	socket *netfilter.Conn
	taken  error // not nil if another process reads the group
	last   uint32
	some   bool // last is the number of a packet
}

// Names that golang.org/x/sys/unix does not have.
const (
	nfulnlMessagePacket = 0
	nfulnlMessageConfig = 1
	nfulaPacketHeader   = 1
	nfulaTimestamp      = 3
	nfulaPayload        = 9
	nfulaPrefix         = 10
	nfulaSequence       = 12
	nfulaConfigCommand  = 1
	nfulaConfigMode     = 2
	nfulaConfigFlush    = 5
	nfulaConfigFlags    = 6
	nfulnlBind          = 1
	nfulnlCopyPacket    = 2
	nfulnlSequence      = 1
)

// copyBytes is how much of a denied packet is looked at: headers with all options and extensions fit.
const copyBytes = 512

func openDenialLog(ns int, group uint16) (*denialLog, error) {
	s, err := netfilter.Dial(ns)
	if err != nil {
		return nil, err
	}
	mode := binary.BigEndian.AppendUint32(nil, copyBytes)
	l := &denialLog{socket: s}
	for _, body := range []netfilter.Attrs{
		netfilter.Attrs(nil).U8(nfulaConfigCommand, nfulnlBind),
		netfilter.Attrs(nil).Bytes(nfulaConfigMode, append(mode, nfulnlCopyPacket, 0)),
		netfilter.Attrs(nil).U32(nfulaConfigFlush, 1), // report each packet at once: the rules limit how many there are
		netfilter.Attrs(nil).U16(nfulaConfigFlags, nfulnlSequence),
	} {
		_, err := s.Execute(netfilter.Message(unix.NFNL_SUBSYS_ULOG<<8|nfulnlMessageConfig, unix.AF_UNSPEC, group, netlink.Acknowledge, body))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EBUSY) {
			// That we may talk to netfilter was seen before. Enforcing and reading back work all the same.
			l.taken = fmt.Errorf("log group %d has a reader already: choose another group or stop it: %w", group, err)
			return l, nil
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("read log group %d: %w", group, err)
		}
	}
	return l, nil
}

func (l *denialLog) onDatagram(send func(dataplane.Event)) func([]byte, error) {
	return func(datagram []byte, err error) {
		messages, err2 := syscall.ParseNetlinkMessage(datagram)
		if err != nil || err2 != nil {
			return // the gap in the numbers of the packets will say how many were lost
		}
		for _, m := range messages {
			if m.Header.Type != unix.NFNL_SUBSYS_ULOG<<8|nfulnlMessagePacket || len(m.Data) < netfilter.HeaderLen {
				continue
			}
			body := netfilter.Parse(m.Data[netfilter.HeaderLen:])
			if lost := l.gap(body[nfulaSequence]); lost > 0 {
				send(dataplane.Event{Lost: lost})
			}
			if denial, ok := parseDenial(body); ok {
				send(dataplane.Event{Denial: &denial})
			}
		}
	}
}

// gap returns how many packets are missing before the one with this number.
func (l *denialLog) gap(sequence []byte) int {
	if len(sequence) != 4 {
		return 0
	}
	n := binary.BigEndian.Uint32(sequence)
	lost := n - l.last - 1
	if !l.some {
		lost = 0
	}
	l.last, l.some = n, true
	return int(lost)
}

// parseDenial reads one logged packet. It fails on packets that others log to our group.
func parseDenial(body map[uint16][]byte) (dataplane.Denial, bool) {
	var generation, row uint64
	var direction rune
	n, err := fmt.Sscanf(netfilter.Text(body[nfulaPrefix]), "rf:%d:%d:%c", &generation, &row, &direction)
	if err != nil || n != 3 || row >= ruleset.RowBase {
		return dataplane.Denial{}, false
	}
	t, ok := parsePacket(body[nfulaPayload])
	if !ok {
		return dataplane.Denial{}, false
	}
	return dataplane.Denial{Time: timestamp(body[nfulaTimestamp]), Generation: generation, Row: ruleset.RowID(row),
		Tuple: t.tuple(direction == 'r')}, true
}

// timestamp reads the time that a packet carries. Few do: those that arrived from a device with a clock.
func timestamp(b []byte) time.Time {
	if len(b) < 16 {
		return time.Now()
	}
	return time.Unix(int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))*int64(time.Microsecond))
}

// logPrefix is what parseDenial reads.
func logPrefix(born uint64, id ruleset.RowID, direction byte) string {
	return fmt.Sprintf("rf:%d:%d:%c", born, id, direction)
}
