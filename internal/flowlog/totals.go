package flowlog

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// RowCounters is a dataplane that counts what each row dropped. The counts include what was never logged, so that a
// flood is counted whole.
type RowCounters interface {
	// RowDrops returns the packets dropped by each row that is in force. A row's count grows while the row is in
	// force, and may start again at 0 after it was not.
	RowDrops(ctx context.Context) (map[ruleset.RowID]uint64, error)
}

// PairTotal is what was seen of one kind of flow.
type PairTotal struct {
	Pair
	First, Last time.Time
	Flows       uint64 // connections, or denials as they were recorded
	Packets     uint64 // denied ones that were logged
	Bytes       uint64 // both ways, of connections that ended
}

// DropTotal is how many packets rules dropped, by the kernel's own count.
type DropTotal struct {
	// Rules are those that may have dropped them: one row counts for all of its rules that deny. None if nobody
	// could tell.
	Rules       []flow.Rule
	First, Last time.Time // when the count was seen to grow
	Packets     uint64
}

// Totals sums up all that a log was told, also what it forgot since.
type Totals struct {
	Pairs          []PairTotal `json:"pairs"`                    // sorted by source, destination, protocol, port, verdict and rule
	ForgottenPairs uint64      `json:"forgottenPairs,omitempty"` // kinds that were dropped from Pairs because there are too many
	Drops          []DropTotal `json:"drops"`                    // the most first
	Lost           uint64      `json:"lost,omitempty"`           // how often events were lost on the way to the log
	Open           int         `json:"open"`                     // connections whose end is waited for
	Records        int         `json:"records"`                  // kept
	Bytes          int         `json:"bytes"`                    // that those cost, about
}

// Totals returns the sums.
func (l *Log) Totals() Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Totals{Pairs: l.pairs.sorted(), ForgottenPairs: l.pairs.forgotten, Drops: l.drops.sorted(), Lost: l.lost,
		Open: len(l.open), Records: l.ring.len(), Bytes: l.ring.bytes}
}

// CountDrops takes the rows' counters as they are now; see RowCounters.
func (l *Log) CountDrops(rows map[ruleset.RowID]uint64, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops.take(rows, at, l.names.rules)
}

type pairs struct {
	limit     int
	totals    map[Pair]*pairTotal
	forgotten uint64
}

type pairTotal struct {
	PairTotal
	why      string
	whyKnown bool
}

func newPairs(limit int) pairs { return pairs{limit: limit, totals: map[Pair]*pairTotal{}} }

func (p *pairs) of(r *Record) *pairTotal {
	key := r.Pair()
	t := p.totals[key]
	if t == nil {
		if len(p.totals) >= p.limit {
			p.forget()
		}
		t = &pairTotal{PairTotal: PairTotal{Pair: key, First: r.Time, Last: r.Time}}
		p.totals[key] = t
	}
	return t
}

// forget drops the tenth that was not seen for the longest time, so that making room is cheap on the average.
func (p *pairs) forget() {
	all := make([]*pairTotal, 0, len(p.totals))
	for _, t := range p.totals {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *pairTotal) int { return a.Last.Compare(b.Last) })
	for _, t := range all[:len(all)/10+1] {
		delete(p.totals, t.Pair)
		p.forgotten++
	}
}

func (p *pairs) count(r *Record) {
	t := p.of(r)
	t.Flows++
	if r.Denied() {
		t.Packets += uint64(r.Packets)
	}
	t.seen(r.Time)
}

// packet counts one more denied packet.
func (p *pairs) packet(r *Record) {
	t := p.of(r)
	t.Packets++
	t.seen(r.Last)
}

func (p *pairs) bytes(r *Record) {
	t := p.of(r)
	t.Bytes += r.End.BytesSent + r.End.BytesReceived
	t.seen(r.End.Time)
}

func (t *pairTotal) seen(at time.Time) {
	if at.After(t.Last) {
		t.Last = at
	}
	if at.Before(t.First) {
		t.First = at
	}
}

// reason asks once for each kind why it is denied: asking means to evaluate, and a flood is of few kinds.
func (p *pairs) reason(r *Record, ask func() string) string {
	t := p.of(r)
	if !t.whyKnown {
		t.why, t.whyKnown = ask(), true
	}
	return t.why
}

func (p *pairs) sorted() []PairTotal {
	all := make([]PairTotal, 0, len(p.totals))
	for _, t := range p.totals {
		all = append(all, t.PairTotal)
	}
	slices.SortFunc(all, func(a, b PairTotal) int { return comparePairs(a.Pair, b.Pair) })
	return all
}

func comparePairs(a, b Pair) int {
	return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Destination, b.Destination),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Verdict, b.Verdict),
		strings.Compare(a.By(), b.By()), strings.Compare(a.Rule.Place(), b.Rule.Place()), compareBool(a.Onward, b.Onward))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// drops turns counters of rows, which come and go, into sums by rule, which only grow.
type drops struct {
	last  map[ruleset.RowID]uint64
	total map[string]*DropTotal // by the text of all rules
}

func newDrops() drops { return drops{map[ruleset.RowID]uint64{}, map[string]*DropTotal{}} }

func (d *drops) take(rows map[ruleset.RowID]uint64, at time.Time, rules func(ruleset.RowID) []flow.Rule) {
	for row, n := range rows {
		grown := n - d.last[row]
		if n < d.last[row] {
			grown = n // the row was gone for a while, and its counter began again
		}
		if grown > 0 {
			d.add(rules(row), grown, at)
		}
	}
	clear(d.last)
	for row, n := range rows {
		d.last[row] = n
	}
}

// maxDrops bounds the sums by rule; what comes later is of no known rule.
const maxDrops = 10_000

func (d *drops) add(rules []flow.Rule, packets uint64, at time.Time) {
	key := keyOf(rules)
	if _, known := d.total[key]; !known && len(d.total) >= maxDrops {
		key, rules = "", nil
	}
	t := d.total[key]
	if t == nil {
		t = &DropTotal{Rules: rules, First: at}
		d.total[key] = t
	}
	t.Packets += packets
	t.Last = at
}

func (d *drops) sorted() []DropTotal { return sortedDrops(d.total) }

func keyOf(rules []flow.Rule) string {
	var b strings.Builder
	for _, r := range rules {
		b.WriteString(r.Kind + " " + r.String() + " " + r.Place() + "\n")
	}
	return b.String()
}

func sortedDrops(total map[string]*DropTotal) []DropTotal {
	keys := slices.Collect(maps.Keys(total))
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(total[b].Packets, total[a].Packets), strings.Compare(a, b))
	})
	all := make([]DropTotal, len(keys))
	for i, k := range keys {
		all[i] = *total[k]
	}
	return all
}

// Sum puts the totals of several nodes together. What went on to another node is counted there.
func Sum(all []Totals) Totals {
	sum := Totals{}
	pairs, drops := map[Pair]*PairTotal{}, map[string]*DropTotal{}
	for _, t := range all {
		for _, p := range t.Pairs {
			if !p.Onward {
				addPair(pairs, p)
			}
		}
		for _, d := range t.Drops {
			addDrop(drops, d)
		}
		sum.ForgottenPairs += t.ForgottenPairs
		sum.Lost += t.Lost
		sum.Open += t.Open
		sum.Records += t.Records
		sum.Bytes += t.Bytes
	}
	sum.Pairs = make([]PairTotal, 0, len(pairs))
	for _, p := range pairs {
		sum.Pairs = append(sum.Pairs, *p)
	}
	slices.SortFunc(sum.Pairs, func(a, b PairTotal) int { return comparePairs(a.Pair, b.Pair) })
	sum.Drops = sortedDrops(drops)
	return sum
}

func addPair(pairs map[Pair]*PairTotal, p PairTotal) {
	to := pairs[p.Pair]
	if to == nil {
		pairs[p.Pair] = &p
		return
	}
	to.Flows += p.Flows
	to.Packets += p.Packets
	to.Bytes += p.Bytes
	to.First, to.Last = span(to.First, to.Last, p.First, p.Last)
}

func addDrop(drops map[string]*DropTotal, d DropTotal) {
	key := keyOf(d.Rules)
	to := drops[key]
	if to == nil {
		drops[key] = &d
		return
	}
	to.Packets += d.Packets
	to.First, to.Last = span(to.First, to.Last, d.First, d.Last)
}

func span(first, last, otherFirst, otherLast time.Time) (time.Time, time.Time) {
	if otherFirst.Before(first) {
		first = otherFirst
	}
	if otherLast.After(last) {
		last = otherLast
	}
	return first, last
}
