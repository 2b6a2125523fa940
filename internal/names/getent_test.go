//go:build linux

package names_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ringfence-project/ringfence/internal/names"
)

// TestGetent asks as any program of a pod would: by the C library, with the resolv.conf that pods are given, so that
// short names have to be found by the search path.
func TestGetent(t *testing.T) {
	getent, err := exec.LookPath("getent")
	if err != nil {
		t.Skip("there is no getent here")
	}
	ns := newNS(t)
	var packets net.PacketConn
	if err := ns.Do(func() (err error) {
		packets, err = net.ListenPacket("udp", "127.0.0.1:53")
		return err
	}); err != nil {
		t.Skipf("no right to listen on port 53: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- names.NewServer(zone(t), names.Upstreams{}).Serve(ctx, packets, nil) }()
	defer func() { cancel(); <-done }()
	mounts := ""
	for file, content := range map[string]string{
		"resolv.conf":   names.ResolvConf("shop", "", addrs("127.0.0.1")...),
		"nsswitch.conf": "hosts: files dns\n", // whatever this machine asks besides
	} {
		path := filepath.Join(t.TempDir(), file)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		mounts += "mount --bind " + path + " /etc/" + file + " || exit 77; "
	}
	run := func(command string) (out string, err error) {
		err = ns.Do(func() error {
			c := exec.Command("sh", "-c", mounts+command)
			c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // the mount is seen by this child only
			b, err := c.CombinedOutput()
			out = strings.TrimSpace(string(b))
			return err
		})
		return out, err
	}
	if out, err := run("true"); err != nil {
		t.Skipf("no right to mount: %v %s", err, out)
	}
	for name, want := range map[string]string{
		"web":                         "10.96.0.5",
		"web.shop":                    "10.96.0.5",
		"db-1.db.shop.svc":            "10.0.0.21",
		"web.shop.svc.cluster.local":  "10.96.0.5",
		"web.shop.svc.cluster.local.": "10.96.0.5",
		"inside":                      "10.96.0.5",
	} {
		if out, err := run(getent + " ahostsv4 " + name); err != nil || !strings.HasPrefix(out, want+" ") {
			t.Errorf("%s: %q, %v; want %s", name, out, err, want)
		}
	}
	if out, err := run(getent + " hosts 10.0.0.20"); err != nil || !strings.HasSuffix(out, "db-0.db.shop.svc.cluster.local") {
		t.Errorf("10.0.0.20: %q, %v", out, err)
	}
	if out, err := run(getent + " hosts gone"); err == nil {
		t.Errorf("a name that is not: %q", out)
	}
}
