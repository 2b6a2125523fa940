//go:build linux

package nft_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	dpnft "github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/ruleset"
	"github.com/ringfence-project/ringfence/internal/service"
)

const onlyClients = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080}]
`

// enforce puts policies in force beside the Services, as one node has both.
func (w *world) enforce(policies string) {
	w.t.Helper()
	b := manifest.NewBundle()
	b.Decode("policies.yaml", []byte(policies))
	o := b.Finish(manifest.Options{}).Objects
	in := engine.Input{Attachments: map[cluster.Key]ruleset.Attachment{}}
	for _, x := range w.hosts {
		if x.name != "outside" {
			o.Endpoints = append(o.Endpoints, x.endpoint)
			in.Attachments[x.endpoint.Key] = ruleset.Attachment{Interface: "v" + x.name}
		}
	}
	o.PodRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}
	var err error
	if in.State, err = cluster.NewState(o); err != nil {
		w.t.Fatal(err)
	}
	dp, err := dpnft.New(dpnft.Options{NetNS: w.node.FD()})
	if err == nil {
		w.t.Cleanup(func() { dp.Close() })
		err = engine.New(dp, compile.Options{}).Sync(context.Background(), in)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestPolicyHoldsThroughServices: the client is judged as itself at the backend's port, whichever way it asked.
func TestPolicyHoldsThroughServices(t *testing.T) {
	w := newWorld(t, "web1", "web2", "client", "stranger")
	w.serveAll()
	s, empty := webService(), webService()
	s.Kind = service.NodePort
	empty.Name, empty.ClusterIPs = "web-empty", []netip.Addr{netip.MustParseAddr("10.96.0.66")}
	empty.Ports = []service.Port{{Protocol: 6, Port: 80, TargetName: "nobody has this"}}
	table, _ := w.apply([]service.Service{s, empty})
	denied := []string{"stranger", "outside", "web1"} // web1 reaches web2 or itself: policy denies both
	for _, name := range denied {
		w.mustAsk(w.hosts[name].ns, "tcp", at(table, 0, "http"))
	}
	w.enforce(onlyClients)
	var silent sync.WaitGroup
	for family := range 2 {
		for _, to := range []netip.AddrPort{at(table, family, "http"), nodePortAt(table, family, "http")} {
			for range 4 {
				w.mustAsk(w.hosts["client"].ns, "tcp", to)
				w.mustAsk(w.node, "tcp", to)
			}
			for _, name := range denied {
				silent.Go(func() {
					var timeout net.Error
					if server, _, err := ask(w.hosts[name].ns, "tcp", to); !errors.As(err, &timeout) || !timeout.Timeout() {
						t.Errorf("%s to %s: answered by %q, %v; want it denied", name, to, server, err)
					}
				})
			}
		}
		if server, _, err := ask(w.hosts["client"].ns, "udp", at(table, family, "dns")); err == nil {
			t.Errorf("UDP is allowed to nobody, and %s answered", server)
		}
	}
	silent.Wait()
	w.refused(w.hosts["stranger"].ns, "tcp", netip.MustParseAddrPort("10.96.0.66:80"))
}
