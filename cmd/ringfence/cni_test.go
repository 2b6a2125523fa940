package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cni"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/netns/netnstest"
	"github.com/ringfence-project/ringfence/internal/podnet"
)

// cniNode is a node of its own with pods that other plugins made a network for.
type cniNode struct {
	*testing.T
	net     podnet.Net
	node    *netns.NS
	pods    map[int]*netns.NS
	records string
	servers echo.Servers
}

func newCNINode(t *testing.T) *cniNode {
	n := &cniNode{T: t, records: filepath.Join(t.TempDir(), "records"), pods: map[int]*netns.NS{}, net: podnet.Net{
		Ranges:  [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")},
		Address: [2]netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8::10")}}}
	n.node = netnstest.New(n)
	n.must(n.net.SetUp(n.node))
	t.Cleanup(n.servers.Close)
	return n
}

func (n *cniNode) must(err error) {
	n.Helper()
	if errors.Is(err, dataplane.ErrNotSupported) {
		n.Skip(err)
	}
	if err != nil {
		n.Fatal(err)
	}
}

func podAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 0, byte(i)}) }

// plug does what the plugins before ours do.
func (n *cniNode) plug(i int) {
	n.Helper()
	n.pods[i] = netnstest.New(n)
	port := podnet.Port{Veth: fmt.Sprint("veth", i), Number: i, Addresses: []netip.Addr{podAddress(i)}}
	n.must(n.net.Plug(n.node, n.pods[i], port))
	n.must(podnet.AwaitUp(n.Context(), n.node, nil, port.Veth))
	n.must(n.pods[i].Do(func() error { return n.servers.Listen(podAddress(i), cluster.Port{Protocol: flow.TCP, Number: 80}) }))
}

// call calls the plugin for a pod, as a runtime in the node's namespaces does.
func (n *cniNode) call(command string, i int) error {
	n.Helper()
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "type": "ringfence", "records": %q, "prevResult": {"cniVersion": "1.0.0",
		"interfaces": [{"name": "eth0", "sandbox": "x"}], "ips": [{"interface": 0, "address": "%s/24"}]}}`, n.records, podAddress(i))
	cmd := exec.Command("ringfence") // this very binary, see TestMain
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c"+fmt.Sprint(i), "CNI_IFNAME=eth0", "CNI_PATH=/none",
		fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), n.pods[i].FD()), "CNI_ARGS=K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IgnoreUnknown=1")
	cmd.Stdin = bytes.NewBufferString(conf)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := n.node.Do(cmd.Run); err != nil {
		return fmt.Errorf("%w: %s", err, out.String())
	}
	return nil
}

// reach tries a connection to a pod, for as long as it may take where it should work.
func (n *cniNode) reach(from *netns.NS, to int, patience time.Duration) error {
	return from.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(podAddress(to), 80).String(), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	})
}

const (
	long  = 20 * time.Second
	short = 300 * time.Millisecond
)

// From the plugin's call on a pod can neither send nor be reached but by its node; one that started before it was there
// is what it was.
func TestCNIClosesPods(t *testing.T) {
	n := newCNINode(t)
	for _, i := range []int{2, 3, 4} {
		n.plug(i)
	}
	if err := n.reach(n.pods[2], 3, long); err != nil {
		t.Fatal("before there is a table: ", err)
	}
	n.must(n.call("ADD", 2))
	if err := n.reach(n.node, 2, long); err != nil {
		t.Error("the node does not reach its pod: ", err)
	}
	if err := n.reach(n.pods[3], 4, long); err != nil {
		t.Error("pods that the plugin was not called for do not reach each other: ", err)
	}
	for _, end := range [][2]int{{2, 3}, {3, 2}} {
		if n.reach(n.pods[end[0]], end[1], short) == nil {
			t.Errorf("pod %d reaches pod %d", end[0], end[1])
		}
	}
	n.must(n.call("ADD", 3)) // the table is there already
	if n.reach(n.pods[3], 4, short) == nil {
		t.Error("the second pod is open")
	}
	n.must(n.call("CHECK", 2))
	n.must(n.call("DEL", 2))
	records, err := cni.ReadRecords(n.records)
	if err != nil || len(records) != 1 || records[0].Interface != "veth3" || records[0].Pod != "web" {
		t.Errorf("the records are %v, %v", records, err)
	}
	if n.reach(n.pods[2], 3, short) == nil {
		t.Error("after DEL the address is open")
	}
}

// Without a table nothing is closed, and the plugin notices.
func TestCNICheckMissesTheTable(t *testing.T) {
	n := newCNINode(t)
	n.plug(2)
	n.must(n.call("ADD", 2))
	n.must(n.node.Do(func() error { return removeTables(context.Background()) }))
	if err := n.call("CHECK", 2); err == nil {
		t.Error("CHECK passes without a table")
	}
	n.must(n.call("ADD", 2))
	n.must(n.call("CHECK", 2))
}

// Taking Ringfence off a node opens it.
func TestCNIUninstallRemovesTables(t *testing.T) {
	n := newCNINode(t)
	n.plug(2)
	n.plug(3)
	n.must(n.call("ADD", 2))
	dir := t.TempDir()
	cmd := exec.Command("ringfence", "cni", "uninstall", "--bin-dir", dir, "--conf-dir", dir, "--tables")
	if err := n.node.Do(cmd.Run); err != nil {
		t.Fatal(err)
	}
	if err := n.reach(n.pods[2], 3, long); err != nil {
		t.Error(err)
	}
	dp, err := nft.New(nft.Options{NetNS: n.node.FD()})
	n.must(err)
	defer dp.Close()
	if r, err := dp.Realized(t.Context()); err != nil || len(r.Locals) > 0 {
		t.Errorf("there is %v, %v", r, err)
	}
}
