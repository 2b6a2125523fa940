package conntrack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// The attributes of a connection that are read here (enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto,
// ctattr_counters, ctattr_tstamp, ctattr_protoinfo).
const (
	ctaOriginal, ctaReply, ctaStatus, ctaProtoInfo, ctaCountOriginal, ctaCountReply = 1, 2, 3, 4, 9, 10
	ctaID, ctaZone, ctaTimestamp, ctaLabels                                         = 12, 18, 20, 22

	tupleIP, tupleProto                                    = 1, 2
	ip4Source, ip4Destination, ip6Source, ip6Destination   = 1, 2, 3, 4
	protoNumber, protoSourcePort, protoDestPort            = 1, 2, 3
	protoICMPID, protoICMPv6ID                             = 4, 7
	countPackets, countBytes, countPackets32, countBytes32 = 1, 2, 3, 4
	protoInfoTCP, tcpState                                 = 1, 1
	timestampStart, timestampStop, timestampEvent          = 1, 2, 3
	attrHeader, genHeader, attrTypeMask                    = 4, 4, 0x3fff
)

var errShort = errors.New("conntrack message: attribute is cut off")

// attrs walks over netlink attributes in place: a flood of events must not be a flood of garbage.
type attrs struct {
	rest  []byte
	kind  uint16
	value []byte
	err   error
}

func (a *attrs) next() bool {
	if len(a.rest) == 0 {
		return false
	}
	if len(a.rest) < attrHeader {
		a.err = errShort
		return false
	}
	size := int(binary.NativeEndian.Uint16(a.rest))
	if size < attrHeader || size > len(a.rest) {
		a.err = errShort
		return false
	}
	a.kind = binary.NativeEndian.Uint16(a.rest[2:]) & attrTypeMask
	a.value = a.rest[attrHeader:size]
	a.rest = a.rest[min((size+3)&^3, len(a.rest)):]
	return true
}

// parse reads the body of a ctnetlink message, after the netlink header. It also returns the time of the event, zero
// where the kernel does not tell it.
func parse(body []byte) (Conn, time.Time, error) {
	var c Conn
	var at time.Time
	if len(body) < genHeader {
		return c, at, errors.New("conntrack message: no header")
	}
	a := attrs{rest: body[genHeader:]}
	for a.next() {
		var err error
		switch a.kind {
		case ctaOriginal:
			c.Original, c.Protocol, err = parseTuple(a.value)
		case ctaReply:
			c.Reply, _, err = parseTuple(a.value)
		case ctaStatus:
			c.Status = Status(number(a.value))
		case ctaProtoInfo:
			c.TCP, err = parseTCP(a.value)
		case ctaID:
			c.ID = uint32(number(a.value))
		case ctaZone:
			c.Zone = uint16(number(a.value))
		case ctaCountOriginal:
			c.Sent, err = parseCount(a.value)
		case ctaCountReply:
			c.Received, err = parseCount(a.value)
		case ctaTimestamp:
			c.Start, c.Stop, at, err = parseTimestamp(a.value)
		case ctaLabels:
			copy(c.Labels[:], a.value)
		}
		if err != nil {
			return Conn{}, time.Time{}, err
		}
	}
	if a.err != nil {
		return Conn{}, time.Time{}, a.err
	}
	return c, at, c.check()
}

// check refuses a connection that nobody could name.
func (c *Conn) check() error {
	for _, e := range [...]End{c.Original.Source, c.Original.Destination, c.Reply.Source, c.Reply.Destination} {
		if !e.Addr.IsValid() {
			return errors.New("conntrack message: an address is missing")
		}
	}
	if c.Protocol == 0 {
		return errors.New("conntrack message: the protocol is missing")
	}
	return nil
}

func parseTuple(b []byte) (t Tuple, p flow.Protocol, err error) {
	a := attrs{rest: b}
	for a.next() {
		switch a.kind {
		case tupleIP:
			err = parseAddresses(a.value, &t)
		case tupleProto:
			p, err = parsePorts(a.value, &t)
		}
		if err != nil {
			return t, p, err
		}
	}
	return t, p, a.err
}

func parseAddresses(b []byte, t *Tuple) error {
	a := attrs{rest: b}
	for a.next() {
		addr, ok := netip.AddrFromSlice(a.value)
		if !ok {
			continue // not an address, whatever it is
		}
		switch a.kind {
		case ip4Source, ip6Source:
			t.Source.Addr = addr.Unmap()
		case ip4Destination, ip6Destination:
			t.Destination.Addr = addr.Unmap()
		}
	}
	return a.err
}

func parsePorts(b []byte, t *Tuple) (p flow.Protocol, err error) {
	a := attrs{rest: b}
	for a.next() {
		switch a.kind {
		case protoNumber:
			p = flow.Protocol(number(a.value))
		case protoSourcePort, protoICMPID, protoICMPv6ID:
			t.Source.Port = uint16(number(a.value))
		case protoDestPort:
			t.Destination.Port = uint16(number(a.value))
		}
	}
	return p, a.err
}

func parseCount(b []byte) (c Count, err error) {
	a := attrs{rest: b}
	for a.next() {
		switch a.kind {
		case countPackets, countPackets32:
			c.Packets = number(a.value)
		case countBytes, countBytes32:
			c.Bytes = number(a.value)
		}
	}
	return c, a.err
}

func parseTCP(b []byte) (s TCPState, err error) {
	a := attrs{rest: b}
	for a.next() {
		if a.kind != protoInfoTCP {
			continue
		}
		inner := attrs{rest: a.value}
		for inner.next() {
			if inner.kind == tcpState {
				s = TCPState(number(inner.value))
			}
		}
		if inner.err != nil {
			return s, inner.err
		}
	}
	return s, a.err
}

func parseTimestamp(b []byte) (start, stop, at time.Time, err error) {
	a := attrs{rest: b}
	for a.next() {
		t := time.Unix(0, int64(number(a.value)))
		switch a.kind {
		case timestampStart:
			start = t
		case timestampStop:
			stop = t
		case timestampEvent:
			at = t
		}
	}
	return start, stop, at, a.err
}

// number reads an integer in network order, of the size that it has; 0 if that is no size of an integer.
func number(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 8:
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
