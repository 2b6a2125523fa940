//go:build linux

package nft_test

import (
	"testing"

	"github.com/ringfence-project/ringfence/internal/service"
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
