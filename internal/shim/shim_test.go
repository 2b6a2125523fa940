//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/podspec"
)

func TestAnotherProcessWithTheNumberIsLeftAlone(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Skipf("no sleep here: %v", err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Fatal("a process that runs is not alive")
	}
	for what, other := range map[string]Process{
		"one that started before": {p.PID, p.Start - 1, p.Boot},
		"one of another boot":     {p.PID, p.Start, "00000000-0000-0000-0000-000000000000"},
		"none":                    {},
	} {
		if other.Alive() {
			t.Errorf("%s is alive", what)
		}
		if err := other.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal to %s: %v", what, err)
		}
	}
	if p.Await(time.Millisecond) {
		t.Error("it has ended, by a signal to another one")
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if !p.Await(5 * time.Second) {
		t.Error("it does not end")
	}
	if p.Alive() { // nobody has waited for it yet
		t.Error("one that has ended is alive")
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 1<<20-1) + "\n"
	for i := range 45 {
		fmt.Fprintf(l.pipe, "%02d%s", i, line[2:])
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path: "40", path + ".1": "30", path + ".2": "20"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > maxLogSize || !strings.HasPrefix(string(data), want) {
			t.Errorf("%s has %d bytes and begins with %q, want %q", filepath.Base(name), len(data), data[:2], want)
		}
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("a fourth file is kept")
	}
}

// prober is a runner whose own address is this machine's loopback.
func prober(t *testing.T, readiness ...podspec.Probe) *runner {
	t.Helper()
	k := &podKeeper{ctx: t.Context(), changes: changes{next: make(chan struct{})}}
	pod := Pod{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Workload: podspec.Spec{Readiness: readiness}}
	return &runner{keeper: k, pod: pod}
}

func portOf(t *testing.T, a net.Addr) uint16 {
	t.Helper()
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return p.Port()
}

func TestChecks(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		case r.URL.Path == "/away":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case r.URL.Path != "/ok" || r.URL.RawQuery != "q=1" || r.Header.Get("X-A") != "b":
			http.Error(w, "bad", http.StatusTeapot)
		}
	}))
	defer server.Close()
	port := portOf(t, server.Listener.Addr())
	headers := map[string]string{"X-A": "b"}
	for what, c := range map[string]struct {
		probe podspec.Probe
		want  string // part of the error; "" is none
	}{
		"TCP":        {podspec.Probe{TCP: port}, ""},
		"TCP closed": {podspec.Probe{TCP: 1}, "refused"},
		"HTTP":       {podspec.Probe{HTTP: &podspec.HTTPGet{Port: port, Path: "/ok?q=1", Headers: headers}}, ""},
		"no slash":   {podspec.Probe{HTTP: &podspec.HTTPGet{Port: port, Path: "ok?q=1", Headers: headers}}, ""},
		"redirect":   {podspec.Probe{HTTP: &podspec.HTTPGet{Port: port, Path: "/away"}}, ""},
		"status":     {podspec.Probe{HTTP: &podspec.HTTPGet{Port: port, Path: "/other"}}, "418"},
		"too slow":   {podspec.Probe{HTTP: &podspec.HTTPGet{Port: port, Path: "/slow"}, Timeout: 150 * time.Millisecond}, "took too long"},
	} {
		if c.probe.Timeout == 0 {
			c.probe.Timeout = 5 * time.Second
		}
		err := prober(t).check(t.Context(), c.probe)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", what, err, c.want)
		}
	}
}

// TestReadiness lets a server fail once, which is not enough, and then for good.
func TestReadiness(t *testing.T) {
	var failures atomic.Int64 // that are still to come
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if failures.Add(-1) >= 0 {
			http.Error(w, "bad", http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	r := prober(t, podspec.Probe{HTTP: &podspec.HTTPGet{Port: portOf(t, server.Listener.Addr())},
		Period: 100 * time.Millisecond, Timeout: time.Second, Success: 1, Failure: 2})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.probe(ctx)
	await := func(what string, ready bool) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			s, changed := r.keeper.status()
			if s.Ready == ready && (ready || strings.Contains(s.Why, "500")) {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("%s: %+v", what, s)
			}
		}
	}
	await("at first", true)
	_, changed := r.keeper.status()
	failures.Store(1)
	select {
	case <-changed:
		t.Error("one failure counts, where two should")
	case <-time.After(400 * time.Millisecond):
	}
	failures.Store(1 << 30)
	await("when it fails", false)
	failures.Store(0)
	await("when it works again", true)
}

// TestStartup has a command that takes its time, which only the startup probe may know of, and one that never starts.
func TestStartup(t *testing.T) {
	var started atomic.Bool
	var asked atomic.Int64 // probes of other kinds before it has started
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if started.Load() {
			return
		}
		if req.URL.Path != "/startup" {
			asked.Add(1)
		}
		http.Error(w, "starting", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	get := func(path string, failures int) podspec.Probe {
		return podspec.Probe{HTTP: &podspec.HTTPGet{Port: portOf(t, server.Listener.Addr()), Path: path},
			Period: 100 * time.Millisecond, Timeout: 5 * time.Second, Failure: failures}
	}
	r := prober(t, get("/ready", 1))
	r.pod.Workload.Liveness = []podspec.Probe{get("/alive", 1)}
	r.pod.Workload.Startup = []podspec.Probe{get("/startup", 1000)}
	unhealthy := r.probe(t.Context())
	time.AfterFunc(500*time.Millisecond, func() { started.Store(true) })
	for deadline := time.After(10 * time.Second); ; {
		s, changed := r.keeper.status()
		if s.Ready {
			break
		}
		select {
		case <-changed:
		case why := <-unhealthy:
			t.Fatal(why)
		case <-deadline:
			t.Fatalf("it does not become ready: %+v", s)
		}
	}
	if !started.Load() || asked.Load() > 0 {
		t.Errorf("it was probed %d times before it had started", asked.Load())
	}

	started.Store(false)
	r = prober(t)
	r.pod.Workload.Startup = []podspec.Probe{get("/startup", 3)}
	select {
	case why := <-r.probe(t.Context()):
		if !strings.Contains(why, "startup probe failed") {
			t.Error(why)
		}
	case <-time.After(10 * time.Second):
		t.Error("a command that never starts is left alone")
	}
	if s, _ := r.keeper.status(); s.Ready {
		t.Error("a command that never started is ready")
	}
}

func TestWhyUsersDoNotGetToTheirFolders(t *testing.T) {
	shut := filepath.Join(t.TempDir(), "shut")
	if err := os.Mkdir(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	user, root := uint32(33), uint32(0)
	p := Pod{WorkDir: filepath.Join(shut, "a", "b")}
	for what, c := range map[string]struct {
		user *uint32
		err  error
		says bool
	}{
		"a user who is not let through": {&user, fmt.Errorf("chdir: %w", os.ErrPermission), true},
		"something else":                {&user, os.ErrNotExist, false},
		"root":                          {&root, os.ErrPermission, false},
		"nobody in particular":          {nil, os.ErrPermission, false},
	} {
		p.Workload.User = c.user
		err := p.why(c.err)
		if says := strings.Contains(err.Error(), "not let through "+shut+" (mode 0700)"); says != c.says || !says && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
