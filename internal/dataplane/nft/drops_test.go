//go:build linux

package nft

import (
	"context"
	"maps"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// flood sends n packets as fast as it can, all of one connection.
func (l *lab) flood(from *station, packet []byte, n int) {
	l.t.Helper()
	l.must(from.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
		for range n {
			if err := unix.Sendto(fd, packet, 0, to); err != nil {
				return err
			}
		}
		return nil
	}))
}

// rowDrops are the drops by row, without rows that dropped nothing.
func rowDrops(t *testing.T, d *Dataplane) map[ruleset.RowID]uint64 {
	t.Helper()
	rows, err := d.RowDrops(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(rows, func(_ ruleset.RowID, n uint64) bool { return n == 0 })
	return rows
}

func (l *lab) wantDrops(d *Dataplane, want map[ruleset.RowID]uint64) {
	l.t.Helper()
	var got map[ruleset.RowID]uint64
	defer func() { l.t.Helper(); l.t.Logf("drops: %v", got) }()
	l.wait(func() bool { got = rowDrops(l.t, d); return maps.Equal(got, want) }, "the rows' drops are %v", want)
}

func TestFloodsAreCountedWhole(t *testing.T) {
	const n, rate = 10_000, 10
	l := newLab(t, false)
	l.opts.LogRate = rate
	d := l.enforce(denyB)
	events := make(chan dataplane.Event, n)
	defer watchAll(t, d, events)()
	l.flood(l.hosts[podC], udpPacket(podC[0], podB[0], 80, 0), n)
	l.wantDrops(d, map[ruleset.RowID]uint64{1: n})
	if logged := len(events); logged == 0 || logged > n/2 {
		t.Errorf("%d packets of %d are logged at %d a second", logged, n, rate)
	}
}

func TestCountsGoOnWhenRowsAreMadeAgain(t *testing.T) {
	l := newLab(t, false)
	d := l.enforce(denyB)
	c, to := l.hosts[podC], udpPacket(podC[0], podB[0], 80, 0)
	l.flood(c, to, 3)
	l.wantDrops(d, map[ruleset.RowID]uint64{1: 3})
	l.must(d.Replace(t.Context(), l.rules(denyB)))
	l.wantDrops(d, map[ruleset.RowID]uint64{1: 3})
	l.flood(c, to, 5) // more than before, which alone would not show that the rule is another
	l.wantDrops(d, map[ruleset.RowID]uint64{1: 8})
	now := mustRealize(t, d)
	none := l.rules("")
	none.Generation = now.Generation + 1
	l.must(d.Apply(t.Context(), ruleset.Diff(now, none)))
	l.wantDrops(d, nil)
	again := l.rules(denyB)
	again.Generation = none.Generation + 1
	l.must(d.Apply(t.Context(), ruleset.Diff(mustRealize(t, d), again)))
	l.flood(c, to, 1)
	l.wantDrops(d, map[ruleset.RowID]uint64{1: 1})
}

func TestNothingIsDroppedWithoutATable(t *testing.T) {
	d, _ := bare(t)
	if got := rowDrops(t, d); len(got) != 0 {
		t.Errorf("drops %v, want none", got)
	}
}

// TestCountingBesideChanges is for the race detector, and for a reading that meets a change.
func TestCountingBesideChanges(t *testing.T) {
	d, _ := bare(t)
	r := many(1000)
	replace(t, d, r)
	ctx, stop := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			rows, err := d.RowDrops(t.Context())
			if err != nil {
				t.Error(err)
			} else if len(rows) == 0 {
				t.Error("no rows are there in the middle of a change")
			}
		}
	})
	for range 10 {
		replace(t, d, r)
	}
	stop()
	reader.Wait()
}
