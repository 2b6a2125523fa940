//go:build linux

package nft

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// bridgeSwitches make a bridge show its packets to tables like ours. Without them what one pod sends to another on the
// same bridge passes nobody.
var bridgeSwitches = []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"}

// CheckBridge returns an error that wraps dataplane.ErrNotSupported if pods on one bridge cannot be fenced from each
// other in the network namespace with file descriptor ns, 0 for the process's own. It changes nothing. Replace and
// Apply check it where a ruleset has pods on bridges, and Realized checks that it stayed so.
func CheckBridge(ns int) error {
	if ns == 0 {
		return checkBridge()
	}
	n, err := netns.Dup(ns)
	if err != nil {
		return err
	}
	return errors.Join(n.Do(checkBridge), n.Close())
}

func checkBridge() error {
	for _, s := range bridgeSwitches {
		b, err := os.ReadFile("/proc/sys/net/bridge/" + s)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("pods on a bridge: %w: load the kernel module br_netfilter", dataplane.ErrNotSupported)
		case err != nil:
			return fmt.Errorf("pods on a bridge: %w", err)
		case strings.TrimSpace(string(b)) != "1":
			return fmt.Errorf("pods on a bridge: %w: set the sysctl net.bridge.%s to 1", dataplane.ErrNotSupported, s)
		}
	}
	return nil
}
