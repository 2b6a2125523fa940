//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/bench/measure"
	"github.com/ringfence-project/ringfence/bench/workload"
)

// samples are the times of one operation, in µs, one for each round.
type samples struct{ cpu, wall measure.Series }

// kind is one kind of traffic: an operation, and how many make a round.
type kind struct {
	name  string
	times int
	do    func(*world) error
}

const bulk = 256 << 10

var allKinds = []kind{
	{"new connection", 100, (*world).newConnection},
	{"round trip", 100, (*world).roundTrip},
	{"256 KiB", 10, (*world).bulk},
}

// measureTraffic runs short rounds of every kind in every world in turn. Client, server and the kernel's work for both are
// one thread: packets between namespaces of one machine are delivered by whoever sends them.
func measureTraffic(ctx context.Context, w *workload.Workload, rounds int, only string) error {
	kinds := slices.DeleteFunc(slices.Clone(allKinds), func(k kind) bool { return !strings.Contains(k.name, only) })
	all, err := nodeOf(w).worlds(ctx)
	defer func() {
		for _, w := range all {
			w.close()
		}
	}()
	if err != nil {
		return err
	}
	runtime.GC()
	for _, w := range all {
		if err := w.client.Do(w.connect); err != nil {
			return err
		}
	}
	for round := range rounds + 1 {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, i := range rand.Perm(len(all)) {
			w := all[i]
			// The thread stays in the client's namespace, where its sockets are made.
			if err := w.client.Do(func() error { return w.round(kinds, round > 0) }); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	report(all, kinds)
	return nil
}

// round does each kind; the first round is not counted.
func (w *world) round(kinds []kind, counts bool) error {
	for _, k := range kinds {
		start, cpu := time.Now(), measure.ThreadCPU()
		for range k.times {
			if err := k.do(w); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
		usedCPU, took := measure.ThreadCPU()-cpu, time.Since(start)
		if !counts {
			continue
		}
		s := w.seen[k.name]
		if s == nil {
			s = &samples{}
			w.seen[k.name] = s
		}
		s.cpu = append(s.cpu, 1000*ms(usedCPU)/float64(k.times))
		s.wall = append(s.wall, 1000*ms(took)/float64(k.times))
	}
	return nil
}

// report prints medians, and how each world compares with that which only tracks, in the same rounds.
func report(all []*world, kinds []kind) {
	for _, w := range all {
		fmt.Printf("%s: %s\n", w.name, w.rules)
	}
	base := all[1]
	for _, k := range kinds {
		fmt.Printf("%s: µs of CPU (quartiles), wall; CPU in comparison with %s in the same round: median (quartiles)\n", k.name, base.name)
		for _, w := range all {
			s := w.seen[k.name]
			var ratio measure.Series
			for i := range s.cpu {
				ratio = append(ratio, 100*(s.cpu[i]/base.seen[k.name].cpu[i]-1))
			}
			fmt.Printf("  %-28s %8.2f (%.2f to %.2f)  wall %8.2f  %s  %+6.1f %% (%+.1f to %+.1f)\n", w.name, s.cpu.Quantile(0.5), s.cpu.Quantile(0.25),
				s.cpu.Quantile(0.75), s.wall.Quantile(0.5), rate(k, s), ratio.Quantile(0.5), ratio.Quantile(0.25), ratio.Quantile(0.75))
		}
	}
}

// rate is how often a second of wall time has the operation, or how much data it carries.
func rate(k kind, s *samples) string {
	perSecond := 1e6 / s.wall.Quantile(0.5)
	if k.name == "256 KiB" {
		return fmt.Sprintf("%8.2f Gbit/s", perSecond*bulk*8/1e9)
	}
	return fmt.Sprintf("%8.0f/s", perSecond)
}

// open makes a connection and returns both its ends.
func (w *world) open() (client, server int, err error) {
	client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.Connect(client, w.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return 0, 0, errors.Join(err, unix.Close(client))
	}
	for {
		server, _, err = unix.Accept4(w.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if !errors.Is(err, unix.EAGAIN) {
			return client, server, err
		}
		if err := await(w.listener, unix.POLLIN); err != nil {
			return 0, 0, errors.Join(err, unix.Close(client))
		}
	}
}

// await waits until a socket can go on.
func await(fd int, events int16) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		switch n, err := unix.Poll(p, 5000); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errors.New("nothing gets through")
		default:
			return nil
		}
	}
}

// newConnection opens a connection and ends it by a reset, which leaves no state with the pods.
func (w *world) newConnection() error {
	client, server, err := w.open()
	if err != nil {
		return err
	}
	return errors.Join(unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Close(client), unix.Close(server))
}

// roundTrip sends a byte there and one back.
func (w *world) roundTrip() error {
	var b [1]byte
	for _, way := range [][2]int{{w.sender, w.receiver}, {w.receiver, w.sender}} {
		if _, err := unix.Write(way[0], b[:]); err != nil {
			return err
		}
		if err := readAll(way[1], b[:], 1); err != nil {
			return err
		}
	}
	return nil
}

var buffer = make([]byte, 64<<10)

// bulk sends 256 KiB.
func (w *world) bulk() error {
	sent, received := 0, 0
	for received < bulk {
		if sent < bulk {
			n, err := unix.Write(w.sender, buffer[:min(len(buffer), bulk-sent)])
			if err != nil && !errors.Is(err, unix.EAGAIN) {
				return err
			}
			sent += max(0, n)
		}
		for received < sent {
			n, err := unix.Read(w.receiver, buffer)
			if errors.Is(err, unix.EAGAIN) {
				if sent == bulk {
					if err := await(w.receiver, unix.POLLIN); err != nil {
						return err
					}
					continue
				}
				break
			}
			if err != nil {
				return err
			}
			received += n
		}
	}
	return nil
}

func readAll(fd int, b []byte, n int) error {
	for got := 0; got < n; {
		r, err := unix.Read(fd, b[got:n])
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, unix.POLLIN); err != nil {
				return err
			}
		case err != nil:
			return err
		case r == 0:
			return errors.New("the other end closed")
		default:
			got += r
		}
	}
	return nil
}
