package reach

import (
	"fmt"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// links are the rows of all subjects and peers, dense: rows and identities are small numbers, so that all pairs of a
// cluster are found by filling slices and not by asking a hash table for each.
type links struct {
	rows   []ruleset.Row // the first is everything allowed by no policy
	denies []bool        // by row: it denies something
	alike  []uint32      // by row: the first that gives every port the same verdict, by whatever rules
	usual  [2][]uint32   // by direction and subject: its default row
	from   [2]sparse     // by direction and subject: its other rows, by peer
	to     [2]sparse     // by direction and peer: the rows that differ from the subject's default, by subject
	size   int           // identities are below it
}

// sparse are a few cells for each of many identities.
type sparse struct {
	start []int32
	cells []link
}

type link struct{ identity, row uint32 }

func (s *sparse) of(id uint32) []link { return s.cells[s.start[id]:s.start[id+1]] }

// side is the place of a direction in links.
func side(d flow.Direction) int { return int(d - flow.Egress) }

// pairOp is what matters of a SetPair.
type pairOp struct {
	subject ruleset.Subject
	peer    ruleset.Identity
	row     ruleset.RowID
}

// compileState compiles s. The ruleset has no Pairs: these are in the links. What a compiler says first is everything
// once, in a list, which is a good deal faster to take than its Ruleset.
func compileState(s *cluster.State) (*ruleset.Ruleset, *links, error) {
	delta := compile.New(compile.Options{}).Update(s, nil)
	n := 0
	for i := range delta.Ops {
		if delta.Ops[i].Kind == ruleset.SetPair {
			n++
		}
	}
	pairs := make([]pairOp, 0, n)
	rest := delta.Ops[:0] // nobody else has them
	for i := range delta.Ops {
		switch op := &delta.Ops[i]; op.Kind {
		case ruleset.SetPair:
			pairs = append(pairs, pairOp{op.Subject, op.Peer, op.Row})
		case ruleset.DeletePair, ruleset.DeleteRow, ruleset.DeleteDefault, ruleset.DeleteAddress:
			return nil, nil, fmt.Errorf("a compiler's first difference deletes: %s", op)
		default:
			rest = append(rest, *op)
		}
	}
	delta.Ops = rest
	rules := ruleset.New()
	if err := ruleset.Apply(rules, delta); err != nil {
		return nil, nil, err
	}
	return rules, newLinks(rules, pairs), nil
}

func newLinks(rules *ruleset.Ruleset, pairs []pairOp) *links {
	t := &links{}
	index := make(map[ruleset.RowID]uint32, len(rules.Rows))
	byVerdicts := map[string]uint32{}
	var key []byte
	add := func(id ruleset.RowID, r ruleset.Row) uint32 {
		n := uint32(len(t.rows))
		index[id] = n
		var denies bool
		key, denies = verdicts(key[:0], &r)
		like, ok := byVerdicts[string(key)]
		if !ok {
			like = n
			byVerdicts[string(key)] = n
		}
		t.rows, t.denies, t.alike = append(t.rows, r), append(t.denies, denies), append(t.alike, like)
		return n
	}
	number := func(id ruleset.RowID) uint32 {
		if n, ok := index[id]; ok {
			return n
		}
		return add(id, rules.Rows[id])
	}
	add(0, openRow)
	t.size = identities(rules, pairs)
	for d := range t.usual {
		t.usual[d] = make([]uint32, t.size)
	}
	for s, row := range rules.Defaults {
		t.usual[side(s.Direction)][s.Identity] = number(row)
	}
	rows := make([]uint32, len(pairs))
	for i := range pairs {
		rows[i] = number(pairs[i].row)
	}
	for d := range t.from {
		t.from[d] = gather(t.size, d, pairs, rows, func(p *pairOp) (at, other ruleset.Identity) { return p.subject.Identity, p.peer })
		t.to[d] = gather(t.size, d, pairs, rows, func(p *pairOp) (at, other ruleset.Identity) { return p.peer, p.subject.Identity })
	}
	return t
}

func identities(rules *ruleset.Ruleset, pairs []pairOp) int {
	last := ruleset.Identity(0)
	for _, id := range rules.Addresses {
		last = max(last, id)
	}
	for s := range rules.Defaults {
		last = max(last, s.Identity)
	}
	for i := range pairs {
		last = max(last, pairs[i].peer)
	}
	return int(last) + 1
}

// gather lists the pairs of a direction by one of their ends.
func gather(size, d int, pairs []pairOp, rows []uint32, ends func(*pairOp) (at, other ruleset.Identity)) sparse {
	s := sparse{start: make([]int32, size+2)}
	for i := range pairs {
		if side(pairs[i].subject.Direction) == d {
			at, _ := ends(&pairs[i])
			s.start[at+2]++
		}
	}
	for i := 2; i < len(s.start); i++ {
		s.start[i] += s.start[i-1]
	}
	s.cells = make([]link, s.start[size+1])
	for i := range pairs {
		if side(pairs[i].subject.Direction) == d {
			at, other := ends(&pairs[i])
			s.cells[s.start[at+1]] = link{uint32(other), rows[i]}
			s.start[at+1]++
		}
	}
	return s
}

// verdicts appends the text of what packets can tell of r, and reports whether it denies something.
func verdicts(text []byte, r *ruleset.Row) ([]byte, bool) {
	denies := r.Other.Verdict != flow.Allow
	text = append(text, byte(r.Other.Verdict))
	for _, segments := range [][]ruleset.Segment{r.TCP, r.UDP, r.SCTP} {
		for i, s := range segments {
			denies = denies || s.Verdict != flow.Allow
			if i+1 == len(segments) || segments[i+1].Verdict != s.Verdict {
				text = append(text, byte(s.Last>>8), byte(s.Last), byte(s.Verdict))
			}
		}
	}
	return text, denies
}

// fences reports whether a subject is denied something by somebody's rule.
func (t *links) fences(d flow.Direction, subject ruleset.Identity) bool {
	if t.denies[t.usual[side(d)][subject]] {
		return true
	}
	for _, l := range t.from[side(d)].of(uint32(subject)) {
		if t.denies[l.row] {
			return true
		}
	}
	return false
}
