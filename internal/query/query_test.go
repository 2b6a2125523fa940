package query_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/service"
)

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

func scope(t *testing.T) query.Scope {
	t.Helper()
	pod := func(ns, name, labels string, owner cluster.Owner, addresses ...string) *cluster.Endpoint {
		set := map[string]string{}
		for _, pair := range strings.Split(labels, ",") {
			k, v, _ := strings.Cut(pair, "=")
			set[k] = v
		}
		return &cluster.Endpoint{Key: cluster.Key{Namespace: ns, Name: name}, Labels: label.MustSet(set), Owner: owner,
			Addresses: addrs(addresses...), Ports: []cluster.Port{{Name: "http", Protocol: flow.TCP, Number: 8080}, {Name: "dns", Protocol: flow.UDP, Number: 53}}}
	}
	web, dbd, dbs := cluster.Owner{Kind: "Deployment", Name: "web"}, cluster.Owner{Kind: "Deployment", Name: "db"}, cluster.Owner{Kind: "StatefulSet", Name: "db"}
	s, err := cluster.NewState(cluster.Objects{
		Namespaces: []cluster.Namespace{{Name: "shop", Labels: label.MustSet(map[string]string{"team": "a"})}},
		Nodes:      []cluster.Node{{Name: "n1", Addresses: addrs("192.0.2.1", "2001:db8::1")}},
		Endpoints: []*cluster.Endpoint{
			pod("shop", "web-1", "app=web,app.kubernetes.io/name=web", web, "10.0.0.1", "fd00::1"),
			pod("shop", "web-2", "app=web,app.kubernetes.io/name=web", web, "10.0.0.2", "fd00::2"),
			pod("shop", "db-1", "app=db", dbd, "10.0.0.3"),
			pod("shop", "db-0", "app=db", dbs, "10.0.0.4"),
			pod("other", "web", "app=web", cluster.Owner{}, "fd00::5"),
			pod("default", "naked", "a=b", cluster.Owner{}),
		},
		Workloads: []cluster.Workload{{Key: cluster.Key{Namespace: "shop", Name: "asleep"}, Kind: "Deployment",
			Template: &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: "asleep"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return query.Scope{State: s}
}

func TestResolve(t *testing.T) {
	s := scope(t)
	for ref, want := range map[string]string{
		"shop/web-1":                      "shop/web-1",
		"shop/web":                        "shop/web-1 shop/web-2",
		"shop/deployment/web":             "shop/web-1 shop/web-2",
		"shop/deploy/web":                 "shop/web-1 shop/web-2",
		"shop/sts/db":                     "shop/db-0",
		"shop/asleep":                     "shop/asleep",
		"other/pod/web":                   "other/web",
		"naked":                           "default/naked",
		"app=web":                         "other/web shop/web-1 shop/web-2",
		"shop/app=web":                    "shop/web-1 shop/web-2",
		"app.kubernetes.io/name=web":      "shop/web-1 shop/web-2",
		"shop/app.kubernetes.io/name=web": "shop/web-1 shop/web-2",
		"shop/*":                          "shop/db-0 shop/db-1 shop/web-1 shop/web-2",
		"shop/app in (web,db),app!=web":   "shop/db-0 shop/db-1",
		"node/n1":                         "node/n1",
		"192.0.2.1":                       "node/n1",
		"10.0.0.1":                        "shop/web-1",
		"[fd00::2]":                       "shop/web-2",
		"203.0.113.1":                     "203.0.113.1",
		"::ffff:10.0.0.1":                 "shop/web-1",
		"shop/web*":                       "shop/web-1 shop/web-2",
		"*/web":                           "other/web shop/web-1 shop/web-2",
		"s*/app=db":                       "shop/db-0 shop/db-1",
		"shop/* !shop/web":                "shop/db-0 shop/db-1",
		"* !shop/* !naked":                "other/web",
		"app=web,!tier !other/web":        "shop/web-1 shop/web-2",
		"app=web, !tier":                  "other/web shop/web-1 shop/web-2",
		"{team=a}/*":                      "shop/db-0 shop/db-1 shop/web-1 shop/web-2",
		"{team=a}/app=db":                 "shop/db-0 shop/db-1",
		"{kubernetes.io/metadata.name=other}/w?b": "other/web",
		"* !{team=a}/*": "default/naked other/web",
	} {
		parties, err := s.Resolve(ref)
		var got []string
		for _, p := range parties {
			got = append(got, p.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q is %v, %v; want %s", ref, got, err, want)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	s := scope(t)
	for ref, want := range map[string]string{
		"":                   "empty",
		"shop/db":            "write one of shop/deployment/db, shop/statefulset/db",
		"shop/wev-1":         "did you mean shop/web-1?",
		"asleep":             "did you mean shop/asleep?",
		"zzzzzzzzzzzz":       "want ns/pod",
		"a/b/c/d":            "want ns/pod",
		"fe80::1%eth0":       "leave out the zone",
		"app=nothing":        "no pod matches",
		"app=a b":            "label value",
		"shop/x*":            "no pod or workload matches",
		"{team=b}/*":         "no pod or workload matches",
		"{team=a":            "want {selector of namespaces}/pods",
		"{a=b c}/*":          "label value",
		"shop/* !*":          "nothing is left of",
		"shop/* !shop/wev-1": "did you mean shop/web-1?",
	} {
		if _, err := s.Resolve(ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", ref, err, want)
		}
	}
}

func TestConnect(t *testing.T) {
	s := scope(t)
	for _, c := range []struct{ from, to, port, want string }{
		{"shop/web-1", "shop/web-2", "80", "10.0.0.1 -> 10.0.0.2:80/tcp, fd00::1 -> [fd00::2]:80/tcp"},
		{"shop/web-1", "shop/db-1", "http", "10.0.0.1 -> 10.0.0.3:8080/tcp"},
		{"shop/web-1", "shop/web-2", "icmp", "10.0.0.1 -> 10.0.0.2 icmp, fd00::1 -> fd00::2 icmpv6"},
		{"shop/web-1", "shop/db-1", "dns", "10.0.0.1 -> 10.0.0.3:53/udp"},
		{"node/n1", "other/web", "53/udp", "2001:db8::1 -> [fd00::5]:53/udp"},
		{"shop/db-1", "other/web", "80", "error: no address family in common"},
		{"default/naked", "shop/web-1", "80", "invalid IP -> 10.0.0.1:80/tcp"},
		{"shop/web-1", "shop/db-1", "https", "error: it declares http, dns"},
		{"shop/web-1", "203.0.113.1", "http", "error: no pod"},
	} {
		if got := connect(s, c.from, c.to, c.port); got != c.want && !(strings.HasPrefix(c.want, "error: ") && strings.Contains(got, c.want[7:])) {
			t.Errorf("%s to %s %s:\n got %s\nwant %s", c.from, c.to, c.port, got, c.want)
		}
	}
}

func connect(s query.Scope, from, to, port string) string {
	a, err := s.Resolve(from)
	if err != nil {
		return err.Error()
	}
	b, err := s.Resolve(to)
	if err != nil {
		return err.Error()
	}
	p, err := query.ParsePort(port)
	if err != nil {
		return err.Error()
	}
	all, err := query.Connect(a[0], b[0], p)
	if err != nil {
		return "error: " + err.Error()
	}
	var texts []string
	for _, c := range all {
		texts = append(texts, c.Tuple().String())
	}
	return strings.Join(texts, ", ")
}

func TestServiceIsItsPodsAndTheirPorts(t *testing.T) {
	s := scope(t)
	s.Services = []service.Service{
		{Key: cluster.Key{Namespace: "shop", Name: "front"}, Selector: label.MustParse("app=web"),
			Ports: []service.Port{{Name: "web", Protocol: flow.TCP, Port: 80, TargetName: "http"}, {Protocol: flow.UDP, Port: 5353, Target: 53}}},
		{Key: cluster.Key{Namespace: "shop", Name: "bare"}, Kind: service.Headless, Selector: label.MustParse("app=db")},
		{Key: cluster.Key{Namespace: "shop", Name: "empty"}, Ports: []service.Port{{Protocol: flow.TCP, Port: 80}}},
	}
	for _, c := range []struct{ ref, port, want string }{
		{"shop/service/front", "80", "shop/web-1 8080 true, shop/web-2 8080 true"},
		{"shop/svc/front", "web", "shop/web-1 8080 true, shop/web-2 8080 true"},
		{"shop/svc/front", "5353/udp", "shop/web-1 53 true, shop/web-2 53 true"},
		{"shop/svc/bare", "5432", "shop/db-0 5432 false, shop/db-1 5432 false"},
		{"shop/svc/front", "81", "Service shop/front has no such port; it has 80/tcp, 5353/udp"},
		{"shop/svc/empty", "80", "no pod is behind"},
		{"shop/svc/none", "80", "no Service is called shop/none"},
	} {
		if got := targets(s, c.ref, c.port); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s: %s, want %s", c.ref, c.port, got, c.want)
		}
	}
}

func targets(s query.Scope, ref, port string) string {
	p, err := query.ParsePort(port)
	if err != nil {
		return err.Error()
	}
	all, err := s.Targets(ref, p)
	if err != nil {
		return err.Error()
	}
	from := s.State.At(netip.MustParseAddr("10.9.9.9"))
	var texts []string
	for _, target := range all {
		connections, err := target.Connect(from)
		if err != nil {
			return err.Error()
		}
		texts = append(texts, fmt.Sprint(target.To, " ", connections[0].Port, " ", connections[0].Translated))
	}
	return strings.Join(texts, ", ")
}

func TestParsePortRefuses(t *testing.T) {
	for _, text := range []string{"0", "0/udp", "icmp/8", "8/icmp", "", "65536", "80/icmp", "80/", "80/nope", "/tcp", "-1/udp/x"} {
		if p, err := query.ParsePort(text); err == nil {
			t.Errorf("ParsePort(%q) = %+v", text, p)
		}
	}
}

func TestSplitPort(t *testing.T) {
	for text, want := range map[string]string{
		"shop/db:5432": "shop/db|5432", "shop/db": "shop/db|", "app in (a,b) !x/y: 80, 81/udp": "app in (a,b) !x/y|80, 81/udp",
		"[2001:db8::1]:53/udp": "[2001:db8::1]|53/udp", "2001:db8::1": "2001:db8::1|", "[2001:db8::1]": "[2001:db8::1]|",
		"2001:db8::1:x": "error", "shop/db:": "error",
	} {
		ref, port, err := query.SplitPort(text)
		if got := ref + "|" + port; got != want && (err == nil || want != "error") {
			t.Errorf("SplitPort(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestPortsPrintAsTheyAreRead(t *testing.T) {
	ports, err := query.ParsePorts("389, 53/udp,ldap,dns/udp,icmp")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(ports); got != "[389 53/udp ldap dns/udp icmp]" {
		t.Error(got)
	}
	if _, err := query.ParsePorts("389,"); err == nil {
		t.Error("an empty port was read")
	}
}
