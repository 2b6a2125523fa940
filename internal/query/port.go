package query

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// Port is what a person writes for a port: a number, the name of a port that the destination declares, or a
// protocol that has no ports.
type Port struct {
	Protocol flow.Protocol // for a name, 0 is "what the destination declares"
	Number   uint16
	Name     string
}

// ParsePort reads "389", "53/udp", "ldap", "dns/udp" and "icmp". A number without a protocol is TCP.
func ParsePort(text string) (Port, error) {
	name, proto, given := strings.Cut(text, "/")
	p := Port{Protocol: flow.TCP}
	whole, err := flow.ParseProtocol(name)
	isNumber := strings.Trim(name, "0123456789") == ""
	if noPorts := err == nil && !isNumber && !whole.HasPorts(); noPorts && given {
		return Port{}, fmt.Errorf("port %q: policies do not tell %s messages apart; write %q", text, whole, whole)
	} else if noPorts {
		return Port{Protocol: whole}, nil
	}
	if given {
		if p.Protocol, err = flow.ParseProtocol(proto); err != nil {
			return Port{}, fmt.Errorf("port %q: %w", text, err)
		}
		if !p.Protocol.HasPorts() {
			return Port{}, fmt.Errorf("port %q: %s has no ports; write %q", text, p.Protocol, p.Protocol)
		}
	}
	if n, err := strconv.ParseUint(name, 10, 16); err == nil && n > 0 {
		p.Number = uint16(n)
		return p, nil
	}
	if isNumber {
		return Port{}, fmt.Errorf("port %q: want a number from 1 to 65535, a port's name or icmp, and a protocol like 53/udp", text)
	}
	if !given {
		p.Protocol = 0
	}
	p.Name = name
	return p, nil
}

// SplitPort takes "B:PORT" apart, "shop/db:5432" for instance; port is "" if none is there. PORT may be anything that
// holds no colon, a list of ports too. An IPv6 address in front of a port stands in brackets.
func SplitPort(text string) (ref, port string, err error) {
	text = strings.TrimSpace(text)
	if _, err := netip.ParseAddr(text); err == nil || strings.HasSuffix(text, "]") {
		return text, "", nil
	}
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return text, "", nil
	}
	ref, port = strings.TrimSpace(text[:colon]), strings.TrimSpace(text[colon+1:])
	if strings.Contains(ref, ":") && !strings.HasPrefix(ref, "[") {
		return "", "", fmt.Errorf("%q: write an IPv6 address before a port as [%s]", text, ref)
	}
	if port == "" {
		return "", "", fmt.Errorf("%q: want a port behind the colon", text)
	}
	return ref, port, nil
}

// ParsePorts reads a list of ports with commas between them, "389,636" for instance.
func ParsePorts(text string) ([]Port, error) {
	var all []Port
	for part := range strings.SplitSeq(text, ",") {
		p, err := ParsePort(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// String is the text that ParsePort reads.
func (p Port) String() string {
	switch {
	case p.Name == "" && !p.Protocol.HasPorts():
		return p.Protocol.String()
	case p.Name != "" && p.Protocol == 0:
		return p.Name
	case p.Name != "":
		return p.Name + "/" + p.Protocol.String()
	case p.Protocol == flow.TCP:
		return strconv.Itoa(int(p.Number))
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

// At resolves a name on the destination; a number stands for itself. The error says which names there are.
func (p Port) At(to cluster.Party) ([]cluster.Port, error) {
	if p.Name == "" {
		return []cluster.Port{{Protocol: p.Protocol, Number: p.Number}}, nil
	}
	if to.Endpoint == nil {
		return nil, fmt.Errorf("port name %q: %s is no pod, so it declares no names", p.Name, to)
	}
	if found := to.Endpoint.PortsNamed(p.Name, p.Protocol); len(found) > 0 {
		return found, nil
	}
	var names []string
	for _, c := range to.Endpoint.Ports {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	if names == nil {
		return nil, fmt.Errorf("%s declares no port named %q, nor any other name", to, p.Name)
	}
	return nil, fmt.Errorf("%s declares no port named %q; it declares %s", to, p.Name, strings.Join(names, ", "))
}
