//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/netns"
)

// awaitLinks returns when all links carry packets. The kernel brings a veth into service some time after both ends
// are up; until then it drops what is sent, and a neighbour that was asked for then is asked again a second later.
func awaitLinks(ctx context.Context, p *plan, node *netns.NS, hosts []*station) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("interfaces do not come up"))
	defer cancel()
	names := map[string]bool{}
	for _, s := range hosts {
		names[s.veth] = true
	}
	if p.topology == Bridge {
		names[bridgeName] = len(p.pods) > 0 // a bridge without ports has no carrier
	}
	if err := awaitUp(ctx, node, names); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return inParallel(ctx, len(hosts), func(next <-chan int) error {
		for i := range next {
			if err := awaitUp(ctx, hosts[i].ns, map[string]bool{"eth0": true}); err != nil {
				return fmt.Errorf("%s: %w", hosts[i].name(), err)
			}
		}
		return nil
	})
}

// awaitUp returns when the named interfaces of ns are operational. It asks again and again: that takes milliseconds,
// and what a subscription says can be lost.
func awaitUp(ctx context.Context, ns *netns.NS, names map[string]bool) error {
	return withHandle(ns, func(h *netlink.Handle) error {
		again := time.NewTicker(2 * time.Millisecond)
		defer again.Stop()
		for {
			up, err := allUp(h, names)
			if err != nil || up {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-again.C:
			}
		}
	})
}

func allUp(h *netlink.Handle, names map[string]bool) (bool, error) {
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	up := map[string]bool{}
	for _, l := range links {
		up[l.Attrs().Name] = l.Attrs().OperState == netlink.OperUp
	}
	for name, wanted := range names {
		if wanted && !up[name] {
			return false, nil
		}
	}
	return true, nil
}
