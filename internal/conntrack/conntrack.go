// Package conntrack tells of the connections that a network namespace's kernel tracks: those there are (List), and
// each one's beginning and end (Watcher). A connection begins when its first packet has passed every rule, so that
// a denied one is never seen here.
package conntrack

import (
	"net/netip"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
)

// End is one end of a tuple: what one direction of packets bears in its header.
type End struct {
	Addr netip.Addr
	Port uint16 // of an ICMP message its identifier, at the source; 0 where there is nothing like a port
}

// Tuple is a direction's source and destination.
type Tuple struct{ Source, Destination End }

// Count is what went in one direction.
type Count struct{ Packets, Bytes uint64 }

// Status are the bits that the kernel keeps about a connection (enum ip_conntrack_status).
type Status uint32

// The bits that are asked for here.
const (
	SeenReply Status = 1 << 1
	Assured   Status = 1 << 2 // of TCP: it was established
	Confirmed Status = 1 << 3
	SourceNAT Status = 1 << 4
	DestNAT   Status = 1 << 5
	Dying     Status = 1 << 9
)

// TCPState is how far a TCP connection is (enum tcp_conntrack); 0 where the kernel did not say.
type TCPState uint8

// The states in which a connection is over, though the kernel remembers it for a while longer.
const (
	TimeWait TCPState = 7 // both sides said goodbye
	Close    TCPState = 8 // reset
)

// Key tells a connection from all others that live at the same time in one namespace, and from others of the same
// tuple that lived before. It is comparable.
type Key struct {
	ID       uint32
	Zone     uint16
	Protocol flow.Protocol
	Original Tuple
}

// Conn is a connection as the kernel tells it.
type Conn struct {
	Key
	Reply  Tuple
	Status Status
	TCP    TCPState
	// Sent is what the client sent, Received what it got. They are there in a List, at the end, and when a Lookup asks
	// for them; zero where nf_conntrack_acct is off.
	Sent, Received Count
	Start, Stop    time.Time // zero where nf_conntrack_timestamp is off
	Labels         [16]byte
}

// Client is who opened the connection: the source before any translation.
func (c *Conn) Client() netip.Addr { return c.Original.Source.Addr }

// Server is who answers: the destination after any translation.
func (c *Conn) Server() netip.Addr { return c.Reply.Source.Addr }

// Port is the server's port, after any translation; 0 for protocols without ports.
func (c *Conn) Port() uint16 {
	if !c.Protocol.HasPorts() {
		return 0
	}
	return c.Reply.Source.Port
}

// Over reports whether both ends are done with the connection, though the kernel still remembers it. Only TCP tells.
func (c *Conn) Over() bool { return c.TCP == TimeWait || c.TCP == Close }

// Outcome is how a TCP connection ended that is over or forgotten. One that the kernel forgets without a reset ended well if
// it was ever answered. The zero value, which is not known, is for other protocols.
func (c *Conn) Outcome() flow.Outcome {
	reset := c.TCP == Close
	switch {
	case c.Protocol != flow.TCP:
		return 0
	case c.Status&SeenReply == 0 && reset: // the kernel takes no note of an answer that is only a reset
		return flow.Refused
	case c.Status&SeenReply == 0:
		return flow.Unanswered
	case reset && c.Status&Assured != 0: // else whoever asked was only looking whether somebody answers
		return flow.Reset
	}
	return flow.Well
}

// Asked is the address and port that the client asked for, and whether it got another one: a Service's backend.
func (c *Conn) Asked() (netip.AddrPort, bool) {
	asked := netip.AddrPortFrom(c.Original.Destination.Addr, 0)
	if c.Protocol.HasPorts() {
		asked = netip.AddrPortFrom(asked.Addr(), c.Original.Destination.Port)
	}
	return asked, asked != netip.AddrPortFrom(c.Server(), c.Port())
}

// Tuple is the connection as policies judge it. Local is not known here, and false.
func (c *Conn) Tuple() flow.Tuple {
	asked, _ := c.Asked()
	return flow.Tuple{Source: c.Client(), Destination: c.Server(), Protocol: c.Protocol, Port: c.Port(),
		Translated: asked.Addr() != c.Server()}
}

// Kind is what happened to a connection. The zero value is nothing.
type Kind uint8

// The kinds of events.
const (
	New     Kind = 1 + iota // its first packet passed
	Updated                 // its status changed; only with Options.Updates
	Ended                   // forgotten by the kernel: silent for long enough, also after it was closed
	Lost                    // events came too fast and some are gone: only a List tells what there is
)

// String is "new", "updated", "ended" or "lost".
func (k Kind) String() string {
	return [...]string{"nothing", "new", "updated", "ended", "lost"}[min(k, Lost)]
}

// Event is one thing that happened.
type Event struct {
	Kind Kind
	Time time.Time // when the kernel saw it, where it says so, else when we heard of it
	Conn Conn      // zero for Lost
}
