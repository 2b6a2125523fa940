package plan

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// diffKey is all that the difference of a pair depends on: the answers before and after, and the families in both.
type diffKey struct {
	old, new int
	families [2]bool
}

// portChange is the part of a pair that fares otherwise for one reason.
type portChange struct {
	family   string
	old, new flow.Decision
	ports    []reach.Ports
	text     string // of ports
}

// same reports whether two parts are one but for the family or the ports.
func (p portChange) same(o portChange) bool { return p.old == o.old && p.new == o.new }

// compares says which families of a pair are to be compared: not what is left out of policies before or after (a pod and
// itself, a node and its own pods), and not what a pod with other addresses can do only now.
func (c *comparison) compares(a, b int) (families [2]bool, ok bool) {
	from, to := &c.classes[a], &c.classes[b]
	if !from.stays() || !to.stays() || a == b && from.alone {
		return families, false
	}
	for s := range 2 {
		if from.isNode[s] && !to.isNode[s] && from.runsOn[s] != "" && from.runsOn[s] == to.runsOn[s] {
			return families, false
		}
	}
	for f := range families {
		families[f] = from.has[0][f] && from.has[1][f] && to.has[0][f] && to.has[1][f]
	}
	return families, families[0] || families[1]
}

// diff returns what changes from class a to class b.
func (c *comparison) diff(a, b int) []portChange {
	families, ok := c.compares(a, b)
	if !ok {
		return nil
	}
	from, to := &c.classes[a], &c.classes[b]
	alike := diffKey{c.maps[0].AlikeIndex(from.box[0], to.box[0]), c.maps[1].AlikeIndex(from.box[1], to.box[1]), families}
	if c.same[alike] {
		return nil
	}
	key := diffKey{c.maps[0].AnswerIndex(from.box[0], to.box[0]), c.maps[1].AnswerIndex(from.box[1], to.box[1]), families}
	changes, known := c.diffs[key]
	if !known {
		changes = diffAnswers(c.maps[0].AnswerAt(key.old), c.maps[1].AnswerAt(key.new), families)
		c.diffs[key] = changes
		c.same[alike] = len(changes) == 0
	}
	return changes
}

func diffAnswers(old, new *reach.Answer, families [2]bool) []portChange {
	var each [2][]portChange
	for f := range families {
		if families[f] {
			each[f] = diffFamily(old, new, f == 0)
		}
	}
	if families[0] && families[1] {
		alike := func(a, b portChange) bool { return a.same(b) && slices.Equal(a.ports, b.ports) }
		if slices.EqualFunc(each[0], each[1], alike) {
			return each[0]
		}
	}
	for f, name := range []string{"IPv4", "IPv6"} {
		for i := range each[f] {
			each[f][i].family = name
		}
	}
	return slices.Concat(each[0], each[1])
}

// sides is what both ends' policies say of a port; the zero value is that none is asked.
type sides struct{ egress, ingress reach.Half }

func sidesOf(a *reach.Answer, ipv4 bool, p flow.Protocol, port uint16) sides {
	if clause := a.Lookup(ipv4, p, port); clause != nil {
		return sides{clause.Egress, clause.Ingress}
	}
	return sides{}
}

// denies returns the side that denies: egress, if both do; 0 if none does.
func (s sides) denies() flow.Direction {
	switch {
	case s.egress.Judged && s.egress.Verdict != flow.Allow:
		return flow.Egress
	case s.ingress.Judged && s.ingress.Verdict != flow.Allow:
		return flow.Ingress
	}
	return 0
}

// rule is the rule that decides on a side; zero if no policy does.
func (s sides) rule(d flow.Direction) flow.Rule {
	if d == flow.Egress {
		return s.egress.Rule
	}
	return s.ingress.Rule
}

// decisions are both answers with the rules that matter: of what denies, the rule that denies; of what allows, the rule of
// that same side, as the other side's may have been there all along. Where both do the same they are the usual ones.
func decisions(old, new sides) (was, is flow.Decision) {
	was, is = old.decision(), new.decision()
	switch {
	case was.Verdict != flow.Allow && is.Verdict == flow.Allow:
		is.Rule = new.rule(was.Direction)
	case was.Verdict == flow.Allow && is.Verdict != flow.Allow:
		was.Rule = old.rule(is.Direction)
	}
	return was, is
}

func (s sides) decision() flow.Decision {
	if d := s.denies(); d != 0 {
		return flow.Decision{Verdict: flow.Deny, Direction: d, Rule: s.rule(d)}
	}
	rule := s.egress.Rule
	if !s.ingress.Rule.IsZero() {
		rule = s.ingress.Rule
	}
	return flow.Decision{Verdict: flow.Allow, Rule: rule}
}

// diffFamily goes through all ports at which one of the answers may change.
func diffFamily(old, new *reach.Answer, ipv4 bool) []portChange {
	var out []portChange
	add := func(r reach.Ports) {
		was, is := decisions(sidesOf(old, ipv4, r.Protocol, r.First), sidesOf(new, ipv4, r.Protocol, r.First))
		if was.Verdict == is.Verdict {
			return
		}
		change := portChange{old: was, new: is}
		i := slices.IndexFunc(out, change.same)
		if i < 0 {
			i = len(out)
			out = append(out, change)
		}
		p := &out[i]
		if n := len(p.ports); n > 0 && p.ports[n-1].Protocol == r.Protocol && int(p.ports[n-1].Last)+1 == int(r.First) {
			p.ports[n-1].Last = r.Last
			return
		}
		p.ports = append(p.ports, r)
	}
	for _, p := range flow.PortProtocols {
		starts := startsOf(p, old, new)
		for i, first := range starts {
			last := uint16(65535)
			if i+1 < len(starts) {
				last = starts[i+1] - 1
			}
			add(reach.Ports{Protocol: p, First: first, Last: last})
		}
	}
	add(reach.Ports{})
	for i := range out {
		out[i].text = portsText(out[i].ports)
	}
	return out
}

func startsOf(p flow.Protocol, answers ...*reach.Answer) []uint16 {
	starts := []uint16{0}
	for _, a := range answers {
		for _, part := range a.Parts {
			for _, clause := range part.Clauses {
				for _, r := range clause.Ports {
					if r.Protocol == p {
						starts = append(starts, r.First)
					}
				}
			}
		}
	}
	slices.Sort(starts)
	return slices.Compact(starts)
}

// portsText is "389, 53/udp", "everything" or "everything but 22".
func portsText(ports []reach.Ports) string {
	rest := without(ports)
	switch {
	case len(rest) == 0:
		return "everything"
	case slices.ContainsFunc(ports, func(r reach.Ports) bool { return r.Protocol == 0 }):
		return "everything but " + reach.JoinPorts(rest)
	}
	return reach.JoinPorts(ports)
}

// without is what ports leave out.
func without(ports []reach.Ports) []reach.Ports {
	var rest []reach.Ports
	for _, p := range flow.PortProtocols {
		next := 0
		for _, r := range sortedPorts(ports) {
			if r.Protocol != p {
				continue
			}
			if int(r.First) > next {
				rest = append(rest, reach.Ports{Protocol: p, First: uint16(next), Last: r.First - 1})
			}
			next = int(r.Last) + 1
		}
		if next <= 65535 {
			rest = append(rest, reach.Ports{Protocol: p, First: uint16(next), Last: 65535})
		}
	}
	if !slices.ContainsFunc(ports, func(r reach.Ports) bool { return r.Protocol == 0 }) {
		rest = append(rest, reach.Ports{})
	}
	return rest
}

func sortedPorts(ports []reach.Ports) []reach.Ports {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b reach.Ports) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	})
	return ports
}

// reason is what the connections of one Change have in common. Ports are compared by their text, which says all of them.
type reason struct {
	family   string
	old, new flow.Decision
	ports    string
}

// comparePairs finds everything that changes, and counts what is reachable.
func (c *comparison) comparePairs() {
	found := map[reason]*findings{}
	var order []reason
	reached := newPairCount(c.classes)
	for a := range c.classes {
		for b := range c.classes {
			reached.add(c, a, b)
			for _, p := range c.diff(a, b) {
				r := reason{p.family, p.old, p.new, p.text}
				f := found[r]
				if f == nil {
					f = &findings{ports: p.ports, from: map[int][]int{}}
					found[r] = f
					order = append(order, r)
				}
				f.from[b] = append(f.from[b], a)
			}
		}
	}
	c.plan.Radius.Before, c.plan.Radius.After = reached.totals()
	for _, r := range order {
		for _, g := range found[r].rectangles(c.classes) {
			c.plan.Changes = append(c.plan.Changes, c.newChange(r, found[r].ports, g))
		}
	}
	slices.SortStableFunc(c.plan.Changes, func(a, b Change) int {
		return cmp.Or(compareVerbs(a.Effect, b.Effect), slices.Compare(a.To, b.To), slices.Compare(a.From, b.From),
			cmp.Compare(a.Family, b.Family), cmp.Compare(a.Ports, b.Ports))
	})
	c.measure()
}

// compareVerbs puts what is denied first.
func compareVerbs(a, b Verb) int {
	rank := func(v Verb) int {
		if v == NewlyDenied {
			return 0
		}
		return 1
	}
	return rank(a) - rank(b)
}

// findings are the pairs that fare otherwise for one reason.
type findings struct {
	ports []reach.Ports
	from  map[int][]int // by server
}

// rectangle is all pairs of some clients and some servers.
type rectangle struct{ from, to []int }

// rectangles says the pairs in as few lists as is simple: servers with the same clients are one. A pod that stands alone is
// never its own client, which must not tell it from the others: where that helps, it counts as its own client.
func (f *findings) rectangles(classes []class) []rectangle {
	first := group(f.from, func(_ int, from []int) []int { return from })
	single := map[int][]int{}
	var out []rectangle
	for _, r := range first {
		if len(r.to) > 1 {
			out = append(out, r)
		} else {
			single[r.to[0]] = r.from
		}
	}
	for _, r := range group(single, func(to int, from []int) []int {
		if at, there := slices.BinarySearch(from, to); !there && classes[to].alone {
			from = slices.Insert(slices.Clone(from), at, to)
		}
		return from
	}) {
		if len(r.to) == 1 {
			r.from = single[r.to[0]]
		}
		out = append(out, r)
	}
	return out
}

// group makes one rectangle of all servers with the same clients, in order.
func group(from map[int][]int, clients func(to int, from []int) []int) []rectangle {
	index := map[string]int{}
	var out []rectangle
	for _, to := range sortedKeys(from) {
		list := clients(to, from[to])
		key := make([]byte, 0, 4*len(list))
		for _, i := range list {
			key = binary.LittleEndian.AppendUint32(key, uint32(i))
		}
		i, there := index[string(key)]
		if !there {
			i = len(out)
			index[string(key)] = i
			out = append(out, rectangle{from: list})
		}
		out[i].to = append(out[i].to, to)
	}
	return out
}

func sortedKeys[V any](m map[int]V) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c *comparison) newChange(r reason, ports []reach.Ports, g rectangle) Change {
	out := Change{Effect: NewlyDenied, Ports: r.ports, Family: r.family, Old: newDecided(r.old), New: newDecided(r.new),
		From: c.names(g.from), To: c.names(g.to), from: g.from, to: g.to, ports: ports}
	if r.new.Verdict == flow.Allow {
		out.Effect = NewlyAllowed
	}
	for _, a := range g.from {
		for _, b := range g.to {
			if a != b || !c.classes[a].alone {
				out.Pairs++
			}
		}
	}
	for _, i := range slices.Concat(g.from, g.to) {
		k := c.classes[i].kind
		out.Outside = out.Outside || k == reach.World || k == reach.Block
	}
	out.Declared = c.declared(g.to, ports)
	return out
}

// names says a set of classes by the names of wholes where they are whole.
func (c *comparison) names(set []int) []string {
	in := map[string]int{}
	for _, i := range set {
		in[c.classes[i].name]++
	}
	var names []string
	said := map[string]bool{}
	for _, i := range set {
		k := &c.classes[i]
		if in[k.name] < c.parts[k.name] {
			names = append(names, k.part)
		} else if !said[k.name] {
			said[k.name] = true
			names = append(names, k.name)
		}
	}
	return names
}

// declared lists the ports that one of the servers declares and that are among ports.
func (c *comparison) declared(servers []int, ports []reach.Ports) string {
	var all []reach.Ports
	for _, i := range servers {
		if k := &c.classes[i]; k.kind == reach.Workload {
			for _, p := range c.maps[1].Boxes[k.box[1]].Ports {
				if r := (reach.Ports{Protocol: p.Protocol, First: p.Number, Last: p.Number}); holds(ports, p.Protocol, p.Number) && !slices.Contains(all, r) {
					all = append(all, r)
				}
			}
		}
	}
	return reach.JoinPorts(all)
}

// holds reports whether ports has a port, or, of a protocol without ports, all of these.
func holds(ports []reach.Ports, p flow.Protocol, port uint16) bool {
	if !p.HasPorts() {
		p, port = 0, 0
	}
	return slices.ContainsFunc(ports, func(r reach.Ports) bool { return r.Protocol == p && r.First <= port && port <= r.Last })
}

// measure says how far all changes reach.
func (c *comparison) measure() {
	touched := map[string]reach.Kind{}
	for _, change := range c.plan.Changes {
		for _, i := range slices.Concat(change.from, change.to) {
			touched[c.classes[i].name] = c.classes[i].kind
		}
	}
	r := &c.plan.Radius
	r.Workloads, r.Namespaces = []string{}, []string{}
	for _, k := range c.classes { // in order
		if touched[k.name] != reach.Workload || k.kind != reach.Workload || slices.Contains(r.Workloads, k.name) {
			continue
		}
		r.Workloads = append(r.Workloads, k.name)
		if ns := namespaceOf(k.name); !slices.Contains(r.Namespaces, ns) {
			r.Namespaces = append(r.Namespaces, ns)
		}
	}
}

// pairCount counts the pairs of wholes of which something reaches something.
type pairCount struct {
	whole   []int // by class
	n       int
	reached [2][]bool
}

func newPairCount(classes []class) *pairCount {
	p := &pairCount{}
	index := map[string]int{}
	for _, k := range classes {
		i, there := index[k.name]
		if !there {
			i = len(index)
			index[k.name] = i
		}
		p.whole = append(p.whole, i)
	}
	p.n = len(index)
	for s := range p.reached {
		p.reached[s] = make([]bool, p.n*p.n)
	}
	return p
}

func (p *pairCount) add(c *comparison, a, b int) {
	from, to := &c.classes[a], &c.classes[b]
	if a == b && from.alone {
		return
	}
	for s, m := range c.maps {
		if from.there(s) && to.there(s) && m.Allowed(from.box[s], to.box[s]) {
			p.reached[s][p.whole[a]*p.n+p.whole[b]] = true
		}
	}
}

func (p *pairCount) totals() (before, after int) {
	for i := range p.reached[0] {
		if p.reached[0][i] {
			before++
		}
		if p.reached[1][i] {
			after++
		}
	}
	return before, after
}
