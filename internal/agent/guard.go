package agent

import (
	"context"
	"errors"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/cni"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
)

// Guard keeps unknown pods closed in the process's own network namespace, beside an agent or without one.
type Guard struct{}

var _ cni.Guard = Guard{}

// Close implements cni.Guard. What an earlier pod at one of the addresses was allowed is of no use to the new one: the
// table binds an address to its pod's interface, and the new pod has another.
func (Guard) Close(ctx context.Context, r cni.Record, ranges []netip.Prefix) error {
	for _, a := range r.Addresses {
		ranges = append(ranges[:len(ranges):len(ranges)], netip.PrefixFrom(a, a.BitLen()))
	}
	_, err := ensureClosed(ctx, nodeNet{}, ranges)
	return err
}

// Check implements cni.Guard.
func (Guard) Check(ctx context.Context, ranges []netip.Prefix) error {
	return withTable(nodeNet{}, ranges, func(dp *nft.Dataplane) error { return dp.CheckClosed(ctx) })
}

// LoadClosed puts in force, in the process's own network namespace, that unknown addresses in cidrs can neither send nor
// be reached. It reports whether a table was there already, which then stays as it is but for what it lacks of cidrs.
func LoadClosed(ctx context.Context, cidrs []netip.Prefix) (was bool, err error) {
	return ensureClosed(ctx, nodeNet{}, cidrs)
}

func ensureClosed(ctx context.Context, n nodeNet, ranges []netip.Prefix) (was bool, err error) {
	err = withTable(n, ranges, func(dp *nft.Dataplane) (err error) {
		was, err = dp.EnsureClosed(ctx)
		return err
	})
	return was, err
}

func withTable(n nodeNet, closed []netip.Prefix, f func(*nft.Dataplane) error) error {
	dp, err := nft.New(nft.Options{NetNS: n.fd(), Closed: closed})
	if err != nil {
		return err
	}
	return errors.Join(f(dp), dp.Close())
}
