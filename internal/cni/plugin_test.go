//go:build linux

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/vishvananda/netlink"

	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
)

// TestMain lets the test binary be the plugins that libcni starts, as a container runtime would.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case PluginType:
		skel.PluginMainFuncs(Plugin(fileGuard{}), Versions(), "test")
	case "plug":
		skel.PluginMainFuncs(skel.CNIFuncs{Add: plug, Check: nothing, Del: nothing, GC: nothing, Status: nothing}, version.All, "test")
	default:
		os.Exit(m.Run())
	}
}

func nothing(*skel.CmdArgs) error { return nil }

// plug is the plugin before ours: it makes an interface.
func plug(args *skel.CmdArgs) error {
	var conf struct {
		types.PluginConf
		Kind      string
		Addresses []string
	}
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return err
	}
	pod, err := netns.Open(args.Netns)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Namespace = args.IfName, netlink.NsFd(pod.FD())
	var link netlink.Link = &netlink.Veth{LinkAttrs: attrs, PeerName: "veth-" + args.ContainerID}
	if conf.Kind == "bridge" {
		link = &netlink.Bridge{LinkAttrs: attrs}
	}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: "other"}, {Name: args.IfName, Sandbox: args.Netns}}}
	for i, a := range conf.Addresses {
		ip, network, err := net.ParseCIDR(a)
		if err != nil {
			return err
		}
		network.IP = ip
		owner := types100.Int(1)
		if i == 2 { // not the pod's
			owner = types100.Int(0)
		}
		result.IPs = append(result.IPs, &types100.IPConfig{Interface: owner, Address: *network})
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// fileGuard writes down what it is asked, and fails if there is a file that says so.
type fileGuard struct{}

func (fileGuard) note(what string, args ...any) error {
	dir := os.Getenv("CNI_TEST_DIR")
	if reason, err := os.ReadFile(filepath.Join(dir, "broken")); err == nil {
		return errors.New(string(reason))
	}
	f, err := os.OpenFile(filepath.Join(dir, "asked"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, append([]any{what}, args...)...)
	return err
}

func (g fileGuard) Close(_ context.Context, r Record, ranges []netip.Prefix) error {
	return g.note("close", r.Interface, r.Addresses, ranges)
}

func (g fileGuard) Check(_ context.Context, ranges []netip.Prefix) error {
	return g.note("check", ranges)
}

// world is a node with one pod, and a runtime that is about to start it.
type world struct {
	*testing.T
	dir       string
	node, pod *netns.NS
	runtime   *libcni.CNIConfig
	list      *libcni.NetworkConfigList
	args      *libcni.RuntimeConf
}

func newWorld(t *testing.T, cniVersion, kind string, plugins ...string) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), node: netnstest.New(t), pod: netnstest.New(t)}
	t.Setenv("CNI_TEST_DIR", w.dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{PluginType, "plug"} {
		if err := os.Symlink(self, filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if len(plugins) == 0 {
		plugins = []string{fmt.Sprintf(`{"type": "plug", "kind": %q, "addresses": ["10.1.0.7/24", "fd00::7/64", "192.0.2.1/24"]}`, kind),
			fmt.Sprintf(`{"type": "ringfence", "records": %q, "podCIDRs": ["10.1.0.0/24"]}`, filepath.Join(w.dir, "records"))}
	}
	w.list, err = libcni.NetworkConfFromBytes([]byte(fmt.Sprintf(`{"cniVersion": %q, "name": "pods", "plugins": [%s]}`,
		cniVersion, strings.Join(plugins, ","))))
	if err != nil {
		t.Fatal(err)
	}
	w.runtime = libcni.NewCNIConfigWithCacheDir([]string{w.dir}, filepath.Join(w.dir, "cache"), nil)
	w.args = &libcni.RuntimeConf{ContainerID: "c1", IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.pod.FD()),
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "web-0"}, {"K8S_POD_UID", "u-1"},
			{"K8S_POD_INFRA_CONTAINER_ID", "c1"}}}
	return w
}

// on runs f as a process of the node would.
func (w *world) on(f func(ctx context.Context) error) error {
	return w.node.Do(func() error { return f(w.Context()) })
}

func (w *world) add() (result types.Result, err error) {
	err = w.on(func(ctx context.Context) error {
		result, err = w.runtime.AddNetworkList(ctx, w.list, w.args)
		return err
	})
	return result, err
}

func (w *world) records() []Record {
	w.Helper()
	records, err := ReadRecords(filepath.Join(w.dir, "records"))
	if err != nil {
		w.Fatal(err)
	}
	return records
}

func TestPlugin(t *testing.T) {
	for _, v := range Versions().SupportedVersions() {
		t.Run(v, func(t *testing.T) {
			w := newWorld(t, v, "veth")
			result, err := w.add()
			if err != nil {
				t.Fatal(err)
			}
			if result.Version() != v {
				t.Errorf("the result is of version %s", result.Version())
			}
			if now, err := types100.NewResultFromResult(result); err != nil || len(now.IPs) != 3 {
				t.Errorf("the result of the plugin before did not get through: %v, %v", result, err)
			}
			want := Record{Network: "pods", ContainerID: "c1", IfName: "eth0", Namespace: "shop", Pod: "web-0", UID: "u-1", Interface: "veth-c1",
				Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00::7")}}
			if got := w.records(); len(got) != 1 || !got[0].equal(want) {
				t.Errorf("the records are %+v, not %+v", got, want)
			}
			if asked := read(t, filepath.Join(w.dir, "asked")); asked != "close veth-c1 [10.1.0.7 fd00::7] [10.1.0.0/24]\n" {
				t.Errorf("the guard was asked %q", asked)
			}
			w.checks(v)
			for range 2 { // the second time nothing is there any more
				if err := w.on(func(ctx context.Context) error { return w.runtime.DelNetworkList(ctx, w.list, w.args) }); err != nil {
					t.Error("DEL:", err)
				}
			}
			if left := w.records(); len(left) > 0 {
				t.Errorf("after DEL there are %v", left)
			}
		})
	}
}

// checks covers CHECK, which came with version 0.4.0.
func (w *world) checks(v string) {
	w.Helper()
	check := func() error {
		return w.on(func(ctx context.Context) error { return w.runtime.CheckNetworkList(ctx, w.list, w.args) })
	}
	if can, _ := version.GreaterThanOrEqualTo(v, "0.4.0"); !can {
		return
	}
	if err := check(); err != nil {
		w.Error("CHECK:", err)
	}
	record := filepath.Join(w.dir, "records", "c1:eth0.json")
	text := read(w.T, record)
	write(w.T, record, strings.Replace(text, "10.1.0.7", "10.1.0.8", 1))
	if err := check(); err == nil {
		w.Error("CHECK takes the record of another address")
	}
	write(w.T, record, text)
	write(w.T, filepath.Join(w.dir, "broken"), "no table")
	if err := check(); err == nil || !strings.Contains(err.Error(), "no table") {
		w.Error("CHECK without a table:", err)
	}
}

// Where the table cannot be loaded no pod starts.
func TestPluginFailsClosed(t *testing.T) {
	w := newWorld(t, "1.1.0", "veth")
	status := func() error {
		return w.on(func(ctx context.Context) error { return w.runtime.GetStatusNetworkList(ctx, w.list) })
	}
	if err := status(); err != nil {
		t.Error("STATUS:", err)
	}
	write(t, filepath.Join(w.dir, "broken"), "nftables: not supported")
	if _, err := w.add(); err == nil || !strings.Contains(err.Error(), "does not start") || !strings.Contains(err.Error(), "nftables: not supported") {
		t.Errorf("the pod starts: %v", err)
	}
	if left := w.records(); len(left) > 0 {
		t.Errorf("there are %v", left)
	}
	var e *types.Error
	if err := status(); !errors.As(err, &e) || e.Code != types.ErrPluginNotAvailable {
		t.Errorf("STATUS: %v", err)
	}
}

func TestPluginRefuses(t *testing.T) {
	t.Run("what netfilter does not see", func(t *testing.T) {
		w := newWorld(t, "1.0.0", "bridge")
		if _, err := w.add(); err == nil || !strings.Contains(err.Error(), "eth0 of the pod is a bridge") {
			t.Error(err)
		}
	})
	t.Run("to be alone", func(t *testing.T) {
		w := newWorld(t, "1.0.0", "veth", `{"type": "ringfence"}`)
		if _, err := w.add(); err == nil || !strings.Contains(err.Error(), "has to come after a plugin") {
			t.Error(err)
		}
	})
	t.Run("a range that is none", func(t *testing.T) {
		w := newWorld(t, "1.0.0", "veth", `{"type": "plug", "addresses": []}`, `{"type": "ringfence", "podCIDRs": ["10.0.0.0/99"]}`)
		if _, err := w.add(); err == nil || !strings.Contains(err.Error(), "cannot read the network configuration") {
			t.Error(err)
		}
	})
}

// GC keeps what the runtime knows, and what other networks plugged in.
func TestPluginGC(t *testing.T) {
	w := newWorld(t, "1.1.0", "veth")
	dir := filepath.Join(w.dir, "records")
	for _, r := range []Record{
		{Network: "pods", ContainerID: "c1", IfName: "eth0"}, {Network: "pods", ContainerID: "c1", IfName: "eth1"},
		{Network: "pods", ContainerID: "c2", IfName: "eth0"}, {Network: "storage", ContainerID: "c2", IfName: "net1"},
	} {
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	err := w.on(func(ctx context.Context) error {
		return w.runtime.GCNetworkList(ctx, w.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}})
	})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, r := range w.records() {
		left = append(left, r.Network+" "+r.ContainerID+" "+r.IfName)
	}
	if want := []string{"pods c1 eth0", "storage c2 net1"}; !slices.Equal(left, want) {
		t.Errorf("left are %v, not %v", left, want)
	}
}

// A record that is spoiled hides no other.
func TestReadRecords(t *testing.T) {
	dir := t.TempDir()
	good := Record{Network: "pods", ContainerID: "c1", IfName: "eth0", Interface: "veth1"}
	if err := good.write(dir); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "c2:eth0.json"), "{")
	write(t, filepath.Join(dir, "c3:eth0.json.new"), "{")
	write(t, filepath.Join(dir, "notes"), "{")
	records, err := ReadRecords(dir)
	if len(records) != 1 || !records[0].equal(good) {
		t.Errorf("the records are %v", records)
	}
	if err == nil || !strings.Contains(err.Error(), "c2:eth0.json") {
		t.Errorf("the error is %v", err)
	}
	if records, err := ReadRecords(filepath.Join(dir, "missing")); len(records) > 0 || err != nil {
		t.Errorf("a missing folder has %v, %v", records, err)
	}
}
