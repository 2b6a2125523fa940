package policytest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// The words for ends of an invariant that are no references. "*" is a reference: every pod.
const (
	wordAny   = "any"   // every pod, every node and everything outside
	wordNodes = "nodes" // every node
	wordWorld = "world" // everything outside the cluster
)

// everything is the port of an invariant that stands for all protocols and ports at once.
const everything = "all"

// proposition is "A -> B:PORTS": that A can reach B on each of the ports; without ports, on any; with "all", on all.
type proposition struct {
	from, to string
	ports    []query.Port
	all      bool
}

func parseProposition(text string) (proposition, error) {
	from, rest, ok := strings.Cut(text, "->")
	if !ok || strings.TrimSpace(from) == "" {
		return proposition{}, fmt.Errorf("%q: want A -> B or A -> B:PORTS", text)
	}
	to, ports, err := query.SplitPort(rest)
	if err != nil {
		return proposition{}, err
	}
	if to == "" {
		return proposition{}, fmt.Errorf("%q: want A -> B or A -> B:PORTS", text)
	}
	p := proposition{from: strings.TrimSpace(from), to: to, all: ports == everything}
	if ports != "" && !p.all {
		p.ports, err = query.ParsePorts(ports)
	}
	return p, err
}

// invariants checks what has to hold of everybody.
func (r *Runner) invariants(d Doc, path string, specs []invariantSpec, a *arena, out *Test) error {
	if len(specs) == 0 {
		return nil
	}
	m, err := reach.Compute(a.state, reach.Options{})
	if err != nil {
		return fmt.Errorf("invariants: %w", err)
	}
	first := len(out.Checks)
	samples := make([]samples, len(specs))
	for i, spec := range specs {
		c := Check{Text: spec.String(), File: d.File, Line: d.spec.LineOf(at(path, i))}
		q := &inquiry{runner: r, arena: a, m: m, check: &c}
		if err := q.run(spec); err != nil {
			c.Error = err.Error()
		}
		samples[i] = q.samples
		out.Checks = append(out.Checks, c)
	}
	if r.Boot == nil || !r.Invariants {
		return nil
	}
	return r.sample(out.Checks[first:], samples, a)
}

// String is the invariant in a line.
func (v invariantSpec) String() string {
	text := v.word() + " " + v.text()
	if v.Name != "" {
		text = v.Name + ": " + text
	}
	return text
}

// inquiry is one invariant being checked.
type inquiry struct {
	runner *Runner
	arena  *arena
	m      *reach.Map
	check  *Check
	samples
}

func (q *inquiry) run(v invariantSpec) error {
	p, err := parseProposition(v.text())
	if err != nil {
		return err
	}
	from, err := q.end(p.from)
	if err != nil {
		return fmt.Errorf("%q: %w", p.from, err)
	}
	to, err := q.end(p.to)
	if err != nil {
		return fmt.Errorf("%q: %w", p.to, err)
	}
	for i := range q.m.Boxes {
		for j := range q.m.Boxes {
			if !to.in[j] || q.m.Answer(i, j).Level == reach.Unjudged {
				continue // no policy can say anything about a pod and itself, or a node and its own pods
			}
			q.pick(v.word(), p, from, i, j)
			switch w := v.word(); {
			case w == "never" && from.in[i]:
				q.never(p, i, j)
			case w == "always" && from.in[i]:
				q.always(p, i, j)
			case w == "only":
				q.only(p, from, i, j)
			}
		}
	}
	if q.check.Judged == 0 {
		return fmt.Errorf("%q is about no connection that a policy could allow or deny", v.text())
	}
	return nil
}

// side is one end of a proposition: which boxes are in it, and which have parts that are not.
type side struct{ in, beside []bool }

// end finds the boxes that an end stands for; what is behind " !" is left out.
func (q *inquiry) end(text string) (side, error) {
	base, rest, excepted := strings.Cut(text, " !")
	if !slices.Contains([]string{wordAny, wordNodes, wordWorld}, strings.TrimSpace(base)) {
		parties, err := q.arena.scope(q.m.State).Resolve(text)
		if err != nil {
			return side{}, err
		}
		return q.boxes(parties)
	}
	s := q.word(strings.TrimSpace(base))
	if !excepted {
		return s, nil
	}
	for term := range strings.SplitSeq(rest, " !") {
		except, err := q.end(strings.TrimSpace(term))
		if err != nil {
			return side{}, err
		}
		for i := range s.in {
			s.beside[i] = s.beside[i] || except.in[i]
			s.in[i] = s.in[i] && except.beside[i]
		}
	}
	if !slices.Contains(s.in, true) {
		return side{}, fmt.Errorf("nothing is left of it")
	}
	return s, nil
}

func (q *inquiry) none() side {
	return side{make([]bool, len(q.m.Boxes)), make([]bool, len(q.m.Boxes))}
}

func (q *inquiry) word(w string) side {
	s := q.none()
	for i, b := range q.m.Boxes {
		outside := b.Kind == reach.Block || b.Kind == reach.World
		s.in[i] = w == wordAny || w == wordNodes && b.Kind == reach.Nodes || w == wordWorld && outside
		s.beside[i] = !s.in[i]
	}
	return s
}

func (q *inquiry) boxes(parties []cluster.Party) (side, error) {
	chosen := map[string]bool{}
	s := q.none()
	for _, p := range parties {
		switch {
		case p.Endpoint != nil:
			chosen[p.Endpoint.Key.String()] = true
		case p.Node != nil:
			chosen["node/"+p.Node.Name] = true
		default:
			i, known := q.m.BoxAt(p.Addr)
			if !known {
				return s, fmt.Errorf("nobody knows whose address %s is, so no invariant can be about it", p.Addr)
			}
			s.in[i] = true
		}
	}
	for i, b := range q.m.Boxes {
		prefix := map[reach.Kind]string{reach.Workload: b.Namespace + "/", reach.Nodes: "node/"}[b.Kind]
		s.beside[i] = prefix == ""
		for _, pod := range b.Pods {
			s.in[i] = s.in[i] || chosen[prefix+pod]
			s.beside[i] = s.beside[i] || !chosen[prefix+pod]
		}
	}
	if !slices.Contains(s.in, true) {
		return s, fmt.Errorf("it matches no pod that runs")
	}
	return s, nil
}

// clauses are the parts of an answer that a port is about, one for each family.
func clauses(a *reach.Answer, p cluster.Port) []*reach.Clause {
	var all []*reach.Clause
	for _, ipv4 := range []bool{true, false} {
		protocol := p.Protocol
		if c := a.Lookup(ipv4, protocol, p.Number); c != nil && !slices.Contains(all, c) {
			all = append(all, c)
		}
	}
	return all
}

// ports resolves a port at a box; a name that it does not declare is no port.
func (q *inquiry) ports(p query.Port, box int) []cluster.Port {
	if p.Name == "" {
		return []cluster.Port{{Protocol: p.Protocol, Number: p.Number}}
	}
	e := cluster.Endpoint{Ports: q.m.Boxes[box].Ports}
	return e.PortsNamed(p.Name, p.Protocol)
}

// never: the proposition must not hold, in any of its ports.
func (q *inquiry) never(p proposition, i, j int) {
	q.check.Judged++
	a := q.m.Answer(i, j)
	switch {
	case p.all && a.Level == reach.All:
		q.fail(i, j, "everything is allowed", q.first(a, flow.Allow))
		return
	case !p.all && p.ports == nil && a.Level >= reach.Some:
		q.fail(i, j, "allowed: "+a.Text(), q.first(a, flow.Allow))
		return
	}
	for _, port := range p.ports {
		for _, at := range q.ports(port, j) {
			if c := q.having(a, at, flow.Allow); c != nil {
				q.fail(i, j, fmt.Sprintf("port %s is allowed", port), c)
				return
			}
		}
	}
	q.first(a, flow.Deny)
}

// always: the proposition must hold, in all of its ports.
func (q *inquiry) always(p proposition, i, j int) {
	q.check.Judged++
	a := q.m.Answer(i, j)
	switch {
	case p.all && a.Level != reach.All:
		q.fail(i, j, "not everything is allowed, but "+a.Text(), q.first(a, flow.Deny))
		return
	case !p.all && p.ports == nil && a.Level == reach.None:
		q.fail(i, j, "nothing is allowed", q.first(a, flow.Deny))
		return
	}
	for _, port := range p.ports {
		at := q.ports(port, j)
		if len(at) == 0 {
			q.fail(i, j, fmt.Sprintf("it declares no port named %q", port.Name), nil)
			return
		}
		for _, n := range at {
			if c := q.having(a, n, flow.Deny); c != nil {
				q.fail(i, j, fmt.Sprintf("port %s is denied", port), c)
				return
			}
			q.having(a, n, flow.Allow)
		}
	}
}

// only: nobody else may reach the destination at all, and those who may only on these ports.
func (q *inquiry) only(p proposition, from side, i, j int) {
	q.check.Judged++
	a := q.m.Answer(i, j)
	if from.beside[i] && a.Level >= reach.Some {
		q.fail(i, j, "allowed: "+a.Text(), q.first(a, flow.Allow))
		return
	}
	q.first(a, flow.Deny)
	if !from.in[i] || p.all || p.ports == nil {
		return
	}
	var listed []cluster.Port
	for _, port := range p.ports {
		listed = append(listed, q.ports(port, j)...)
	}
	for _, part := range a.Parts {
		for k := range part.Clauses {
			c := &part.Clauses[k]
			if beyond, ok := beyond(c, listed); ok {
				q.fail(i, j, fmt.Sprintf("also allowed: %s", beyond), c)
				return
			}
			q.noted(c)
		}
	}
}

// beyond returns the first ports that c allows and that are not listed.
func beyond(c *reach.Clause, listed []cluster.Port) (reach.Ports, bool) {
	if c.Verdict != flow.Allow {
		return reach.Ports{}, false
	}
	for _, r := range c.Ports {
		for n := int(r.First); n <= int(r.Last); n++ {
			is := func(p cluster.Port) bool {
				return p.Protocol == r.Protocol && int(p.Number) == n || r.Protocol == 0 && !p.Protocol.HasPorts()
			}
			if !slices.ContainsFunc(listed, is) {
				return reach.Ports{Protocol: r.Protocol, First: uint16(n), Last: r.Last}, true
			}
		}
	}
	return reach.Ports{}, false
}

// first is the first clause with the verdict; its rules count as exercised.
func (q *inquiry) first(a *reach.Answer, v flow.Verdict) *reach.Clause {
	for i := range a.Parts {
		for j := range a.Parts[i].Clauses {
			if c := &a.Parts[i].Clauses[j]; c.Verdict == v {
				return q.noted(c)
			}
		}
	}
	return nil
}

// having is the clause of a port if it has the verdict in one of the families.
func (q *inquiry) having(a *reach.Answer, p cluster.Port, v flow.Verdict) *reach.Clause {
	for _, c := range clauses(a, p) {
		if c.Verdict == v {
			return q.noted(c)
		}
	}
	return nil
}

func (q *inquiry) noted(c *reach.Clause) *reach.Clause {
	if c.Verdict != flow.Allow {
		q.runner.coverage.exercised(c.Decision().Rule)
		return c
	}
	q.runner.coverage.exercised(c.Egress.Rule)
	q.runner.coverage.exercised(c.Ingress.Rule)
	return c
}

func (q *inquiry) fail(i, j int, message string, c *reach.Clause) {
	if len(q.check.Failures) == maxFailures {
		q.check.More++
		return
	}
	f := Failure{Message: fmt.Sprintf("%s -> %s: %s", q.m.Boxes[i].Name, q.m.Boxes[j].Name, message)}
	if c != nil {
		if rule := c.Decision().Rule; !rule.IsZero() {
			f.Rule, f.Place = rule.String(), rule.Place()
		}
	}
	q.check.Failures = append(q.check.Failures, f)
}
