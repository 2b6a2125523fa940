//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// somePods are n pods of one workload that listen on 80/tcp and 53/udp.
func somePods(n int) cluster.Objects {
	var o cluster.Objects
	for i := range n {
		o.Endpoints = append(o.Endpoints, &cluster.Endpoint{
			Key:   cluster.Key{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)},
			Owner: cluster.Owner{Kind: "Deployment", Name: "web"},
			Ports: []cluster.Port{{Protocol: flow.TCP, Number: 80}, {Protocol: flow.UDP, Number: 53}},
		})
	}
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

func TestBootTiming(t *testing.T) {
	l := boot(t, Spec{Objects: somePods(200)})
	t.Log(l.timings)
	var as []attempt
	for _, s := range l.pods {
		for _, d := range l.pods {
			for _, sa := range s.addresses {
				for _, da := range d.addresses {
					if sa.Is4() == da.Is4() {
						for _, p := range d.listen {
							as = append(as, attempt{s.ns, flow.Tuple{Source: sa, Destination: da, Protocol: p.Protocol, Port: p.Number}})
						}
						pr := flow.ICMP
						if sa.Is6() {
							pr = flow.ICMPv6
						}
						as = append(as, attempt{s.ns, flow.Tuple{Source: sa, Destination: da, Protocol: pr}})
					}
				}
			}
		}
	}
	start := time.Now()
	n := map[Outcome]int{}
	err := probe(t.Context(), l.node.ns, l.denials, as, func(i int, la landing) {
		n[la.outcome]++
		if la.err != nil && n[la.outcome] < 5 {
			t.Log(as[i].t, la.err)
		}
	})
	t.Log(len(as), time.Since(start), float64(len(as))/time.Since(start).Seconds(), n, err)
}
