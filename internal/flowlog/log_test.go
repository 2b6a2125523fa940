package flowlog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

var (
	clientAddr  = netip.MustParseAddr("10.0.0.1")
	copyAddr    = netip.MustParseAddr("10.0.0.2")
	serverAddr  = netip.MustParseAddr("10.0.0.3")
	unknownAddr = netip.MustParseAddr("10.0.0.99")
	outsideAddr = netip.MustParseAddr("203.0.113.9")
	nodeAddr    = netip.MustParseAddr("192.0.2.1")
	serviceAddr = netip.MustParseAddr("10.96.0.1")
	t0          = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
)

var ldapClients = flow.Rule{Kind: "NetworkPolicy", Namespace: "customers", Name: "ldap-clients", Direction: flow.Ingress,
	Index: flow.Isolation, File: "policies.yaml", Line: 2}

func pod(ns, name string, owner cluster.Owner, a netip.Addr, labels map[string]string) *cluster.Endpoint {
	return &cluster.Endpoint{Key: cluster.Key{Namespace: ns, Name: name}, Labels: label.MustSet(labels), Addresses: []netip.Addr{a}, Owner: owner}
}

func newState(t testing.TB, pods ...*cluster.Endpoint) *cluster.State {
	t.Helper()
	s, err := cluster.NewState(cluster.Objects{
		Nodes:     []cluster.Node{{Name: "worker", Addresses: []netip.Addr{nodeAddr}}},
		Endpoints: pods,
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// world is the LDAP example, as a log asks about it.
type world struct {
	state   *cluster.State
	reasons int
}

func newWorld(t testing.TB) *world {
	return &world{state: newState(t,
		pod("orders", "credit-check-7d", cluster.Owner{Kind: "Deployment", Name: "credit-check"}, clientAddr, map[string]string{"app": "credit", "role": "ldap-client"}),
		pod("orders", "credit-check-copy", cluster.Owner{}, copyAddr, map[string]string{"app": "credit"}),
		pod("customers", "ldap-0", cluster.Owner{Kind: "StatefulSet", Name: "ldap"}, serverAddr, map[string]string{"role": "ldap-server"}),
	)}
}

func (w *world) names() flowlog.Names {
	allowed := ldapClients
	allowed.Index = 0
	return flowlog.Names{
		Resolve:   func(t flow.Tuple) cluster.Connection { return w.state.Resolve(t) },
		Decide:    func(flow.Tuple) flow.Decision { return flow.Decision{Verdict: flow.Allow, Rule: allowed} },
		Attribute: func(row ruleset.RowID, _ flow.Tuple) (flow.Rule, bool) { return ldapClients, row == 7 },
		Rules:     func(ruleset.RowID) []flow.Rule { return []flow.Rule{ldapClients} },
		Reason:    func(flow.Tuple, flow.Rule) string { w.reasons++; return "label role=ldap-client unmet" },
		Service: func(a netip.AddrPort, _ flow.Protocol) string {
			if a == netip.AddrPortFrom(serviceAddr, 389) {
				return "customers/ldap"
			}
			return ""
		},
	}
}

func tcp(src, dst netip.Addr, port uint16) flow.Tuple {
	return flow.Tuple{Source: src, Destination: dst, Protocol: flow.TCP, Port: port}
}

func conn(id uint32, t flow.Tuple) flowlog.Connection {
	return flowlog.Connection{Tuple: t, Key: flowlog.Key{ID: id, Protocol: t.Protocol,
		Source: netip.AddrPortFrom(t.Source, 40000), Destination: netip.AddrPortFrom(t.Destination, t.Port)}}
}

func denial(at time.Time, t flow.Tuple) flowlog.Denial {
	return flowlog.Denial{Time: at, Row: 7, Tuple: t}
}

func only(t testing.TB, l *flowlog.Log) *flowlog.Record {
	t.Helper()
	all := l.Records(flowlog.Query{})
	if len(all) != 1 {
		t.Fatalf("%d records, want one", len(all))
	}
	return all[0]
}

func TestConnectionFromBeginToEnd(t *testing.T) {
	w := newWorld(t)
	l := flowlog.New(w.names(), flowlog.Limits{})
	c := conn(1, tcp(clientAddr, serverAddr, 389))
	c.Asked = netip.AddrPortFrom(serviceAddr, 389)
	l.Opened(c, t0)
	l.Answered(c.Key)
	w.state = newState(t) // the pods are gone; what is known stays
	c.BytesSent, c.BytesReceived = 100, 2000
	l.Closed(c, t0.Add(1500*time.Millisecond))
	l.Forgotten(c, t0.Add(2*time.Minute)) // adds nothing
	r := only(t, l)
	if r.Source.String() != "orders/credit-check-7d" || r.Source.Group() != "orders/credit-check" || r.Destination.Group() != "customers/ldap" {
		t.Errorf("between %s of %s and %s", &r.Source, r.Source.Group(), r.Destination.Group())
	}
	if r.Verdict != flow.Allow || !r.Answered || r.By() != "customers/ldap-clients ingress[0]" || r.Asked.Service != "customers/ldap" {
		t.Errorf("record is %+v", r)
	}
	if got := r.End.EndText(); got != "1.5s, 100B sent, 2.0kB received" {
		t.Errorf("ended %q", got)
	}
	if open := l.Totals().Open; open != 0 {
		t.Errorf("%d connections are still open", open)
	}
}

func TestWhatIsNoPodsFlowIsLeftOut(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	l.Opened(conn(1, tcp(nodeAddr, outsideAddr, 443)), t0)
	l.Forgotten(conn(1, tcp(nodeAddr, outsideAddr, 443)), t0)
	if all := l.Records(flowlog.Query{}); len(all) != 0 {
		t.Errorf("recorded %+v", all[0])
	}
	l.Opened(conn(2, tcp(outsideAddr, unknownAddr, 443)), t0)
	if r := only(t, l); r.Destination.String() != "unknown pod 10.0.0.99" {
		t.Errorf("destination is %s", &r.Destination)
	}
}

func TestRuleOfAnotherGenerationIsNotClaimed(t *testing.T) {
	names := newWorld(t).names()
	names.Decide = func(flow.Tuple) flow.Decision { return flow.Decision{Verdict: flow.Deny, Rule: ldapClients} }
	l := flowlog.New(names, flowlog.Limits{})
	l.Opened(conn(1, tcp(clientAddr, serverAddr, 389)), t0)
	if r := only(t, l); r.RuleKnown || r.By() != "unknown rule" || r.Verdict != flow.Allow {
		t.Errorf("by %s, %s", r.By(), r.Verdict)
	}
}

func TestUnknownEndsAreRecordedWhole(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{Open: 1})
	l.Opened(conn(1, tcp(clientAddr, serverAddr, 389)), t0)
	late := conn(2, tcp(copyAddr, serverAddr, 636))
	l.Opened(late, t0) // no room to wait for its end
	late.Start, late.Stop = t0, t0.Add(time.Second)
	l.Closed(late, t0.Add(time.Second)) // not known: its being forgotten will tell
	if r := only(t, l); r.Port != 389 {
		t.Errorf("port %d", r.Port)
	}
	l.Forgotten(late, t0.Add(time.Minute))
	all := l.Records(flowlog.Query{})
	if len(all) != 2 || !all[1].Time.Equal(t0) || all[1].End.Duration != time.Second {
		t.Errorf("records %+v", all)
	}
}

func TestReconcile(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	gone, kept, over := conn(1, tcp(clientAddr, serverAddr, 1)), conn(2, tcp(clientAddr, serverAddr, 2)), conn(3, tcp(clientAddr, serverAddr, 3))
	older, dead, fresh := conn(4, tcp(clientAddr, serverAddr, 4)), conn(5, tcp(clientAddr, serverAddr, 5)), conn(6, tcp(clientAddr, serverAddr, 6))
	for _, c := range []flowlog.Connection{gone, kept, over} {
		l.Opened(c, t0)
	}
	begun := t0.Add(time.Minute)
	l.Opened(fresh, begun.Add(time.Second)) // after the list began: not being in it says nothing
	over.Over, dead.Over = true, true
	older.Start = t0.Add(-time.Hour)
	for range 2 { // the second time changes nothing
		l.Reconcile([]flowlog.Connection{kept, over, older, dead}, begun)
	}
	got := map[uint16]string{}
	for _, r := range l.Records(flowlog.Query{}) {
		state := "open"
		if r.End != nil {
			state = r.End.EndText()
		}
		if r.Earlier {
			state += fmt.Sprint(" since ", begun.Sub(r.Time))
		}
		got[r.Port] = state
	}
	want := map[uint16]string{1: "end not seen", 2: "open", 3: "1m0s, 0B sent, 0B received", 4: "open since 1h1m0s", 6: "open"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	l.Forgotten(over, begun)
	l.Forgotten(kept, begun)
	if n := len(l.Records(flowlog.Query{})); n != 5 {
		t.Errorf("%d records, want still 5", n)
	}
}

// TestForgottenAsItIsListed: a list makes the kernel forget what is overdue, and only then comes its end. That is no
// connection of its own.
func TestForgottenAsItIsListed(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	l.Reconcile(nil, t0)
	open, over := conn(1, tcp(clientAddr, serverAddr, 1)), conn(2, tcp(clientAddr, serverAddr, 2))
	l.Opened(open, t0)
	l.Opened(over, t0)
	l.Closed(over, t0.Add(time.Second))
	l.Reconcile(nil, t0.Add(time.Minute))
	l.Forgotten(open, t0.Add(time.Minute))
	l.Forgotten(over, t0.Add(time.Minute))
	for _, r := range l.Records(flowlog.Query{}) {
		if r.End == nil || r.End.Unseen {
			t.Errorf("port %d ends as %+v", r.Port, r.End)
		}
	}
	if n := len(l.Records(flowlog.Query{})); n != 2 {
		t.Errorf("%d records of two connections", n)
	}
}

func TestDenial(t *testing.T) {
	w := newWorld(t)
	l := flowlog.New(w.names(), flowlog.Limits{})
	l.Denied(denial(t0, tcp(copyAddr, serverAddr, 389)))
	r := only(t, l)
	want := "a pod outside customers/ldap-clients tried: orders/credit-check-copy -> customers/ldap-0:389/tcp denied by " +
		"customers/ldap-clients (policies.yaml:2): label role=ldap-client unmet"
	if got := r.Message(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	titled := *r
	titled.Title = "a pod that is no LDAP client tried"
	if got := titled.Message(); !strings.HasPrefix(got, "a pod that is no LDAP client tried: orders/") {
		t.Errorf("titled: %s", got)
	}
	l.Denied(flowlog.Denial{Time: t0, Row: 8, Tuple: tcp(copyAddr, serverAddr, 390)})
	if all := l.Records(flowlog.Query{}); all[1].By() != "unknown rule" || !strings.Contains(all[1].Message(), "by unknown rule") {
		t.Errorf("a row that nobody knows: %s", all[1].Message())
	}
}

// TestFloodOfDenials: ten thousand packets are counted, are one record for each ten seconds, and ask why once.
func TestFloodOfDenials(t *testing.T) {
	w := newWorld(t)
	l := flowlog.New(w.names(), flowlog.Limits{})
	_, s := l.Subscribe(flowlog.Query{}, 1000)
	defer s.Close()
	for i := range 10_000 {
		l.Denied(denial(t0.Add(time.Duration(i)*time.Millisecond), tcp(copyAddr, serverAddr, 389)))
	}
	l.Tick(t0.Add(20 * time.Second))
	r := only(t, l)
	if r.Packets != 10_000 || !r.Last.Equal(t0.Add(9999*time.Millisecond)) {
		t.Errorf("%d packets until %s", r.Packets, r.Last)
	}
	if w.reasons != 1 {
		t.Errorf("asked %d times for the reason", w.reasons)
	}
	told, lost, err := s.Next(t.Context())
	if err != nil || lost != 0 || len(told) < 10 || len(told) > 12 || told[len(told)-1].Packets != 10_000 {
		t.Errorf("told %d times, lost %d, %v", len(told), lost, err)
	}
	l.Denied(denial(t0.Add(21*time.Second), tcp(copyAddr, serverAddr, 389)))
	totals := l.Totals()
	if len(totals.Pairs) != 1 || totals.Pairs[0].Packets != 10_001 || totals.Pairs[0].Flows != 2 ||
		!totals.Pairs[0].First.Equal(t0) || !totals.Pairs[0].Last.Equal(t0.Add(21*time.Second)) {
		t.Errorf("totals %+v", totals.Pairs)
	}
}

// TestScanIsBounded: a flood in which every packet is of another kind stays within the limits.
func TestScanIsBounded(t *testing.T) {
	limits := flowlog.Limits{Records: 1000, Pairs: 500}
	l := flowlog.New(newWorld(t).names(), limits)
	const n = 20_000
	for i := range n {
		l.Denied(denial(t0.Add(time.Duration(i)*time.Microsecond), tcp(copyAddr, serverAddr, uint16(i))))
	}
	totals := l.Totals()
	if totals.Records != limits.Records || len(totals.Pairs) > limits.Pairs {
		t.Errorf("%d records, %d pairs", totals.Records, len(totals.Pairs))
	}
	if got := totals.ForgottenPairs + uint64(len(totals.Pairs)); got != n {
		t.Errorf("%d kinds are counted or forgotten, want %d", got, n)
	}
	last := l.Records(flowlog.Query{Last: 1})
	if len(last) != 1 || last[0].Port != n-1 {
		t.Errorf("the newest is %+v", last)
	}
}

func TestBytesAreBounded(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{Bytes: 10_000})
	for i := range 100 {
		l.Denied(denial(t0, tcp(copyAddr, serverAddr, uint16(i))))
	}
	if totals := l.Totals(); totals.Bytes > 10_000 || totals.Records < 5 || totals.Records > 20 {
		t.Errorf("%d records of %d bytes", totals.Records, totals.Bytes)
	}
}

func TestDropsOnlyGrow(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	count := func(rows map[ruleset.RowID]uint64) uint64 {
		l.CountDrops(rows, t0)
		var sum uint64
		for _, d := range l.Totals().Drops {
			sum += d.Packets
		}
		return sum
	}
	for i, step := range []struct {
		rows map[ruleset.RowID]uint64
		want uint64
	}{
		{nil, 0},
		{map[ruleset.RowID]uint64{1: 0}, 0},
		{map[ruleset.RowID]uint64{1: 5, 2: 3}, 8},
		{map[ruleset.RowID]uint64{1: 5, 2: 10_003}, 10_008},
		{map[ruleset.RowID]uint64{2: 10_003}, 10_008},  // row 1 is gone
		{map[ruleset.RowID]uint64{1: 2, 2: 4}, 10_014}, // it is back, and row 2 was made anew
		{map[ruleset.RowID]uint64{1: 2, 2: 4}, 10_014},
	} {
		if got := count(step.rows); got != step.want {
			t.Errorf("step %d: %d dropped, want %d", i, got, step.want)
		}
	}
	if drops := l.Totals().Drops; len(drops) != 1 || drops[0].Rules[0] != ldapClients {
		t.Errorf("drops %+v", drops)
	}
}

func TestSlowSubscriberLosesTheOldestAndIsTold(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	l.Denied(denial(t0, tcp(copyAddr, serverAddr, 9999)))
	old, s := l.Subscribe(flowlog.Query{}, 10)
	if len(old) != 1 {
		t.Errorf("%d old records", len(old))
	}
	for i := range 100 {
		l.Denied(denial(t0, tcp(copyAddr, serverAddr, uint16(i))))
	}
	got, lost, err := s.Next(t.Context())
	if err != nil || lost != 90 || len(got) != 10 || got[0].Port != 90 || got[9].Port != 99 {
		t.Errorf("got %d, lost %d, %v", len(got), lost, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next returned %v", err)
	}
	s.Close()
	if _, _, err := s.Next(t.Context()); !errors.Is(err, flowlog.ErrClosed) {
		t.Errorf("Next after Close returned %v", err)
	}
}

// TestNothingIsMissedWhileSubscribing: what was there and what follows are all, once each.
func TestNothingIsMissedWhileSubscribing(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	const n = 5000
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range n {
			l.Denied(denial(t0, tcp(copyAddr, serverAddr, uint16(i))))
		}
	})
	old, s := l.Subscribe(flowlog.Query{}, n)
	defer s.Close()
	writer.Wait()
	seen := old
	for len(seen) < n {
		got, lost, err := s.Next(t.Context())
		if err != nil || lost != 0 {
			t.Fatalf("lost %d, %v", lost, err)
		}
		seen = append(seen, got...)
	}
	for i, r := range seen {
		if r.ID != uint64(i+1) {
			t.Fatalf("record %d has ID %d", i, r.ID)
		}
	}
}

// TestRingIsTheTail: whatever happens, the log holds the newest records in their last form.
func TestRingIsTheTail(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		l := flowlog.New(w.names(), flowlog.Limits{Records: limit})
		type model struct {
			port  uint16
			ended bool
		}
		var all []model // what an unbounded log would hold
		var open []int
		for i := range rapid.IntRange(0, 200).Draw(t, "steps") {
			if len(open) > 0 && rapid.Bool().Draw(t, "end") {
				at := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				n := open[at]
				open = slices.Delete(open, at, at+1)
				l.Forgotten(conn(uint32(n), tcp(clientAddr, serverAddr, all[n].port)), t0)
				if n < len(all)-limit { // forgotten: its end is a record of its own
					all = append(all, model{all[n].port, true})
				} else {
					all[n].ended = true
				}
				continue
			}
			l.Opened(conn(uint32(len(all)), tcp(clientAddr, serverAddr, uint16(i))), t0)
			open = append(open, len(all))
			all = append(all, model{port: uint16(i)})
		}
		want := all[max(0, len(all)-limit):]
		var got []model
		for _, r := range l.Records(flowlog.Query{}) {
			got = append(got, model{r.Port, r.End != nil})
		}
		if !slices.Equal(got, want) {
			t.Fatalf("holds %v, want %v", got, want)
		}
	})
}

func TestRecordIsItsJSON(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	_, s := l.Subscribe(flowlog.Query{}, 100)
	defer s.Close()
	c := conn(1, tcp(clientAddr, serverAddr, 389))
	c.Asked = netip.AddrPortFrom(serviceAddr, 389)
	c.Start = t0.Add(-time.Nanosecond * 1234567891)
	l.Opened(c, t0)
	l.Forgotten(c, t0)
	l.Denied(denial(t0, tcp(copyAddr, serverAddr, 389)))
	l.Denied(flowlog.Denial{Time: t0, Row: 8, Tuple: flow.Tuple{Source: outsideAddr, Destination: unknownAddr, Protocol: flow.ICMP}})
	records, _, err := s.Next(t.Context())
	if err != nil || len(records) != 4 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for _, r := range records {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back flowlog.Record
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(*r, back, cmpopts.EquateComparable(netip.Addr{}, label.Set{})); diff != "" {
			t.Errorf("%s\n%s", data, diff)
		}
	}
	l.CountDrops(map[ruleset.RowID]uint64{7: 5}, t0)
	totals := l.Totals()
	data, err := json.Marshal(totals)
	if err != nil {
		t.Fatal(err)
	}
	var back flowlog.Totals
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(totals, back); diff != "" {
		t.Errorf("%s\n%s", data, diff)
	}
}

func FuzzRecordJSON(f *testing.F) {
	f.Add([]byte(`{"id":1,"verdict":"deny","protocol":"tcp","source":{"address":"10.0.0.1"},"destination":{"address":"::1","labels":{"a":"b"}},"end":{"seconds":1e300}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r flowlog.Record
		if json.Unmarshal(data, &r) != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}

func TestTexts(t *testing.T) {
	for n, want := range map[uint64]string{0: "0B", 999: "999B", 1000: "1.0kB", 9949: "9.9kB", 9951: "10kB", 999_499: "999kB", 999_500: "1.0MB", 1 << 63: "9.2EB"} {
		if got := flowlog.BytesText(n); got != want {
			t.Errorf("%d bytes are %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 1234: "1µs", 1234567: "1.2ms", 1234567890: "1.23s", 61*time.Second + 5e8: "1m2s"} {
		if got := flowlog.DurationText(d); got != want {
			t.Errorf("%d is %s, want %s", d, got, want)
		}
	}
}

// TestAllocations: 10,000 denials a second must not become work for the garbage collector.
func TestAllocations(t *testing.T) {
	l := flowlog.New(newWorld(t).names(), flowlog.Limits{})
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		l.Denied(denial(t0.Add(time.Duration(i)*100*time.Microsecond), tcp(copyAddr, serverAddr, 389)))
		i++
	}); n > 3 {
		t.Errorf("%v allocations for each denied packet", n)
	}
	if n := testing.AllocsPerRun(1000, func() {
		i++
		c := conn(uint32(i), tcp(clientAddr, serverAddr, 389))
		l.Opened(c, t0)
		l.Forgotten(c, t0)
	}); n > 12 {
		t.Errorf("%v allocations for each connection", n)
	}
}

// BenchmarkConnection is one connection from begin to end, with nobody who follows: what 10,000 a second cost is
// this times 10,000.
func BenchmarkConnection(b *testing.B) {
	l := flowlog.New(newWorld(b).names(), flowlog.Limits{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := conn(uint32(i), tcp(clientAddr, serverAddr, 389))
		l.Opened(c, t0)
		l.Answered(c.Key)
		l.Forgotten(c, t0)
	}
}

func BenchmarkDenial(b *testing.B) {
	l := flowlog.New(newWorld(b).names(), flowlog.Limits{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Denied(denial(t0.Add(time.Duration(i)*100*time.Microsecond), tcp(copyAddr, serverAddr, 389)))
	}
}

// With several nodes a record says whose it is, where its ends are, and whether another node tells it too.
func TestRecordsOfOneNodeOfSeveral(t *testing.T) {
	pod := func(name, node, address string) *cluster.Endpoint {
		return &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: name}, Node: node, Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}
	s, err := cluster.NewState(cluster.Objects{Endpoints: []*cluster.Endpoint{pod("a", "n1", "10.1.0.1"), pod("b", "n2", "10.2.0.1"), pod("c", "n1", "10.1.0.2")}})
	if err != nil {
		t.Fatal(err)
	}
	l := flowlog.New(flowlog.Names{Node: "n1", Resolve: s.Resolve}, flowlog.Limits{})
	open := func(id uint32, from, to string) {
		l.Opened(conn(id, tcp(netip.MustParseAddr(from), netip.MustParseAddr(to), 80)), t0)
	}
	open(1, "10.1.0.1", "10.2.0.1")
	open(2, "10.2.0.1", "10.1.0.1")
	open(3, "10.1.0.1", "10.1.0.2")
	open(4, "10.1.0.1", "192.0.2.1")
	l.Denied(denial(t0, tcp(netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1"), 81)))
	var got []string
	for _, r := range l.Records(flowlog.Query{}) {
		got = append(got, fmt.Sprintf("%s %s>%s %t", r.Node, r.Source.Host, r.Destination.Host, r.Onward()))
	}
	want := []string{"n1 n1>n2 true", "n1 n2>n1 false", "n1 n1>n1 false", "n1 n1> false", "n1 n1>n2 false"}
	if !slices.Equal(got, want) {
		t.Errorf("they are %q, want %q", got, want)
	}
	data, err := json.Marshal(l.Records(flowlog.Query{})[0])
	if err != nil {
		t.Fatal(err)
	}
	var back flowlog.Record
	if err := json.Unmarshal(data, &back); err != nil || back.Node != "n1" || back.Source.Host != "n1" || back.Destination.Host != "n2" || !back.Onward() {
		t.Errorf("%s is read back as %+v, %v", data, back, err)
	}
	here, there := l.Totals(), flowlog.Totals{Pairs: []flowlog.PairTotal{{Pair: l.Totals().Pairs[1].Pair, First: t0, Last: t0, Flows: 1}}}
	there.Pairs[0].Onward = false // as n2 tells it
	sum := flowlog.Sum([]flowlog.Totals{here, there})
	if len(here.Pairs) != 5 || len(sum.Pairs) != 5 || sum.Pairs[1].Flows != 1 {
		t.Errorf("here are %+v, the sum is %+v", here.Pairs, sum.Pairs)
	}
}
