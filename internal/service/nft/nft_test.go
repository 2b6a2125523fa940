//go:build linux

package nft_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/service"
	"github.com/ringfence-project/ringfence/internal/service/nft"
)

func (w *world) serveAll() {
	for _, x := range w.hosts {
		x.serve()
	}
}

func TestConnectionsAreSpread(t *testing.T) {
	w := newWorld(t, "web1", "web2", "web3", "client")
	w.serveAll()
	table, _ := w.apply([]service.Service{webService()})
	for family := range 2 {
		for network, port := range map[string]string{"tcp": "http", "udp": "dns"} {
			count := map[string]int{}
			const n = 60
			for range n {
				server, client := w.mustAsk(w.hosts["client"].ns, network, at(table, family, port))
				count[server]++
				if want := w.hosts["client"].addr[family].String(); client != want {
					t.Fatalf("%s saw %s, want the client's own address %s", server, client, want)
				}
			}
			for _, name := range []string{"web1", "web2", "web3"} {
				if count[name] < n/10 { // a fair share is n/3; less than n/10 has a chance below 1 in 10,000
					t.Errorf("%s over IPv%d: %s answered %d of %d: %v", network, 4+2*family, name, count[name], n, count)
				}
			}
		}
	}
}

func TestTableIsListable(t *testing.T) {
	tool, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("the nft tool is not here")
	}
	w := newWorld(t, "web1", "web2")
	sticky := webService()
	sticky.Name, sticky.Affinity, sticky.Kind = "sticky", service.DefaultAffinity, service.NodePort
	empty := webService()
	empty.Name, empty.Selector, empty.Kind = "empty", label.Selector{}, service.NodePort
	w.apply([]service.Service{webService(), sticky, empty})
	var out []byte
	do(t, w.node, func() (err error) {
		out, err = exec.Command(tool, "list", "table", "inet", "ringfence-services").CombinedOutput()
		return err
	})
	t.Logf("%s", out)
	for _, want := range []string{
		"ip daddr . meta l4proto . th dport vmap @services4",
		"dnat ip to numgen random mod 2 map",
		"dnat ip6 to numgen random mod 2 map",
		"10.0.0.2 . 8080",
		"update @clients-shop/sticky/tcp/80/ip6/fd00..2/8080 { ip6 saddr timeout 3h }",
		"ct status dnat ip saddr . ip daddr @hairpin4 masquerade",
		"fib daddr type local goto nodeports",
		"type filter hook prerouting priority dstnat + 5",
		"meta l4proto tcp reject with tcp reset",
		"ip daddr 10.96.0.0/16 goto refuse",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the listing does not say %q", want)
		}
	}
}

func TestUnreadyPodLeavesAtOnceAndItsConnectionsStay(t *testing.T) {
	w := newWorld(t, "web1", "web2", "client")
	w.serveAll()
	client := w.hosts["client"].ns
	table, _ := w.apply([]service.Service{webService()}, "web2")
	to := at(table, 0, "http")
	open, err := dial(client, "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if server, _, err := hear(open); server != "web1" || err != nil {
		t.Fatalf("answered by %q, %v; want the only ready pod, web1", server, err)
	}
	w.apply([]service.Service{webService()}, "web1")
	for range 10 {
		if server, _ := w.mustAsk(client, "tcp", to); server != "web2" {
			t.Errorf("a new connection went to %s, which is not ready", server)
		}
	}
	if _, err := open.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if server, _, err := hear(open); server != "web1" || err != nil {
		t.Errorf("the open connection: %q, %v; want it to stay with web1", server, err)
	}
}

func TestServiceWithoutBackendsRefuses(t *testing.T) {
	w := newWorld(t, "web1", "client")
	w.serveAll()
	s := webService()
	s.Kind = service.NodePort
	table, _ := w.apply([]service.Service{s}, "web1")
	for family := range 2 {
		for network, port := range map[string]string{"tcp": "http", "udp": "dns"} {
			w.refused(w.hosts["client"].ns, network, at(table, family, port))
			if server, _, err := ask(w.node, network, at(table, family, port)); err == nil { // a datagram is EPERM here
				t.Errorf("%s from the node: answered by %s, want it refused", network, server)
			}
			w.refused(w.hosts["outside"].ns, network, nodePortAt(table, family, port))
		}
		w.refused(w.hosts["client"].ns, "tcp", netip.AddrPortFrom(at(table, family, "http").Addr(), 81))
		nobody := []string{"10.96.255.254", "fd00:96::f:ffff"}[family]
		w.refused(w.hosts["client"].ns, "tcp", netip.AddrPortFrom(netip.MustParseAddr(nobody), 80))
	}
	w.apply([]service.Service{s})
	w.mustAsk(w.hosts["client"].ns, "tcp", at(table, 0, "http"))
	w.refused(w.hosts["client"].ns, "tcp", netip.AddrPortFrom(at(table, 0, "http").Addr(), 81)) // still no such port
}

func nodePortAt(table *service.Table, family int, port string) netip.AddrPort {
	for _, f := range table.Frontends {
		if f.PortName == port && f.Address.Is4() == (family == 0) {
			return netip.AddrPortFrom(nodeAddr[family], f.NodePort)
		}
	}
	return netip.AddrPort{}
}

func TestNodePort(t *testing.T) {
	w := newWorld(t, "web1", "client")
	w.serveAll()
	s := webService()
	s.Kind = service.NodePort
	table, _ := w.apply([]service.Service{s})
	for family := range 2 {
		for network, port := range map[string]string{"tcp": "http", "udp": "dns"} {
			for _, from := range []string{"outside", "client"} {
				x := w.hosts[from]
				if _, client := w.mustAsk(x.ns, network, nodePortAt(table, family, port)); client != x.addr[family].String() {
					t.Errorf("%s from %s: the pod saw %s, want %s", network, from, client, x.addr[family])
				}
			}
			w.mustAsk(w.node, network, nodePortAt(table, family, port))
		}
	}
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), nodePortAt(table, 0, "http").Port())
	w.refused(w.node, "tcp", loopback)
}

func TestNodeReachesServices(t *testing.T) {
	w := newWorld(t, "web1")
	w.serveAll()
	table, _ := w.apply([]service.Service{webService()})
	for family := range 2 {
		if _, client := w.mustAsk(w.node, "tcp", at(table, family, "http")); client != nodeAddr[family].String() {
			t.Errorf("the pod saw %s, want the node's %s", client, nodeAddr[family])
		}
	}
}

func TestPodReachesItselfByItsService(t *testing.T) {
	w := newWorld(t, "web1")
	w.serveAll()
	s := webService()
	s.Kind = service.NodePort
	table, _ := w.apply([]service.Service{s})
	pod := w.hosts["web1"]
	for family := range 2 {
		for network, port := range map[string]string{"tcp": "http", "udp": "dns"} {
			for _, to := range []netip.AddrPort{at(table, family, port), nodePortAt(table, family, port)} {
				if _, client := w.mustAsk(pod.ns, network, to); client == pod.addr[family].String() {
					t.Errorf("%s %s: the pod saw itself, want it masqueraded", network, to)
				}
			}
		}
	}
}

func TestAffinity(t *testing.T) {
	w := newWorld(t, "web1", "web2", "web3", "a", "b", "c", "d", "e", "f")
	w.serveAll()
	s := webService()
	s.Affinity = service.DefaultAffinity
	table, _ := w.apply([]service.Service{s})
	clients := []string{"a", "b", "c", "d", "e", "f"}
	backend := map[string]string{}
	for _, name := range clients {
		for range 5 {
			server, _ := w.mustAsk(w.hosts[name].ns, "tcp", at(table, 0, "http"))
			if old := backend[name]; old != "" && old != server {
				t.Fatalf("client %s went to %s and then to %s", name, old, server)
			}
			backend[name] = server
		}
	}
	gone := backend["a"]
	other := webService()
	other.Name = "other"
	w.apply([]service.Service{s, other}, gone)
	for _, name := range clients {
		server, _ := w.mustAsk(w.hosts[name].ns, "tcp", at(table, 0, "http"))
		if server == gone || backend[name] != gone && server != backend[name] {
			t.Errorf("%s left: client %s went from %s to %s", gone, name, backend[name], server)
		}
	}
}

func TestAffinityEnds(t *testing.T) {
	w := newWorld(t, "web1", "web2", "client")
	w.serveAll()
	s := webService()
	s.Affinity = time.Second
	table, _ := w.apply([]service.Service{s})
	first, _ := w.mustAsk(w.hosts["client"].ns, "tcp", at(table, 0, "http"))
	for range 20 { // each time the other one may be chosen with a chance of a half
		time.Sleep(1100 * time.Millisecond)
		if server, _ := w.mustAsk(w.hosts["client"].ns, "tcp", at(table, 0, "http")); server != first {
			return
		}
	}
	t.Errorf("the client stayed with %s for 20 times its affinity", first)
}

// TestUDPClientLeavesABackendThatIsGone: one socket that keeps sending is one flow to the kernel, for ever.
func TestUDPClientLeavesABackendThatIsGone(t *testing.T) {
	w := newWorld(t, "web1", "web2", "client")
	w.serveAll()
	s := webService()
	s.Kind = service.NodePort
	for family := range 2 {
		table, _ := w.apply([]service.Service{s}, "web2")
		for _, to := range []netip.AddrPort{at(table, family, "dns"), nodePortAt(table, family, "dns")} {
			w.apply([]service.Service{s}, "web2")
			c, err := dial(w.hosts["client"].ns, "udp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			heard := func() string {
				server, _, err := hear(c)
				if err != nil {
					return err.Error()
				}
				return server
			}
			again := func() string {
				c.Write([]byte("?"))
				return heard()
			}
			if got := heard(); got != "web1" {
				t.Fatalf("%s: %s, want web1", to, got)
			}
			if _, change := w.apply([]service.Service{s}, "web1"); change.Flows == 0 {
				t.Errorf("%s: no flow was forgotten", to)
			}
			if got := again(); got != "web2" {
				t.Errorf("%s: %s, want web2", to, got)
			}
			w.apply([]service.Service{s}, "web1", "web2")
			if got := again(); !strings.Contains(got, "refused") {
				t.Errorf("%s: %s, want it refused: nobody is ready", to, got)
			}
			w.apply([]service.Service{s}, "web2")
			if got := again(); got != "web1" {
				t.Errorf("%s: %s, want web1, which is back", to, got)
			}
		}
	}
}

func TestDeletedServiceEndsItsUDPFlows(t *testing.T) {
	w := newWorld(t, "web1", "client")
	w.serveAll()
	table, _ := w.apply([]service.Service{webService()})
	c, err := dial(w.hosts["client"].ns, "udp", at(table, 0, "dns"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := hear(c); err != nil {
		t.Fatal(err)
	}
	w.apply(nil)
	c.Write([]byte("?"))
	if server, _, err := hear(c); err == nil {
		t.Errorf("%s answered for a Service that is gone", server)
	}
}

func TestApplySendsOnlyWhatChanged(t *testing.T) {
	w := newWorld(t, "web1", "web2", "web3")
	services := []service.Service{webService()}
	_, first := w.apply(services)
	if first.Zero() {
		t.Error("the first time changed nothing")
	}
	if _, c := w.apply(services); !c.Zero() {
		t.Errorf("the second time did %+v, want nothing", c)
	}
	w.kernel = nft.New(w.node) // another process
	if _, c := w.apply(services); !c.Zero() {
		t.Errorf("another process did %+v, want nothing", c)
	}
	if _, c := w.apply(services, "web3"); c.Chains != 4 || c.Elements != 2 || c.Rebuilt {
		t.Errorf("one pod left: %+v, want 4 chains (2 ports, 2 families) and 2 hairpins", c)
	}
	other := webService()
	other.Name = "other"
	if _, c := w.apply(append(services, other), "web3"); c.Chains != 4 || c.Elements != 6 {
		t.Errorf("one Service more: %+v, want 4 chains, 4 frontends and 2 addresses", c)
	}
	if _, c := w.apply(services, "web3"); c.Chains != 4 || c.Elements != 6 {
		t.Errorf("one Service less: %+v, want the same", c)
	}
}

func TestAddressMovesToAnotherService(t *testing.T) {
	w := newWorld(t, "web1", "other1", "client")
	w.serveAll()
	a, b := webService(), webService()
	b.Name, b.Selector = "web-b", label.MustParse("app=other")
	to := netip.MustParseAddrPort("10.96.0.77:80")
	a.ClusterIPs = []netip.Addr{to.Addr()}
	w.apply([]service.Service{a, b})
	if server, _ := w.mustAsk(w.hosts["client"].ns, "tcp", to); server != "web1" {
		t.Fatalf("answered by %s, want web1", server)
	}
	a.ClusterIPs, b.ClusterIPs = nil, a.ClusterIPs
	w.apply([]service.Service{a, b})
	if server, _ := w.mustAsk(w.hosts["client"].ns, "tcp", to); server != "other1" {
		t.Errorf("answered by %s, want other1", server)
	}
}

// TestDamageIsPutRight: whatever somebody did to the table, Apply brings it back.
func TestDamageIsPutRight(t *testing.T) {
	tool, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("the nft tool is not here")
	}
	w := newWorld(t, "web1", "client")
	w.serveAll()
	s, sticky := webService(), webService()
	sticky.Name, sticky.Affinity = "sticky", time.Hour
	table, _ := w.apply([]service.Service{s, sticky})
	list := func() (text string) {
		do(t, w.node, func() error {
			out, err := exec.Command(tool, "-s", "list", "table", "inet", "ringfence-services").CombinedOutput()
			text = string(out)
			return err
		})
		return text
	}
	want := list()
	for _, damage := range []string{
		"delete table inet ringfence-services",
		"flush table inet ringfence-services",
		"flush chain inet ringfence-services translate",
		"insert rule inet ringfence-services translate accept",
		"add rule inet ringfence-services prerouting drop comment foreign",
		"add chain inet ringfence-services mine { type filter hook prerouting priority 0 ; policy drop ; }",
		"add chain inet ringfence-services mine",
		"add set inet ringfence-services mine { type ipv4_addr ; }",
		"flush map inet ringfence-services services4",
		"add element inet ringfence-services addresses4 { 10.0.0.9 }",
		"add table inet ringfence-services { flags dormant ; }",
	} {
		do(t, w.node, func() error {
			out, err := exec.Command(tool, damage).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %s", damage, out)
			}
			return nil
		})
		_, change := w.apply([]service.Service{s, sticky})
		if got := list(); change.Zero() || sortedLines(got) != sortedLines(want) {
			t.Errorf("after %q: %+v and\n%s\nwant\n%s", damage, change, got, want)
		}
		w.mustAsk(w.hosts["client"].ns, "tcp", at(table, 0, "http"))
	}
}

// sortedLines leaves out the order, which is that of making.
func sortedLines(s string) string {
	lines := strings.Fields(s)
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func TestRemove(t *testing.T) {
	w := newWorld(t, "web1", "client")
	w.serveAll()
	table, _ := w.apply([]service.Service{webService()})
	for range 2 { // that there is none is no error
		if err := w.kernel.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if server, _, err := ask(w.node, "tcp", at(table, 0, "http")); err == nil {
		t.Errorf("%s answered after Remove", server)
	}
	if _, c := w.apply([]service.Service{webService()}); c.Zero() {
		t.Error("Apply after Remove did nothing")
	}
	w.mustAsk(w.hosts["client"].ns, "tcp", at(table, 0, "http"))
}

// TestManyServices: more than fits the default socket buffers and one message.
func TestManyServices(t *testing.T) {
	w := newWorld(t, "web1", "web2", "client")
	w.serveAll()
	services := []service.Service{webService()}
	for i := range 300 {
		s := webService()
		s.Name = fmt.Sprintf("s%d", i)
		services = append(services, s)
	}
	start := time.Now()
	table, _ := w.apply(services)
	t.Logf("301 Services, %d frontends: %s", len(table.Frontends), time.Since(start))
	start = time.Now()
	if _, c := w.apply(services[:300]); c.Chains != 4 {
		t.Errorf("one Service less: %+v", c)
	}
	t.Logf("one Service less: %s", time.Since(start))
	start = time.Now()
	w.apply(services[:300], "web1")
	t.Logf("a pod of all of them leaves: %s", time.Since(start))
	w.mustAsk(w.hosts["client"].ns, "tcp", at(table, 1, "http"))
}
