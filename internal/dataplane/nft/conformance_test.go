//go:build linux

package nft

import (
	"testing"

	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
)

func TestConforms(t *testing.T) {
	for _, topology := range []struct {
		name    string
		bridged bool
	}{{"routed", false}, {"bridged", true}} {
		t.Run(topology.name, func(t *testing.T) {
			dataplanetest.Run(t, func(t *testing.T) dataplanetest.Harness { return newLab(t, topology.bridged) })
		})
	}
}
