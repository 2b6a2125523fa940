//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/query"
)

// somePods are n pods of one workload that listen on 80/tcp and 53/udp, and one on the node's network.
func somePods(n int) cluster.Objects {
	var o cluster.Objects
	for i := range n {
		o.Endpoints = append(o.Endpoints, &cluster.Endpoint{
			Key:   cluster.Key{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)},
			Owner: cluster.Owner{Kind: "Deployment", Name: "web"},
			Ports: []cluster.Port{{Protocol: flow.TCP, Number: 80}, {Protocol: flow.UDP, Number: 53}},
		})
	}
	o.Endpoints = append(o.Endpoints, &cluster.Endpoint{Key: cluster.Key{Namespace: "kube-system", Name: "proxy"},
		HostNetwork: true, Ports: []cluster.Port{{Protocol: flow.TCP, Number: 10256}}})
	return o
}

func boot(t testing.TB, spec Spec) *Lab {
	t.Helper()
	l, err := Boot(context.Background(), spec)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, dataplane.ErrNotSupported) {
		t.Skipf("no lab on this machine: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// probeAll probes and fails the test unless everything is as the reference says.
func probeAll(t testing.TB, l *Lab, sel Selection) *Report {
	t.Helper()
	r, err := l.Probe(t.Context(), sel, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		t.Error(text(t, r))
	}
	return r
}

func text(t testing.TB, r *Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Text(&b, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEverythingIsReachedWhereNothingIsEnforced(t *testing.T) {
	for _, topology := range []Topology{Routed, Bridge} {
		t.Run(topology.String(), func(t *testing.T) {
			l := boot(t, Spec{Objects: somePods(3), Topology: topology})
			r := probeAll(t, l, Selection{})
			// A pod listens on 2 ports, the node on 1, and everybody on one more and answers echoes; two families.
			pods, node, outside := 3, 1, 1
			want := 2 * ((pods+node+outside)*pods*4 + pods*node*3 + pods*outside*2)
			if got := r.Count(Answered); got != want || len(r.Results) != want {
				t.Errorf("%d of %d answered, want %d\n%s", got, len(r.Results), want, text(t, r))
			}
		})
	}
}

// stopForwarding makes the node swallow what goes from pod to pod, without a word.
func stopForwarding(t *testing.T, l *Lab) {
	t.Helper()
	if err := l.Node().Do(func() error { return podnet.Sysctl("ipv4/ip_forward=0", "ipv6/conf/all/forwarding=0") }); err != nil {
		t.Fatal(err)
	}
}

func TestSilenceIsNoDenial(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(2)})
	l.patience = 2 * time.Second
	stopForwarding(t, l)
	r, err := l.Probe(t.Context(), Selection{Pairs: []string{"shop/web-0 -> shop/web-1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// IPv6 tells the client that there is no route: that is no denial either.
	if got, want := r.Count(Lost)+r.Count(Failed), len(r.Results); got != want || len(r.Mismatches()) != want || r.OK() {
		t.Errorf("%d of %d lost or failed\n%s", got, want, text(t, r))
	}
}

func TestRefusalIsNoAnswer(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(2)})
	l.servers.Close()
	r, err := l.Probe(t.Context(), Selection{Pairs: []string{"shop/web-0 -> *"}, Ports: []query.Port{{Protocol: flow.TCP, Number: 80}, {Protocol: flow.UDP, Number: 53}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Count(Refused); got != len(r.Results) || r.OK() {
		t.Errorf("%d of %d refused\n%s", got, len(r.Results), text(t, r))
	}
}

func TestSelection(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(2), Ports: []cluster.Port{{Protocol: flow.TCP, Number: 4242}}})
	for _, c := range []struct {
		pairs string
		ports []query.Port
		want  int
	}{
		{"shop/web-0 -> shop/web-1", nil, 2 * 5},
		{"shop/web-0 -> pods", []query.Port{{Protocol: flow.TCP, Number: 4242}}, 2 * 2},
		{"shop/web -> shop/deployment/web", []query.Port{{Protocol: flow.ICMP}}, 2 * 4},
		{"node -> *", []query.Port{{Protocol: flow.TCP, Number: 80}}, 2 * 2},
		{"203.0.113.10 -> *", []query.Port{{Protocol: flow.TCP, Number: 80}}, 2},
		{"pods -> outside", []query.Port{{Protocol: flow.TCP, Number: 4242}, {Name: "http"}}, 2 * 2},
	} {
		if r := probeAll(t, l, Selection{Pairs: []string{c.pairs}, Ports: c.ports}); len(r.Results) != c.want {
			t.Errorf("%s: %d probes, want %d", c.pairs, len(r.Results), c.want)
		}
	}
	for pair, want := range map[string]string{
		"shop/web-0":               "want 'FROM -> TO'",
		"shop/wep-0 -> shop/web-1": "did you mean shop/web-0",
		"node -> outside":          "nothing to probe",
		"* -> 10.244.99.99":        "nobody in the lab has the address 10.244.99.99",
	} {
		if _, err := l.Probe(t.Context(), Selection{Pairs: []string{pair}}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", pair, err, want)
		}
	}
}

func TestProbesAreBoundedByPairs(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(12)})
	r := probeAll(t, l, Selection{MaxProbes: 500})
	again := probeAll(t, l, Selection{MaxProbes: 500})
	if n := len(r.Results); n > 500 || n < 300 || n != len(again.Results) {
		t.Errorf("%d and %d probes, want the same and nearly 500", n, len(again.Results))
	}
	if len(r.Skipped) != 1 || r.Skipped[0].What != "pairs" {
		t.Errorf("skipped: %v", r.Skipped)
	}
}

func TestProbeEndsWhenItsContextDoes(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(2)})
	stopForwarding(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	start := time.Now()
	_, err := l.Probe(ctx, Selection{}, func(int, int) { cancel() }) // the first answer is a pod's own
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took >= patience {
		t.Errorf("it took %s", took)
	}
}

func TestBootEndsWhenItsContextDoes(t *testing.T) {
	boot(t, Spec{}) // skips where there can be no lab
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Boot(ctx, Spec{Objects: somePods(2)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkBoot200(b *testing.B) {
	for _, topology := range []Topology{Routed, Bridge} {
		b.Run(topology.String(), func(b *testing.B) {
			for b.Loop() {
				l, err := Boot(b.Context(), Spec{Objects: somePods(200), Topology: topology})
				if err != nil {
					b.Skip(err)
				}
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkProbe(b *testing.B) {
	for _, topology := range []Topology{Routed, Bridge} {
		b.Run(topology.String(), func(b *testing.B) {
			l := boot(b, Spec{Objects: somePods(100), Topology: topology})
			probes := 0
			for b.Loop() {
				probes += len(probeAll(b, l, Selection{MaxProbes: 10000}).Results)
			}
			b.ReportMetric(float64(probes)/b.Elapsed().Seconds(), "probes/s")
		})
	}
}
