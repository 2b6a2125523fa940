package conntrack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

func attr(kind uint16, value ...byte) []byte { return appendAttr(nil, kind, value) }

func nested(kind uint16, parts ...[]byte) []byte {
	return appendAttr(nil, kind|nestedFlag, bytes.Join(parts, nil))
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func tuple4(kind uint16, src, dst string, p flow.Protocol, sport, dport uint16) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	return nested(kind,
		nested(tupleIP, attr(ip4Source, s.AsSlice()...), attr(ip4Destination, d.AsSlice()...)),
		nested(tupleProto, attr(protoNumber, byte(p)), attr(protoSourcePort, be16(sport)...), attr(protoDestPort, be16(dport)...)))
}

// translated is the end of a connection through a Service's address.
func translated() []byte {
	body := []byte{2, 0, 0, 0}
	for _, part := range [][]byte{
		tuple4(ctaOriginal, "10.0.0.1", "10.96.0.1", flow.TCP, 40000, 80),
		tuple4(ctaReply, "10.0.0.2", "10.0.0.1", flow.TCP, 8080, 40000),
		attr(ctaStatus, be32(uint32(SeenReply|Assured|DestNAT))...),
		nested(ctaProtoInfo, nested(protoInfoTCP, attr(tcpState, byte(TimeWait)))),
		nested(ctaCountOriginal, attr(countPackets, be64(5)...), attr(countBytes, be64(500)...)),
		nested(ctaCountReply, attr(countPackets, be64(4)...), attr(countBytes, be64(4000)...)),
		nested(ctaTimestamp, attr(timestampStart, be64(1e18)...), attr(timestampStop, be64(1e18+5)...), attr(timestampEvent, be64(1e18+6)...)),
		attr(ctaID, be32(77)...), attr(ctaZone, be16(3)...), attr(ctaLabels, make([]byte, 16)...),
		attr(999, 1, 2, 3),
	} {
		body = append(body, part...)
	}
	return body
}

func TestOutcome(t *testing.T) {
	const established = 3
	for what, c := range map[string]struct {
		status Status
		tcp    TCPState
		want   flow.Outcome
	}{
		"closed":               {SeenReply | Assured, TimeWait, flow.Well},
		"cut off, forgotten":   {SeenReply | Assured, established, flow.Well},
		"reset":                {SeenReply | Assured, Close, flow.Reset},
		"knocked, and left":    {SeenReply, Close, flow.Well},
		"refused":              {Confirmed, Close, flow.Refused},
		"silence":              {Confirmed, 1, flow.Unanswered},
		"silence, no state":    {Confirmed, 0, flow.Unanswered},
		"answered, no state":   {SeenReply | Assured, 0, flow.Well},
		"ended under our eyes": {SeenReply | Assured | Dying, Close, flow.Reset},
	} {
		if got := (&Conn{Key: Key{Protocol: flow.TCP}, Status: c.status, TCP: c.tcp}).Outcome(); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	if got := (&Conn{Key: Key{Protocol: flow.UDP}}).Outcome(); got != 0 {
		t.Errorf("a datagram ended %s", got)
	}
}

func TestParseReadsATranslatedConnection(t *testing.T) {
	c, at, err := parse(translated())
	if err != nil {
		t.Fatal(err)
	}
	end := func(a string, p uint16) End { return End{netip.MustParseAddr(a), p} }
	want := Conn{
		Key: Key{ID: 77, Zone: 3, Protocol: flow.TCP,
			Original: Tuple{end("10.0.0.1", 40000), end("10.96.0.1", 80)}},
		Reply:  Tuple{end("10.0.0.2", 8080), end("10.0.0.1", 40000)},
		Status: SeenReply | Assured | DestNAT, TCP: TimeWait,
		Sent: Count{5, 500}, Received: Count{4, 4000},
		Start: time.Unix(0, 1e18), Stop: time.Unix(0, 1e18+5),
	}
	if !reflect.DeepEqual(c, want) || !at.Equal(time.Unix(0, 1e18+6)) {
		t.Errorf("got %+v at %s\nwant %+v", c, at, want)
	}
	if got := c.Tuple().String(); got != "10.0.0.1 -> 10.0.0.2:8080/tcp (translated)" {
		t.Errorf("tuple is %s", got)
	}
	if asked, other := c.Asked(); !other || asked.String() != "10.96.0.1:80" {
		t.Errorf("asked for %s, %v", asked, other)
	}
}

func TestParseRefusesWhatNobodyCouldName(t *testing.T) {
	whole := translated()
	original := tuple4(ctaOriginal, "10.0.0.1", "10.0.0.2", flow.TCP, 1, 2)
	for name, body := range map[string][]byte{
		"empty":            {},
		"no tuples":        {2, 0, 0, 0},
		"no reply":         append([]byte{2, 0, 0, 0}, original...),
		"cut off":          whole[:len(whole)-35],
		"attribute size 0": {2, 0, 0, 0, 0, 0, 1, 0},
		"no protocol": append(append([]byte{2, 0, 0, 0}, tuple4(ctaOriginal, "10.0.0.1", "10.0.0.2", 0, 1, 2)...),
			tuple4(ctaReply, "10.0.0.2", "10.0.0.1", 0, 2, 1)...),
	} {
		if c, _, err := parse(body); err == nil {
			t.Errorf("%s: read as %+v", name, c)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	body := translated()
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := parse(body); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each message", n)
	}
}

// FuzzParse: whatever bytes come, there is no panic, and what is accepted can be named.
func FuzzParse(f *testing.F) {
	f.Add(translated())
	f.Add([]byte{2, 0, 0, 0})
	f.Add(append([]byte{10, 0, 0, 0}, nested(ctaOriginal, nested(tupleIP, attr(ip6Source, make([]byte, 16)...)))...))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, _, err := parse(body)
		if err == nil && (!c.Client().IsValid() || !c.Server().IsValid() || c.Protocol == 0) {
			t.Fatalf("accepted %+v", c)
		}
		if err != nil && c != (Conn{}) && c.check() == nil {
			t.Fatalf("a refused message gave %+v", c)
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		seen := 0
		_, err := split(datagram, func(m message) (bool, error) {
			seen += 16 + len(m.body)
			return true, nil
		})
		if err != nil || seen > len(datagram) {
			t.Fatalf("split %d bytes into %d, %v", len(datagram), seen, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	body := translated()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
