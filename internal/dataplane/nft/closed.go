//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// disjoint sorts prefixes and leaves out those that are in others, and those that no packet can have.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var all, kept []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && !p.Addr().Is4In6() {
			all = append(all, p.Masked())
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare) // a wider one comes before those in it
	for _, p := range all {
		if !slices.ContainsFunc(kept, func(k netip.Prefix) bool { return k.Overlaps(p) }) {
			kept = append(kept, p)
		}
	}
	return kept
}

// closes reports whether ops take a pod's address away, or plug it in elsewhere. Then the address is closed, which no
// ruleset says, and its connections have to be judged again: they are not whoever's who gets it next.
func (d *Dataplane) closes(before *ruleset.Ruleset, ops []ruleset.Op) bool {
	return len(d.opts.Closed) > 0 && slices.ContainsFunc(ops, func(op ruleset.Op) bool {
		was, there := before.Locals[op.Prefix.Addr()]
		return there && (op.Kind == ruleset.DeleteLocal || op.Kind == ruleset.SetLocal && op.Attachment != was)
	})
}

// SetClosed changes Options.Closed. It takes effect with the next Apply, which finds what is in force to be different,
// or Replace. Callers are those of Apply.
func (d *Dataplane) SetClosed(prefixes []netip.Prefix) {
	if slices.Equal(disjoint(d.opts.Closed), disjoint(prefixes)) {
		return
	}
	d.opts.Closed, d.state = slices.Clone(prefixes), nil
}

// ErrOther is wrapped by the error of EnsureClosed where a table of our name is there that knows no closed addresses.
var ErrOther = errors.New("it is of another version: only who drives it can replace it")

// EnsureClosed makes sure that unknown addresses in Options.Closed are closed, whoever else closes or opens what. Where
// no table of ours is there, it makes one with nothing else in it, else it only adds the prefixes that lack, and reports
// true. It may be called beside another process that drives the table, which takes an addition for drift.
func (d *Dataplane) EnsureClosed(ctx context.Context) (was bool, err error) {
	var made *state
	err = d.retry(ctx, func() ([]netlink.Message, error) {
		d.state, made = nil, nil
		b := &netfilter.Batch{Table: d.opts.Table}
		generation, err := d.conn.Steady(func() (err error) {
			b, was = &netfilter.Batch{Table: d.opts.Table}, true
			err = d.closeRest(b)
			return err
		})
		d.generation = generation
		if !errors.Is(err, unix.ENOENT) {
			return b.Messages(), err
		}
		was = false
		img, generation, err := d.conn.Read(d.opts.Table, false)
		if err != nil || len(img.Chains) > 0 {
			return nil, errors.Join(err, fmt.Errorf("table %s: %w", d.opts.Table, ErrOther))
		}
		d.generation = generation
		made, b, err = d.replacement(img, ruleset.New())
		return b.Messages(), err
	})
	if err == nil && made != nil {
		d.state = made
	}
	if err != nil {
		return false, fmt.Errorf("close unknown addresses: %w", supported(err))
	}
	return was, nil
}

// CheckClosed returns an error if an address in Options.Closed is not closed.
func (d *Dataplane) CheckClosed(context.Context) error {
	b := &netfilter.Batch{Table: d.opts.Table}
	_, err := d.conn.Steady(func() error {
		b = &netfilter.Batch{Table: d.opts.Table}
		return d.closeRest(b)
	})
	if err == nil && len(b.Messages()) > 0 {
		err = errors.New("some of them are open")
	}
	if err != nil {
		return fmt.Errorf("unknown addresses in %v are not closed: %w", d.opts.Closed, supported(err))
	}
	return nil
}

// closeRest adds what of Options.Closed is not in the sets yet.
func (d *Dataplane) closeRest(b *netfilter.Batch) error {
	rules, err := d.conn.Rules(named(unknownSource), d.opts.Table)
	if err != nil {
		return err
	}
	for v := range 2 {
		set := netfilter.Map{Ref: versioned("closed", v), Interval: true} // of an agent before editions
		if made := madeBy(rules, set.Name); made > 0 {
			set = closedSet(v, made)
		}
		elements, err := d.conn.Elements(d.opts.Table, set)
		if err != nil {
			return err
		}
		have := make([]addressRange, 0, len(elements))
		for key := range elements {
			first, last := splitKey(key, v)
			if end, ok := netip.AddrFromSlice([]byte(last)); ok {
				have = append(have, addressRange{first: first, last: end})
			}
		}
		slices.SortFunc(have, func(a, b addressRange) int { return a.first.Compare(b.first) })
		for _, p := range disjoint(d.opts.Closed) {
			if version(p.Addr()) != v {
				continue
			}
			for _, r := range uncovered(addressRange{first: p.Addr(), last: lastAddress(p)}, have) {
				b.Put(set, r.key(), "")
			}
		}
	}
	return nil
}

// uncovered returns the parts of r that are in none of have, which is in order and disjoint.
func uncovered(r addressRange, have []addressRange) []addressRange {
	var parts []addressRange
	at := r.first
	for _, h := range have {
		if h.last.Less(at) || r.last.Less(h.first) {
			continue
		}
		if at.Less(h.first) {
			parts = append(parts, addressRange{first: at, last: h.first.Prev()})
		}
		if at = h.last.Next(); !at.IsValid() {
			return parts
		}
	}
	if at.Compare(r.last) <= 0 {
		parts = append(parts, addressRange{first: at, last: r.last})
	}
	return parts
}
