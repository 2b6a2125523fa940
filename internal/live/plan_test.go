package live

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/query"
)

func pod(name, address, labels string, ports ...cluster.Port) *cluster.Endpoint {
	set := map[string]string{}
	for _, l := range strings.Split(labels, ",") {
		k, v, _ := strings.Cut(l, "=")
		set[k] = v
	}
	namespace, name, _ := strings.Cut(name, "/")
	owner, _, _ := strings.Cut(name, "-")
	return &cluster.Endpoint{Key: cluster.Key{Namespace: namespace, Name: name}, Labels: label.MustSet(set), Ports: ports,
		Addresses: []netip.Addr{netip.MustParseAddr(address)}, Owner: cluster.Owner{Kind: "Deployment", Name: owner}}
}

func mustPolicy(t *testing.T, p policy.Policy) *policy.Policy {
	t.Helper()
	made, err := policy.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func pods(namespace, selector string) policy.Pods {
	return policy.Pods{Namespaces: label.MustParse(cluster.NameLabel + "=" + namespace), Pods: label.MustParse(selector)}
}

// shop: the database takes its port "sql" from the web only, and the web takes anything; the vault is closed both ways.
func shop(t *testing.T, more ...*policy.Policy) *cluster.State {
	t.Helper()
	sql := cluster.Port{Name: "sql", Protocol: flow.TCP, Number: 5432}
	s, err := cluster.NewState(cluster.Objects{
		Namespaces: []cluster.Namespace{{Name: "shop", Labels: label.MustSet(map[string]string{cluster.NameLabel: "shop"})}},
		Nodes:      []cluster.Node{{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
		Endpoints: []*cluster.Endpoint{
			pod("shop/web-1", "10.0.0.1", "app=web,pod-template-hash=abc,tier=front"), pod("shop/web-2", "10.0.0.2", "app=web,pod-template-hash=def"),
			pod("shop/db-0", "10.0.0.3", "app=db", sql, cluster.Port{Name: "admin", Protocol: flow.TCP, Number: 8080}),
			pod("shop/job-1", "10.0.0.4", "app=job"), pod("shop/vault-1", "10.0.0.5", "app=vault")},
		Policies: append([]*policy.Policy{
			mustPolicy(t, policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "db", Subject: pods("shop", "app=db"), IsolatesIngress: true,
				Ingress: []policy.Rule{{Action: policy.Accept, Peers: []policy.Peer{{Kind: policy.PeerPods, Pods: pods("shop", "app=web")}}, Ports: []policy.Port{{Protocol: flow.TCP, Name: "sql"}}}}}),
			mustPolicy(t, policy.Policy{Tier: policy.Namespace, Namespace: "shop", Name: "vault", Subject: pods("shop", "app=vault"), IsolatesIngress: true, IsolatesEgress: true}),
		}, more...)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// connection is what "shop/web-1 -> shop/db-0:5432" stands for.
func connection(t *testing.T, s *cluster.State, text string) cluster.Connection {
	t.Helper()
	from, rest, _ := strings.Cut(text, " -> ")
	to, port, err := query.SplitPort(rest)
	if err != nil {
		t.Fatal(err)
	}
	scope := query.Scope{State: s}
	clients, err := scope.Resolve(from)
	if err != nil {
		t.Fatal(err)
	}
	p, err := query.ParsePort(port)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := scope.Targets(to, p)
	if err != nil {
		t.Fatal(err)
	}
	all, err := targets[0].Connect(clients[0])
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

func planOf(t *testing.T, s *cluster.State, o Options, texts ...string) *Plan {
	t.Helper()
	p := NewPlanner(s, o)
	for _, text := range texts {
		if why := p.Add(s, connection(t, s, text)); why != "" {
			t.Fatalf("%s: %s", text, why)
		}
	}
	return p.Plan()
}

// dump is a plan as text.
func dump(p *Plan) string {
	var b strings.Builder
	for i, x := range p.Probes {
		fmt.Fprintf(&b, "%d %s [%s] %v listens %v: %s\n", i, x.Namespace, x.Labels, x.Named, x.Listen, x)
	}
	for i := range p.Attempts {
		control := ""
		if i >= len(p.Attempts)-p.Controls {
			control = ", a control"
		}
		fmt.Fprintf(&b, "%s: %v%s\n", p.Describe(i), p.Allowed[i], control)
	}
	if len(p.Blind) > 0 {
		fmt.Fprintln(&b, "blind", p.Blind)
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	s := shop(t)
	for _, c := range []struct {
		name  string
		asked []string
		want  string
	}{
		{"labels that no policy speaks of are left out, and replicas are one", []string{"shop/web-1 -> shop/db-0:5432", "shop/web-2 -> shop/db-0:5432", "shop/job-1 -> shop/db-0:5432"}, `
0 shop [app=db] [{sql tcp 5432}] listens [{ tcp 5432}]: shop/db
1 shop [app=job] [] listens [{ tcp 8080}]: shop/job
2 shop [app=web] [] listens []: shop/web
shop/job -> shop/db 5432: false
shop/web -> shop/db 5432: true
shop/db -> shop/job 8080: true, a control
`},
		{"what is denied has a control where there is any", []string{"shop/job-1 -> shop/db-0:5432", "shop/job-1 -> shop/web-1:80"}, `
0 shop [app=db] [{sql tcp 5432}] listens [{ tcp 5432}]: shop/db
1 shop [app=job] [] listens []: shop/job
2 shop [app=web] [] listens [{ tcp 80}]: shop/web
shop/job -> shop/db 5432: false
shop/job -> shop/web 80: true
shop/db -> shop/web 80: true, a control
`},
		{"those alike need two", []string{"shop/web-1 -> shop/web-2:80"}, `
0 shop [app=web] [] listens []: shop/web
1 shop [app=web] [] listens [{ tcp 80}]: shop/web (a second one)
shop/web -> shop/web (a second one) 80: true
`},
		{"what is closed both ways cannot be told apart from what nobody knows", []string{"shop/vault-1 -> shop/web-1:80", "shop/web-1 -> shop/vault-1:80/udp"}, `
0 shop [app=vault] [] listens [{ udp 80}]: shop/vault
1 shop [app=web] [] listens [{ tcp 80}]: shop/web
shop/vault -> shop/web 80: false
shop/web -> shop/vault 80/udp: false
blind [0 1]
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := dump(planOf(t, s, Options{}, c.asked...)); got != c.want[1:] {
				t.Errorf("it is\n%s, want%s", got, c.want)
			}
		})
	}
}

func TestObstacles(t *testing.T) {
	s := shop(t)
	other, err := cluster.NewState(func() cluster.Objects {
		o := s.Objects()
		o.Namespaces = []cluster.Namespace{{Name: "shop", Labels: label.MustSet(map[string]string{"env": "prod"})}}
		o.Endpoints = append(o.Endpoints, pod("bank/web-1", "10.0.1.1", "app=web"))
		return o
	}())
	if err != nil {
		t.Fatal(err)
	}
	planner := NewPlanner(s, Options{Published: []Published{{Namespace: "shop", Name: "peers", Selector: label.MustParse("app=vault")}}})
	for text, want := range map[string]string{
		"shop/web-1 -> shop/db-0:5432/sctp": "speak TCP and UDP, and not sctp",
		"shop/web-1 -> shop/db-0:icmp":      "speak TCP and UDP, and not icmp",
		"node/n1 -> shop/db-0:5432":         "stand for a node",
		"shop/web-1 -> node/n1:22":          "stand for a node",
		"198.51.100.1 -> shop/db-0:5432":    "from outside of the cluster",
		"shop/web-1 -> 198.51.100.1:443":    "without --live-outside",
		"shop/web-1 -> shop/vault-1:80":     "Service shop/peers sends connections also to pods that are not ready",
	} {
		if got := planner.Add(s, connection(t, s, text)); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	self := connection(t, s, "shop/web-1 -> shop/db-0:80")
	self.To, self.Translated = self.From, true
	for c, want := range map[*cluster.Connection]string{&self: "cannot call itself"} {
		if got := planner.Add(s, *c); !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for text, want := range map[string]string{
		"bank/web-1 -> shop/db-0:5432": "has no namespace bank",
		"shop/web-1 -> shop/db-0:5432": "namespace shop has other labels",
	} {
		if got := planner.Add(other, connection(t, other, text)); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if plan := planner.Plan(); len(plan.Probes)+len(plan.Attempts) > 0 {
		t.Errorf("what cannot be made is planned:\n%s", dump(plan))
	}
}

// A label that is left out can be the one that a Service publishes by: then nothing stands in the way.
func TestPublishedByWhatIsLeftOut(t *testing.T) {
	s := shop(t)
	plan := planOf(t, s, Options{Published: []Published{{Namespace: "shop", Name: "peers", Selector: label.MustParse("tier=front")}}}, "shop/web-1 -> shop/db-0:5432")
	if len(plan.Attempts) != 1 {
		t.Error(dump(plan))
	}
}

func TestOutside(t *testing.T) {
	s := shop(t)
	plan := planOf(t, s, Options{Outside: true}, "shop/vault-1 -> 198.51.100.1:443", "shop/web-1 -> 198.51.100.1:443")
	want := []Attempt{{From: 0, To: Outside, Addr: netip.MustParseAddr("198.51.100.1"), Protocol: flow.TCP, Port: 443},
		{From: 1, To: Outside, Addr: netip.MustParseAddr("198.51.100.1"), Protocol: flow.TCP, Port: 443}}
	if !slices.Equal(plan.Attempts, want) || plan.Allowed[0] || !plan.Allowed[1] {
		t.Error(dump(plan))
	}
	if at := plan.Address(1, [][]netip.Addr{nil, {netip.MustParseAddr("10.1.0.1")}}); at.String() != "198.51.100.1:443" {
		t.Errorf("it goes to %s", at)
	}
	if at := plan.Address(0, [][]netip.Addr{nil, nil}); at.IsValid() {
		t.Errorf("without an address of its own it goes to %s", at)
	}
}

// A probe pod has another address than the workload, which matters where rules speak of blocks.
func TestStands(t *testing.T) {
	s := shop(t, mustPolicy(t, policy.Policy{Tier: policy.Admin, Name: "block", Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.MustParse("app=web")},
		Ingress: []policy.Rule{{Action: policy.Deny, Peers: []policy.Peer{{Kind: policy.PeerBlock, Block: netip.MustParsePrefix("10.0.0.0/24")}}}}}))
	c := connection(t, s, "shop/job-1 -> shop/web-1:80")
	plan := planOf(t, s, Options{}, "shop/job-1 -> shop/web-1:80")
	i, why := plan.Find(s, c)
	if why != "" {
		t.Fatal(why)
	}
	inside, beside := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.1.9")
	if !plan.Stands(s, c, i, [][]netip.Addr{{inside}, {beside}}) || plan.Stands(s, c, i, [][]netip.Addr{{beside}, {beside}}) {
		t.Error("the address of the client makes the difference, and not that of the server")
	}
	if _, why := plan.Find(s, connection(t, s, "shop/web-1 -> shop/web-2:81")); why != "it was not planned" {
		t.Errorf("what was not asked for: %q", why)
	}
}

// Each family is an attempt of its own, to the address of that family.
func TestFamilies(t *testing.T) {
	s := shop(t)
	web, db := s.Endpoint(cluster.Key{Namespace: "shop", Name: "web-1"}), s.Endpoint(cluster.Key{Namespace: "shop", Name: "db-0"})
	planner := NewPlanner(s, Options{})
	for _, a := range [][2]string{{"10.0.0.1", "10.0.0.3"}, {"fd00::1", "fd00::3"}} {
		c := cluster.Connection{From: cluster.Party{Endpoint: web, Addr: netip.MustParseAddr(a[0])}, To: cluster.Party{Endpoint: db, Addr: netip.MustParseAddr(a[1])},
			Protocol: flow.TCP, Port: 5432}
		if why := planner.Add(s, c); why != "" {
			t.Fatal(why)
		}
	}
	plan := planner.Plan()
	v4, v6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	if len(plan.Attempts) != 2 || plan.Attempts[0].IPv6 || !plan.Attempts[1].IPv6 || plan.Controls != 0 {
		t.Fatal(dump(plan))
	}
	for i, want := range []string{"10.9.0.1:5432", "[fd09::1]:5432"} {
		if at := plan.Address(i, [][]netip.Addr{{v4, v6}, {v4, v6}}); at.String() != want {
			t.Errorf("it goes to %s, want %s", at, want)
		}
	}
	if at := plan.Address(1, [][]netip.Addr{{v4}, {v4}}); at.IsValid() {
		t.Errorf("without an address of its family it goes to %s", at)
	}
}
