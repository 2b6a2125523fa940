//go:build linux

package nft

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"

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

// SetClosed changes Options.Closed. It takes effect with the next Apply, which finds what is in force to be different,
// or Replace. Callers are those of Apply.
func (d *Dataplane) SetClosed(prefixes []netip.Prefix) {
	if slices.Equal(disjoint(d.opts.Closed), disjoint(prefixes)) {
		return
	}
	d.opts.Closed, d.state = slices.Clone(prefixes), nil
}

// LoadClosed puts an empty ruleset in force, whose only effect is Options.Closed. Where a table of ours is there already,
// whatever is in it, nothing is changed and true returned.
func (d *Dataplane) LoadClosed(ctx context.Context) (was bool, err error) {
	err = d.retry(ctx, func() ([]netlink.Message, error) {
		d.state = nil
		img, generation, err := d.conn.Read(d.opts.Table, false)
		if err != nil {
			return nil, err
		}
		d.generation = generation
		if _, was = img.Tables[netfilter.Inet]; was {
			return nil, nil
		}
		b, next := &netfilter.Batch{Table: d.opts.Table}, emptyState()
		if next.epoch, err = d.freshEpoch(nil); err != nil {
			return nil, err
		}
		if err := next.become(ruleset.New(), b, d.opts); err != nil {
			return nil, err
		}
		return b.Messages(), nil
	})
	if err != nil {
		return false, fmt.Errorf("load the closed table: %w", supported(err))
	}
	return was, nil
}
