package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var (
	flowClient = netip.MustParseAddr("10.0.0.1")
	flowServer = netip.MustParseAddr("10.0.0.2")
)

// flowInstance is a running instance as far as `flows` sees it: a log with one connection that ended and one denial.
func flowInstance(t *testing.T) (*flowlog.Log, string) {
	t.Helper()
	s, err := cluster.NewState(cluster.Objects{Endpoints: []*cluster.Endpoint{
		{Key: cluster.Key{Namespace: "orders", Name: "credit-check-copy"}, Addresses: []netip.Addr{flowClient}},
		{Key: cluster.Key{Namespace: "customers", Name: "ldap-0"}, Addresses: []netip.Addr{flowServer}, Owner: cluster.Owner{Kind: "StatefulSet", Name: "ldap"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	rule := flow.Rule{Kind: "NetworkPolicy", Namespace: "customers", Name: "ldap-clients", Direction: flow.Ingress, Index: flow.Isolation, File: "policies.yaml", Line: 2}
	l := flowlog.New(flowlog.Names{
		Resolve:   s.Resolve,
		Decide:    func(flow.Tuple) flow.Decision { return flow.Decision{Verdict: flow.Allow} },
		Attribute: func(ruleset.RowID, flow.Tuple) (flow.Rule, bool) { return rule, true },
		Rules:     func(ruleset.RowID) []flow.Rule { return []flow.Rule{rule} },
		Reason:    func(flow.Tuple, flow.Rule) string { return "label role=ldap-client unmet" },
	}, flowlog.Limits{})
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	c := flowlog.Connection{Tuple: flow.Tuple{Source: flowClient, Destination: flowServer, Protocol: flow.TCP, Port: 636},
		Answered: true, Start: at, Stop: at.Add(1500 * time.Millisecond), BytesSent: 10, BytesReceived: 2000}
	l.Forgotten(c, at)
	denyLDAP(l, at.Add(2*time.Second), 389)
	l.CountDrops(map[ruleset.RowID]uint64{1: 10_000}, at)
	path := filepath.Join(t.TempDir(), "flows.sock")
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
			t.Error(err)
		}
	})
	return l, path
}

func denyLDAP(l *flowlog.Log, at time.Time, port uint16) {
	l.Denied(flowlog.Denial{Time: at, Row: 1, Tuple: flow.Tuple{Source: flowClient, Destination: flowServer, Protocol: flow.TCP, Port: port}})
}

func runFlows(ctx context.Context, out *lockedBuffer, args ...string) error {
	cmd := newFlows()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(out)
	return cmd.ExecuteContext(ctx)
}

// lockedBuffer may be read while a command writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestFlowsText(t *testing.T) {
	_, path := flowInstance(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, `03:04:06.500  end        orders/credit-check-copy -> customers/ldap-0          636/tcp   no policy  1.5s, 10B sent, 2.0kB received
03:04:07.000  deny       orders/credit-check-copy -> customers/ldap-0          389/tcp   customers/ldap-clients ingress (policies.yaml:2)  label role=ldap-client unmet
`},
		{[]string{"--denied", "--to", "customers/ldap", "--port", "636"}, ""},
		{[]string{"--totals"}, `deny   orders/credit-check-copy -> customers/ldap  389/tcp  1 flows  1 packets  last 03:04:07  customers/ldap-clients ingress (policies.yaml:2)
allow  orders/credit-check-copy -> customers/ldap  636/tcp  1 flows  2.0kB      last 03:04:06  no policy
10000 packets denied by customers/ldap-clients ingress policies.yaml:2, last 03:04:05
`},
	} {
		var out lockedBuffer
		if err := runFlows(t.Context(), &out, append(c.args, "--socket", path)...); err != nil {
			t.Errorf("flows %v: %v", c.args, err)
		}
		if out.String() != c.want {
			t.Errorf("flows %v\ngot:\n%s\nwant:\n%s", c.args, out.String(), c.want)
		}
	}
}

func TestFlowsSayHowAConnectionFailed(t *testing.T) {
	for want, r := range map[string]flowlog.Record{
		"refused":   {End: &flowlog.Ending{Outcome: flow.Refused}},
		"no answer": {End: &flowlog.Ending{Outcome: flow.Unanswered}},
		"reset":     {End: &flowlog.Ending{Outcome: flow.Reset}, Answered: true},
		"":          {End: &flowlog.Ending{Outcome: flow.Well}, Answered: true},
	} {
		if got := moreOf(&r)[1:]; strings.Join(got, " ") != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestFlowsJSON(t *testing.T) {
	_, path := flowInstance(t)
	for _, format := range []string{"json", "jsonl"} {
		var out lockedBuffer
		if err := runFlows(t.Context(), &out, "--socket", path, "-o", format, "--last", "1"); err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(out.String()), "["), "]")
		var r flowlog.Record
		if err := json.Unmarshal([]byte(text), &r); err != nil || !r.Denied() || r.Port != 389 {
			t.Errorf("%s: %s, %v", format, out.String(), err)
		}
	}
	var out lockedBuffer
	if err := runFlows(t.Context(), &out, "--socket", path, "-o", "json", "--namespace", "none"); err != nil || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("no flows are %q, %v", out.String(), err)
	}
}

// TestFlowsAlert is the LDAP example: a pod that is no LDAP client tried, and a command hears of it.
func TestFlowsAlert(t *testing.T) {
	l, path := flowInstance(t)
	script := filepath.Join(t.TempDir(), "tell us")
	told := filepath.Join(t.TempDir(), "told")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nprintf '%s\\n' \"$RINGFENCE_MESSAGE\" >>\"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out lockedBuffer
	done := make(chan error, 1)
	go func() {
		done <- runFlows(ctx, &out, "--socket", path, "--denied", "--exec", "'"+script+"' "+told)
	}()
	awaitFile(t, told, "a pod outside customers/ldap-clients tried: orders/credit-check-copy -> customers/ldap-0:389/tcp denied by "+
		"customers/ldap-clients (policies.yaml:2): label role=ldap-client unmet\n")
	denyLDAP(l, time.Now(), 1389)
	awaitFile(t, told, ":1389/tcp")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("an interrupt ended it with %v", err)
	}
	if !strings.Contains(out.String(), "1389/tcp") {
		t.Errorf("printed %q", out.String())
	}
}

func awaitFile(t *testing.T, path, want string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		data, _ := os.ReadFile(path)
		if strings.Contains(string(data), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("told %q, want %q", data, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestFlowsRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"contradict":       {"--denied", "--verdict", "allow"},
		"needs --denied":   {"--exec", "x"},
		"-o jsonl":         {"-f", "-o", "json"},
		"leave out":        {"-f", "--totals"},
		"--since":          {"--since", "-5m"},
		"want allow":       {"--verdict", "x"},
		"is not closed":    {"--denied", "--exec", "'x"},
		"no-such-program":  {"--denied", "--exec", "no-such-program"},
		"ringfence up DIR": {"--socket", "/nonexistent/flows.sock"},
	} {
		var out lockedBuffer
		if err := runFlows(t.Context(), &out, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("flows %v: %v, want an error with %q", args, err, want)
		}
	}
}
