package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

// Bounds: what pods ask must not be able to eat the node.
const (
	maxDatagram    = 1232 // fits every path without fragments
	maxConnections = 128  // over TCP
	maxForwarded   = 256  // questions that wait for an upstream
	upstreamTime   = 2 * time.Second
	shutdownTime   = time.Second
)

// Upstreams are servers for names outside the cluster. The zero value has none.
type Upstreams struct {
	Servers []netip.AddrPort // asked in order
	// Dial opens a socket to a server, in the network namespace that it is to be asked from; nil is net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Server answers queries from a Zone that can be swapped at any time. Make one with NewServer.
type Server struct {
	zone      atomic.Pointer[Zone]
	upstreams Upstreams
	forwarded chan struct{}
	turn      atomic.Uint32
}

// NewServer makes a server of a zone.
func NewServer(z *Zone, u Upstreams) *Server {
	s := &Server{upstreams: u, forwarded: make(chan struct{}, maxForwarded)}
	if u.Dial == nil {
		s.upstreams.Dial = (&net.Dialer{}).DialContext
	}
	s.zone.Store(z)
	return s
}

// Swap puts another zone in the place of the one that is served.
func (s *Server) Swap(z *Zone) { s.zone.Store(z) }

// Serve answers on both sockets until ctx ends or one of them fails, and closes them. Either may be nil.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, streams net.Listener) error {
	var servers []*dns.Server
	if packets != nil {
		servers = append(servers, &dns.Server{PacketConn: packets, Handler: s.handler(ctx, false), UDPSize: maxDatagram})
	}
	if streams != nil {
		servers = append(servers, &dns.Server{Listener: netutil.LimitListener(streams, maxConnections), Handler: s.handler(ctx, true)})
	}
	group, running := errgroup.WithContext(ctx)
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		group.Go(func() error {
			if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("serve DNS: %w", err)
			}
			return nil
		})
		group.Go(func() error {
			<-running.Done()
			select {
			case <-started:
			case <-time.After(shutdownTime): // it failed before it began
				return nil
			}
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
			defer cancel()
			if err := server.ShutdownContext(last); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("stop DNS: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (s *Server) handler(ctx context.Context, stream bool) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		// A client that does not take its answer any more is no error of ours.
		_ = w.WriteMsg(s.Answer(ctx, q, stream))
	})
}

// Answer answers one message; over a stream it may be long.
func (s *Server) Answer(ctx context.Context, q *dns.Msg, stream bool) *dns.Msg {
	m := new(dns.Msg)
	if len(q.Question) != 1 {
		m.SetRcode(&dns.Msg{MsgHdr: q.MsgHdr}, dns.RcodeFormatError)
		return m
	}
	m.SetReply(q)
	m.RecursionAvailable = len(s.upstreams.Servers) > 0
	limit := dns.MinMsgSize
	opt := q.IsEdns0()
	if opt != nil {
		limit = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxDatagram)
	}
	if stream {
		limit = dns.MaxMsgSize
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	case opt != nil && opt.Version() != 0:
		m.Rcode = dns.RcodeBadVers
	case q.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
	case q.Question[0].Qtype == dns.TypeAXFR || q.Question[0].Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
	default:
		s.fill(ctx, m, q)
	}
	if opt != nil {
		m.SetEdns0(maxDatagram, false)
	}
	m.Truncate(limit)
	return m
}

// fill answers from the zone, and where that ends from upstream.
func (s *Server) fill(ctx context.Context, m, q *dns.Msg) {
	question := q.Question[0]
	a := s.zone.Load().Lookup(question.Name, question.Qtype)
	if !a.Ours {
		s.forward(ctx, m, question, q.RecursionDesired)
		return
	}
	m.Authoritative, m.Rcode = true, a.Rcode
	m.Answer, m.Ns, m.Extra = a.Records, a.Authority, a.Extra
	s.rotate(m.Answer)
	if a.Elsewhere != "" && len(s.upstreams.Servers) > 0 && q.RecursionDesired {
		question.Name = a.Elsewhere
		s.forward(ctx, m, question, true)
	}
}

// rotate begins the addresses with another one each time: most clients take the first.
func (s *Server) rotate(records []dns.RR) {
	isAddress := func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeA || rr.Header().Rrtype == dns.TypeAAAA }
	from := slices.IndexFunc(records, isAddress)
	if from < 0 || !isAddress(records[len(records)-1]) {
		return
	}
	records = records[from:]
	n := int(s.turn.Add(1)) % len(records)
	copy(records, slices.Concat(records[n:], records[:n]))
}

// forward adds an upstream's answer to m.
func (s *Server) forward(ctx context.Context, m *dns.Msg, question dns.Question, wanted bool) {
	if !wanted || len(s.upstreams.Servers) == 0 {
		m.Rcode = dns.RcodeRefused
		return
	}
	select {
	case s.forwarded <- struct{}{}:
		defer func() { <-s.forwarded }()
	default: // too many wait already
		m.Rcode = dns.RcodeServerFailure
		return
	}
	m.Rcode = dns.RcodeServerFailure
	for _, server := range s.upstreams.Servers {
		answer, err := s.exchange(ctx, question, server.String())
		if err != nil || answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused {
			continue
		}
		m.Authoritative, m.Rcode = false, answer.Rcode&0xf
		m.Answer = append(m.Answer, answer.Answer...)
		m.Ns = answer.Ns
		m.Extra = slices.DeleteFunc(answer.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
		return
	}
}

// exchange asks one server, over TCP if the answer does not fit a datagram.
func (s *Server) exchange(ctx context.Context, question dns.Question, server string) (*dns.Msg, error) {
	q := &dns.Msg{Question: []dns.Question{question}}
	q.Id, q.RecursionDesired = dns.Id(), true
	q.SetEdns0(maxDatagram, false)
	for _, network := range []string{"udp", "tcp"} {
		answer, err := s.exchangeOver(ctx, q, network, server)
		if err != nil {
			return nil, err
		}
		if !answer.Truncated {
			return answer, nil
		}
	}
	return nil, fmt.Errorf("upstream %s: its answer does not fit", server)
}

func (s *Server) exchangeOver(ctx context.Context, q *dns.Msg, network, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	conn, err := s.upstreams.Dial(ctx, network, server)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", server, err)
	}
	defer conn.Close()
	client := &dns.Client{Net: network, Timeout: upstreamTime, UDPSize: maxDatagram}
	answer, _, err := client.ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: conn, UDPSize: maxDatagram})
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", server, err)
	}
	same := len(answer.Question) == 1 && answer.Question[0].Qtype == q.Question[0].Qtype && strings.EqualFold(answer.Question[0].Name, q.Question[0].Name)
	if !answer.Response || !same {
		return nil, fmt.Errorf("upstream %s: it answered another question", server)
	}
	return answer, nil
}
