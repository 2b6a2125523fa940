//go:build linux

package lab

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

// childEnv makes this test binary boot a lab and wait to be killed.
const childEnv = "RINGFENCE_LAB_CHILD"

// witnessFD is the child's descriptor of the parent's namespace.
const witnessFD = 3

// TestKilledLabLeavesNothing kills a process that runs a lab. Each namespace of the lab has a veth to a namespace of
// ours, whose end here goes away if, and only if, the kernel has taken the namespace at the other end away.
func TestKilledLabLeavesNothing(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		runChild(t)
		return
	}
	boot(t, Spec{Objects: somePods(1)}) // skips where there can be no lab
	before := hostState(t)
	witness, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestKilledLabLeavesNothing$")
	child.Env = append(os.Environ(), childEnv+"=1")
	fd, err := unix.FcntlInt(uintptr(witness.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	child.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "witness")}
	defer child.ExtraFiles[0].Close()
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	if got, want := len(witnessLinks(t, witness)), 5; got != want { // 3 pods, node and outside
		t.Errorf("%d namespaces are linked to ours, want %d", got, want)
	}
	if diff := cmp.Diff(before, hostState(t)); diff != "" {
		t.Errorf("a running lab changed the host's network (- before, + during):\n%s", diff)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // it was killed
	awaitNoLinks(t, witness)
	if diff := cmp.Diff(before, hostState(t)); diff != "" {
		t.Errorf("a killed lab changed the host's network (- before, + after):\n%s", diff)
	}
}

// runChild boots a lab, links all its namespaces to the witness, and waits for its end.
func runChild(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(3)})
	for i, s := range l.stations() {
		err := podnet.WithHandle(s.ns, func(h *netlink.Handle) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "towitness"
			return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprint("w", i), PeerNamespace: netlink.NsFd(witnessFD)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("ready")
	time.Sleep(time.Minute) // a parent that failed to kill us is no reason to stay for ever
}

func witnessLinks(t *testing.T, witness *netns.NS) []string {
	t.Helper()
	var names []string
	err := witness.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			if strings.HasPrefix(i.Name, "w") {
				names = append(names, i.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func awaitNoLinks(t *testing.T, witness *netns.NS) {
	t.Helper()
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribeAt(vishnetns.NsHandle(witness.FD()), updates, done); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		left := witnessLinks(t, witness)
		if len(left) == 0 {
			return
		}
		select {
		case <-updates:
		case <-deadline:
			t.Fatalf("namespaces of a killed lab are still there: %v", left)
		}
	}
}

// hostState is what a lab might change of the network that this process runs in.
func hostState(t *testing.T) []string {
	t.Helper()
	var state []string
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		state = append(state, fmt.Sprint("link ", l.Attrs().Name, l.Attrs().Flags))
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		state = append(state, "route "+r.String())
	}
	for _, path := range podnet.Settings() {
		if value, err := os.ReadFile("/proc/sys/net/" + path); err == nil {
			state = append(state, path+"="+strings.TrimSpace(string(value)))
		}
	}
	return state
}
