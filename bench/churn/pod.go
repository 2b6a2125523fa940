package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// What pods are, and what policy says of them.
const (
	roleServer   = "server"
	roleClient   = "client"   // reaches servers, and every pod
	roleIntruder = "intruder" // reaches nobody: no policy of others lets it in
	roleMute     = "mute"     // may send nothing
)

const (
	port     = 7000
	hurry    = 5 * time.Millisecond   // between two tries of a pod that starts
	calm     = 500 * time.Millisecond // after that
	beat     = 100 * time.Millisecond // between two words on a connection that is kept
	stall    = time.Second            // from which on an answer is late
	patience = 60 * time.Second       // after which a connection is given up
)

// member is a pod.
type member struct {
	role, name string
	servers    []netip.Addr
	open       netip.Addr   // a server in a namespace without policies, which only a mute may not reach
	everybody  []netip.Addr // all addresses to send to, who can be there or not
	notes      *notes
	denied     atomic.Int64 // packets sent that are denied
	answered   atomic.Int64
	udp        *net.UDPConn
	// aside is where a client floods from: from port it would open a connection to everybody, and what an intruder sends
	// would be its answers.
	aside *net.UDPConn
}

func runPod(ctx context.Context, args []string) error {
	m := &member{}
	f := flag.NewFlagSet("pod", flag.ContinueOnError)
	f.StringVar(&m.role, "role", roleClient, "server, client, intruder or mute")
	f.StringVar(&m.name, "name", "", "the pod's name")
	servers := f.String("servers", "", "addresses of servers")
	open := f.String("open", "", "address of the server without policies")
	flood := f.String("flood", "", "prefix of IPv4 to send to every address of, again and again")
	out := f.String("out", "", "folder to write to")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := m.parse(*servers, *open, *flood); err != nil {
		return err
	}
	var err error
	if m.notes, err = openNotes(*out, m.name); err != nil {
		return err
	}
	m.notes.write(note{Kind: noteUp})
	if m.udp, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port}); err != nil {
		return err
	}
	m.aside = m.udp
	if m.role == roleClient {
		if m.aside, err = net.ListenUDP("udp4", nil); err != nil {
			return err
		}
	}
	return m.run(ctx)
}

func (m *member) parse(servers, open, flood string) (err error) {
	for _, s := range strings.Fields(strings.ReplaceAll(servers, ",", " ")) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return err
		}
		m.servers = append(m.servers, a)
	}
	if open != "" {
		if m.open, err = netip.ParseAddr(open); err != nil {
			return err
		}
	}
	if flood == "" {
		return nil
	}
	p, err := netip.ParsePrefix(flood)
	if err != nil {
		return err
	}
	for a := p.Masked().Addr().Next(); p.Contains(a.Next()); a = a.Next() {
		m.everybody = append(m.everybody, a)
	}
	return nil
}

func (m *member) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { <-ctx.Done(); return m.udp.Close() })
	group.Go(func() error { return m.press(ctx) })
	group.Go(func() error { return closed(m.hear()) })
	group.Go(func() error { return m.listen(ctx) })
	group.Go(func() error { return m.call(ctx) })
	group.Go(func() error { return m.flood(ctx) })
	group.Go(func() error { return m.count(ctx) })
	for _, s := range m.targets() {
		switch m.role {
		case roleClient:
			group.Go(func() error { return m.keep(ctx, s) })
		case roleIntruder, roleMute:
			group.Go(func() error { return m.knock(ctx, s) })
		}
	}
	return group.Wait()
}

// closed takes the end of a socket that was closed for no error.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// targets are the servers that a pod of this role calls.
func (m *member) targets() []netip.Addr {
	switch m.role {
	case roleMute:
		return append([]netip.Addr{m.open}, m.servers...)
	case roleServer:
		return nil
	}
	return m.servers
}

// word is what a pod says: its role and its name.
func (m *member) word() []byte { return []byte(m.role + " " + m.name) }

// hear takes datagrams: a server answers, and everybody notes who should not have come through.
func (m *member) hear() error {
	b := make([]byte, 512)
	for {
		n, from, err := m.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // an ICMP error that answers what was sent
		}
		role, who, _ := strings.Cut(string(b[:n]), " ")
		switch {
		case who == m.name: // everybody reaches himself
		case role == roleIntruder || role == roleMute:
			m.notes.write(note{Kind: noteViolation, Peer: fmt.Sprintf("a datagram of %s %s", role, who)})
		case role == roleServer && m.role == roleClient:
			m.notes.first(note{Kind: noteReached, Peer: from.Addr().Unmap().String()})
		case role == roleServer:
			m.notes.write(note{Kind: noteViolation, Peer: "an answer of " + who})
		case m.role == roleServer:
			_, _ = m.udp.WriteToUDPAddrPort(m.word(), from) // the client is gone
		default:
			m.notes.first(note{Kind: noteGreeted})
		}
	}
}

// listen takes connections, and echoes on them.
func (m *member) listen(ctx context.Context) error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			return closed(err)
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // until the client goes
		}()
	}
}

// call sends datagrams to servers: often until all have answered, and then now and again.
func (m *member) call(ctx context.Context) error {
	for every := hurry; ; {
		for _, s := range m.targets() {
			m.send(m.udp, s)
		}
		if m.role != roleClient || m.notes.count(noteReached) == len(m.servers) {
			every = calm
		}
		if !sleep(ctx, every) {
			return nil
		}
	}
}

func (m *member) send(from *net.UDPConn, to netip.Addr) {
	_, err := from.WriteToUDPAddrPort(m.word(), netip.AddrPortFrom(to, port))
	if err == nil && m.role != roleClient && m.role != roleServer {
		m.denied.Add(1)
	}
}

// flood sends to everybody, again and again.
func (m *member) flood(ctx context.Context) error {
	for len(m.everybody) > 0 {
		for i, a := range m.everybody {
			m.send(m.aside, a)
			if i%32 == 31 && !sleep(ctx, hurry) {
				return nil
			}
		}
		if !sleep(ctx, beat) {
			return nil
		}
	}
	return nil
}

// press sends without a pause from where it may not, if the pod floods: what is wrong for a moment only is hit that way.
func (m *member) press(ctx context.Context) error {
	if len(m.everybody) == 0 || m.role == roleClient {
		return nil
	}
	for sleep(ctx, hurry) {
		for _, s := range m.targets() {
			m.send(m.udp, s)
		}
	}
	return nil
}

// knock tries to connect where it may not.
func (m *member) knock(ctx context.Context, to netip.Addr) error {
	for {
		m.denied.Add(1)
		c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(to, port).String(), calm)
		if err == nil {
			m.notes.write(note{Kind: noteViolation, Peer: fmt.Sprintf("a connection of %s to %s", m.role, to)})
			c.Close()
		}
		if !sleep(ctx, calm) {
			return nil
		}
	}
}

// keep holds one connection for as long as the pod lives.
func (m *member) keep(ctx context.Context, to netip.Addr) error {
	var d net.Dialer
	var c net.Conn
	for c == nil {
		var err error
		short, cancel := context.WithTimeout(ctx, calm)
		c, err = d.DialContext(short, "tcp4", netip.AddrPortFrom(to, port).String())
		cancel()
		if err != nil && !sleep(ctx, hurry) {
			return nil
		}
	}
	defer c.Close()
	b := make([]byte, 4)
	for {
		start := time.Now()
		err := c.SetDeadline(start.Add(patience))
		if err == nil {
			_, err = c.Write([]byte("beat"))
		}
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			m.notes.write(note{Kind: noteBroken, Peer: to.String() + ": " + err.Error()})
			return nil
		}
		m.answered.Add(1)
		if took := time.Since(start); took > stall {
			m.notes.write(note{Kind: noteStalled, Peer: to.String(), Took: took})
		}
		if !sleep(ctx, beat) {
			return nil
		}
	}
}

// count writes down how much was sent.
func (m *member) count(ctx context.Context) error {
	for sleep(ctx, time.Second) {
		if n := m.denied.Load(); n > 0 {
			m.notes.write(note{Kind: noteSent, N: n})
		}
		if n := m.answered.Load(); n > 0 {
			m.notes.write(note{Kind: noteKept, N: n})
		}
	}
	return nil
}

// sleep reports false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
