package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// Recorded are connections that were seen.
type Recorded struct {
	Source  string // for people: where they come from
	Records []*flowlog.Record
	Since   time.Time // older ones were left out; zero for none
	// Lost is how often records were lost before they could be kept.
	Lost uint64
}

// Effect is what a change does to recorded connections.
type Effect struct {
	Source      string    `json:"source"`
	Connections int       `json:"connections"` // recorded, allowed and denied
	First       time.Time `json:"first,omitzero"`
	Last        time.Time `json:"last,omitzero"`
	Since       time.Time `json:"since,omitzero"` // what was asked for
	Lost        uint64    `json:"lost,omitempty"`
	// Breaks were let through and would be denied, Opens were denied and would be let through; the most first.
	Breaks []Seen `json:"breaks"`
	Opens  []Seen `json:"opens"`
	// Same is how many connections fare as before.
	Same int `json:"same"`
	// Uncertain are connections of which nobody can say, by reason.
	Uncertain []Uncertain `json:"uncertain"`
}

// Seen is a kind of recorded connections.
type Seen struct {
	From        string    `json:"from"` // a workload, node, part of the world outside, or "unknown pods"
	To          string    `json:"to"`
	Port        string    `json:"port"` // "389/tcp"
	Connections int       `json:"connections"`
	Answered    int       `json:"answered"` // of them, by their server
	Last        time.Time `json:"last"`
	By          Decided   `json:"old"`
	New         Decided   `json:"new"`
	Lost        string    `json:"lost,omitempty"`
	// Try is the command that explains one of them.
	Try string `json:"try,omitempty"`

	from, to int // classes
	protocol flow.Protocol
	port     uint16
	ipv4     bool
	pods     [2]*cluster.Endpoint // of a connection that was recorded, where it still has them
}

// Uncertain is why nothing can be said of some connections.
type Uncertain struct {
	Reason      string    `json:"reason"`
	Connections int       `json:"connections"`
	Last        time.Time `json:"last"`
	Examples    []string  `json:"examples"` // up to three
}

// recordKind is what records have in common that fare alike.
type recordKind struct {
	from, to flowlog.End // without what does not matter
	protocol flow.Protocol
	port     uint16
	verdict  flow.Verdict
	asked    bool // by way of another address
}

// tally is how often a kind was recorded.
type tally struct {
	connections, answered int
	last                  time.Time
}

func (t *tally) add(o tally) {
	t.connections += o.connections
	t.answered += o.answered
	if o.last.After(t.last) {
		t.last = o.last
	}
}

// hold holds recorded connections against the change.
func (c *comparison) hold(r *Recorded) {
	e := &Effect{Source: r.Source, Since: r.Since, Lost: r.Lost, Breaks: []Seen{}, Opens: []Seen{}, Uncertain: []Uncertain{}}
	c.plan.Flows = e
	kinds := map[recordKind]*tally{}
	var order []recordKind
	for _, record := range r.Records {
		if record.Time.Before(r.Since) && lastSeen(record).Before(r.Since) {
			continue
		}
		k := kindOf(record)
		if kinds[k] == nil {
			kinds[k] = &tally{}
			order = append(order, k)
		}
		t := tally{connections: 1, last: lastSeen(record)}
		if record.Denied() {
			t.connections = max(record.Packets, 1)
		}
		if record.Answered {
			t.answered = 1
		}
		kinds[k].add(t)
		e.Connections += t.connections
		if e.First.IsZero() || record.Time.Before(e.First) {
			e.First = record.Time
		}
		if t.last.After(e.Last) {
			e.Last = t.last
		}
	}
	book := &book{effect: e, seen: map[seenKey]int{}, uncertain: map[string]int{}}
	for _, k := range order {
		c.judge(k, *kinds[k], book)
	}
	book.sort()
}

func lastSeen(r *flowlog.Record) time.Time {
	at := r.Time
	if r.Last.After(at) {
		at = r.Last
	}
	if r.End != nil && r.End.Time.After(at) {
		at = r.End.Time
	}
	return at
}

func kindOf(r *flowlog.Record) recordKind {
	k := recordKind{from: bareEnd(r.Source), to: bareEnd(r.Destination), protocol: r.Protocol, port: r.Port, verdict: r.Verdict, asked: r.Asked != nil}
	if !r.Protocol.HasPorts() {
		k.port = 0
	}
	return k
}

// bareEnd leaves out what the name says already.
func bareEnd(e flowlog.End) flowlog.End {
	switch {
	case e.Pod != "":
		return flowlog.End{Namespace: e.Namespace, Pod: e.Pod, Kind: e.Kind, Workload: e.Workload, Address: familyAddress(e.Address)}
	case e.Node != "":
		return flowlog.End{Node: e.Node, Address: familyAddress(e.Address)}
	}
	return flowlog.End{Address: e.Address, Unknown: e.Unknown}
}

// familyAddress stands for all addresses of a family, where only that matters.
func familyAddress(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// judge says what becomes of a kind of recorded connections. Where an end can be any of several classes, they have to
// agree.
func (c *comparison) judge(k recordKind, t tally, b *book) {
	from, pod0, why := c.find(k.from)
	to, pod1, also := c.find(k.to)
	if why = cmp.Or(why, also); why != "" {
		b.doubt(why, k, t)
		return
	}
	if pod0 != nil && pod0 == pod1 {
		if k.asked {
			b.doubt("from a pod through a Service to itself, which is judged where the pod runs", k, t)
		} else {
			b.effect.Same += t.connections
		}
		return
	}
	var first *Seen
	for _, x := range from {
		for _, y := range to {
			if x == y && c.classes[x].alone {
				continue
			}
			s, why := c.fare(x, y, k)
			switch {
			case why != "":
				b.doubt(why, k, t)
				return
			case first != nil && (first.By.flow.Verdict != s.By.flow.Verdict || first.New.flow.Verdict != s.New.flow.Verdict):
				b.doubt("the pod is gone, and the pods of its workload are not treated alike", k, t)
				return
			case first == nil:
				s.pods = [2]*cluster.Endpoint{pod0, pod1}
				first = &s
			}
		}
	}
	if first == nil { // a workload of one pod, and that pod's predecessor
		b.effect.Same += t.connections
		return
	}
	b.enter(*first, k, t)
}

// find returns the classes that a recorded end belongs to, and the pod if it is still there; or why nobody knows.
func (c *comparison) find(e flowlog.End) (classes []int, pod *cluster.Endpoint, why string) {
	switch {
	case e.Pod != "":
		key := cluster.Key{Namespace: e.Namespace, Name: e.Pod}
		for s := 1; s >= 0 && pod == nil; s-- {
			pod = c.states[s].Endpoint(key)
		}
		if i, ok := c.index.pods[key]; ok {
			return []int{i}, pod, ""
		}
		owner := ownerKey{e.Namespace, cluster.Owner{Kind: e.Kind, Name: cmp.Or(e.Workload, e.Pod)}}
		if all := c.index.workloads[owner]; len(all) > 0 {
			return all, pod, ""
		}
		return nil, nil, "of pods that are in none of the manifests, nor their workloads"
	case e.Node != "":
		if i, ok := c.index.nodes[e.Node]; ok {
			return []int{i}, nil, ""
		}
		return nil, nil, "of nodes that are in none of the manifests"
	}
	best := -1
	for i, p := range c.samples {
		if p.Prefix.Contains(e.Address) && (best < 0 || p.Prefix.Bits() > c.samples[best].Prefix.Bits()) {
			best = i
		}
	}
	if best < 0 {
		return nil, nil, "of addresses that cannot be placed"
	}
	i := c.index.samples[best]
	if unknown := c.classes[i].kind == reach.Unknown; unknown != e.Unknown {
		if e.Unknown {
			return nil, nil, "of pods that nobody knew when they were recorded"
		}
		return nil, nil, "of addresses that may be pods' now, or were taken for pods' then"
	}
	return []int{i}, nil, ""
}

// fare is how connections of a kind fare between two classes, or why that cannot be said.
func (c *comparison) fare(from, to int, k recordKind) (Seen, string) {
	x, y := &c.classes[from], &c.classes[to]
	s := Seen{From: x.name, To: y.name, Port: flowlog.PortText(k.protocol, k.port), from: from, to: to, protocol: k.protocol, port: k.port,
		ipv4: k.from.Address.Is4()}
	for _, e := range []*class{x, y} {
		switch {
		case !e.there(0) && !e.there(1):
			return s, "of pods that have no address"
		case !e.there(1):
			return s, "of workloads that are removed"
		case !e.there(0):
			return s, "of workloads that are new"
		}
	}
	var both [2]sides
	if _, compared := c.compares(from, to); compared {
		for m := range both {
			both[m] = sidesOf(c.maps[m].Answer(x.box[m], y.box[m]), s.ipv4, k.protocol, k.port)
		}
	}
	was, is := decisions(both[0], both[1])
	s.By, s.New = newDecided(was), newDecided(is)
	return s, ""
}

// book collects what becomes of recorded connections.
type book struct {
	effect    *Effect
	seen      map[seenKey]int // in Breaks or Opens
	uncertain map[string]int
}

type seenKey struct {
	from, to, port string
	old, new       flow.Decision
}

func (b *book) enter(s Seen, k recordKind, t tally) {
	recorded, old, new := k.verdict, s.By.flow.Verdict, s.New.flow.Verdict
	switch {
	case recorded != old && recorded != new:
		b.doubt(fmt.Sprintf("recorded as %s, but both sides would %s them: other policies were in force then", past(recorded), old), k, t)
		return
	case recorded != old:
		b.doubt(fmt.Sprintf("recorded as %s, which the old side would %s: other policies were in force then", past(recorded), old), k, t)
		return
	case old == new:
		b.effect.Same += t.connections
		return
	}
	list := &b.effect.Breaks
	if new == flow.Allow {
		list = &b.effect.Opens
	}
	key := seenKey{s.From, s.To, s.Port, s.By.flow, s.New.flow}
	i, there := b.seen[key]
	if !there {
		i = len(*list)
		b.seen[key] = i
		*list = append(*list, s)
	}
	at := &(*list)[i]
	sum := tally{at.Connections, at.Answered, at.Last}
	sum.add(t)
	at.Connections, at.Answered, at.Last = sum.connections, sum.answered, sum.last
}

func past(v flow.Verdict) string {
	if v == flow.Allow {
		return "allowed"
	}
	return "denied"
}

const maxExamples = 3

func (b *book) doubt(why string, k recordKind, t tally) {
	i, there := b.uncertain[why]
	if !there {
		i = len(b.effect.Uncertain)
		b.uncertain[why] = i
		b.effect.Uncertain = append(b.effect.Uncertain, Uncertain{Reason: why})
	}
	u := &b.effect.Uncertain[i]
	sum := tally{u.Connections, 0, u.Last}
	sum.add(t)
	u.Connections, u.Last = sum.connections, sum.last
	text := endText(k.from) + " -> " + endText(k.to) + " " + flowlog.PortText(k.protocol, k.port)
	if len(u.Examples) < maxExamples && !slices.Contains(u.Examples, text) {
		u.Examples = append(u.Examples, text)
	}
}

func endText(e flowlog.End) string { return e.String() }

func (b *book) sort() {
	for _, list := range [][]Seen{b.effect.Breaks, b.effect.Opens} {
		slices.SortStableFunc(list, func(x, y Seen) int {
			return cmp.Or(cmp.Compare(y.Connections, x.Connections), strings.Compare(x.From, y.From), strings.Compare(x.To, y.To), strings.Compare(x.Port, y.Port))
		})
	}
	slices.SortStableFunc(b.effect.Uncertain, func(x, y Uncertain) int {
		return cmp.Or(cmp.Compare(y.Connections, x.Connections), strings.Compare(x.Reason, y.Reason))
	})
}

// credit counts a kind of recorded connections for the changes that are about it.
func (c *comparison) credit(s *Seen) {
	for i := range c.plan.Changes {
		change := &c.plan.Changes[i]
		about := slices.Contains(change.from, s.from) && slices.Contains(change.to, s.to) && holds(change.ports, s.protocol, s.port)
		if !about || change.Family == "IPv4" && !s.ipv4 || change.Family == "IPv6" && s.ipv4 {
			continue
		}
		change.Seen += s.Connections
		if s.Last.After(change.Last) {
			change.Last = s.Last
		}
	}
}
