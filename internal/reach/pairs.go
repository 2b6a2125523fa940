package reach

import "github.com/ringfence-project/ringfence/internal/flow"

// pairs holds an answer for each pair of boxes. Boxes with equal identities are of one kind, and pairs of kinds are what
// is worked out: a thousand bare pods are a million pairs, but of few kinds. Nodes as sources are by themselves, as a
// node's connections to its own pods are not judged.
type pairs struct {
	kindOf []int32 // by box
	kinds  int
	cells  []int32         // by kinds: an answer
	nodes  map[int][]int32 // by the box of a source that is a node, and by box: an answer
	keys   []answerKey     // by answer: what it depends on
	known  map[answerKey]int32
	alike  []int32 // by answer: one that allows the same, by whatever rules
}

// answerKey is all that an answer depends on: for each family the rows of both sides.
type answerKey struct {
	families [2]rowPair
	own      ownNode
}

// rowPair is two rows of links; unjudged where policies are not asked about a side.
type rowPair struct{ egress, ingress uint32 }

const unjudged = ^uint32(0)

var nothingJudged = answerKey{families: [2]rowPair{{unjudged, unjudged}, {unjudged, unjudged}}}

// ownNode says whether the client is the node that the server runs on.
type ownNode uint8

const (
	notOwn ownNode = iota
	partlyOwn
	allOwn
)

type kind struct {
	faces  [2]face
	judged bool
}

// pair finds the answer of every pair. Answers are numbered in the order in which they are met.
func (m *Map) pair() {
	p := &m.pairs
	p.known = map[answerKey]int32{}
	p.number(nothingJudged)
	kinds, single := m.findKinds()
	p.kinds = len(kinds)
	p.cells = make([]int32, len(kinds)*len(kinds))
	p.nodes = map[int][]int32{}
	done := make([]bool, len(kinds))
	v := vectors{links: m.links}
	for i := range m.Boxes {
		b, k := &m.Boxes[i], int(p.kindOf[i])
		switch {
		case b.isNode:
			v.fill(kind{b.faces, b.judged})
			row := make([]int32, len(m.Boxes))
			for j := range m.Boxes {
				key := v.key(kinds[p.kindOf[j]])
				if key.own = b.ownNodeOf(&m.Boxes[j]); key.own == allOwn {
					key.families[0].ingress, key.families[1].ingress = unjudged, unjudged
				}
				row[j] = p.number(key)
			}
			p.nodes[i] = row
		case !done[k]:
			done[k] = true
			v.fill(kinds[k])
			p.fillRow(p.cells[k*len(kinds):], &v, kinds, k, single[k])
		}
	}
	p.known = nil
	p.alike = m.links.alikeAnswers(p.keys)
	m.answers = newAnswers(len(p.keys))
}

// alikeAnswers finds for each answer the first that allows the same.
func (t *links) alikeAnswers(keys []answerKey) []int32 {
	first := map[answerKey]int32{}
	all := make([]int32, len(keys))
	like := func(row uint32) uint32 {
		if row == unjudged {
			return row
		}
		return t.alike[row]
	}
	for i, k := range keys {
		for f, p := range k.families {
			k.families[f] = rowPair{like(p.egress), like(p.ingress)}
		}
		n, ok := first[k]
		if !ok {
			n = int32(i)
			first[k] = n
		}
		all[i] = n
	}
	return all
}

// fillRow fills the cells of one kind of source. The pair of a pod with itself is not judged, so where it is the
// only one of its kind, there is nothing between the kind and itself.
func (p *pairs) fillRow(row []int32, v *vectors, kinds []kind, self int, single bool) {
	last, number := nothingJudged, int32(0)
	for j := range kinds {
		if j == self && single {
			continue
		}
		if key := v.key(kinds[j]); key != last { // mostly the same as before
			last, number = key, p.number(key)
		}
		row[j] = number
	}
}

// findKinds numbers the kinds of boxes in the order of the boxes; single are those of one pod.
func (m *Map) findKinds() (kinds []kind, single []bool) {
	index := map[kind]int32{}
	m.pairs.kindOf = make([]int32, len(m.Boxes))
	for i := range m.Boxes {
		b := &m.Boxes[i]
		k := kind{b.faces, b.judged}
		n, ok := index[k]
		if !ok {
			n = int32(len(kinds))
			index[k] = n
			kinds, single = append(kinds, k), append(single, len(b.Pods) < 2)
		} else {
			single[n] = false
		}
		m.pairs.kindOf[i] = n
	}
	return kinds, single
}

func (p *pairs) number(k answerKey) int32 {
	n, ok := p.known[k]
	if !ok {
		n = int32(len(p.keys))
		p.known[k] = n
		p.keys = append(p.keys, k)
	}
	return n
}

// vectors are the rows between one source and every identity, as a destination, for each family of the source.
type vectors struct {
	links           *links
	source          kind
	egress, ingress [2][]uint32 // by family and identity
}

func (v *vectors) fill(source kind) {
	v.source = source
	for f, face := range source.faces {
		if !face.there {
			continue
		}
		if source.judged {
			v.egress[f] = resize(v.egress[f], v.links.size)
			usual := v.links.usual[side(flow.Egress)][face.id]
			for i := range v.egress[f] {
				v.egress[f][i] = usual
			}
			put(v.egress[f], v.links.from[side(flow.Egress)].of(uint32(face.id)))
		}
		v.ingress[f] = resize(v.ingress[f], v.links.size)
		copy(v.ingress[f], v.links.usual[side(flow.Ingress)])
		put(v.ingress[f], v.links.to[side(flow.Ingress)].of(uint32(face.id)))
	}
}

func resize(s []uint32, n int) []uint32 {
	if cap(s) < n {
		return make([]uint32, n)
	}
	return s[:n]
}

func put(rows []uint32, exceptions []link) {
	for _, l := range exceptions {
		rows[l.identity] = l.row
	}
}

// key is what the answer from the source to a destination depends on.
func (v *vectors) key(to kind) answerKey {
	k := nothingJudged
	for f := range to.faces {
		x, y := &v.source.faces[f], &to.faces[f]
		if !x.there || !y.there {
			continue
		}
		if v.source.judged {
			k.families[f].egress = v.egress[f][y.id]
		}
		if to.judged {
			k.families[f].ingress = v.ingress[f][y.id]
		}
	}
	return k
}

// AnswerIndex names the answer from one box to another, by their indices: pairs with the same index have the same
// answer. It is below Answers.
func (m *Map) AnswerIndex(from, to int) int {
	p := &m.pairs
	if from == to && len(m.Boxes[from].Pods) < 2 {
		return 0 // a pod always reaches itself
	}
	if row := p.nodes[from]; row != nil {
		return int(row[to])
	}
	return int(p.cells[int(p.kindOf[from])*p.kinds+int(p.kindOf[to])])
}

// Answers is how many different answers there are. The first is for pairs that no policy is asked about.
func (m *Map) Answers() int { return len(m.pairs.keys) }

// AlikeIndex is as AnswerIndex, but the same for pairs that are allowed the same by different rules too: of the answer
// that it names Level, Note and Text are true for the pair. There are far fewer of these.
func (m *Map) AlikeIndex(from, to int) int { return int(m.pairs.alike[m.AnswerIndex(from, to)]) }

// Decide is what holds for a connection from one box to another, in the form that every engine gives, without making
// their Answer. It is false where no policy is asked, or where both have no addresses of the family.
func (m *Map) Decide(from, to int, ipv4 bool, protocol flow.Protocol, port uint16) (flow.Decision, bool) {
	f := 1
	if ipv4 {
		f = 0
	}
	p := m.pairs.keys[m.AnswerIndex(from, to)].families[f]
	if p.egress == unjudged && p.ingress == unjudged {
		return flow.Decision{}, false
	}
	return m.decide(p, protocol, port), true
}

func (m *Map) decide(p rowPair, protocol flow.Protocol, port uint16) flow.Decision {
	c := Clause{Egress: m.half(p.egress, protocol, port), Ingress: m.half(p.ingress, protocol, port)}
	return c.Decision()
}

func (m *Map) half(row uint32, protocol flow.Protocol, port uint16) Half {
	if row == unjudged {
		return Half{}
	}
	c := m.links.rows[row].Lookup(protocol, port)
	return Half{true, c.Verdict, m.rules.Rules[c.Rule]}
}
