//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Level says how bad a Finding is. The zero value is the worst.
type Level string

// The levels.
const (
	Lack    Level = "lack"    // `up` does not work as promised
	Without Level = "without" // something that not everybody needs is not there
	OK      Level = "ok"
)

// Finding is one thing that Examine looked at.
type Finding struct {
	Name    string `json:"name"`
	Level   Level  `json:"level"`
	Detail  string `json:"detail,omitempty"`  // what was found
	Follows string `json:"follows,omitempty"` // from a lack
}

// check is a thing to look at: what it is called, what follows if it fails, and whether that is for everybody.
type check struct {
	name    string
	look    func() (string, error)
	follows string
	level   Level // if it fails
}

// Examine tries everything that an instance needs of the machine, in a network namespace of its own. It changes nothing.
func Examine(i Instance) []Finding {
	ns, err := netns.New()
	if ns != nil {
		defer ns.Close()
	}
	in := func(f func() (string, error)) func() (string, error) {
		return func() (detail string, _ error) {
			if err != nil {
				return "", err
			}
			return detail, ns.Do(func() (err error) { detail, err = f(); return err })
		}
	}
	checks := []check{
		{"kernel", kernel, "nothing is known of this kernel", Without},
		{"namespaces", namespaces, "pods cannot be made: up needs the rights of root (CAP_SYS_ADMIN, CAP_NET_ADMIN)", Lack},
		{"nftables", in(func() (string, error) { return "", rules(ns, 0) }), "policies cannot be put in force", Lack},
		{"denials", in(func() (string, error) { return "", rules(ns, 1) }), "denials are counted but not reported", Lack},
		{"routed pods", in(func() (string, error) { return "", setUp(ns, false) }), "pods cannot be connected", Lack},
		{"bridge", in(func() (string, error) { return "", setUp(ns, true) }), "--topology bridge does not work: load the module br_netfilter", Without},
		{"IPv6", in(setting("ipv6/conf/all/disable_ipv6")), "pods have no IPv6 addresses, and up does not start", Lack},
		{"connection tracking", in(setting("netfilter/nf_conntrack_max")), "replies are not told from new connections", Lack},
		{"bytes and times", in(setting("netfilter/nf_conntrack_acct", "netfilter/nf_conntrack_timestamp")), "flows have no bytes and no durations", Without},
		{"SCTP", sctp, "the built-in listener does not listen on SCTP ports", Without},
		{"process descriptors", pidfd, "a process could be taken for another one that has its number later: Linux 5.10 or newer is needed", Lack},
		{"folders", func() (string, error) { return i.Run + ", " + i.State, i.tryFolders() }, "up cannot keep what it needs to: choose others with --run and --state", Lack},
		{"folders of pods", func() (string, error) { return "", i.tryPassing() }, "pods that run as another user than root do not get to their folders: choose another with --state", Without},
		{"file watches", watches, "changes of manifests are seen a few seconds late: raise fs.inotify.max_user_watches", Without},
		{"shell", tool("sh"), "pods cannot run commands", Lack},
		{"nft", tool("nft"), "rules cannot be looked at by hand", Without},
	}
	var all []Finding
	for _, c := range checks {
		detail, err := c.look()
		f := Finding{Name: c.name, Level: OK, Detail: detail}
		if err != nil {
			f.Level, f.Detail, f.Follows = c.level, err.Error(), c.follows
		}
		all = append(all, f)
	}
	return all
}

func kernel() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]), nil
}

// namespaces makes one of each kind on a thread that ends.
func namespaces() (string, error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		done <- unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID)
	}()
	return "", <-done
}

// rules puts a small ruleset in force and reads it back.
func rules(ns *netns.NS, logGroup uint16) error {
	dp, err := nft.New(nft.Options{NetNS: ns.FD(), LogGroup: logGroup})
	if err != nil {
		return err
	}
	defer dp.Close()
	r := ruleset.New()
	r.Generation = 1
	r.Locals[netip.MustParseAddr("192.0.2.1")] = ruleset.Attachment{}
	if err := dp.Replace(context.Background(), r); err != nil {
		return err
	}
	_, err = dp.Realized(context.Background())
	return err
}

func setUp(ns *netns.NS, bridge bool) error {
	return podnet.Net{Bridge: bridge, Ranges: PodRanges, Address: NodeAddresses}.SetUp(ns)
}

// setting looks whether settings below /proc/sys/net are there.
func setting(names ...string) func() (string, error) {
	return func() (string, error) {
		for _, name := range names {
			if _, err := os.Stat("/proc/sys/net/" + name); err != nil {
				return "", err
			}
		}
		return "", nil
	}
}

func sctp() (string, error) {
	if !echo.HasSCTP() {
		return "", errors.New("the kernel has no SCTP sockets")
	}
	return "", nil
}

func pidfd() (string, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if err != nil {
		return "", fmt.Errorf("pidfd_open: %w", err)
	}
	return "", unix.Close(fd)
}

// tryFolders looks whether the folders, or the nearest ones above that are there, can be written to, and whether paths
// of sockets fit.
func (i Instance) tryFolders() error {
	const socket = "/sock"
	if n := len(i.podDir(cluster.Key{})) + len(socket); n > 107 {
		return fmt.Errorf("%s: paths of sockets below it would have %d bytes, and 107 is the most", i.Run, n)
	}
	for _, dir := range []string{i.Run, i.State} {
		for {
			err := unix.Access(dir, unix.W_OK)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
				return fmt.Errorf("%s: %w", dir, err)
			}
			dir = filepath.Dir(dir)
		}
	}
	return nil
}

// tryPassing looks whether everybody gets through the folders above the pods' own.
func (i Instance) tryPassing() error {
	for dir := filepath.Dir(i.State); dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o001 == 0 {
			return fmt.Errorf("%s has mode %04o", dir, info.Mode().Perm())
		}
	}
	return nil
}

func watches() (string, error) {
	data, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches")
	return strings.TrimSpace(string(data)) + " folders", err
}

func tool(name string) func() (string, error) {
	return func() (string, error) { return exec.LookPath(name) }
}
