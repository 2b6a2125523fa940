package wire

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// freePort is a port that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func at(p flow.Protocol, port uint16) Target {
	return Target{Protocol: p, To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
}

func TestConnect(t *testing.T) {
	tcp, udp, closed := freePort(t), freePort(t), freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error)
	go func() {
		ended <- Serve(ctx, []cluster.Port{{Protocol: flow.TCP, Number: tcp}, {Protocol: flow.UDP, Number: udp}}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for _, c := range []struct {
		target   Target
		patience time.Duration
		want     Outcome
	}{
		{at(flow.TCP, tcp), 10 * time.Second, Answered},
		{at(flow.UDP, udp), 10 * time.Second, Answered},
		{at(flow.TCP, closed), 10 * time.Second, Refused},
		{at(flow.UDP, closed), 10 * time.Second, Refused},
		{at(flow.TCP, mute.Addr().(*net.TCPAddr).AddrPort().Port()), 50 * time.Millisecond, Silent},
		{Target{flow.TCP, mute.Addr().(*net.TCPAddr).AddrPort(), true}, 10 * time.Second, Answered},
	} {
		if a := Connect(t.Context(), []Target{c.target}, c.patience); len(a) != 1 || a[0].Outcome != c.want || a[0].Target != c.target.String() {
			t.Errorf("%s: %+v, want %s", c.target, a, c.want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A port that is taken is an error before anybody is told that it is ready.
func TestServeFails(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := cluster.Port{Protocol: flow.TCP, Number: l.Addr().(*net.TCPAddr).AddrPort().Port()}
	if err := Serve(t.Context(), []cluster.Port{taken}, func() { t.Error("it is not ready") }); err == nil {
		t.Error("it listens on a port that is taken")
	}
}

func TestText(t *testing.T) {
	for _, text := range []string{"tcp/10.0.0.1:80", "udp/[fd00::1]:53", "open/10.0.0.1:443"} {
		if x, err := ParseTarget(text); err != nil || x.String() != text {
			t.Errorf("%s: %s, %v", text, x, err)
		}
	}
	for _, text := range []string{"tcp/80", "udp/53"} {
		if x, err := ParsePort(text); err != nil || FormatPort(x) != text {
			t.Errorf("%s: %v, %v", text, x, err)
		}
	}
	for _, text := range []string{"", "tcp", "sctp/10.0.0.1:80", "tcp/host:80", "tcp/10.0.0.1"} {
		if _, err := ParseTarget(text); err == nil {
			t.Errorf("target %q is taken", text)
		}
	}
	for _, text := range []string{"", "80", "tcp/", "tcp/x", "tcp/70000", "sctp/80", "tcp/80x"} {
		if _, err := ParsePort(text); err == nil {
			t.Errorf("port %q is taken", text)
		}
	}
}
