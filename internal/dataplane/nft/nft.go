//go:build linux

// Package nft enforces rulesets with nftables, over netlink.
//
// One table of ours, of the inet family, holds constant rules that look connections up in maps; what changes is data.
// Here is what happens to the first packet of a connection, and to its next one after a change that may forbid it:
//
//	forward, input       has the connection the label of the current epoch? then accept
//	judge                local address of the client → its subject's chain out_N; of the server → in_N
//	out_N, in_N          address of the other end → identity → peers_out_N, peers_in_N → number of the row; else the default row's
//	row                  number of the row → row_N
//	row_N                protocol and the server's port → return to judge, or count, log and drop
//	allowed              put the epoch's label on the connection and accept, if nothing changed since forward or input
//
// Everything is looked up of the connection, not of the packet: the client is the source of its original direction
// and the server the source of its replies, whatever addresses were translated. The scratch register between look-ups
// is the packet's priority, which is therefore lost on packets that are judged (its mark is others').
//
// A transaction of nftables is atomic, but a packet that is under way while it commits may see rules from before it and
// maps from after it. Where that matters the packet is dropped at the end (see editionSet). And what a transaction puts into
// maps with intervals is seen a moment later than the rest of it. So such maps are filled in a transaction of their own,
// before the one by which packets come to look at them, and are not edited any more.
package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// DefaultTable is the name of our tables.
const DefaultTable = "ringfence"

// Options are what a Dataplane can be told. The zero value enforces in the process's own network namespace and
// reports no denials.
type Options struct {
	NetNS int    // file descriptor of the network namespace to enforce in; 0 is the process's own
	Table string // name of our tables; empty is DefaultTable
	// LogGroup is the NFLOG group that denials are reported through; each group has one reader in a namespace. 0 logs
	// nothing.
	LogGroup uint16
	// Closed are the prefixes that the pods of this node get their addresses from. Whoever has an address in them that is
	// not local to the ruleset in force is a pod that nobody knows yet: it can neither send nor be reached, but by the node
	// itself. They are part of the table, and stay in force with it.
	Closed []netip.Prefix
	// LogRate is how many denials a second each row logs, for each direction; 0 is all. What is not logged is counted.
	LogRate uint
}

// manyNotices is the size of a transaction in bytes whose notices are not to be kept.
const manyNotices = 1 << 20

// Dataplane is a dataplane.Dataplane. The state that it finds in the kernel is adopted by the first call that needs it.
type Dataplane struct {
	opts    Options
	conn    *netfilter.Conn
	notices *netfilter.Conn // what others change; looked at when a transaction finds that somebody did
	loud    bool            // our last transaction left many notices
	denials *denialLog
	drops   dropCounts

	state      *state // nil if it is not known
	generation uint32 // of nftables, when state was read or written
	unclean    []int  // epochs that connections may be labelled with though they are over; nil if that is not known

	mu   sync.Mutex
	ours map[uint32]bool // the ports of our sockets, by which the kernel names whoever made a change
}

var _ dataplane.Dataplane = (*Dataplane)(nil)

// New opens a dataplane. It changes nothing in the kernel.
func New(o Options) (*Dataplane, error) {
	if o.Table == "" {
		o.Table = DefaultTable
	}
	d := &Dataplane{opts: o, ours: map[uint32]bool{}}
	err := supported(d.open())
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Dataplane) open() (err error) {
	if err = d.dial(); err != nil {
		return err
	}
	if _, err = d.conn.Generation(); err != nil { // now it is known that we may
		if errors.Is(err, unix.EINVAL) { // what the kernel says where netfilter's sockets are there, and nftables is not
			return fmt.Errorf("%w: the kernel has no nftables: %w", dataplane.ErrNotSupported, err)
		}
		return err
	}
	if d.notices, err = netfilter.Listen(d.opts.NetNS); err != nil {
		return err
	}
	if d.opts.LogGroup != 0 {
		d.denials, err = openDenialLog(d.opts.NetNS, d.opts.LogGroup)
	}
	return err
}

// dial opens the socket that changes are made through.
func (d *Dataplane) dial() error {
	conn, err := netfilter.Dial(d.opts.NetNS)
	if err != nil {
		return err
	}
	d.conn = conn
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ours[conn.PID()] = true
	return nil
}

// Close lets go of the kernel's sockets. What is in force stays in force.
func (d *Dataplane) Close() error {
	var errs []error
	for _, s := range []*netfilter.Conn{d.conn, d.notices} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if d.denials != nil {
		errs = append(errs, d.denials.socket.Close())
	}
	return errors.Join(errs...)
}

// Remove deletes our tables, and nothing else. Nothing is enforced afterwards.
func (d *Dataplane) Remove(ctx context.Context) error {
	return supported(d.retry(ctx, func() ([]netlink.Message, error) {
		img, generation, err := d.conn.Read(d.opts.Table, false)
		if err != nil {
			return nil, err
		}
		d.state, d.generation = nil, generation
		b := &netfilter.Batch{Table: d.opts.Table}
		for family := range img.Tables {
			b.DropTable(family)
		}
		return b.Messages(), nil
	}))
}

// retry commits what prepare returns; if somebody else committed since prepare looked, it starts again.
func (d *Dataplane) retry(ctx context.Context, prepare func() ([]netlink.Message, error)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		messages, err := prepare()
		if err == nil && len(messages) > 0 {
			err = d.commit(messages)
		}
		if !errors.Is(err, netfilter.ErrStale) {
			return err
		}
	}
}

// commit sends a transaction for the generation of nftables that we know. After an error the socket may hold answers
// that belong to it, so it is replaced.
func (d *Dataplane) commit(messages []netlink.Message) error {
	err := d.conn.Commit(messages, d.generation)
	if err == nil {
		size := 0
		for _, m := range messages {
			size += len(m.Data)
		}
		d.loud = size > manyNotices
		d.generation++ // the kernel counts commits, and ours was the next one
		if d.generation == 0 {
			d.generation = 1
		}
		return nil
	}
	if errors.Is(err, netfilter.ErrUnanswered) {
		d.state = nil
	}
	return errors.Join(err, d.conn.Close(), d.dial())
}

// Replace implements dataplane.Dataplane.
func (d *Dataplane) Replace(ctx context.Context, r *ruleset.Ruleset) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	var next *state
	err := d.retry(ctx, func() ([]netlink.Message, error) {
		d.state = nil
		img, generation, err := d.conn.Read(d.opts.Table, false)
		if err != nil {
			return nil, err
		}
		d.generation = generation
		var b *netfilter.Batch
		next, b, err = d.replacement(img, r.Stripped())
		return b.Messages(), err
	})
	if err != nil {
		return fmt.Errorf("replace: %w", supported(err))
	}
	d.state = next
	return d.forgetNotices()
}

// replacement begins to put a ruleset in force in the stead of what an image shows: it fills maps that nothing looks at yet, and
// returns the transaction that has packets look at them, and the state after it.
func (d *Dataplane) replacement(img *netfilter.Image, r *ruleset.Ruleset) (*state, *netfilter.Batch, error) {
	first, b := &netfilter.Batch{Table: d.opts.Table}, &netfilter.Batch{Table: d.opts.Table}
	d.clear(b, img)
	next := newState(lastEdition(img) + 1)
	epoch, err := d.freshEpoch(epochs(img))
	if err == nil {
		next.epoch = epoch
		err = next.become(r, first, b, d.opts)
	}
	if err == nil {
		err = d.checkBridge(next)
	}
	if err == nil {
		err = d.commit(first.Messages())
	}
	if err != nil {
		return nil, &netfilter.Batch{}, err
	}
	return next, b, nil
}

// forgetNotices lets go of the notices of our own last transaction if they are many: the kernel keeps them for us, at a
// kilobyte each. If somebody else committed meanwhile, everything is looked at again by the next call.
func (d *Dataplane) forgetNotices() error {
	if !d.loud {
		return nil
	}
	fresh, err := netfilter.Listen(d.opts.NetNS)
	if err != nil {
		return supported(err)
	}
	old := d.notices
	d.notices, d.loud = fresh, false
	generation, err := d.conn.Generation() // after it listens: what comes now is heard
	if generation != d.generation {
		d.state = nil
	}
	return errors.Join(err, old.Close())
}

// become fills an empty state, and what it is written to (see editor), with a ruleset.
func (s *state) become(r *ruleset.Ruleset, first, to netfilter.Sink, o Options) error {
	s.rules = r
	e := editor{state: s, first: first, to: to, opts: o}
	return e.edit(ruleset.New(), ruleset.Difference(ruleset.New(), r))
}

// clear deletes everything that is in our tables, except base chains that are as they should be: packets pass them all
// the time. Everything is made again in the same transaction.
func (d *Dataplane) clear(b *netfilter.Batch, img *netfilter.Image) {
	if _, ok := img.Tables[netfilter.Bridge]; ok {
		b.DropTable(netfilter.Bridge)
	}
	if _, ok := img.Tables[netfilter.Inet]; !ok {
		return
	}
	hooks := netfilter.NewImage()
	for _, c := range newState(0).chains(d.opts) {
		hooks.AddChain(c)
	}
	b.AddTable(netfilter.Inet)
	b.FlushTable(netfilter.Inet)
	for _, r := range netfilter.Union(img.Maps, nil) {
		switch {
		case r == editionSet.Ref && img.Has(editionSet): // packets under way ask this one, not the next one of its name
			b.FlushMap(editionSet)
		case r.Family == netfilter.Inet:
			b.DropMap(netfilter.Map{Ref: r})
		}
	}
	for _, r := range netfilter.Union(img.Counters, nil) {
		if r.Family == netfilter.Inet {
			b.DropCounter(r)
		}
	}
	for _, r := range netfilter.Union(img.Chains, nil) {
		if have := img.Chains[r].Hook; r.Family == netfilter.Inet && (have == "" || have != hooks.Chains[r].Hook) {
			b.DropChain(r)
		}
	}
}

// Apply implements dataplane.Dataplane. A delta that is too large for one transaction (512 MiB, at about 250 bytes for a
// pod and 60 for an address) fails and changes nothing.
func (d *Dataplane) Apply(ctx context.Context, delta ruleset.Delta) error {
	err := d.know(ctx)
	if err == nil {
		err = d.apply(ctx, delta)
	}
	if errors.Is(err, errUnsure) {
		if err = d.verify(); err == nil {
			err = d.apply(ctx, delta)
		}
	}
	if err != nil {
		return fmt.Errorf("apply: %w", supported(err))
	}
	return d.forgetNotices()
}

func (d *Dataplane) apply(ctx context.Context, delta ruleset.Delta) error {
	if in := d.state.rules.Generation; in != delta.From {
		return fmt.Errorf("generation %d is in force, not %d, which the delta starts from: %w", in, delta.From, dataplane.ErrDrift)
	}
	ops := dataplane.StripOps(delta.Ops)
	before := pick(d.state.rules, ops)
	if d.state.applier == nil {
		d.state.applier = ruleset.NewApplier(d.state.rules)
	}
	err := d.state.applier.Apply(ruleset.Delta{From: delta.From, To: delta.To, Ops: ops})
	if err == nil {
		err = d.enforce(ctx, before, pick(d.state.rules, ops), delta.Tightens || d.closes(before, ops))
	}
	if err != nil && d.state != nil {
		restore(d.state.rules, before, ops)
		d.state.applier = nil
	}
	return err
}

// enforce carries the difference of two parts of rulesets to the kernel; the state's ruleset is the new one already.
func (d *Dataplane) enforce(ctx context.Context, before, after *ruleset.Ruleset, tightens bool) error {
	first, b := &netfilter.Batch{Table: d.opts.Table}, &netfilter.Batch{Table: d.opts.Table}
	ops := ruleset.Difference(before, after)
	e := editor{state: d.state, first: first, to: b, opts: d.opts}
	epoch, err := d.nextEpoch(e.state, tightens)
	switch {
	case err != nil:
	case !e.inet:
		e.epoch = epoch
	case epoch != e.epoch:
		e.nextEpoch(epoch)
	case mixes(before, ops):
		e.nextEdition()
		e.setChains([]netfilter.Chain{allowedChain(e.epoch, e.edition)})
	}
	if err == nil {
		err = e.edit(before, ops)
	}
	if err == nil {
		err = d.checkBridge(d.state)
	}
	if err == nil {
		err = d.both(ctx, first, b)
	}
	if err != nil {
		for i := len(e.undo) - 1; i >= 0; i-- {
			e.undo[i]()
		}
	}
	return err
}

// both carries out two transactions. If only the first is in force, so that maps are there that nobody looks at, our tables are
// to be read before the next change, which finds them not to be what they should.
func (d *Dataplane) both(ctx context.Context, first, second *netfilter.Batch) error {
	prepared := len(first.Messages()) > 0
	for _, b := range []*netfilter.Batch{first, second} {
		if err := d.retry(ctx, func() ([]netlink.Message, error) { return b.Messages(), d.catchUp(ctx) }); err != nil {
			if prepared && b == second {
				d.state = nil
			}
			return err
		}
	}
	return nil
}

// nextEpoch returns the epoch after a change.
func (d *Dataplane) nextEpoch(s *state, changes bool) (int, error) {
	switch {
	case !s.inet:
		return d.freshEpoch(nil) // the table was never there, or was deleted: nobody knows what labels connections have
	case changes:
		return d.freshEpoch([]int{s.epoch})
	}
	return s.epoch, nil
}

// mixes reports whether a packet that is under way while ops come in force may be judged by what was there neither before nor
// after them. It may come to a chain that is new or gone or to a map that is, or look up what an identity may that is no more
// its address's. Other changes are seen by one look-up, which finds the old or the new.
func mixes(before *ruleset.Ruleset, ops []ruleset.Op) bool {
	moves, pairs := false, false
	for _, op := range ops {
		switch op.Kind {
		case ruleset.AddRow, ruleset.DeleteRow, ruleset.SetDefault, ruleset.DeleteDefault:
			return true
		case ruleset.SetPair, ruleset.DeletePair:
			pairs = true
		case ruleset.SetAddress, ruleset.DeleteAddress:
			if !op.Prefix.IsSingleIP() {
				return true
			}
			old, was := before.Addresses[op.Prefix]
			moves = moves || was && (op.Kind == ruleset.DeleteAddress || old != op.Identity)
		}
	}
	return moves && pairs
}

// Realized implements dataplane.Dataplane.
func (d *Dataplane) Realized(ctx context.Context) (*ruleset.Ruleset, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.verify(); err != nil {
		return nil, fmt.Errorf("read back: %w", supported(err))
	}
	return d.state.rules.Clone(), nil
}

// know makes sure that the state is known.
func (d *Dataplane) know(ctx context.Context) error {
	if err := ctx.Err(); err != nil || d.state != nil {
		return err
	}
	return d.verify()
}

// verify reads our tables and compares them with what we know to have written or, if we know nothing, with what we
// would have written had we put in force what they mean.
func (d *Dataplane) verify() error {
	img, generation, err := d.conn.Read(d.opts.Table, true)
	if err != nil {
		return err
	}
	found, err := adopt(img, d.opts)
	known := d.state
	d.state, d.generation = found, generation
	if err != nil {
		d.state = nil
		return err
	}
	if known != nil && (!known.rules.Equal(found.rules) || known.rules.Generation != found.rules.Generation ||
		known.epoch != found.epoch || known.inet != found.inet) {
		d.state = nil
		return fmt.Errorf("table %s is not what was put in force last: %w", d.opts.Table, dataplane.ErrDrift)
	}
	return d.checkBridge(found)
}

func (d *Dataplane) checkBridge(s *state) error {
	if !s.bridge {
		return nil
	}
	return CheckBridge(d.opts.NetNS)
}

// adopt makes a state of an image.
func adopt(img *netfilter.Image, o Options) (*state, error) {
	if len(img.Tables) == 0 {
		return newState(1), nil
	}
	rules, s := decode(img)
	want := netfilter.NewImage()
	err := rules.Check()
	if err == nil {
		err = s.become(rules, want, want, o)
	}
	if err != nil {
		return nil, fmt.Errorf("table %s: %w: %w", o.Table, err, dataplane.ErrDrift)
	}
	if wrong := netfilter.Differences(want, img); len(wrong) > 0 {
		if more := len(wrong) - 5; more > 0 {
			wrong = append(wrong[:5], fmt.Sprintf("and %d more", more))
		}
		return nil, fmt.Errorf("table %s: %s: %w", o.Table, strings.Join(wrong, "; "), dataplane.ErrDrift)
	}
	return s, nil
}

// errUnsure: somebody may have changed our tables, and we did not see what.
var errUnsure = errors.New("too many changes of nftables to follow")

// noticeTime is how long a notice may take that the kernel sends at the end of a transaction.
const noticeTime = time.Second

// catchUp looks, after somebody committed to nftables, whether our tables were touched.
func (d *Dataplane) catchUp(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	generation, err := d.conn.Generation()
	if err != nil || generation == d.generation {
		return err
	}
	if err := d.notices.SetReadDeadline(time.Now().Add(noticeTime)); err != nil {
		return err
	}
	for at := uint32(0); at != generation; {
		datagram, err := d.notices.Datagram()
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, os.ErrDeadlineExceeded) {
			return errUnsure
		}
		if err != nil {
			return fmt.Errorf("listen to changes of nftables: %w", err)
		}
		n := d.readNotice(datagram)
		if n.foreign != "" {
			d.state = nil
			return fmt.Errorf("somebody else did: %s: %w", n.foreign, dataplane.ErrDrift)
		}
		if n.commit != 0 {
			at = n.commit
		}
	}
	d.generation = generation
	return nil
}

// supported marks errors that say what the machine lacks.
func supported(err error) error {
	for _, lack := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENOPROTOOPT} {
		if errors.Is(err, lack) {
			return fmt.Errorf("%w: %w", dataplane.ErrNotSupported, err)
		}
	}
	return err
}
