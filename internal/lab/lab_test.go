//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
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

func TestMeasure(t *testing.T) {
	for _, topology := range []Topology{Routed, Bridge} {
		l := boot(t, Spec{Objects: somePods(200), Topology: topology})
		r := probeAll(t, l, Selection{MaxProbes: 50000})
		s := text(t, r)
		t.Log(s[len(s)-200:], r.Timings, float64(len(r.Results))/r.Timings.Probe.Seconds())
	}
}
