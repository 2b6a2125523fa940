package alert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/alert"
	"github.com/ringfence-project/ringfence/internal/label"
)

// TestMain lets the test's own program be the command.
func TestMain(m *testing.M) {
	switch os.Getenv("ALERT_TEST") {
	case "":
		os.Exit(m.Run())
	case "family":
		family()
	case "slow":
		time.Sleep(time.Minute)
	case "record":
		record()
	}
}

// family starts another command, and both have the pipe open and go on.
func family() {
	pipe, err := os.OpenFile(filepath.Join(os.Getenv("ALERT_DIR"), "pipe"), os.O_WRONLY, 0)
	if err == nil {
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout = pipe
		err = cmd.Start()
	}
	fmt.Println("started", err)
	time.Sleep(time.Minute)
}

// record writes what the command got into a file of its own in the folder that it was given.
func record() {
	var in json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Println("stdin:", err)
		os.Exit(1)
	}
	var env []string
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "RINGFENCE_") {
			env = append(env, v)
		}
	}
	data, _ := json.Marshal(got{in, env, os.Args[1:]})
	f, err := os.CreateTemp(os.Getenv("ALERT_DIR"), "tmp")
	if err == nil {
		_, err = f.Write(data)
		f.Close()
		_ = os.Rename(f.Name(), filepath.Join(os.Getenv("ALERT_DIR"), "got-"+filepath.Base(f.Name())))
	}
	fmt.Println("hello", err)
}

type got struct {
	Record json.RawMessage
	Env    []string
	Args   []string
}

var t0 = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func denial(workload string, port uint16, at time.Time) *flowlog.Record {
	return &flowlog.Record{ID: 1, Time: at, Last: at, Protocol: flow.TCP, Port: port, RuleKnown: true, Direction: flow.Ingress,
		Source: flowlog.End{Address: netip.MustParseAddr("10.0.0.1"), Namespace: "orders", Pod: workload + "-1", Workload: workload,
			Labels: label.MustSet(map[string]string{"app": "x"})},
		Destination: flowlog.End{Address: netip.MustParseAddr("10.0.0.2"), Namespace: "customers", Pod: "ldap", Workload: "ldap"},
		Rule:        flow.Rule{Kind: "NetworkPolicy", Namespace: "customers", Name: "ldap-clients", Direction: flow.Ingress, Index: flow.Isolation, File: "p.yaml", Line: 2},
		Reason:      "$(touch /nowhere); `x` | label unmet"}
}

// start runs a runner until the returned function stops it.
func start(t *testing.T, mode string, o alert.Options) (*alert.Runner, string, func()) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("ALERT_TEST", mode)
	t.Setenv("ALERT_DIR", dir)
	o.Command = append([]string{os.Args[0]}, o.Command...)
	r, err := alert.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return r, dir, stop
}

// await waits for n commands to have told what they got.
func await(t *testing.T, dir string, n int) []got {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		names, err := filepath.Glob(filepath.Join(dir, "got-*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(names) >= n {
			var all []got
			for _, name := range names {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				var g got
				if err := json.Unmarshal(data, &g); err != nil {
					t.Fatal(err)
				}
				all = append(all, g)
			}
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d commands ran, want %d", len(names), n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestCommandGetsTheRecordAsData(t *testing.T) {
	r, dir, _ := start(t, "record", alert.Options{Command: []string{"$HOME", "a b"}})
	want := denial("credit-copy", 389, t0)
	r.Offer(want)
	g := await(t, dir, 1)[0]
	if !slices.Equal(g.Args, []string{"$HOME", "a b"}) {
		t.Errorf("arguments %q", g.Args)
	}
	var rec flowlog.Record
	if err := json.Unmarshal(g.Record, &rec); err != nil || rec.Message() != want.Message() {
		t.Errorf("record %s, %v", g.Record, err)
	}
	for _, v := range []string{
		"RINGFENCE_MESSAGE=a pod outside customers/ldap-clients tried: orders/credit-copy-1 -> customers/ldap:389/tcp denied by " +
			"customers/ldap-clients (p.yaml:2): " + want.Reason,
		"RINGFENCE_SOURCE=orders/credit-copy-1", "RINGFENCE_SOURCE_LABELS=app=x", "RINGFENCE_DESTINATION_ADDRESS=10.0.0.2",
		"RINGFENCE_PORT=389", "RINGFENCE_PLACE=p.yaml:2", "RINGFENCE_DIRECTION=ingress", "RINGFENCE_TIME=2030-01-02T03:04:05Z",
	} {
		if !slices.Contains(g.Env, v) {
			t.Errorf("no %q in %q", v, g.Env)
		}
	}
}

func TestEachKindOnce(t *testing.T) {
	r, dir, stop := start(t, "record", alert.Options{Again: time.Minute})
	allowed := denial("a", 1, t0)
	allowed.Verdict = flow.Allow
	r.Offer(allowed)
	for i := range 1000 {
		r.Offer(denial("a", 1, t0.Add(time.Duration(i)*time.Second))) // never quiet for a minute
	}
	r.Offer(denial("b", 1, t0))
	r.Offer(denial("a", 2, t0))
	r.Offer(denial("a", 1, t0.Add(3000*time.Second)))
	await(t, dir, 4)
	stop()
	if n := len(await(t, dir, 0)); n != 4 {
		t.Errorf("%d commands ran, want 4: a:1, b:1, a:2 and a:1 again after it was quiet", n)
	}
}

func TestRateIsLimited(t *testing.T) {
	r, dir, stop := start(t, "record", alert.Options{Burst: 2, Every: time.Hour, Waiting: 5})
	for i := range 100 {
		r.Offer(denial("a", uint16(i), t0))
	}
	await(t, dir, 2)
	stop()
	if n := len(await(t, dir, 0)); n != 2 {
		t.Errorf("%d commands ran, want the first two only", n)
	}
}

// syncBuffer may be read while the runner writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestSlowCommandIsEnded(t *testing.T) {
	var out syncBuffer
	r, _, _ := start(t, "slow", alert.Options{Timeout: 100 * time.Millisecond, Output: &out})
	begin := time.Now()
	r.Offer(denial("a", 1, t0))
	for !strings.Contains(out.String(), "ended after 100ms") {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("the command is not ended: %q", out.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestWhatACommandStartedEndsWithIt(t *testing.T) {
	r, dir, _ := start(t, "family", alert.Options{Timeout: 3 * time.Second})
	path := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skipf("no pipes with names here: %v", err)
	}
	r.Offer(denial("a", 1, t0))
	pipe, err := os.Open(path) // returns when the command has it open too
	if err != nil {
		t.Fatal(err)
	}
	mustEnd := time.AfterFunc(20*time.Second, func() { pipe.Close() })
	defer mustEnd.Stop()
	if _, err := io.ReadAll(pipe); err != nil {
		t.Errorf("something that the command started goes on: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, command := range [][]string{nil, {"no-such-program-anywhere"}} {
		if _, err := alert.New(alert.Options{Command: command}); err == nil {
			t.Errorf("took the command %q", command)
		}
	}
}

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		"":                           nil,
		"  notify  ":                 {"notify"},
		`a 'b  c' "d e"f`:            {"a", "b  c", "d ef"},
		`a '' "x\"y" '\' \ z $HOME;`: {"a", "", `x"y`, `\`, " z", "$HOME;"},
	} {
		got, err := alert.Split(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q splits into %q, %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{`'a`, `a "b`, `a\`} {
		if got, err := alert.Split(line); err == nil {
			t.Errorf("%q splits into %q", line, got)
		}
	}
}
