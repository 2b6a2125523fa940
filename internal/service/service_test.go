package service_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/service"
)

func key(name string) cluster.Key { return cluster.Key{Namespace: "shop", Name: name} }

func pod(name, app string, ports []cluster.Port, addresses ...string) *cluster.Endpoint {
	e := &cluster.Endpoint{Key: key(name), Labels: label.MustSet(map[string]string{"app": app}), Ports: ports}
	for _, a := range addresses {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
	}
	return e
}

func web() service.Service {
	return service.Service{Key: key("web"), Selector: label.MustParse("app=web"), ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.5")},
		Ports: []service.Port{{Name: "http", Protocol: flow.TCP, Port: 80, TargetName: "web"}}}
}

var ranges = service.Options{Range4: netip.MustParsePrefix("10.96.0.0/16"), Range6: netip.MustParsePrefix("fd00:96::/108")}

// pods have the port "web" under different numbers, or not at all.
var pods = []*cluster.Endpoint{
	pod("a", "web", []cluster.Port{{Name: "web", Protocol: flow.TCP, Number: 8080}}, "10.0.0.1", "fd00::1"),
	pod("b", "web", []cluster.Port{{Name: "web", Protocol: flow.UDP, Number: 1}, {Name: "web", Protocol: flow.TCP, Number: 9090}}, "10.0.0.2"),
	pod("c", "web", nil, "10.0.0.3"),
	pod("d", "web", []cluster.Port{{Name: "web", Protocol: flow.TCP, Number: 8080}}), // no address yet
	pod("e", "other", []cluster.Port{{Name: "web", Protocol: flow.TCP, Number: 8080}}, "10.0.0.5"),
}

func TestTable(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*service.Service)
		ready  func(cluster.Key) bool
		want   string
	}{
		"named target ports are each pod's own": {nil, nil, "shop/web http tcp 10.96.0.5:80 -> 10.0.0.1:8080 10.0.0.2:9090"},
		"a number is every pod's": {func(s *service.Service) { s.Ports[0].TargetName, s.Ports[0].Target = "", 81 }, nil,
			"shop/web http tcp 10.96.0.5:80 -> 10.0.0.1:81 10.0.0.2:81 10.0.0.3:81"},
		"no target is the same port": {func(s *service.Service) { s.Ports[0].TargetName = "" }, nil,
			"shop/web http tcp 10.96.0.5:80 -> 10.0.0.1:80 10.0.0.2:80 10.0.0.3:80"},
		"unready pods leave": {nil, func(k cluster.Key) bool { return k.Name != "a" }, "shop/web http tcp 10.96.0.5:80 -> 10.0.0.2:9090"},
		"nobody ready":       {nil, func(cluster.Key) bool { return false }, "shop/web http tcp 10.96.0.5:80 -> refused"},
		"published all the same": {func(s *service.Service) { s.PublishNotReady = true }, func(cluster.Key) bool { return false },
			"shop/web http tcp 10.96.0.5:80 -> 10.0.0.1:8080 10.0.0.2:9090"},
		"no selector":       {func(s *service.Service) { s.Selector = label.Selector{} }, nil, "shop/web http tcp 10.96.0.5:80 -> refused"},
		"another namespace": {func(s *service.Service) { s.Namespace = "other" }, nil, "other/web http tcp 10.96.0.5:80 -> refused"},
		"affinity and node port": {func(s *service.Service) {
			s.Affinity, s.Kind, s.Ports[0].NodePort = time.Minute, service.NodePort, 30080
		}, nil,
			"shop/web http tcp 10.96.0.5:80 node 30080 affinity 1m0s -> 10.0.0.1:8080 10.0.0.2:9090"},
		"both families": {func(s *service.Service) { s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr("fd00:96::5")) }, nil,
			"shop/web http tcp 10.96.0.5:80 -> 10.0.0.1:8080 10.0.0.2:9090\nshop/web http tcp [fd00:96::5]:80 -> [fd00::1]:8080"},
		"headless":      {func(s *service.Service) { s.Kind, s.ClusterIPs = service.Headless, nil }, nil, ""},
		"external name": {func(s *service.Service) { s.Kind, s.ClusterIPs, s.ExternalName = service.ExternalName, nil, "a.b" }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := web()
			if c.change != nil {
				c.change(&s)
			}
			got := strings.TrimSpace(service.Compute([]service.Service{s}, pods, c.ready, ranges).String())
			if got != c.want {
				t.Errorf("table\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestEndpointsOfHeadlessService(t *testing.T) {
	set := pod("db-0", "db", nil, "10.0.0.7", "fd00::7")
	set.Owner = cluster.Owner{Kind: "StatefulSet", Name: "db"}
	s := service.Service{Key: key("db"), Kind: service.Headless, Selector: label.MustParse("app=db"), Ports: []service.Port{{Name: "x", Protocol: flow.TCP, Port: 1}}}
	e := service.Compute([]service.Service{s}, []*cluster.Endpoint{set}, func(cluster.Key) bool { return false }, ranges).Entries[0]
	if len(e.Addresses) > 0 || len(e.Endpoints) != 1 {
		t.Fatalf("%+v, want one endpoint and no address", e)
	}
	if p := e.Endpoints[0]; p.Hostname != "db-0" || p.Ready || len(p.Addresses) != 2 || p.Ports[0] != 1 {
		t.Errorf("%+v, want db-0 with two addresses and port 1, not ready", p)
	}
}

func TestProblems(t *testing.T) {
	at := func(name string, change func(*service.Service)) service.Service {
		s := web()
		s.Name, s.File, s.Line = name, "web.yaml", 3
		change(&s)
		return s
	}
	ip := func(a string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(a)} }
	for name, c := range map[string]struct {
		services []service.Service
		options  service.Options
		want     string
	}{
		"an address twice": {[]service.Service{at("a", func(*service.Service) {}), at("b", func(*service.Service) {})}, ranges,
			"web.yaml:3: Service shop/b: clusterIP 10.96.0.5 is that of Service shop/a: use another"},
		"a pod's address": {[]service.Service{at("a", func(s *service.Service) { s.ClusterIPs = ip("10.0.0.1") })}, ranges, "is taken (pod shop/a)"},
		"loopback":        {[]service.Service{at("a", func(s *service.Service) { s.ClusterIPs = ip("127.0.0.1") })}, ranges, "no address that a Service can have"},
		"reserved": {[]service.Service{at("a", func(*service.Service) {})},
			service.Options{Range4: ranges.Range4, Reserved: ip("10.96.0.5")}, "is taken (reserved)"},
		"a Service twice": {[]service.Service{at("a", func(*service.Service) {}), at("a", func(*service.Service) {})}, ranges, "is there twice"},
		"no range":        {[]service.Service{at("a", func(s *service.Service) { s.ClusterIPs, s.Families = nil, []service.Family{service.IPv6} })}, service.Options{}, "IPv6"},
		"a full range": {[]service.Service{at("a", func(s *service.Service) { s.ClusterIPs = nil }), at("b", func(s *service.Service) { s.ClusterIPs = nil }), at("c", func(s *service.Service) { s.ClusterIPs = nil })},
			service.Options{Range4: netip.MustParsePrefix("10.96.0.0/30")}, "Service shop/c: no address left in 10.96.0.0/30"},
		"a range of nothing": {[]service.Service{at("a", func(s *service.Service) { s.ClusterIPs = nil })}, service.Options{Range4: netip.MustParsePrefix("10.96.0.0/32")}, "no address left"},
		"a node port outside": {[]service.Service{at("a", func(s *service.Service) { s.Kind, s.Ports[0].NodePort = service.NodePort, 22 })}, ranges,
			"nodePort 22 is not in the range 30000-32767"},
		"a node port twice": {[]service.Service{at("a", func(s *service.Service) { s.Kind, s.Ports[0].NodePort = service.NodePort, 30000 }),
			at("b", func(s *service.Service) { s.Kind, s.Ports[0].NodePort, s.ClusterIPs = service.NodePort, 30000, nil })}, ranges, "nodePort 30000/tcp is that of Service shop/a"},
		"port 0":            {[]service.Service{at("a", func(s *service.Service) { s.Ports[0].Port = 0 })}, ranges, "is no port"},
		"no protocol":       {[]service.Service{at("a", func(s *service.Service) { s.Ports[0].Protocol = 0 })}, ranges, "is no port"},
		"a port twice":      {[]service.Service{at("a", func(s *service.Service) { s.Ports = append(s.Ports, s.Ports[0]) })}, ranges, "port 80/tcp is there twice"},
		"a long name":       {[]service.Service{at(strings.Repeat("a", 64), func(*service.Service) {})}, ranges, "longer than 63"},
		"negative affinity": {[]service.Service{at("a", func(s *service.Service) { s.Affinity = -1 })}, ranges, "use a positive time"},
	} {
		t.Run(name, func(t *testing.T) {
			got := service.Compute(c.services, pods, nil, c.options).Problems
			if len(got) != 1 || !strings.Contains(got[0].String(), c.want) {
				t.Errorf("problems %v, want one with %q", got, c.want)
			}
		})
	}
}

// TestAddressesAreForEver: what is given out is part of what users write down, so it must not change with the program.
func TestAddressesAreForEver(t *testing.T) {
	s := web()
	s.ClusterIPs, s.Kind = nil, service.NodePort
	got := service.Compute([]service.Service{s}, nil, nil, ranges).String()
	want := `shop/web http tcp 10.96.176.107:80 node 30222 -> refused
shop/web http tcp [fd00:96::b:699d]:80 node 30222 -> refused
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// drawServices are Services of few names in a small range, so that they get into each other's way.
func drawServices(t *rapid.T) []service.Service {
	names := rapid.SliceOfNDistinct(rapid.IntRange(0, 30), 0, 12, rapid.ID[int]).Draw(t, "names")
	var out []service.Service
	for _, n := range names {
		s := web()
		s.Name, s.ClusterIPs = fmt.Sprintf("s%d", n), nil
		s.Kind = rapid.SampledFrom([]service.Kind{service.ClusterIP, service.NodePort, service.Headless}).Draw(t, "kind")
		if rapid.IntRange(0, 3).Draw(t, "asks") == 0 {
			s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(rapid.IntRange(1, 14).Draw(t, "address"))})}
		}
		if rapid.Bool().Draw(t, "asks for a port") {
			s.Ports[0].NodePort = uint16(rapid.IntRange(30000, 30005).Draw(t, "port"))
		}
		out = append(out, s)
	}
	return out
}

var small = service.Options{Range4: netip.MustParsePrefix("10.96.0.0/28"), NodePorts: service.PortRange{First: 30000, Last: 30015}}

func TestAllocationProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		services := drawServices(t)
		table := service.Compute(services, pods, nil, small)
		text := table.String()
		shuffled := slices.Clone(services)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := service.Compute(shuffled, pods, nil, small).String(); got != text {
			t.Fatalf("in another order\n%s\nnot\n%s", got, text)
		}
		unique := map[string]cluster.Key{}
		claim := func(what string, k cluster.Key) {
			if old, taken := unique[what]; taken && old != k {
				t.Fatalf("%s is of %s and of %s\n%s", what, old, k, text)
			}
			unique[what] = k
		}
		for _, f := range table.Frontends {
			claim(f.Address.String(), f.Service)
			if !small.Range4.Contains(f.Address) {
				t.Fatalf("%s is outside of the range", f)
			}
			if f.NodePort != 0 {
				claim(fmt.Sprint("port ", f.NodePort), f.Service)
			}
		}
		// Who was given something keeps it, whoever comes or goes, unless a newcomer asks for just that.
		kept := small
		kept.Kept = table.Allocation()
		var asked []string
		var next []service.Service
		for _, s := range services {
			if rapid.Bool().Draw(t, "stays") {
				next = append(next, s)
			}
		}
		newcomer := web()
		newcomer.Name = "newcomer"
		newcomer.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.9")}
		asked = append(asked, "10.96.0.9")
		next = append(next, newcomer)
		for _, e := range service.Compute(next, pods, nil, kept).Entries {
			old := kept.Kept.Addresses[e.Service.Key]
			if len(old) > 0 && !slices.Equal(e.Addresses, old) && !slices.Contains(asked, old[0].String()) && len(e.Service.ClusterIPs) == 0 {
				t.Fatalf("%s had %v and has %v", e.Service.Key, old, e.Addresses)
			}
		}
	})
}
