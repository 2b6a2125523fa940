//go:build linux

package main

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
)

// The kinds of chunks that matter here (RFC 9260, section 3.2).
const (
	initiation = 1
	initAck    = 2
	abort      = 6
)

// packet is an SCTP packet with one chunk.
type packet struct {
	from, to uint16
	tag      uint32 // the one that the receiver chose; 0 in an INIT
	kind     byte
	initiate uint32 // the tag that the sender chose, in INIT and INIT ACK
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// newInit asks for an association with a port, from a port that is hardly in use.
func newInit(to uint16) packet {
	return packet{from: uint16(32768 + rand.IntN(28000)), to: to, kind: initiation, initiate: 1 + rand.Uint32N(1<<31)}
}

// accept is the answer to an INIT.
func (p packet) accept() packet {
	return packet{from: p.to, to: p.from, tag: p.initiate, kind: initAck, initiate: 1 + rand.Uint32N(1<<31)}
}

func (p packet) encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.from)
	b = binary.BigEndian.AppendUint16(b, p.to)
	b = binary.BigEndian.AppendUint32(b, p.tag)
	b = append(b, 0, 0, 0, 0) // the checksum, below
	chunk := []byte{p.kind, 0, 0, 4}
	if p.kind != abort {
		chunk = binary.BigEndian.AppendUint32(chunk, p.initiate)
		chunk = binary.BigEndian.AppendUint32(chunk, 1<<16) // window
		chunk = append(chunk, 0, 1, 0, 1)                   // one stream each way
		chunk = binary.BigEndian.AppendUint32(chunk, 1)     // first number
	}
	if p.kind == initAck {
		chunk = append(chunk, 0, 7, 0, 8, 'n', 'o', 'n', 'e') // a cookie, which has to be there
	}
	binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))
	b = append(b, chunk...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// decode reads the first chunk of a packet, if the packet is whole.
func decode(b []byte) (packet, bool) {
	if len(b) < 16 {
		return packet{}, false
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	zeroed := append([]byte(nil), b...)
	clear(zeroed[8:12])
	if crc32.Checksum(zeroed, castagnoli) != sum {
		return packet{}, false
	}
	p := packet{from: binary.BigEndian.Uint16(b), to: binary.BigEndian.Uint16(b[2:]), tag: binary.BigEndian.Uint32(b[4:]), kind: b[12]}
	if p.kind == initiation || p.kind == initAck {
		if len(b) < 32 {
			return packet{}, false
		}
		p.initiate = binary.BigEndian.Uint32(b[16:])
	}
	return p, true
}
