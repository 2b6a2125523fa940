package agent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// logged is a log that can be read meanwhile.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

func (a *Agent) hasCondition(kind, text string) bool {
	for _, c := range a.Status().Conditions {
		if c.Type == kind && strings.Contains(c.Message, text) {
			return true
		}
	}
	return false
}

// ask returns what a path is answered with.
func (a *Agent) ask(path string) string {
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Body.String()
}

// The table of connections belongs to the machine, so files stand in for what the kernel says of it.
func TestAFullTableOfConnectionsIsSaid(t *testing.T) {
	dir := t.TempDir()
	counts := filepath.Join(dir, "stat")
	write := func(path string, content []byte) { // whole, as it is read meanwhile
		must(t, os.WriteFile(path+".new", content, 0o600))
		must(t, os.Rename(path+".new", path))
	}
	say := func(tracked, dropped, thrownOut int) {
		write(filepath.Join(dir, "nf_conntrack_count"), fmt.Appendln(nil, tracked))
		write(filepath.Join(dir, "nf_conntrack_max"), []byte("100\n"))
		write(counts, fmt.Appendf(nil, "entries  drop early_drop icmp_error\n%08x %08x %08x 00000000\n%08x 00000000 0000000a 00000000\n",
			tracked, dropped, thrownOut, tracked))
	}
	var log logged
	o, _ := options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	a := newAgent(o, nodeNet{}, nil)
	a.tracking = tracking{limits: dir, counts: counts, every: time.Millisecond}
	say(10, 1, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.watchTracking(ctx) }()
	defer func() { cancel(); must(t, <-done) }()

	say(95, 1, 2)
	eventually(t, "it is said that the table is nearly full", func() bool { return a.hasCondition(TrackingFull, "nearly as many connections as it can (100 at most)") })
	metrics := a.ask("/metrics")
	for _, want := range []string{`ringfence_conditions{type="TrackingFull"} 1`, "ringfence_tracked_connections 95", "ringfence_tracked_connections_max 100",
		"ringfence_untracked_connections_total 13"} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics do not say %s", want)
		}
	}
	say(10, 1, 2)
	eventually(t, "it is over", func() bool { return !a.hasCondition(TrackingFull, "") && log.has("condition is over") })
	say(10, 0x11, 3) // and full for a moment only
	eventually(t, "it is said what was dropped", func() bool { return log.has("the kernel dropped 17 connections because it can track no more than 100") })
}

func TestWhatIsNotSaidOfConnectionsIsUnknown(t *testing.T) {
	for _, text := range []string{"", "entries found\n00000001 00000000\n", "drop early_drop\nx 0\n", "drop early_drop\n1\n"} {
		file := filepath.Join(t.TempDir(), "stat")
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if n, err := readLost(file); n != 0 || (err == nil) != (text == "") {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	var a Agent
	a.tracking = newTracking()
	if _, _, tracks := a.tracked(); tracks {
		if _, ok := a.untracked(); !ok {
			t.Error("this kernel tracks connections, and it is not known how many it drops")
		}
	}
}

// withoutNftables is set for the process of the next test that cannot open netfilter's sockets.
const withoutNftables = "RINGFENCE_TEST_WITHOUT_NFTABLES"

// A kernel without nftables, which a filter of system calls plays here: the agent stays, is not ready, and says why.
func TestAKernelWithoutNftablesIsSaid(t *testing.T) {
	if os.Getenv(withoutNftables) == "" {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), withoutNftables+"=1")
		out, err := child.CombinedOutput()
		if bytes.Contains(out, []byte("--- SKIP")) {
			t.Skipf("%s", out)
		}
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	ns, err := netns.New()
	must(t, err)
	defer ns.Close()
	must(t, denyNetfilter())
	var log logged
	o, _ := options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	a, stop := (&machine{t: t, node: ns}).start(o)
	defer stop()
	eventually(t, "it is said", func() bool { return a.hasCondition(NotEnforcing, "not supported: ") })
	eventually(t, "it is logged", func() bool { return log.has("NotEnforcing Node n1: ") })
	eventually(t, "the API's lists are there, and it is not ready for its kernel alone", func() bool {
		s := a.Status()
		return !s.Ready && strings.Contains(s.Why, NotEnforcing)
	})
	if text := a.ask("/readyz"); !strings.Contains(text, "not supported") {
		t.Errorf("/readyz says %q", text)
	}
	if text := a.ask("/metrics"); !strings.Contains(text, "ringfence_ready 0\n") || !strings.Contains(text, `ringfence_conditions{type="NotEnforcing"} 1`) {
		t.Errorf("/metrics says %s", text)
	}
	if text := a.ask("/healthz"); text != "ok\n" {
		t.Errorf("/healthz says %q", text)
	}
}

// denyNetfilter makes the kernel answer this process as one without netfilter's sockets does.
func denyNetfilter() error {
	const argument = 16 // where the arguments of a call begin, 8 bytes each
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	program := []unix.SockFilter{
		load(0), unless(unix.SYS_SOCKET, 5),
		load(argument), unless(unix.AF_NETLINK, 3),
		load(argument + 2*8), unless(unix.NETLINK_NETFILTER, 1),
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	return nil
}
