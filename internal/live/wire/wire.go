// Package wire is what runs in a probe pod: a listener on some ports, and a client that connects to others and says what
// became of it. They need neither root nor raw sockets.
package wire

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Target is where a connection goes to. Protocol is TCP or UDP.
type Target struct {
	Protocol flow.Protocol
	To       netip.AddrPort
	// Open: it is enough, over TCP, that the connection is made; nothing is sent. It is for ends that do not echo.
	Open bool
}

const opening = "open"

// String is "tcp/10.0.0.1:80", or "open/10.0.0.1:80", which ParseTarget reads.
func (t Target) String() string {
	if t.Open {
		return opening + "/" + t.To.String()
	}
	return strings.ToLower(t.Protocol.String()) + "/" + t.To.String()
}

// ParseTarget reads what Target.String writes.
func ParseTarget(text string) (Target, error) {
	name, to, _ := strings.Cut(text, "/")
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return Target{}, fmt.Errorf("%q: want tcp/ADDRESS:PORT or udp/ADDRESS:PORT", text)
	}
	if name == opening {
		return Target{flow.TCP, addr, true}, nil
	}
	p, err := parseProtocol(name)
	return Target{Protocol: p, To: addr}, err
}

// FormatPort is a port to listen on, "tcp/80", which ParsePort reads.
func FormatPort(p cluster.Port) string {
	return fmt.Sprintf("%s/%d", strings.ToLower(p.Protocol.String()), p.Number)
}

// ParsePort reads what FormatPort writes.
func ParsePort(text string) (cluster.Port, error) {
	var number uint16
	name, n, _ := strings.Cut(text, "/")
	if _, err := fmt.Sscanf(n, "%d", &number); err != nil || fmt.Sprint(number) != n {
		return cluster.Port{}, fmt.Errorf("%q: want tcp/PORT or udp/PORT", text)
	}
	p, err := parseProtocol(name)
	return cluster.Port{Protocol: p, Number: number}, err
}

func parseProtocol(name string) (flow.Protocol, error) {
	switch name {
	case "tcp":
		return flow.TCP, nil
	case "udp":
		return flow.UDP, nil
	}
	return 0, fmt.Errorf("%q is neither tcp nor udp", name)
}

// Outcome is what became of a connection. The zero value is none.
type Outcome string

// The outcomes.
const (
	Answered Outcome = "answered"
	Silent   Outcome = "silent"  // nothing came in time
	Refused  Outcome = "refused" // the other end, or somebody on the way, said no
	Failed   Outcome = "failed"  // it could not be tried
)

// Answer is what became of the connection to a target.
type Answer struct {
	Target  string  `json:"target"`
	Outcome Outcome `json:"outcome"`
	Why     string  `json:"why,omitempty"` // of all but Answered
}

// Serve listens on the ports, on all addresses of the pod, and echoes what it gets until ctx ends. ready is called once
// all listen.
func Serve(ctx context.Context, ports []cluster.Port, ready func()) error {
	var servers echo.Servers
	defer servers.Close()
	for _, p := range ports {
		err := servers.Listen(netip.IPv6Unspecified(), p)
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			err = servers.Listen(netip.IPv4Unspecified(), p)
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w", FormatPort(p), err)
		}
	}
	ready()
	<-ctx.Done()
	return nil
}

// maxAtOnce bounds how many connections are under way.
const maxAtOnce = 64

// Connect connects to all targets, many at a time, and returns an answer for each, in their order. Each waits so long for
// an answer.
func Connect(ctx context.Context, targets []Target, patience time.Duration) []Answer {
	answers := make([]Answer, len(targets))
	slots := make(chan struct{}, maxAtOnce)
	var all sync.WaitGroup
	for i, t := range targets {
		slots <- struct{}{}
		all.Go(func() {
			answers[i] = connect(ctx, t, patience)
			<-slots
		})
	}
	all.Wait()
	return answers
}

func connect(ctx context.Context, t Target, patience time.Duration) Answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	switch {
	case t.Protocol == flow.UDP:
		err = exchangeDatagrams(ctx, t.To)
	case t.Open:
		err = open(ctx, t.To)
	default:
		err = exchangeStream(ctx, t.To)
	}
	a := Answer{Target: t.String(), Outcome: outcomeOf(err)}
	if err != nil {
		a.Why = err.Error()
	}
	return a
}

func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Answered
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return Silent
	}
	for _, said := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM, syscall.ENOPROTOOPT, io.EOF, errOther} {
		if errors.Is(err, said) {
			return Refused
		}
	}
	return Failed
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// errOther is about an end that does not echo: it is no probe pod.
var errOther = errors.New("who answers is no probe pod")

// dial connects, with the deadline of ctx for all that follows.
func dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return c, c.SetDeadline(deadline)
}

func open(ctx context.Context, to netip.AddrPort) error {
	c, err := dial(ctx, "tcp", to)
	if err != nil {
		return err
	}
	return c.Close()
}

// exchangeStream is done once what was sent came back: something on the way may take a connection that never arrives.
func exchangeStream(ctx context.Context, to netip.AddrPort) error {
	c, err := dial(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	word := []byte(rand.Text())
	if _, err := c.Write(word); err != nil {
		return err
	}
	back := make([]byte, len(word))
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	if string(back) != string(word) {
		return errOther
	}
	return nil
}

// resend is how long a datagram waits for its echo before it is sent once more.
const resend = 300 * time.Millisecond

func exchangeDatagrams(ctx context.Context, to netip.AddrPort) error {
	c, err := dial(ctx, "udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	word := []byte(rand.Text())
	back := make([]byte, 512)
	for {
		if _, err := c.Write(word); err != nil {
			return err
		}
		soon := time.Now().Add(resend)
		if soon.After(end) {
			soon = end
		}
		if err := c.SetReadDeadline(soon); err != nil {
			return err
		}
		switch n, err := c.Read(back); {
		case err == nil && string(back[:n]) == string(word):
			return nil
		case err == nil:
			return errOther
		case !isTimeout(err) || !time.Now().Before(end):
			return err
		}
	}
}
