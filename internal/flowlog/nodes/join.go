//go:build linux

package nodes

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// apart is how far two nodes' times of one connection may be from each other: by their clocks and by the way between them.
const apart = 2 * time.Second

// joiner finds what two nodes tell of one connection, and leaves out what the node that it came from tells: the one that
// it went to knows how it fared. A record does not say the client's port, so that of several alike connections at one time
// any two are taken for each other, but no more are left out than were told twice. What finds no partner is told, by
// whichever node it is: after a clock that is wrong, or where one node remembers longer, a connection can be told twice,
// and none is lost.
type joiner struct {
	limit  int // entries that are remembered, the newest
	known  map[recordID]*entry
	order  []recordID
	unmet  map[tuple]*unmet
	newest time.Time
}

// recordID names a record: each node's log numbers its own.
type recordID struct {
	node string
	id   uint64
}

// tuple is what both ends tell alike.
type tuple struct {
	from, to netip.Addr
	protocol flow.Protocol
	port     uint16
}

// unmet are entries that have no partner yet; a denial stays, as it stands for several connections.
type unmet struct{ came, went []*entry }

// entry is what has to be known of a record to find its partner.
type entry struct {
	tuple       tuple
	start, last time.Time // last is zero while it is open
	earlier     bool
	denied      bool
	answered    bool
	left        bool // out, as its partner tells it
	// What only the partner knew: which Service was asked for, as the client's node translates, and the rule of its side.
	asked *flowlog.Asked
	rule  flow.Rule
}

func newJoiner(limit int) *joiner {
	return &joiner{limit: max(limit, 1), known: map[recordID]*entry{}, unmet: map[tuple]*unmet{}}
}

// offer takes a record, or what became of one. The entry says, now or later, whether it is told.
func (j *joiner) offer(r *flowlog.Record) *entry {
	id := recordID{r.Node, r.ID}
	e := j.known[id]
	if e != nil {
		e.update(r)
		return e
	}
	e = &entry{tuple: tuple{r.Source.Address, r.Destination.Address, r.Protocol, r.Port}, start: r.Time, earlier: r.Earlier,
		denied: r.Denied(), asked: r.Asked}
	if r.RuleKnown {
		e.rule = r.Rule
	}
	e.update(r)
	j.remember(id, e)
	if e.start.After(j.newest) {
		j.newest = e.start
	}
	switch {
	case r.Onward():
		j.went(e)
	case r.Node != "" && host(r.Destination) == r.Node && host(r.Source) != r.Node:
		j.came(e)
	}
	return e
}

func host(e flowlog.End) string {
	if e.Host != "" {
		return e.Host
	}
	return e.Node
}

func (e *entry) update(r *flowlog.Record) {
	e.answered = r.Answered
	switch {
	case r.End != nil:
		e.last = r.End.Time
	case r.Denied():
		e.last = r.Last
	}
}

// complete adds what the partner knew.
func (e *entry) complete(r *flowlog.Record) *flowlog.Record {
	if (r.Asked != nil || e.asked == nil) && (!r.Rule.IsZero() || e.rule.IsZero()) {
		return r
	}
	c := *r
	if c.Asked == nil {
		c.Asked = e.asked
	}
	if c.Rule.IsZero() {
		c.Rule, c.RuleKnown = e.rule, true
	}
	return &c
}

// went looks for the other end of a connection that was let through to another node.
func (j *joiner) went(e *entry) {
	u := j.at(e.tuple)
	for i, s := range u.came {
		if !isOne(s, e) {
			continue
		}
		meet(s, e)
		if !s.denied {
			u.came = slices.Delete(u.came, i, i+1)
		}
		return
	}
	u.went = append(u.went, e)
}

// came looks for the other end of a connection that came from another node.
func (j *joiner) came(e *entry) {
	u := j.at(e.tuple)
	met := false
	u.went = slices.DeleteFunc(u.went, func(c *entry) bool {
		if met && !e.denied || !isOne(e, c) {
			return false
		}
		meet(e, c)
		met = true
		return true
	})
	if e.denied || !met {
		u.came = append(u.came, e)
	}
}

// isOne reports whether what came to a node may be what went from another one.
func isOne(came, went *entry) bool {
	if came.denied {
		return !went.answered && !went.start.Before(came.start.Add(-apart)) && !went.start.After(came.last.Add(apart))
	}
	if d := came.start.Sub(went.start); d.Abs() <= apart {
		return true
	}
	// The log of one of them began later, so that it does not know when the connection did.
	return (came.earlier || went.earlier) && came.lasts(went.start) && went.lasts(came.start)
}

// lasts reports whether e was not over before a time.
func (e *entry) lasts(t time.Time) bool { return e.last.IsZero() || !e.last.Before(t) }

func meet(came, went *entry) {
	went.left = true
	if came.asked == nil {
		came.asked = went.asked
	}
	if came.rule.IsZero() && !came.denied {
		came.rule = went.rule
	}
}

// at returns the entries of a tuple that have no partner, without those that cannot find one any more.
func (j *joiner) at(t tuple) *unmet {
	u := j.unmet[t]
	if u == nil {
		u = &unmet{}
		j.unmet[t] = u
	}
	u.came, u.went = j.young(u.came), j.young(u.went)
	return u
}

func (j *joiner) young(list []*entry) []*entry {
	old := j.newest.Add(-2*apart - time.Minute)
	for len(list) > 0 && !list[0].earlier && list[0].start.Before(old) {
		list = list[1:]
	}
	return list
}

// remember forgets the oldest entry where there are too many.
func (j *joiner) remember(id recordID, e *entry) {
	j.known[id] = e
	j.order = append(j.order, id)
	if len(j.known) <= j.limit {
		return
	}
	oldest := j.known[j.order[0]]
	delete(j.known, j.order[0])
	j.order = j.order[1:]
	u := j.unmet[oldest.tuple]
	if u == nil {
		return
	}
	isOldest := func(e *entry) bool { return e == oldest }
	u.came, u.went = slices.DeleteFunc(u.came, isOldest), slices.DeleteFunc(u.went, isOldest)
	if len(u.came)+len(u.went) == 0 {
		delete(j.unmet, oldest.tuple)
	}
}
