package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/echo"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/loopback"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

const patience = 20 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, dataplane.ErrNotSupported) || errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

// options are those of an agent of node n1, with an API that holds objects.
func options(objects ...runtime.Object) (Options, *fake.Clientset) {
	client := fake.NewClientset(objects...)
	wide := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}: "ClusterNetworkPolicyList",
		inforce.Resource: "NodeEnforcementList", record.Resource: "PolicyRolloutList"})
	return Options{Node: "n1", Client: client, Dynamic: wide, Log: slog.New(slog.DiscardHandler)}, client
}

func apiPod(name, uid, node string, addresses ...netip.Addr) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(uid), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, a := range addresses {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	return p
}

func apiNode(ranges ...netip.Prefix) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	for _, r := range ranges {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, r.String())
	}
	return n
}

// onlyFrom lets a pod be reached from pods of one name.
func onlyFrom(subject, peer string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "only"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": subject}},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": peer}}}}}}}}
}

// machine is a node with pods in namespaces: web, db, and one that the API does not know.
type machine struct {
	t    *testing.T
	net  podnet.Net
	node *netns.NS
	pods map[string]*netns.NS
}

var numbers = map[string]int{"web": 5, "db": 6, "unknown": 7}

func port(name string) podnet.Port {
	n := numbers[name]
	return podnet.Port{Veth: fmt.Sprint("v", n), Number: n, Addresses: []netip.Addr{
		netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", n))}}
}

func newMachine(t *testing.T, bridge bool) *machine {
	t.Helper()
	ns := func() *netns.NS {
		n, err := netns.New()
		must(t, err)
		t.Cleanup(func() { n.Close() })
		return n
	}
	m := &machine{t: t, node: ns(), pods: map[string]*netns.NS{}, net: podnet.Net{Bridge: bridge,
		Ranges:  [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")},
		Address: [2]netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8::10")}}}
	must(t, m.net.SetUp(m.node))
	var servers echo.Servers
	t.Cleanup(func() { servers.Close() })
	for name := range numbers {
		m.pods[name] = ns()
		must(t, m.net.Plug(m.node, m.pods[name], port(name)))
		must(t, podnet.AwaitUp(t.Context(), m.pods[name], port(name).Addresses, podnet.PodInterface))
		must(t, m.pods[name].Do(func() error {
			var errs []error
			for _, a := range port(name).Addresses {
				errs = append(errs, servers.Listen(a, cluster.Port{Protocol: flow.TCP, Number: 80}))
			}
			return errors.Join(errs...)
		}))
	}
	return m
}

func (m *machine) dial(from *netns.NS, to string, v int, limit time.Duration) (c net.Conn, err error) {
	err = from.Do(func() error {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(port(to).Addresses[v], 80).String(), limit)
		return err
	})
	return c, err
}

func (m *machine) reaches(from *netns.NS, to string) {
	m.t.Helper()
	for v := range 2 {
		c, err := m.dial(from, to, v, patience)
		must(m.t, err)
		c.Close()
	}
}

func (m *machine) fails(from *netns.NS, to string) {
	m.t.Helper()
	for v := range 2 {
		if c, err := m.dial(from, to, v, 300*time.Millisecond); err == nil {
			c.Close()
			m.t.Errorf("%s is reached (IPv%d)", to, 4+2*v)
		}
	}
}

// start runs an agent until stop is called.
func (m *machine) start(o Options) (a *Agent, stop func()) {
	m.t.Helper()
	places, err := newKernel(nodeNet{m.node}, m.t.TempDir())
	must(m.t, err)
	a = newAgent(o, nodeNet{m.node}, places)
	a.denials.every = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("the agent ended with %v", err)
		}
		places.close()
	}
	return a, stop
}

func (m *machine) awaitReady(a *Agent) {
	m.t.Helper()
	eventually(m.t, "the agent is ready", func() bool { return a.Status().Ready && a.Status().Waiting == 0 })
}

func TestAgentInAKernel(t *testing.T) {
	for _, bridge := range []bool{false, true} {
		t.Run(fmt.Sprint("bridge ", bridge), func(t *testing.T) {
			m := newMachine(t, bridge)
			web, db, unknown := m.pods["web"], m.pods["db"], m.pods["unknown"]
			o, client := options(apiNode(m.net.Ranges[:]...), onlyFrom("db", "web"),
				apiPod("web", "1", "n1", port("web").Addresses...), apiPod("db", "2", "n1", port("db").Addresses...))
			o.Flows = filepath.Join(t.TempDir(), "flows.sock")
			a, stop := m.start(o)
			m.awaitReady(a)
			if c := a.Status().Conditions; len(c) != 1 || c[0].Type != StartGap {
				t.Errorf("conditions are %v, want a start gap", c)
			}
			m.reaches(web, "db")
			m.fails(db, "unknown")
			m.fails(unknown, "web")
			m.reaches(m.node, "unknown")
			open, err := m.dial(web, "db", 0, patience)
			must(t, err)
			defer open.Close()

			stop() // what is in force stays so
			m.fails(unknown, "web")
			talk(t, open)
			must(t, client.NetworkingV1().NetworkPolicies("shop").Delete(t.Context(), "only", metav1.DeleteOptions{}))
			_, err = client.NetworkingV1().NetworkPolicies("shop").Create(t.Context(), onlyFrom("web", "nobody"), metav1.CreateOptions{})
			must(t, err)
			a, stop = m.start(o)
			defer stop()
			m.awaitReady(a)
			if c := a.Status().Conditions; len(c) != 0 {
				t.Errorf("conditions are %v, want none", c)
			}
			talk(t, open)
			m.fails(db, "web")
			eventually(t, "an Event tells of it", func() bool {
				list, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
				return err == nil && len(list.Items) > 0 && list.Items[0].InvolvedObject.Name == "web" && list.Items[0].InvolvedObject.UID == "1" &&
					strings.Contains(list.Items[0].Message, "ingress from shop/db, port 80/tcp, is denied by NetworkPolicy shop/only ingress")
			})
			_, err = client.CoreV1().Pods("shop").Create(t.Context(), apiPod("unknown", "3", "n1", port("unknown").Addresses...), metav1.CreateOptions{})
			must(t, err)
			m.reaches(db, "unknown") // TCP tries again
			m.metrics(a)
			m.reported(o)
			m.flows(a)
		})
	}
}

// talk sends a word and waits for its echo.
func talk(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := c.Write([]byte("hi"))
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, 2))
	must(t, err)
}

// flows asks for flows, as `ringfence flows` does.
func (m *machine) flows(a *Agent) {
	m.t.Helper()
	eventually(m.t, "flows are told", func() bool {
		denied, allowed := false, false
		err := socket.Stream(m.t.Context(), a.options.Flows, socket.Request{}, func(x socket.Message) error {
			if r := x.Record; r != nil {
				path := r.Source.String() + " -> " + r.Destination.String()
				denied = denied || r.Denied() && path == "shop/db -> shop/web" && r.By() == "shop/only ingress"
				allowed = allowed || !r.Denied() && path == "shop/db -> shop/unknown"
			}
			return nil
		})
		return err == nil && denied && allowed
	})
}

// reported looks at what the API is told.
func (m *machine) reported(o Options) {
	m.t.Helper()
	eventually(m.t, "it is reported what is in force", func() bool {
		reports, err := inforce.List(m.t.Context(), o.Dynamic)
		must(m.t, err)
		r := reports.ByNode["n1"]
		return r.Ready && r.Message == "" && r.Policies == 1 && r.BootID == bootID() && len(r.Closed)+len(r.Defective)+len(r.Conditions) == 0
	})
}

// metrics looks at what Prometheus would be told.
func (m *machine) metrics(a *Agent) {
	m.t.Helper()
	server := httptest.NewServer(a.handler())
	defer server.Close()
	get := func(path string) string {
		r, err := http.Get(server.URL + path)
		must(m.t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		must(m.t, err)
		return string(b)
	}
	eventually(m.t, "denials are counted", func() bool {
		text := get("/metrics")
		for _, want := range []string{`ringfence_denied_total{direction="ingress",kind="NetworkPolicy",policy="shop/only"} `,
			`ringfence_pods{state="known"} 3`, "ringfence_ready 1", `ringfence_enforced_seconds_count{what="pod"} 3`} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	})
	if text := get("/readyz"); text != "ok\n" {
		m.t.Errorf("/readyz says %q", text)
	}
	if text := get("/policies"); !strings.Contains(text, `[{"kind":"NetworkPolicy","namespace":"shop","name":"only",`) {
		m.t.Errorf("/policies says %s", text)
	}
	if text := get("/status"); !strings.Contains(text, `"ready":true`) {
		m.t.Errorf("/status says %s", text)
	}
}

// Without forwarding no packet passes the table, and nobody may believe that it does.
func TestAgentOffThePathIsNotReady(t *testing.T) {
	m := newMachine(t, false)
	must(t, m.node.Do(func() error { return podnet.Sysctl("ipv4/ip_forward=0") }))
	o, _ := options(apiNode(m.net.Ranges[:]...))
	a, stop := m.start(o)
	defer stop()
	eventually(t, "it is said", func() bool {
		for _, c := range a.Status().Conditions {
			if c.Type == OffPath {
				return true
			}
		}
		return false
	})
	if a.Status().Ready {
		t.Error("the agent is ready")
	}
}

// Each family has its own switch: what is said of one is nothing that the other proves.
func TestProbeOfEachFamily(t *testing.T) {
	for on, off := range map[string]string{"ipv4/ip_forward": "ipv6/conf/all/forwarding", "ipv6/conf/all/forwarding": "ipv4/ip_forward"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel() // each waits for what does not come
			ns, err := netns.New()
			must(t, err)
			defer ns.Close()
			must(t, ns.Do(func() error { return podnet.Sysctl(on+"=1", off+"=0") }))
			dp, err := nft.New(nft.Options{NetNS: ns.FD()})
			must(t, err)
			defer dp.Close()
			_, err = dp.EnsureClosed(t.Context())
			must(t, err)
			for _, f := range families {
				passes := f.forwarding == "net."+strings.ReplaceAll(on, "/", ".")
				if err := f.probe(t.Context(), nodeNet{ns}, dp.Probes); (err == nil) != passes {
					t.Errorf("the probe of %s says %v", f.name, err)
				} else if err != nil && !strings.Contains(err.Error(), f.forwarding+"=1") {
					t.Errorf("it does not say what to do: %v", err)
				}
			}
			must(t, podnet.WithHandle(ns, func(h *netlink.Handle) error {
				if _, err := h.LinkByName(nft.ProbeInterface); err == nil {
					t.Error("the probe stays plugged in")
				}
				return nil
			}))
		})
	}
}

// A node whose pods have addresses of two families is ready when both are proven, and says which is not.
func TestAgentWithOneFamilyOffThePath(t *testing.T) {
	m := newMachine(t, false)
	must(t, m.node.Do(func() error { return podnet.Sysctl("ipv6/conf/all/forwarding=0") }))
	o, _ := options(apiNode(m.net.Ranges[0]), apiPod("web", "1", "n1", port("web").Addresses...)) // IPv6 has no range that is known
	a, stop := m.start(o)
	defer stop()
	eventually(t, "it is said", func() bool {
		return slices.ContainsFunc(a.Status().Conditions, func(c Condition) bool {
			return c.Type == OffPath && strings.HasPrefix(c.Message, "IPv6: ") && !strings.Contains(c.Message, "IPv4")
		})
	})
	if s := a.Status(); s.Ready || s.Why != "it is not known yet whether IPv6 packets of pods pass the ruleset" {
		t.Errorf("it is %+v", s)
	}
	if r := a.enforcement(); r.Ready {
		t.Errorf("the report is %+v", r)
	}
}

func TestFamiliesOfANode(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")
	for want, ranges := range map[string][]netip.Prefix{"[IPv4]": nil, "[IPv4] ": {v4}, "[IPv6]": {v6}, "[IPv4 IPv6]": {v6, v4}} {
		o, _ := options()
		o.PodCIDRs = ranges
		var names []string
		for _, f := range newAgent(o, nodeNet{}, nil).families() {
			names = append(names, f.name)
		}
		if got := fmt.Sprint(names); got != strings.TrimSpace(want) {
			t.Errorf("%v: %s", ranges, got)
		}
	}
}

func TestRangesFromRoutes(t *testing.T) {
	for _, bridge := range []bool{false, true} {
		m := newMachine(t, bridge)
		k, err := newKernel(nodeNet{m.node}, t.TempDir())
		must(t, err)
		defer k.close()
		want := m.net.Ranges[:]
		if !bridge {
			want = nil // each pod has a route of its own, and nothing says more
		}
		if got := k.ranges(); !slices.Equal(got, want) {
			t.Errorf("bridge %v: ranges are %v, want %v", bridge, got, want)
		}
	}
}

func TestMetricsAreForThisMachineOnly(t *testing.T) {
	if l, err := loopback.Listen(t.Context(), "0.0.0.0:0"); err == nil {
		l.Close()
		t.Error("everybody may ask")
	}
	l, err := loopback.Listen(t.Context(), "127.0.0.1:0")
	must(t, err)
	l.Close()
}
