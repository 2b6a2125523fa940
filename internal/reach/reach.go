// Package reach computes who can reach whom on which ports, by workload: the map of a cluster.
//
// Everything that policies treat alike is one Box: the pods of a workload, the nodes, a part of the world outside. For
// each ordered pair of boxes there is an Answer, which says for every protocol and port whether a connection is allowed
// and which rules of both ends decide. Answers are shared: a thousand pods have a million pairs but few answers.
//
// The work is done on the compiled ruleset, where a pair is two look-ups; the tests compare the result with the reference
// evaluator. The package is as pure as the core: no I/O, goroutine or clock.
package reach

import (
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Map is who can reach whom. Make one with Compute.
type Map struct {
	// State is what was computed on: the given state, with addresses for those that had none.
	State *cluster.State
	// Boxes in order: workloads by namespace and name, then nodes, then the outside, the world last.
	Boxes   []Box
	Answers []Answer // distinct; the first is the zero Answer, for pairs that no policy is asked about
	Notices []string // what a reader should know, in order

	cells     []int32 // an index into Answers for each pair, row by row
	byAddress map[netip.Addr]int
	outside   [2]map[ruleset.Identity]int
	unknown   [2]map[ruleset.Identity]int
	rules     *ruleset.Ruleset
	denies    map[ruleset.Subject]bool
}

// Options are choices for Compute. The zero value is good.
type Options struct {
	// Pods and Nodes are the ranges out of which those that have no address at all get one of each family, so that
	// address blocks can be compared with them. Invalid prefixes stand for the defaults.
	Pods, Nodes [2]netip.Prefix
	// Unknown adds boxes for the addresses that only pods can have but nobody knows whose.
	Unknown bool
}

// Compute makes the map of s. The error says that a range has too few addresses.
func Compute(s *cluster.State, opts Options) (*Map, error) {
	m := &Map{byAddress: map[netip.Addr]int{}}
	var err error
	if m.State, m.Notices, err = Addressed(s, opts); err != nil {
		return nil, err
	}
	c := compile.New(compile.Options{})
	c.Update(m.State, nil)
	m.rules = c.Ruleset()
	m.findDenials()
	m.addWorkloads()
	m.addNodes()
	m.addOutside()
	if opts.Unknown {
		m.addUnknown()
	}
	m.fill()
	return m, nil
}

// Answer returns what holds for connections from one box to another, by their indices.
func (m *Map) Answer(from, to int) *Answer { return &m.Answers[m.AnswerIndex(from, to)] }

// AnswerIndex is Answer as an index into Answers.
func (m *Map) AnswerIndex(from, to int) int { return int(m.cells[from*len(m.Boxes)+to]) }

// Allowed reports whether something is allowed from one box to another.
func (m *Map) Allowed(from, to int) bool { return m.Answer(from, to).Level >= Some }

// Telling reports whether a pair that is allowed says something about the policies: not if both ends are open and no
// rule has to do with it. Pictures leave the others out, or a cluster without policies would be a ball of wool.
func (m *Map) Telling(from, to int) bool {
	return m.Allowed(from, to) && (m.Answer(from, to).Ruled || m.Boxes[to].FencedIngress || m.Boxes[from].FencedEgress)
}

// BoxAt returns the index of the box that an address belongs to; false for an unknown pod's, but with Options.Unknown.
func (m *Map) BoxAt(a netip.Addr) (int, bool) {
	if i, ok := m.byAddress[a]; ok {
		return i, true
	}
	p := m.State.At(a)
	if p.Endpoint != nil || p.Node != nil {
		return 0, false
	}
	all := &m.outside
	if p.Unknown {
		all = &m.unknown
	}
	i, ok := all[familyOf(a)][m.rules.IdentityOf(a)]
	return i, ok
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// fill finds the answer of every pair.
func (m *Map) fill() {
	m.Answers = []Answer{{}}
	known := map[answerKey]int32{{}: 0}
	m.cells = make([]int32, len(m.Boxes)*len(m.Boxes))
	for from := range m.Boxes {
		for to := range m.Boxes {
			k := m.key(from, to)
			id, ok := known[k]
			if !ok {
				id = int32(len(m.Answers))
				known[k] = id
				m.Answers = append(m.Answers, m.newAnswer(k))
			}
			m.cells[from*len(m.Boxes)+to] = id
		}
	}
}

// answerKey is all that an answer depends on.
type answerKey struct {
	families [2]familyKey
	own      ownNode
}

// familyKey is one family's part: which sides are judged, and by which rows.
type familyKey struct {
	egress, ingress       bool
	egressRow, ingressRow ruleset.RowID
}

// ownNode says whether the client is the node that the server runs on.
type ownNode uint8

const (
	notOwn ownNode = iota
	partlyOwn
	allOwn
)

func (m *Map) key(from, to int) answerKey {
	a, b := &m.Boxes[from], &m.Boxes[to]
	if from == to && len(a.Pods) < 2 {
		return answerKey{} // a pod always reaches itself
	}
	k := answerKey{own: a.ownNodeOf(b)}
	for f := range k.families {
		x, y := a.faces[f], b.faces[f]
		if !x.there || !y.there {
			continue
		}
		p := &k.families[f]
		if p.egress = a.judged; p.egress {
			p.egressRow = m.rules.RowOf(ruleset.Subject{Direction: flow.Egress, Identity: x.id}, y.id)
		}
		if p.ingress = b.judged && k.own != allOwn; p.ingress {
			p.ingressRow = m.rules.RowOf(ruleset.Subject{Direction: flow.Ingress, Identity: y.id}, x.id)
		}
	}
	return k
}
