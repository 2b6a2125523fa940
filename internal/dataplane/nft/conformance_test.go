//go:build linux

package nft

import (
	"testing"

	"github.com/ringfence-project/ringfence/internal/dataplane/dataplanetest"
)

func TestConforms(t *testing.T) {
	dataplanetest.Run(t, func(t *testing.T) dataplanetest.Harness { return newLab(t, false) })
}
