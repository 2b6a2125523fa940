//go:build linux

package netns_test

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/ringfence-project/ringfence/internal/netns"
)

func TestNamespaceIsEmptyAndItsOwn(t *testing.T) {
	ns, err := netns.New()
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("no right to make network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	count := 0
	if err := ns.Do(func() error {
		ifs, err := net.Interfaces()
		count = len(ifs)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if count != 1 {
		t.Errorf("a new namespace has %d interfaces, want only lo", count)
	}
}

func TestDoReturnsTheErrorOfItsFunction(t *testing.T) {
	ns, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	want := errors.New("mine")
	if err := ns.Do(func() error { return want }); errors.Is(err, os.ErrPermission) {
		t.Skipf("no right to enter network namespaces: %v", err)
	} else if err != want {
		t.Errorf("Do returned %v, want %v", err, want)
	}
}
