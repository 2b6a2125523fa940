// Package rows makes rows of rules: all tiers and precedence are resolved here. Equal rows are one, with a number; so
// are the rules that verdicts come from, and the lists of ports that servers call by name.
package rows

import (
	"encoding/binary"
	"hash/maphash"
	"slices"

	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// A Row is one that somebody holds. It has a number for the outside, ID, only while a ruleset holds it.
type Row struct {
	Value   ruleset.Row
	ID      ruleset.RowID // 0: the ruleset does not hold it
	Uses    int           // defaults and pairs of the ruleset
	Held    bool          // the ruleset holds it
	Marked  bool          // free for whoever plans
	holders int
	allows  bool // something
	denies  bool // something
}

// Rows are the rows and rules of one compiler. Make them with New.
type Rows struct {
	// Open is the row that allows everything, without a rule. It is always there.
	Open uint32
	// Ports are what servers call their ports.
	Ports Ports

	seed     maphash.Seed
	all      pool.Pool[Row]
	index    pool.Index
	last     ruleset.RowID
	rules    map[flow.Rule]*Origin
	origins  map[ruleset.RuleID]*Origin
	lastRule ruleset.RuleID
	loss     map[[2]uint32]bool // whether the second row denies what the first allows
	text     []byte
	ids      []ruleset.RuleID
}

// New returns nothing but the open row.
func New() *Rows {
	r := &Rows{Ports: newPorts(), seed: maphash.MakeSeed(), all: pool.New[Row](), rules: map[flow.Rule]*Origin{},
		origins: map[ruleset.RuleID]*Origin{}, loss: map[[2]uint32]bool{}}
	r.Open = r.Hold(ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow}))
	return r
}

// The rows that allow nothing and everything.
var denied, allowed = ruleset.Uniform(ruleset.Cell{}), ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow})

// At returns the row with a number. The pointer is good until the next Hold.
func (r *Rows) At(id uint32) *Row { return r.all.At(id) }

// All yields every row that the ruleset holds, in the order of their numbers here.
func (r *Rows) All(yield func(*Row) bool) {
	for i := range r.all.Items {
		if x := &r.all.Items[i]; x.ID != 0 && !yield(x) {
			return
		}
	}
}

// Hold returns the number of a row, with one more holder.
func (r *Rows) Hold(v ruleset.Row) uint32 {
	id := r.intern(v)
	r.all.At(id).holders++
	return id
}

// intern returns the number of a row, which somebody holds or is about to.
func (r *Rows) intern(v ruleset.Row) uint32 {
	hash := r.hash(&v)
	id := r.index.Find(hash, func(i uint32) bool { return r.all.At(i).Value.Equal(v) })
	if id != 0 {
		return id
	}
	id = r.all.Take()
	x := r.all.At(id)
	x.Value = v
	x.allows, x.denies = rowLoses(&v, &denied), rowLoses(&allowed, &v)
	r.index.Insert(hash, id)
	r.EachRule(&v, func(o *Origin) { o.refs++ })
	return id
}

// Drop ends a holding.
func (r *Rows) Drop(id uint32) {
	x := r.all.At(id)
	if x.holders--; x.holders > 0 {
		return
	}
	r.index.Remove(r.hash(&x.Value), id)
	r.EachRule(&x.Value, func(o *Origin) { r.Release(o.ID) })
	clear(r.loss)
	r.all.Drop(id)
}

// Settle lets the numbers of dropped rows be given out again.
func (r *Rows) Settle() {
	r.all.Settle()
	if len(r.loss) > 1<<12 { // memory that only a very large change needs
		r.loss = map[[2]uint32]bool{}
	}
}

// Publish gives a row its number for the outside, which no row had before.
func (r *Rows) Publish(id uint32) {
	r.last++
	r.all.At(id).ID = r.last
}

func (r *Rows) hash(v *ruleset.Row) uint64 {
	text := r.text[:0]
	cell := func(x ruleset.Cell) {
		text = binary.LittleEndian.AppendUint32(append(text, byte(x.Verdict)), uint32(x.Rule))
	}
	cell(v.Other)
	for _, p := range flow.PortProtocols {
		for _, s := range v.Segments(p) {
			text = binary.LittleEndian.AppendUint16(text, s.Last)
			cell(s.Cell)
		}
	}
	r.text = text
	return maphash.Bytes(r.seed, text)
}

// Loses reports whether some protocol and port is allowed by one row and denied by another.
func (r *Rows) Loses(from, to uint32) bool {
	if from == to || !r.all.At(from).allows || !r.all.At(to).denies {
		return false
	}
	key := [2]uint32{from, to}
	lost, ok := r.loss[key]
	if !ok {
		if len(r.loss) > 1<<14 {
			clear(r.loss)
		}
		lost = rowLoses(&r.all.At(from).Value, &r.all.At(to).Value)
		r.loss[key] = lost
	}
	return lost
}

// HoldMeet returns the number of the row that allows what both allow, with one more holder.
func (r *Rows) HoldMeet(a, b uint32) uint32 {
	return r.Hold(meet(&r.all.At(a).Value, &r.all.At(b).Value))
}

// An Origin is a rule that verdicts can come from.
type Origin struct {
	ID   ruleset.RuleID
	Rule flow.Rule
	Rows int // rows in the ruleset that name it
	refs int // policies and rows that name it
}

// Number returns the number of a rule, with one more reference.
func (r *Rows) Number(rule flow.Rule) ruleset.RuleID {
	o := r.rules[rule]
	if o == nil {
		r.lastRule++
		o = &Origin{ID: r.lastRule, Rule: rule}
		r.rules[rule], r.origins[o.ID] = o, o
	}
	o.refs++
	return o.ID
}

// Release gives a reference back.
func (r *Rows) Release(id ruleset.RuleID) {
	o := r.origins[id]
	if o.refs--; o.refs == 0 {
		delete(r.rules, o.Rule)
		delete(r.origins, id)
	}
}

// Rule returns the rule with a number; the zero Rule for one that is not known, as 0 is.
func (r *Rows) Rule(id ruleset.RuleID) flow.Rule {
	if o := r.origins[id]; o != nil {
		return o.Rule
	}
	return flow.Rule{}
}

// EachRule calls f for each rule that a row names, once.
func (r *Rows) EachRule(v *ruleset.Row, f func(*Origin)) {
	ids := append(r.ids[:0], v.Other.Rule)
	for _, p := range flow.PortProtocols {
		for _, s := range v.Segments(p) {
			ids = append(ids, s.Rule)
		}
	}
	slices.Sort(ids)
	r.ids = ids
	for _, id := range slices.Compact(ids) {
		if id != 0 {
			f(r.origins[id])
		}
	}
}
