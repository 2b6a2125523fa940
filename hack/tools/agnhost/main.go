//go:build linux

// Command agnhost goes in the stead of the upstream test suites' program of that name where the kernel has no SCTP
// sockets. For SCTP it does itself what the suites ask, with raw sockets: a client's INIT, a server's INIT ACK. That is all
// that a policy sees of a connection's begin, and connection tracking takes it for what it is. Everything else it leaves
// to the real one, which is beside it.
//
//	agnhost -add-to agnhost.tar -o agnhost-sctp.tar    writes the image with this program in it
package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// displaced is where the image has the real program.
const displaced = "/agnhost.real"

func main() {
	args := os.Args[1:]
	switch {
	case len(args) > 0 && args[0] == "-add-to":
		exit(addTo(args))
	case len(args) > 0 && args[0] == "connect" && option(args, "protocol") == "sctp":
		exit(connect(args[1:]))
	case len(args) > 0 && args[0] == "porter" && len(sctpPorts(os.Environ())) > 0:
		exit(serve(sctpPorts(os.Environ())))
	}
	exit(syscall.Exec(displaced, os.Args, os.Environ()))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// option is the value of --name VALUE or --name=VALUE.
func option(args []string, name string) string {
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return v
		}
		if a == "--"+name && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// target is the argument that is no option, and no option's value.
func target(args []string) string {
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "--") {
			return args[i]
		}
		if !strings.Contains(args[i], "=") {
			i++
		}
	}
	return ""
}

// sctpPorts are those that the environment asks for, with what to say there, which needs an association and is not said.
func sctpPorts(environment []string) map[uint16]bool {
	ports := map[uint16]bool{}
	for _, e := range environment {
		name, _, _ := strings.Cut(e, "=")
		var port uint16
		if n, _ := fmt.Sscanf(name, "SERVE_SCTP_PORT_%d", &port); n == 1 {
			ports[port] = true
		}
	}
	return ports
}

// connect prints what the real program prints: nothing, or one word that says what went wrong.
func connect(args []string) error {
	patience, err := time.ParseDuration(option(args, "timeout"))
	if err != nil {
		patience = time.Second
	}
	host, service, err := net.SplitHostPort(target(args))
	if err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	to, err := net.ResolveIPAddr("ip4", host)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	// Connected, so that an ICMP error is told and nobody else's packets come.
	c, err := net.DialIP("ip4:132", nil, to)
	if err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	mine := newInit(uint16(port))
	if _, err := c.Write(mine.encode()); err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	answer := make([]byte, 2048)
	for {
		n, _, err := c.ReadFromIP(answer) // Read would return the IP header too
		if os.IsTimeout(err) {
			return fmt.Errorf("TIMEOUT")
		}
		if err != nil {
			return fmt.Errorf("REFUSED: %w", err)
		}
		p, ok := decode(answer[:n])
		switch {
		case !ok || p.to != mine.from || p.from != mine.to || p.tag != mine.initiate:
		case p.kind == initAck:
			_, _ = c.Write(packet{from: mine.from, to: mine.to, tag: p.initiate, kind: abort}.encode())
			return nil
		case p.kind == abort:
			return fmt.Errorf("REFUSED")
		}
	}
}

// serve answers those who would connect, until it is ended.
func serve(ports map[uint16]bool) error {
	c, err := net.ListenIP("ip4:132", nil)
	if err != nil {
		return err
	}
	got := make([]byte, 2048)
	for {
		n, peer, err := c.ReadFromIP(got)
		if err != nil {
			return err
		}
		if p, ok := decode(got[:n]); ok && p.kind == initiation && ports[p.to] {
			if _, err := c.WriteToIP(p.accept().encode(), peer); err != nil {
				fmt.Fprintln(os.Stderr, err) // the peer asks again
			}
		}
	}
}
