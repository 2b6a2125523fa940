//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// A packet is what the headers of an IP packet say. Ports are 0 where there are none, or none to be seen.
type packet struct {
	source, destination         netip.Addr
	protocol                    flow.Protocol
	sourcePort, destinationPort uint16
}

// tuple is the connection that the packet belongs to; a reply goes from the server to the client.
func (p packet) tuple(reply bool) flow.Tuple {
	if reply {
		return flow.Tuple{Source: p.destination, Destination: p.source, Protocol: p.protocol, Port: p.sourcePort}
	}
	return flow.Tuple{Source: p.source, Destination: p.destination, Protocol: p.protocol, Port: p.destinationPort}
}

// parsePacket reads an IP packet that may end anywhere. It fails if there are no addresses.
func parsePacket(b []byte) (packet, bool) {
	if len(b) == 0 {
		return packet{}, false
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		return parse6(b)
	}
	return packet{}, false
}

func parse4(b []byte) (packet, bool) {
	length := int(b[0]&15) * 4
	if len(b) < 20 || length < 20 {
		return packet{}, false
	}
	p := packet{source: netip.AddrFrom4([4]byte(b[12:])), destination: netip.AddrFrom4([4]byte(b[16:])), protocol: flow.Protocol(b[9])}
	if offset := binary.BigEndian.Uint16(b[6:]) & 0x1fff; offset == 0 && len(b) >= length {
		p.readPorts(b[length:])
	}
	return p, true
}

// The extension headers of IPv6 that stand before the protocol's own.
const (
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	authHeader  = 51
	destOptions = 60
	mobility    = 135
)

// maxExtensions bounds the walk along extension headers: the standard wants each once, one of them twice.
const maxExtensions = 8

func parse6(b []byte) (packet, bool) {
	if len(b) < 40 {
		return packet{}, false
	}
	p := packet{source: netip.AddrFrom16([16]byte(b[8:])), destination: netip.AddrFrom16([16]byte(b[24:]))}
	next, rest := b[6], b[40:]
	for range maxExtensions {
		length := 0
		switch next {
		case hopByHop, routing, destOptions, mobility:
			if len(rest) >= 2 {
				length = 8 + int(rest[1])*8
			}
		case authHeader:
			if len(rest) >= 2 {
				length = 8 + int(rest[1])*4
			}
		case fragment:
			if len(rest) >= 8 && binary.BigEndian.Uint16(rest[2:])&0xfff8 != 0 { // not the first: no more headers
				p.protocol = flow.Protocol(rest[0])
				return p, true
			}
			length = 8
		}
		if length == 0 || length > len(rest) {
			break
		}
		next, rest = rest[0], rest[length:]
	}
	p.protocol = flow.Protocol(next)
	p.readPorts(rest)
	return p, true
}

func (p *packet) readPorts(b []byte) {
	if p.protocol.HasPorts() && len(b) >= 4 {
		p.sourcePort, p.destinationPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
}
