//go:build linux

package main

import (
	"encoding/hex"
	"maps"
	"slices"
	"testing"
)

// The form of RFC 9260, section 3.3.2, but for the checksum.
func TestEncode(t *testing.T) {
	got := hex.EncodeToString(packet{from: 0x8000, to: 9003, kind: initiation, initiate: 0x01020304}.encode())
	if got[:16] != "8000232b00000000" || got[24:] != "0100001401020304000100000001000100000001" {
		t.Errorf("got %s", got)
	}
}

func TestDecodeIsTheOtherWay(t *testing.T) {
	for _, p := range []packet{newInit(80), newInit(80).accept(), {from: 1, to: 2, tag: 3, kind: abort}} {
		b := p.encode()
		if got, ok := decode(b); !ok || got != p {
			t.Errorf("%+v comes back as %+v, %v", p, got, ok)
		}
		for i := range b {
			b[i] ^= 1
			if _, ok := decode(b); ok {
				t.Errorf("a packet with a wrong byte %d is taken", i)
			}
			b[i] ^= 1
		}
		for n := range b {
			if _, ok := decode(b[:n]); ok {
				t.Errorf("a packet of %d bytes is taken", n)
			}
		}
	}
}

func TestAcceptAnswers(t *testing.T) {
	p := newInit(9003)
	if a := p.accept(); a.kind != initAck || a.tag != p.initiate || a.from != 9003 || a.to != p.from || a.initiate == 0 {
		t.Errorf("%+v is answered by %+v", p, a)
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"--timeout=3s", "--protocol=sctp", "10.0.0.1:80"}, {"10.0.0.1:80", "--timeout", "3s", "--protocol", "sctp"}} {
		if target(args) != "10.0.0.1:80" || option(args, "protocol") != "sctp" || option(args, "timeout") != "3s" {
			t.Errorf("%v: target %q, protocol %q, timeout %q", args, target(args), option(args, "protocol"), option(args, "timeout"))
		}
	}
	ports := slices.Sorted(maps.Keys(sctpPorts([]string{"SERVE_SCTP_PORT_9003=foo", "SERVE_PORT_80=x", "SERVE_SCTP_PORT_81=y"})))
	if !slices.Equal(ports, []uint16{81, 9003}) {
		t.Errorf("the ports are %v", ports)
	}
}
