//go:build linux

package socket_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
)

func newLog(t *testing.T) *flowlog.Log {
	t.Helper()
	s, err := cluster.NewState(cluster.Objects{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	return flowlog.New(flowlog.Names{Resolve: s.Resolve}, flowlog.Limits{})
}

// deny records a denial whose port is its name in these tests.
func deny(l *flowlog.Log, port uint16) {
	l.Denied(flowlog.Denial{Time: time.Now(), Tuple: flow.Tuple{Source: netip.MustParseAddr("10.0.0.1"),
		Destination: netip.MustParseAddr("10.0.0.2"), Protocol: flow.TCP, Port: port}})
}

// serve starts a server, which the test's end stops, and returns its path.
func serve(t *testing.T, l *flowlog.Log) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "made", "flows.sock")
	listener, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- socket.Serve(ctx, listener, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return path
}

func TestOnlyTheOwnerMayOpenIt(t *testing.T) {
	old := syscall.Umask(0) // as permissive as can be
	defer syscall.Umask(old)
	info, err := os.Stat(serve(t, newLog(t)))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode is %s", info.Mode())
	}
}

func TestStaleSocketIsReplacedAndLivingIsNot(t *testing.T) {
	path := serve(t, newLog(t))
	if _, err := socket.Listen(path); err == nil || !strings.Contains(err.Error(), "another instance") {
		t.Errorf("a second instance: %v", err)
	}
	stale := filepath.Join(t.TempDir(), "stale.sock")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as after SIGKILL
	l.Close()
	again, err := socket.Listen(stale)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Listen(file); err == nil {
		t.Error("took a file for a socket")
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

func TestRecordsThatAreThere(t *testing.T) {
	l := newLog(t)
	path := serve(t, l)
	for i := range 1000 {
		deny(l, uint16(i))
	}
	var ports []uint16
	err := socket.Stream(t.Context(), path, socket.Request{Options: flowlog.Options{Last: 500}}, func(m socket.Message) error {
		ports = append(ports, m.Record.Port)
		return nil
	})
	if err != nil || len(ports) != 500 || ports[0] != 500 || ports[499] != 999 {
		t.Errorf("%d ports, %v", len(ports), err)
	}
}

func TestTotals(t *testing.T) {
	l := newLog(t)
	path := serve(t, l)
	deny(l, 1)
	var totals *flowlog.Totals
	err := socket.Stream(t.Context(), path, socket.Request{Totals: true}, func(m socket.Message) error {
		totals = m.Totals
		return nil
	})
	if err != nil || totals == nil || len(totals.Pairs) != 1 || totals.Pairs[0].Port != 1 {
		t.Errorf("totals %+v, %v", totals, err)
	}
}

func TestFollowers(t *testing.T) {
	l := newLog(t)
	path := serve(t, l)
	deny(l, 1)
	const clients = 10
	ctx, cancel := context.WithCancel(t.Context())
	got, done := make(chan uint16, 100), make(chan error, clients)
	for range clients {
		go func() {
			done <- socket.Stream(ctx, path, socket.Request{Follow: true, Options: flowlog.Options{Verdict: "deny"}}, func(m socket.Message) error {
				got <- m.Record.Port
				return nil
			})
		}()
	}
	for _, port := range []uint16{1, 2} { // what was there, then what comes
		for range clients {
			if p := <-got; p != port {
				t.Fatalf("port %d, want %d", p, port)
			}
		}
		deny(l, port+1)
	}
	cancel()
	for range clients {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Stream returned %v", err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	path := serve(t, newLog(t))
	for request, want := range map[string]string{
		"{\n":                                      "unexpected end",
		`{"verdict":"maybe"}` + "\n":               "want allow or deny",
		strings.Repeat("x", 100<<10) + "\n":        "longer than",
		`{"ports":["99999"],"follow":true}` + "\n": "want a number",
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(request)) // a refused request may not be taken whole
		line, err := bufio.NewReader(c).ReadString('\n')
		if !strings.Contains(line, want) {
			t.Errorf("request of %d bytes is answered %q, %v, want %q", len(request), line, err, want)
		}
		c.Close()
	}
	err := socket.Stream(t.Context(), path, socket.Request{Options: flowlog.Options{From: "//"}}, func(socket.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "from") {
		t.Errorf("Stream returned %v", err)
	}
}

func TestTooManyClientsAreTold(t *testing.T) {
	path := serve(t, newLog(t))
	for range 64 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	err := socket.Stream(t.Context(), path, socket.Request{}, func(socket.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "64 clients") {
		t.Errorf("the 65th client got %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	err := socket.Stream(t.Context(), filepath.Join(t.TempDir(), "none"), socket.Request{}, nil)
	if err == nil || !strings.Contains(err.Error(), "ringfence up") {
		t.Errorf("Stream returned %v", err)
	}
}
