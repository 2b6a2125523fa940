//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/ringfence-project/ringfence/internal/netfilter"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// dropCounts remembers what the counters of rows said. A counter is made again whenever its row comes back or
// everything is replaced, and then it begins at 0.
type dropCounts struct {
	mu   sync.Mutex
	last map[ruleset.RowID]reading
}

// A reading is what one row's counter said.
type reading struct {
	handle  uint64 // the kernel's number for the counter: another one is another counter, whatever it says
	packets uint64
	before  uint64 // what earlier counters of the same row said
}

// RowDrops returns how many packets each row in force has dropped; rows that allow everything are left out. Row 0 stands
// for what was dropped because one end was a pod that is not known yet, if anything was. It may be called beside everything else: it has a socket of its own, and takes no lock that changes wait for.
//
// A row's count goes on where its counter is made again. What is lost is what it dropped between the last call and
// that moment, and all of it if the row was not in force during a call.
func (d *Dataplane) RowDrops(ctx context.Context) (map[ruleset.RowID]uint64, error) {
	d.drops.mu.Lock()
	defer d.drops.mu.Unlock()
	counters, err := d.counters()
	if err := errors.Join(ctx.Err(), err); err != nil {
		return nil, fmt.Errorf("count drops: %w", supported(err))
	}
	return d.drops.take(rowReadings(counters)), nil
}

// Probes returns how many packets came in by an interface called ProbeInterface and reached the place where connections
// are judged, where they end. They prove that packets pass there at all. Like RowDrops it may be called beside everything
// else.
func (d *Dataplane) Probes() (uint64, error) {
	counters, err := d.counters()
	if err != nil {
		return 0, fmt.Errorf("count probes: %w", supported(err))
	}
	for _, c := range counters {
		if c.Name == probeCounter.Name {
			return c.Packets, nil
		}
	}
	return 0, nil
}

// counters reads all counters of the table.
func (d *Dataplane) counters() (counters []netfilter.Counter, err error) {
	s, err := netfilter.Dial(d.opts.NetNS)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	// A reading in the middle of a change may lack rows, whose counts would seem to begin anew.
	_, err = s.Steady(func() (err error) {
		counters, err = s.Counters(netfilter.Inet, d.opts.Table)
		return err
	})
	return counters, err
}

func rowReadings(counters []netfilter.Counter) map[ruleset.RowID]reading {
	rows := make(map[ruleset.RowID]reading, len(counters))
	for _, c := range counters {
		if c.Name == closedCounter.Name && c.Packets > 0 {
			rows[0] = reading{handle: c.Handle, packets: c.Packets}
		}
		n, isRow := strings.CutPrefix(c.Name, "row_")
		id, err := strconv.ParseUint(n, 10, 32)
		if !isRow || err != nil {
			continue // somebody else's
		}
		rows[ruleset.RowID(id)] = reading{handle: c.Handle, packets: c.Packets}
	}
	return rows
}

// take turns counters into sums.
func (c *dropCounts) take(rows map[ruleset.RowID]reading) map[ruleset.RowID]uint64 {
	drops := make(map[ruleset.RowID]uint64, len(rows))
	for id, now := range rows {
		was := c.last[id]
		now.before = was.before
		if now.handle != was.handle || now.packets < was.packets {
			now.before += was.packets
		}
		rows[id], drops[id] = now, now.before+now.packets
	}
	c.last = rows
	return drops
}
