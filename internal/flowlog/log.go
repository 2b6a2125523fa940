package flowlog

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Limits bound what a Log keeps. A zero field is its default.
type Limits struct {
	Records int // kept for questions; default 100,000
	Bytes   int // about what those may cost; default 64 MiB
	Open    int // connections whose end is waited for; default 65,536. Others are recorded at their end only
	Pairs   int // kinds of flows that are summed up; default 10,000
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		value *int
		or    int
	}{{&l.Records, 100_000}, {&l.Bytes, 64 << 20}, {&l.Open, 1 << 16}, {&l.Pairs, 10_000}} {
		if *f.value <= 0 {
			*f.value = f.or
		}
	}
	return l
}

// Denied packets of one kind are one record for as long as joinFor after the first one, so that a client that keeps
// knocking does not push everything else out of the log. Subscribers hear of it at most every publishEvery.
const (
	joinFor      = 10 * time.Second
	publishEvery = time.Second
	maxJoined    = 4096 // kinds that are open for more packets
	maxEnded     = 1 << 18
)

// Log keeps records. It never blocks on whom it tells. Its methods may be called from any goroutine.
type Log struct {
	names  Names
	limits Limits

	mu          sync.Mutex
	ring        ring
	open        map[Key]*Record
	ended       map[Key]struct{} // recorded as ended, but the kernel still remembers them
	joined      map[denialKind]*joined
	pairs       pairs
	drops       drops
	lost        uint64           // events that never came
	missing     map[Key]struct{} // that the last Reconcile had not
	before      map[Key]struct{} // over when the first Reconcile listed them, and still remembered; nil before that
	subscribers map[*Subscription]struct{}
}

// New returns an empty log.
func New(names Names, limits Limits) *Log {
	limits = limits.withDefaults()
	return &Log{names: names, limits: limits, ring: ring{limits: limits}, open: map[Key]*Record{}, ended: map[Key]struct{}{},
		joined: map[denialKind]*joined{}, pairs: newPairs(limits.Pairs), drops: newDrops(), subscribers: map[*Subscription]struct{}{}}
}

// Key tells a connection from all others, living or just gone.
type Key struct {
	ID                  uint32
	Zone                uint16
	Protocol            flow.Protocol
	Source, Destination netip.AddrPort // before any translation
}

// Connection is one that passed, as connection tracking tells it.
type Connection struct {
	Key      Key
	Tuple    flow.Tuple     // Local need not be known
	Asked    netip.AddrPort // what the client asked for, if that is not what it got
	Answered bool
	Over     bool         // both ends are done, though the kernel still remembers it
	Outcome  flow.Outcome // of a TCP connection that is over or forgotten
	Start    time.Time    // zero if not known
	Stop     time.Time    // zero if not known
	// By the client; zero if not known.
	BytesSent, BytesReceived, PacketsSent, PacketsReceived uint64
}

// Opened records that a connection's first packet passed. One between ends that are no pods is left out.
func (l *Log) Opened(c Connection, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened(c, at, false)
}

func (l *Log) opened(c Connection, at time.Time, earlier bool) {
	if _, known := l.open[c.Key]; known || len(l.open) >= l.limits.Open {
		return
	}
	if _, known := l.ended[c.Key]; known {
		return
	}
	r, ok := l.record(c, at, earlier, true)
	if !ok {
		return
	}
	l.add(r)
	l.open[c.Key] = r
}

// record names a connection, and has rollouts judge it if that is asked for; false if no pod takes part in it.
func (l *Log) record(c Connection, at time.Time, earlier, judged bool) (*Record, bool) {
	src, dst, tuple := l.names.ends(c.Tuple)
	if !src.IsPod() && !dst.IsPod() {
		return nil, false
	}
	r := &Record{Node: l.names.Node, Time: at, Source: src, Destination: dst, Protocol: tuple.Protocol, Port: tuple.Port, Verdict: flow.Allow,
		Answered: c.Answered, Earlier: earlier}
	r.Rule, r.RuleKnown = l.names.allowedBy(tuple)
	if judged {
		r.Beside = l.names.beside(tuple, flow.Allow, earlier, at)
	}
	if c.Asked.IsValid() {
		r.Asked = l.names.asked(c.Asked, tuple.Protocol)
	}
	return r, true
}

// Answered records that the server answered. Nobody is told: the record's end will tell it.
func (l *Log) Answered(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.open[k]; r != nil && !r.Answered {
		next := *r
		next.Answered = true
		l.open[k] = &next
		l.ring.replace(&next)
	}
}

// IsOpen reports whether the end of that connection is waited for.
func (l *Log) IsOpen(k Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[k] != nil
}

// Closed records that both ends of a connection are done, while the kernel still remembers it: Forgotten follows.
func (l *Log) Closed(c Connection, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.open[c.Key]; r != nil {
		l.closed(r, c, at)
	}
}

func (l *Log) closed(r *Record, c Connection, at time.Time) {
	if len(l.ended) >= maxEnded {
		return // Forgotten will tell the end
	}
	l.ended[c.Key] = struct{}{}
	c.Stop = at
	l.end(r, c, at)
}

// Forgotten records that the kernel forgot a connection, which ends it if it was not Closed. One that was not known
// is recorded now, with the names of now. If it was over before the first Reconcile, no rollout is judged by it: it may
// have ended minutes ago, by other policies and before the rollout began.
func (l *Log) Forgotten(c Connection, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, done := l.ended[c.Key]; done {
		delete(l.ended, c.Key)
		return
	}
	r := l.open[c.Key]
	if r == nil {
		began := at
		if !c.Start.IsZero() {
			began = c.Start
		}
		var ok bool
		_, earlier := l.before[c.Key]
		delete(l.before, c.Key)
		if r, ok = l.record(c, began, earlier, !earlier); !ok {
			return
		}
	}
	l.end(r, c, at)
}

func (l *Log) end(r *Record, c Connection, at time.Time) {
	delete(l.open, c.Key)
	begin, stop := r.Time, at
	if !c.Start.IsZero() {
		begin = c.Start
	}
	if !c.Stop.IsZero() {
		stop = c.Stop
	}
	next := *r
	next.Answered = r.Answered || c.Answered
	next.End = &Ending{Time: stop, Duration: max(0, stop.Sub(begin)), Outcome: c.Outcome, BytesSent: c.BytesSent, BytesReceived: c.BytesReceived,
		PacketsSent: c.PacketsSent, PacketsReceived: c.PacketsReceived}
	l.finish(&next)
}

// finish stores the last form of a record and tells it.
func (l *Log) finish(r *Record) {
	if r.ID == 0 || !l.ring.replace(r) { // not recorded before, or already forgotten
		l.add(r)
	} else {
		l.publish(r)
	}
	l.pairs.bytes(r)
}

// Reconcile compares the open connections with a list of all that there are, which was begun at that time: it
// records those that the log missed, and ends those that are gone. It is for the start, and for when events were lost.
//
// To list them makes the kernel forget those that are overdue, and it tells their end after the list. So one is gone when
// two lists have not had it.
func (l *Log) Reconcile(all []Connection, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.before == nil
	if first {
		l.before = map[Key]struct{}{}
	}
	living := make(map[Key]struct{}, len(all))
	for _, c := range all {
		living[c.Key] = struct{}{}
		at := begun
		if !c.Start.IsZero() {
			at = c.Start
		}
		if !c.Over {
			l.opened(c, at, true)
		} else if r := l.open[c.Key]; r != nil {
			l.closed(r, c, begun)
		} else if first && len(l.before) < maxEnded {
			l.before[c.Key] = struct{}{}
		}
	}
	missing := map[Key]struct{}{}
	isGone := func(k Key) bool {
		if _, lives := living[k]; lives {
			return false
		}
		_, again := l.missing[k]
		if !again {
			missing[k] = struct{}{}
		}
		return again
	}
	l.endGone(isGone, begun)
	l.missing = missing
}

// endGone ends the open connections that are gone, and forgets those that have ended.
func (l *Log) endGone(isGone func(Key) bool, begun time.Time) {
	for k, r := range l.open {
		if r.Time.After(begun) || !isGone(k) {
			continue
		}
		delete(l.open, k)
		next := *r
		next.End = &Ending{Time: begun, Duration: max(0, begun.Sub(r.Time)), Unseen: true}
		l.finish(&next)
	}
	for _, remembered := range []map[Key]struct{}{l.ended, l.before} {
		maps.DeleteFunc(remembered, func(k Key, _ struct{}) bool { return isGone(k) })
	}
}

// Lose counts events that never came.
func (l *Log) Lose(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost += uint64(n)
}

// add stores a new record and tells it.
func (l *Log) add(r *Record) {
	l.ring.push(r)
	l.pairs.count(r)
	l.publish(r)
}

func (l *Log) publish(r *Record) {
	for s := range l.subscribers {
		s.offer(r)
	}
}

// Denial is a packet that was dropped.
type Denial struct {
	Time  time.Time
	Row   ruleset.RowID
	Tuple flow.Tuple
}

type denialKind struct {
	row      ruleset.RowID
	src, dst netip.Addr
	protocol flow.Protocol
	port     uint16
}

// joined is a denial that further packets may join.
type joined struct {
	record    *Record
	published time.Time
	dirty     bool // it grew since
}

// Denied records a denied packet: as a new record, or as one more packet of a recent one.
func (l *Log) Denied(d Denial) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := denialKind{d.Row, d.Tuple.Source, d.Tuple.Destination, d.Tuple.Protocol, d.Tuple.Port}
	if j := l.joined[k]; j != nil && d.Time.Sub(j.record.Time) < joinFor {
		if !j.dirty {
			next := *j.record
			j.record, j.dirty = &next, true
		}
		j.record.Packets++
		j.record.Last = d.Time
		l.pairs.packet(j.record)
		if d.Time.Sub(j.published) >= publishEvery {
			l.flush(j, d.Time)
		}
		return
	}
	if len(l.joined) >= maxJoined {
		l.flushAll(d.Time, 0)
	}
	r := l.denial(d)
	l.add(r)
	l.joined[k] = &joined{record: r, published: d.Time}
}

func (l *Log) denial(d Denial) *Record {
	src, dst, tuple := l.names.ends(d.Tuple)
	r := &Record{Node: l.names.Node, Time: d.Time, Last: d.Time, Packets: 1, Source: src, Destination: dst, Protocol: tuple.Protocol, Port: tuple.Port}
	r.Rule, r.RuleKnown = l.names.deniedBy(d.Row, tuple)
	r.Direction = r.Rule.Direction
	r.Beside = l.names.beside(tuple, flow.Deny, false, d.Time)
	if l.names.Title != nil {
		r.Title = l.names.Title(r.Rule)
	}
	r.Reason = l.pairs.reason(r, func() string { return l.names.reason(tuple, r.Rule) })
	return r
}

// Part has denials that follow make new records, in the stead of joining those that are there: what judges them has
// changed.
func (l *Log) Part(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushAll(now, 0)
}

// Tick tells what grew since it was told last. Call it about every second.
func (l *Log) Tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushAll(now, joinFor)
}

// flushAll tells what grew, and closes the denials that are older than age.
func (l *Log) flushAll(now time.Time, age time.Duration) {
	for k, j := range l.joined {
		if j.dirty {
			l.flush(j, now)
		}
		if now.Sub(j.record.Time) >= age {
			delete(l.joined, k)
		}
	}
}

func (l *Log) flush(j *joined, now time.Time) {
	l.ring.replace(j.record)
	l.publish(j.record)
	j.published, j.dirty = now, false
}
