package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// trackingWatch is how often the number of tracked connections is looked at, and trackingFull the share of what the
// kernel can track from which on new connections are about to be dropped.
const (
	trackingWatch = 10 * time.Second
	trackingFull  = 0.95
)

// tracking says how full the kernel's table of connections is.
type tracking struct {
	limits, counts string // folder of the settings, and file of what happened on each processor
	every          time.Duration
}

func newTracking() tracking {
	return tracking{limits: "/proc/sys/net/netfilter", counts: "/proc/thread-self/net/stat/nf_conntrack", every: trackingWatch}
}

// watchTracking says when the kernel cannot track more connections: then it drops the packets of new ones, before any
// policy is asked, and nobody would know why.
func (a *Agent) watchTracking(ctx context.Context) error {
	tick := time.NewTicker(a.tracking.every)
	defer tick.Stop()
	before, _ := a.untracked()
	for {
		message := ""
		now, most, ok := a.tracked()
		lost, known := a.untracked()
		switch {
		case known && lost > before:
			message = fmt.Sprintf("the kernel dropped %d connections because it can track no more than %d", lost-before, most)
		case ok && float64(now) >= trackingFull*float64(most):
			message = fmt.Sprintf("the kernel tracks nearly as many connections as it can (%d at most), and then drops new ones", most)
		}
		if known {
			before = lost
		}
		if message != "" {
			message += ": raise net.netfilter.nf_conntrack_max"
		}
		a.setCondition(TrackingFull, message)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tracked returns how many connections are tracked, and how many can be; false where the kernel does not say.
func (a *Agent) tracked() (now, most uint64, ok bool) {
	err := a.net.do(func() (err error) {
		if now, err = readNumber(filepath.Join(a.tracking.limits, "nf_conntrack_count")); err == nil {
			most, err = readNumber(filepath.Join(a.tracking.limits, "nf_conntrack_max"))
		}
		return err
	})
	return now, most, err == nil && most > 0
}

func readNumber(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// untracked returns how many connections were dropped so far for lack of room, new ones and, to make room, unanswered
// ones; false where the kernel does not say.
func (a *Agent) untracked() (lost uint64, ok bool) {
	err := a.net.do(func() (err error) {
		lost, err = readLost(a.tracking.counts)
		return err
	})
	return lost, err == nil
}

// readLost adds up two columns of a table of hexadecimal numbers with their names above them.
func readLost(file string) (lost uint64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	names := strings.Fields(lines.Text())
	columns := []int{slices.Index(names, "drop"), slices.Index(names, "early_drop")}
	for lines.Scan() {
		values := strings.Fields(lines.Text())
		for _, c := range columns {
			if c < 0 || c >= len(values) {
				return 0, fmt.Errorf("%s does not say what was dropped", file)
			}
			n, err := strconv.ParseUint(values[c], 16, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			lost += n
		}
	}
	return lost, lines.Err()
}
