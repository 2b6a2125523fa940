package agent

import (
	"context"
	"fmt"
	"os"
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

// watchTracking says when the kernel cannot track more connections: then it drops the packets of new ones, before any
// policy is asked, and nobody would know why.
func (a *Agent) watchTracking(ctx context.Context) error {
	tick := time.NewTicker(trackingWatch)
	defer tick.Stop()
	for {
		if now, most, ok := a.tracked(); ok && float64(now) >= trackingFull*float64(most) {
			a.setCondition(TrackingFull, fmt.Sprintf("the kernel tracks nearly as many connections as it can (%d at most), and then drops "+
				"new ones: raise net.netfilter.nf_conntrack_max", most))
		} else {
			a.setCondition(TrackingFull, "")
		}
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
		if now, err = readNumber("/proc/sys/net/netfilter/nf_conntrack_count"); err == nil {
			most, err = readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
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
