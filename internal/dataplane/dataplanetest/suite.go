// Package dataplanetest is the conformance suite of dataplanes: what every implementation has to do with connections,
// seen from both of their ends.
package dataplanetest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// The hosts of every harness, with their IPv4 and IPv6 addresses. A, B and C are pods of the node; Outside is a host
// beyond it. Each answers on ports 80 and 81 of TCP and UDP, and to ICMP echo.
var (
	A       = Host{netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")}
	B       = Host{netip.MustParseAddr("10.0.1.2"), netip.MustParseAddr("fd00:1::2")}
	C       = Host{netip.MustParseAddr("10.0.1.3"), netip.MustParseAddr("fd00:1::3")}
	Node    = Host{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	Outside = Host{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
)

// Host is a host's address of each version of IP.
type Host [2]netip.Addr

// Harness is a machine with a dataplane and the hosts of this package.
type Harness interface {
	// Open opens a dataplane on the machine, over what is in force there.
	Open() (dataplane.Dataplane, error)
	// Attachment is where a pod's address is plugged in; the zero value if that does not matter.
	Attachment(netip.Addr) ruleset.Attachment
	// Connect makes a connection, whose packets may or may not arrive.
	Connect(flow.Tuple) (Conn, error)
	// Edit changes what is in force behind the dataplane's back.
	Edit() error
}

// Conn is a connection.
type Conn interface {
	// Send sends something and returns when the answer to it came. Until ctx ends it tries again, as the protocol does.
	Send(ctx context.Context) error
	Close() error
}

// patience is how long something may take that should happen at once. Only failing tests wait so long.
const patience = 10 * time.Second

// Run tests a dataplane. start makes a fresh machine with nothing in force.
func Run(t *testing.T, start func(*testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*suite)
	}{
		{"empty dataplane allows and reads back as empty", testEmpty},
		{"rows decide by protocol and port", testRows},
		{"egress, ingress and the node", testDirections},
		{"identities are found by longest match", testIdentities},
		{"tightening cuts at once and loosening lets go on", testTighten},
		{"epochs come round", testEpochs},
		{"replace keeps what stays allowed", testReplace},
		{"restart adopts and close leaves in force", testRestart},
		{"drift is seen and repaired", testDrift},
		{"a bad delta changes nothing", testAtomic},
		{"denials name row and generation", testDenials},
		{"pods come, change and go", testPods},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, harness: start(t), rules: ruleset.New()}
			s.open()
			defer s.close()
			test.run(s)
		})
	}
}

// A suite is one test: a machine, the dataplane that is open on it, and what should be in force.
type suite struct {
	*testing.T
	harness Harness
	dp      dataplane.Dataplane
	rules   *ruleset.Ruleset
	stop    func()

	mu     sync.Mutex
	events []dataplane.Event
	news   chan struct{} // closed at the next event
}

func (s *suite) open() {
	s.Helper()
	dp, err := s.harness.Open()
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s.dp, s.news = dp, make(chan struct{})
	go func() { done <- dp.Watch(ctx, s.see) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("watch: %v", err)
		}
	}
}

func (s *suite) close() {
	s.Helper()
	s.stop()
	if err := s.dp.Close(); err != nil {
		s.Errorf("close: %v", err)
	}
}

func (s *suite) see(e dataplane.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	close(s.news)
	s.news = make(chan struct{})
}

// await returns the first event from number from on that is wanted.
func (s *suite) await(ctx context.Context, from int, wanted func(dataplane.Event) bool) (dataplane.Event, error) {
	for {
		s.mu.Lock()
		i := slices.IndexFunc(s.events[from:], wanted)
		news := s.news
		s.mu.Unlock()
		if i >= 0 {
			return s.events[from+i], nil
		}
		select {
		case <-ctx.Done():
			return dataplane.Event{}, ctx.Err()
		case <-news:
		}
	}
}

func (s *suite) eventsSoFar() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// next returns a copy of what is in force, changed, and of the next generation.
func (s *suite) next(change func(*ruleset.Ruleset)) *ruleset.Ruleset {
	next := s.rules.Clone()
	next.Generation++
	change(next)
	return next
}

// apply puts a change in force by a delta.
func (s *suite) apply(change func(*ruleset.Ruleset)) {
	s.Helper()
	next := s.next(change)
	if err := s.dp.Apply(s.Context(), ruleset.Diff(s.rules, next)); err != nil {
		s.Fatal(err)
	}
	s.rules = next
}

// replace puts a change in force as a whole.
func (s *suite) replace(change func(*ruleset.Ruleset)) {
	s.Helper()
	next := s.next(change)
	if err := s.dp.Replace(s.Context(), next); err != nil {
		s.Fatal(err)
	}
	s.rules = next
}

// realized checks that what is read back is what should be in force.
func (s *suite) realized() {
	s.Helper()
	got, err := s.dp.Realized(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	if want := s.rules.Stripped(); !got.Equal(want) || got.Generation != want.Generation {
		s.Fatalf("read back:\n%s\nwant:\n%s", got, want)
	}
}

// connect makes a connection, for the life of the test.
func (s *suite) connect(t flow.Tuple) *connection {
	s.Helper()
	c, err := s.harness.Connect(t)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { c.Close() })
	return &connection{s, c, t}
}

// allow checks that a new connection works, and deny that one does not.
func (s *suite) allow(tuples ...flow.Tuple) {
	s.Helper()
	for _, t := range tuples {
		s.connect(t).passes()
	}
}

func (s *suite) deny(tuples ...flow.Tuple) {
	s.Helper()
	for _, t := range tuples {
		s.connect(t).blocked()
	}
}

type connection struct {
	*suite
	conn  Conn
	tuple flow.Tuple
}

// passes checks that a packet arrives and is answered.
func (c *connection) passes() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	if err := c.conn.Send(ctx); err != nil {
		c.Fatalf("%s does not pass: %v", c.tuple, err)
	}
}

// blocked checks that a packet is dropped, which has to be said: that nothing arrived may have other causes.
func (c *connection) blocked() dataplane.Denial {
	c.Helper()
	from := c.eventsSoFar()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	answered := make(chan error, 1)
	sending, stop := context.WithCancel(ctx)
	go func() { answered <- c.conn.Send(sending) }()
	want := c.tuple
	want.Local, want.Translated = false, false
	seen := make(chan dataplane.Event, 1)
	go func() {
		if e, err := c.await(ctx, from, func(e dataplane.Event) bool { return e.Denial != nil && e.Denial.Tuple == want }); err == nil {
			seen <- e
		}
	}()
	select {
	case err := <-answered:
		stop()
		c.Fatalf("%s passes (%v)", c.tuple, err)
	case e := <-seen:
		stop()
		if err := <-answered; err == nil {
			c.Fatalf("%s passes, though it was said to be dropped", c.tuple)
		}
		return *e.Denial
	case <-ctx.Done():
		stop()
		c.Fatalf("%s does not pass, but nobody said that it was dropped", c.tuple)
	}
	return dataplane.Denial{}
}

// drifts checks that an error says that somebody else changed what is in force.
func (s *suite) drifts(err error, doing string) {
	s.Helper()
	if !errors.Is(err, dataplane.ErrDrift) {
		s.Errorf("%s: error %v, want one that says %q", doing, err, dataplane.ErrDrift)
	}
}

func tcp(from, to Host, port uint16) []flow.Tuple { return tuples(flow.TCP, from, to, port) }
func udp(from, to Host, port uint16) []flow.Tuple { return tuples(flow.UDP, from, to, port) }
func echo(from, to Host) []flow.Tuple             { return tuples(flow.ICMP, from, to, 0) }

// tuples are connections from one host to another, one of each version of IP.
func tuples(p flow.Protocol, from, to Host, port uint16) []flow.Tuple {
	v4 := flow.Tuple{Source: from[0], Destination: to[0], Protocol: p, Port: port, Local: from == Node}
	v6 := flow.Tuple{Source: from[1], Destination: to[1], Protocol: p, Port: port, Local: from == Node}
	if p == flow.ICMP {
		v6.Protocol = flow.ICMPv6
	}
	return []flow.Tuple{v4, v6}
}
