//go:build linux

package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

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

// RowDrops returns how many packets each row in force has dropped; rows that allow everything are left
// out. It may be called beside everything else: it has a socket of its own, and takes no lock that changes wait for.
//
// A row's count goes on where its counter is made again. What is lost is what it dropped between the last call and
// that moment, and all of it if the row was not in force during a call.
func (d *Dataplane) RowDrops(ctx context.Context) (map[ruleset.RowID]uint64, error) {
	d.drops.mu.Lock()
	defer d.drops.mu.Unlock()
	s, err := dial(d.opts.NetNS)
	if err != nil {
		return nil, fmt.Errorf("count drops: %w", err)
	}
	defer s.close()
	for range readTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rows, steady, err := s.readRows(d.opts.Table)
		if err != nil {
			return nil, fmt.Errorf("count drops: %w", err)
		}
		if steady { // else a row may be missing, whose count would seem to begin anew
			return d.drops.take(rows), nil
		}
	}
	return nil, fmt.Errorf("count drops: nftables did not hold still for %d attempts", readTries)
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

// readRows reads the counters of all rows, and says whether nftables held still meanwhile.
func (s *socket) readRows(table string) (map[ruleset.RowID]reading, bool, error) {
	before, err := s.generation()
	if err != nil {
		return nil, false, err
	}
	list, err := s.counterObjects(inet, table)
	if err != nil {
		return nil, false, fmt.Errorf("read counters: %w", supported(err))
	}
	rows := make(map[ruleset.RowID]reading, len(list))
	for _, c := range list {
		n, isRow := strings.CutPrefix(text(c[unix.NFTA_OBJ_NAME]), "row_")
		id, err := strconv.ParseUint(n, 10, 32)
		if !isRow || err != nil {
			continue // somebody else's
		}
		rows[ruleset.RowID(id)] = reading{handle: bigEndian64(c[objHandle]),
			packets: bigEndian64(parse(c[unix.NFTA_OBJ_DATA])[unix.NFTA_COUNTER_PACKETS])}
	}
	after, err := s.generation()
	return rows, before == after, err
}

func bigEndian64(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
