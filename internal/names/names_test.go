package names_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/names"
	"github.com/ringfence-project/ringfence/internal/service"
)

func addrs(text ...string) (out []netip.Addr) {
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func pod(name, app, owner string, addresses ...string) *cluster.Endpoint {
	return &cluster.Endpoint{Key: cluster.Key{Namespace: "shop", Name: name}, Owner: cluster.Owner{Kind: owner, Name: app},
		Labels: label.MustSet(map[string]string{"app": app}), Addresses: addrs(addresses...)}
}

var (
	servicePorts = []service.Port{{Name: "http", Protocol: flow.TCP, Port: 80, Target: 8080}, {Name: "quic", Protocol: flow.UDP, Port: 443}}
	pods         = []*cluster.Endpoint{
		pod("web-1", "web", "Deployment", "10.0.0.11", "fd00::11"),
		pod("db-0", "db", "StatefulSet", "10.0.0.20", "fd00::20"),
		pod("db-1", "db", "StatefulSet", "10.0.0.21", "fd00::21"),
		pod("db-2", "db", "StatefulSet", "10.0.0.22"), // not ready
		pod("plain", "plain", "", "10.0.0.30"),
	}
	services = []service.Service{
		{Key: cluster.Key{Namespace: "shop", Name: "web"}, ClusterIPs: addrs("10.96.0.5", "fd00:96::5"), Selector: label.MustParse("app=web"), Ports: servicePorts},
		{Key: cluster.Key{Namespace: "shop", Name: "db"}, Kind: service.Headless, Selector: label.MustParse("app=db"), Ports: servicePorts},
		{Key: cluster.Key{Namespace: "shop", Name: "plain"}, Kind: service.Headless, Selector: label.MustParse("app=plain"), Ports: servicePorts},
		{Key: cluster.Key{Namespace: "shop", Name: "empty"}, Kind: service.Headless, Selector: label.MustParse("app=none"), Ports: servicePorts},
		{Key: cluster.Key{Namespace: "shop", Name: "inside"}, Kind: service.ExternalName, ExternalName: "web.shop.svc.cluster.local"},
		{Key: cluster.Key{Namespace: "shop", Name: "outside"}, Kind: service.ExternalName, ExternalName: "db.Example.com"},
		{Key: cluster.Key{Namespace: "shop", Name: "dangling"}, Kind: service.ExternalName, ExternalName: "gone.shop.svc.cluster.local"},
		{Key: cluster.Key{Namespace: "shop", Name: "egg"}, Kind: service.ExternalName, ExternalName: "hen.shop.svc.cluster.local"},
		{Key: cluster.Key{Namespace: "shop", Name: "hen"}, Kind: service.ExternalName, ExternalName: "egg.shop.svc.cluster.local"},
	}
	ranges = service.Options{Range4: netip.MustParsePrefix("10.96.0.0/12"), Range6: netip.MustParsePrefix("fd00:96::/108")}
)

func zone(t testing.TB) *names.Zone {
	t.Helper()
	ready := func(k cluster.Key) bool { return k.Name != "db-2" }
	table := service.Compute(services, pods, ready, ranges)
	if len(table.Problems) > 0 {
		t.Fatal(table.Problems)
	}
	z, err := names.NewZone(table, pods, names.Options{Serial: 7, Servers: addrs("169.254.1.1"),
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// ask returns what a server without upstreams says: "RCODE" or the records' data, sorted, and then "+" and additional.
func ask(s *names.Server, name, kind string) string {
	q := new(dns.Msg).SetQuestion(name, dns.StringToType[kind])
	return text(s.Answer(context.Background(), q, true))
}

func text(m *dns.Msg) string {
	data := func(records []dns.RR) (out []string) {
		for _, rr := range records {
			if rr.Header().Rrtype != dns.TypeOPT {
				out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
			}
		}
		slices.Sort(out)
		return out
	}
	out := data(m.Answer)
	if m.Rcode != dns.RcodeSuccess {
		out = append(out, dns.RcodeToString[m.Rcode])
	}
	for _, rr := range m.Ns {
		out = append(out, "of "+rr.Header().Name)
	}
	if extra := data(m.Extra); len(extra) > 0 {
		out = append(append(out, "+"), extra...)
	}
	return strings.Join(out, ", ")
}

const soa = "of cluster.local."

func TestNames(t *testing.T) {
	s := names.NewServer(zone(t), names.Upstreams{})
	for _, c := range []struct{ name, kind, want string }{
		// a Service with addresses
		{"web.shop.svc.cluster.local.", "A", "10.96.0.5"},
		{"web.shop.svc.cluster.local.", "AAAA", "fd00:96::5"},
		{"WEB.shop.SVC.cluster.local.", "A", "10.96.0.5"},
		{"_http._tcp.web.shop.svc.cluster.local.", "SRV", "0 100 80 web.shop.svc.cluster.local., +, 10.96.0.5, fd00:96::5"},
		{"_quic._udp.web.shop.svc.cluster.local.", "SRV", "0 100 443 web.shop.svc.cluster.local., +, 10.96.0.5, fd00:96::5"},
		{"5.0.96.10.in-addr.arpa.", "PTR", "web.shop.svc.cluster.local."},
		{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.", "PTR", "web.shop.svc.cluster.local."},
		// a headless one: ready pods by hostname
		{"db.shop.svc.cluster.local.", "A", "10.0.0.20, 10.0.0.21"},
		{"db.shop.svc.cluster.local.", "AAAA", "fd00::20, fd00::21"},
		{"db-0.db.shop.svc.cluster.local.", "A", "10.0.0.20"},
		{"db-1.db.shop.svc.cluster.local.", "AAAA", "fd00::21"},
		{"db-2.db.shop.svc.cluster.local.", "A", "NXDOMAIN, " + soa},
		{"_http._tcp.db.shop.svc.cluster.local.", "SRV", "0 50 8080 db-0.db.shop.svc.cluster.local., 0 50 8080 db-1.db.shop.svc.cluster.local., +, 10.0.0.20, 10.0.0.21, fd00::20, fd00::21"},
		{"20.0.0.10.in-addr.arpa.", "PTR", "db-0.db.shop.svc.cluster.local."},
		{"22.0.0.10.in-addr.arpa.", "PTR", "NXDOMAIN, of 0.0.10.in-addr.arpa."},
		// pods without a hostname, by address
		{"plain.shop.svc.cluster.local.", "A", "10.0.0.30"},
		{"10-0-0-30.plain.shop.svc.cluster.local.", "A", "10.0.0.30"},
		{"30.0.0.10.in-addr.arpa.", "PTR", "10-0-0-30.plain.shop.svc.cluster.local."},
		{"empty.shop.svc.cluster.local.", "A", "NXDOMAIN, " + soa},
		// pods
		{"10-0-0-22.shop.pod.cluster.local.", "A", "10.0.0.22"},
		{"fd00--21.shop.pod.cluster.local.", "AAAA", "fd00::21"},
		{"10-0-0-22.other.pod.cluster.local.", "A", "NXDOMAIN, " + soa},
		{"10-9-9-9.shop.pod.cluster.local.", "A", "NXDOMAIN, " + soa},
		// names for other names
		{"inside.shop.svc.cluster.local.", "A", "10.96.0.5, web.shop.svc.cluster.local."},
		{"inside.shop.svc.cluster.local.", "CNAME", "web.shop.svc.cluster.local."},
		{"outside.shop.svc.cluster.local.", "A", "db.example.com."},
		{"dangling.shop.svc.cluster.local.", "A", "gone.shop.svc.cluster.local., NXDOMAIN, " + soa},
		{"egg.shop.svc.cluster.local.", "A", "SERVFAIL"},
		// names that exist without what is asked for, and others
		{"web.shop.svc.cluster.local.", "TXT", soa},
		{"inside.shop.svc.cluster.local.", "MX", "web.shop.svc.cluster.local., " + soa},
		{"_tcp.web.shop.svc.cluster.local.", "SRV", soa},
		{"shop.svc.cluster.local.", "A", soa},
		{"svc.cluster.local.", "A", soa},
		{"cluster.local.", "A", soa},
		{"96.10.in-addr.arpa.", "PTR", "of 10.in-addr.arpa."},
		{"gone.shop.svc.cluster.local.", "A", "NXDOMAIN, " + soa},
		{"web.other.svc.cluster.local.", "A", "NXDOMAIN, " + soa},
		{"_smtp._tcp.web.shop.svc.cluster.local.", "SRV", "NXDOMAIN, " + soa},
		{"9.9.100.10.in-addr.arpa.", "PTR", "NXDOMAIN, of 10.in-addr.arpa."},
		// the zone itself
		{"cluster.local.", "SOA", "ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"},
		{"cluster.local.", "NS", "ns.dns.cluster.local."},
		{"ns.dns.cluster.local.", "A", "169.254.1.1"},
		{"dns-version.cluster.local.", "TXT", `"1.1.0"`},
		// not ours
		{"example.com.", "A", "REFUSED"},
		{"notcluster.local.", "A", "REFUSED"},
		{"1.2.0.192.in-addr.arpa.", "PTR", "REFUSED"},
		{"10.in-addr.arpa.", "PTR", "REFUSED"},
		{"x.5.0.96.10.in-addr.arpa.", "PTR", "REFUSED"},
		{".", "NS", "REFUSED"},
		{"cluster.local.", "AXFR", "REFUSED"},
	} {
		if got := ask(s, c.name, c.kind); got != c.want {
			t.Errorf("%s %s: %s\nwant %s", c.name, c.kind, got, c.want)
		}
	}
}

func TestAnswerKeepsTheLettersOfTheQuestion(t *testing.T) {
	s := names.NewServer(zone(t), names.Upstreams{})
	m := s.Answer(context.Background(), new(dns.Msg).SetQuestion("wEb.sHop.svc.cluster.local.", dns.TypeA), false)
	if len(m.Answer) != 1 || m.Answer[0].Header().Name != "wEb.sHop.svc.cluster.local." || !m.Authoritative || m.RecursionAvailable {
		t.Errorf("answer %v", m)
	}
}

func TestOddMessages(t *testing.T) {
	s := names.NewServer(zone(t), names.Upstreams{})
	web := func() *dns.Msg { return new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA) }
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"no question":   {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"two questions": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"an update":     {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"chaos":         {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"EDNS 1":        {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"EDNS 0":        {func(m *dns.Msg) { m.SetEdns0(1232, false) }, dns.RcodeSuccess},
	} {
		q := web()
		c.change(q)
		m := s.Answer(context.Background(), q, false)
		if m.Rcode != c.want || m.Id != q.Id || !m.Response {
			t.Errorf("%s: %v, want %s", name, m, dns.RcodeToString[c.want])
		}
		if (m.IsEdns0() != nil) != (q.IsEdns0() != nil) {
			t.Errorf("%s: EDNS in the question %v, in the answer %v", name, q.IsEdns0(), m.IsEdns0())
		}
		if _, err := m.Pack(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// manyPods is a headless Service whose answer fits no datagram.
func manyPods(t testing.TB, n int) *names.Zone {
	var many []*cluster.Endpoint
	for i := range n {
		many = append(many, pod(fmt.Sprintf("db-%d", i), "db", "StatefulSet", fmt.Sprintf("10.1.%d.%d", i/250, i%250)))
	}
	z, err := names.NewZone(service.Compute(services, many, nil, ranges), many, names.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestLongAnswersAreTruncatedInDatagramsOnly(t *testing.T) {
	s := names.NewServer(manyPods(t, 500), names.Upstreams{})
	for _, c := range []struct {
		edns   uint16
		stream bool
		limit  int
	}{{0, false, 512}, {1232, false, 1232}, {65535, false, 1232}, {100, false, 512}, {0, true, 65535}, {4096, true, 65535}} {
		q := new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA)
		if c.edns > 0 {
			q.SetEdns0(c.edns, false)
		}
		m := s.Answer(context.Background(), q, c.stream)
		packed, err := m.Pack()
		if err != nil || len(packed) > c.limit || m.Truncated == c.stream || len(m.Answer) == 0 || c.stream && len(m.Answer) != 500 {
			t.Errorf("%+v: %d bytes, %d records, truncated %v, %v", c, len(packed), len(m.Answer), m.Truncated, err)
		}
	}
}

func TestAddressesTakeTurns(t *testing.T) {
	s := names.NewServer(zone(t), names.Upstreams{})
	first := map[string]bool{}
	for range 4 {
		m := s.Answer(context.Background(), new(dns.Msg).SetQuestion("db.shop.svc.cluster.local.", dns.TypeA), false)
		first[m.Answer[0].String()] = true
	}
	if len(first) != 2 {
		t.Errorf("first came %v, want each of the two", first)
	}
}

func TestResolvConf(t *testing.T) {
	want := "nameserver 169.254.1.1\nnameserver fd00::1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
	if got := names.ResolvConf("shop", "", addrs("169.254.1.1", "fd00::1")...); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBadDomain(t *testing.T) {
	for _, domain := range []string{".", "a..b", strings.Repeat("a", 64)} {
		if _, err := names.NewZone(&service.Table{}, nil, names.Options{Domain: domain}); err == nil {
			t.Errorf("domain %q was taken", domain)
		}
	}
}

// FuzzAnswer: whatever arrives, the answer can be packed, fits, and is to this question.
func FuzzAnswer(f *testing.F) {
	s := names.NewServer(zone(f), names.Upstreams{})
	for _, name := range []string{"web.shop.svc.cluster.local.", ".", "5.0.96.10.in-addr.arpa.", "6.9.0.0.0.0.d.f.ip6.arpa.", "egg.shop.svc.cluster.local.", "_http._tcp.db.shop.svc.cluster.local."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeANY, dns.TypeOPT} {
			q := new(dns.Msg).SetQuestion(name, kind)
			q.SetEdns0(1400, true)
			packed, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed, kind == dns.TypeA)
		}
	}
	f.Fuzz(func(t *testing.T, message []byte, stream bool) {
		q := new(dns.Msg)
		if q.Unpack(message) != nil {
			return // the library answers these
		}
		m := s.Answer(context.Background(), q, stream)
		packed, err := m.Pack()
		if err != nil {
			t.Fatalf("%v\ncannot be packed: %v", m, err)
		}
		if !m.Response || m.Id != q.Id || !stream && len(packed) > 1232 {
			t.Errorf("question %v\nanswer %v of %d bytes", q, m, len(packed))
		}
		if len(q.Question) == 1 && m.Question[0] != q.Question[0] {
			t.Errorf("question %v, answered %v", q.Question, m.Question)
		}
	})
}
