//go:build linux

package lab

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/query"
)

// Selection says what to probe. The zero value is everything: every source, every destination, every port that the
// destination listens on, and an ICMP echo.
type Selection struct {
	// Pairs are like "shop/web -> shop/db". Each end is a reference as query reads it, or "pods", "node",
	// "outside", or "*" for all of these.
	Pairs []string
	// Ports are probed instead of those that the destination listens on. A pod is not asked for a name that it
	// does not declare. Numbers have to be in Spec.Ports too, or nobody may listen there.
	Ports []query.Port
	// Tuples, if there are any, are probed in the stead of all that Pairs and Ports choose. One of which an end is not
	// in the lab is left out.
	Tuples []flow.Tuple
	// MaxProbes bounds the number of probes; 0 does not. Then whole pairs are left out, and the report says so.
	MaxProbes int
}

// Listen are the ports of a selection that everybody has to listen on: what Spec.Ports should be.
func (s Selection) Listen() []cluster.Port {
	var ports []cluster.Port
	for _, p := range s.Ports {
		if p.Name == "" && p.Protocol.HasPorts() {
			ports = append(ports, cluster.Port{Protocol: p.Protocol, Number: p.Number})
		}
	}
	return ports
}

// end is an address of a host, as source or destination.
type end struct {
	Point
	station *station
}

// ends are all ends there are, pods first.
func (l *Lab) ends() []end {
	var all []end
	for _, s := range l.stations() {
		for _, a := range s.addresses {
			p := l.plan.state.At(a)
			point := Point{Name: p.String(), Group: p.String(), Addr: a}
			if p.Endpoint != nil && p.Endpoint.Owner.Name != "" {
				point.Group = p.Endpoint.Namespace + "/" + p.Endpoint.Owner.Name
			}
			all = append(all, end{point, s})
		}
	}
	return all
}

// isPod reports whether e is a pod's own address.
func (e end) isPod() bool { return e.station.endpoint != nil }

// matrix is what to probe, and what of it cannot be.
type matrix struct {
	probes  []Result // not made yet
	from    []*station
	skipped []Skip
}

// matrix lays out the probes: from everybody to every pod, and from every pod to everybody.
func (l *Lab) matrix(sel Selection) (*matrix, error) {
	if len(sel.Tuples) > 0 {
		return l.list(sel.Tuples), nil
	}
	pairs, err := l.resolvePairs(sel.Pairs)
	if err != nil {
		return nil, err
	}
	m := &matrix{}
	sctp := 0
	all := l.ends()
	for _, from := range all {
		for _, to := range all {
			relevant := from.isPod() || to.isPod()
			if !relevant || from.Addr.Is4() != to.Addr.Is4() || !pairs.contain(from, to) {
				continue
			}
			for _, port := range l.ports(to, sel.Ports) {
				if port.Protocol == flow.SCTP && !echo.HasSCTP() {
					sctp++
					continue
				}
				m.probes = append(m.probes, Result{From: from.Point, To: to.Point, Tuple: flow.Tuple{Source: from.Addr,
					Destination: to.Addr, Protocol: port.Protocol, Port: port.Number}})
				m.from = append(m.from, from.station)
			}
		}
	}
	if sctp > 0 {
		m.skipped = append(m.skipped, Skip{What: "sctp", Count: sctp, Why: "this kernel opens no SCTP sockets: load the module sctp"})
	}
	if len(m.probes) == 0 {
		return nil, fmt.Errorf("nothing to probe: no two ends of the lab match the selection")
	}
	m.bound(sel.MaxProbes)
	return m, nil
}

// list lays out the probes of a list.
func (l *Lab) list(tuples []flow.Tuple) *matrix {
	ends := map[netip.Addr]end{}
	for _, e := range l.ends() {
		ends[e.Addr] = e
	}
	m := &matrix{}
	for _, t := range tuples {
		from, to := ends[t.Source], ends[t.Destination]
		if from.station != nil && to.station != nil && (t.Protocol != flow.SCTP || echo.HasSCTP()) {
			m.probes = append(m.probes, Result{From: from.Point, To: to.Point, Tuple: t})
			m.from = append(m.from, from.station)
		}
	}
	return m
}

// ports are what is probed at to: those chosen, or all that it listens on and an echo.
func (l *Lab) ports(to end, chosen []query.Port) []cluster.Port {
	echo := flow.ICMP
	if to.Addr.Is6() {
		echo = flow.ICMPv6
	}
	if len(chosen) == 0 {
		return append(slices.Clone(to.station.listen), cluster.Port{Protocol: echo})
	}
	var ports []cluster.Port
	for _, p := range chosen {
		if !p.Protocol.HasPorts() && p.Name == "" {
			ports = append(ports, cluster.Port{Protocol: echo})
			continue
		}
		if found, err := p.At(l.plan.state.At(to.Addr)); err == nil {
			ports = append(ports, found...)
		}
	}
	return distinctPorts(ports)
}

// bound leaves out pairs until no more than limit probes are left. Which ones depends on their names only, so that
// two runs probe the same.
func (m *matrix) bound(limit int) {
	total := len(m.probes)
	if limit <= 0 || total <= limit {
		return
	}
	share := uint64(limit) << 32 / uint64(total)
	probes, from := m.probes[:0], m.from[:0]
	for i, p := range m.probes {
		h := fnv.New32a()
		fmt.Fprint(h, p.From.Name, "\n", p.To.Name)
		if uint64(h.Sum32()) < share && len(probes) < limit {
			probes, from = append(probes, p), append(from, m.from[i])
		}
	}
	m.probes, m.from = probes, from
	m.skipped = append(m.skipped, Skip{What: "pairs", Count: total - len(probes), Why: fmt.Sprintf("more than %d probes: a sample of the pairs was made", limit)})
}

// keep forgets the probes that were not made because too many were lost.
func (m *matrix) keep(made []bool) {
	var probes []Result
	for i, p := range m.probes {
		if made[i] {
			probes = append(probes, p)
		}
	}
	if n := len(m.probes) - len(probes); n > 0 {
		m.skipped = append(m.skipped, Skip{What: "others", Count: n, Why: fmt.Sprintf("%d were lost, which is enough to see that something is wrong", maxLost)})
	}
	m.probes = probes
}

// pairs are the resolved pairs of a selection; none contain everything.
type pairs []struct{ from, to ref }

func (p pairs) contain(from, to end) bool {
	if len(p) == 0 {
		return true
	}
	for _, pair := range p {
		if pair.from.matches(from) && pair.to.matches(to) {
			return true
		}
	}
	return false
}

// ref is one end of a pair: a word, or parties.
type ref struct {
	word    string
	parties []cluster.Party
}

func (r ref) matches(e end) bool {
	switch r.word {
	case "*":
		return true
	case "pods":
		return e.isPod()
	case "node":
		return !e.isPod() && e.station.veth == ""
	case "outside":
		return e.station.veth == outsideVeth
	}
	return slices.ContainsFunc(r.parties, func(p cluster.Party) bool {
		switch {
		case p.Endpoint != nil:
			return e.isPod() && p.Endpoint.Key == e.station.endpoint.Key
		case p.Node != nil:
			return slices.Contains(p.Node.Addresses, e.Addr)
		}
		return p.Addr == e.Addr
	})
}

func (l *Lab) resolvePairs(texts []string) (pairs, error) {
	var all pairs
	for _, text := range texts {
		from, to, ok := strings.Cut(text, "->")
		if !ok {
			return nil, fmt.Errorf("pair %q: want 'FROM -> TO'", text)
		}
		f, err := l.resolveRef(strings.TrimSpace(from))
		if err != nil {
			return nil, fmt.Errorf("pair %q: %w", text, err)
		}
		t, err := l.resolveRef(strings.TrimSpace(to))
		if err != nil {
			return nil, fmt.Errorf("pair %q: %w", text, err)
		}
		all = append(all, struct{ from, to ref }{f, t})
	}
	return all, nil
}

func (l *Lab) resolveRef(text string) (ref, error) {
	switch text {
	case "*", "pods", "node", "outside":
		return ref{word: text}, nil
	}
	parties, err := query.Scope{State: l.plan.state}.Resolve(text)
	if err != nil {
		return ref{}, err
	}
	for _, p := range parties {
		if p.Endpoint == nil && p.Node == nil && !l.has(p.Addr) {
			return ref{}, fmt.Errorf("nobody in the lab has the address %s", p.Addr)
		}
	}
	return ref{parties: parties}, nil
}

func (l *Lab) has(a netip.Addr) bool {
	return slices.ContainsFunc(l.stations(), func(s *station) bool { return slices.Contains(s.addresses, a) })
}
