package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// TestPortsAndCommandsChangeLive moves the port that a policy names, and then has a pod run something else.
func TestPortsAndCommandsChangeLive(t *testing.T) {
	m := newMachine(t)
	named := strings.Replace(shopManifest, "containerPort: 5432", "name: sql, containerPort: 5432", 1)
	m.write("shop.yaml", named)
	m.write("policy.yaml", strings.Replace(shopPolicy, "port: 5432", "port: sql", 1))
	u := m.up()
	u.await("in force")
	m.mustReach("shop/web", "shop/db", 5432)
	m.write("shop.yaml", strings.Replace(named, "5432", "5433", 1))
	u.await("shop.yaml: in force")
	m.mustAwait("the listener has moved", func() bool {
		c, err := m.dial("shop/web", "shop/db", 5433, 5*time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	m.mustNotReach("shop/web", "shop/db", 5432)
	m.mustNotReach("shop/other", "shop/db", 5433)

	for _, word := range []string{"first", "second"} {
		m.write("shop.yaml", strings.Replace(named, "{name: db, ", "{name: db, annotations: {ringfence.dev/exec: echo the "+word+"; exec sleep 1000}, ", 1))
		u.await("shop.yaml: in force")
		m.mustAwait("the "+word+" command runs", func() bool {
			out, _ := m.ringfence("logs", "shop/db")
			return strings.Contains(out, "the "+word)
		})
		m.mustNotReach("shop/other", "shop/db", 5432)
	}
}

const clusterPolicy = `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: %s
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - action: %s
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: %s}}}}]
`

// TestTiersLive changes what a policy of the whole cluster says, above and below one of the namespace.
func TestTiersLive(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up()
	u.await("in force")
	for _, c := range []struct {
		tier, action, of string
		web, other, port bool // whether these reach the database, and the web pod the other one, which has no policy
	}{
		{"Admin", "Deny", "web", false, false, false},
		{"Admin", "Accept", "other", true, true, true},
		{"Admin", "Pass", "other", true, false, true},
		{"Baseline", "Deny", "web", true, false, false},
	} {
		m.write("guard.yaml", fmt.Sprintf(clusterPolicy, c.tier, c.action, c.of))
		t.Log(u.await("guard.yaml: in force"))
		for _, pair := range []struct {
			from, to string
			port     int
			want     bool
		}{{"shop/web", "shop/db", 5432, c.web}, {"shop/other", "shop/db", 5432, c.other}, {"shop/web", "shop/other", 80, c.port}} {
			if pair.want {
				m.mustReach(pair.from, pair.to, pair.port)
			} else {
				m.mustNotReach(pair.from, pair.to, pair.port)
			}
		}
	}
	if err := os.Remove(filepath.Join(m.manifests, "guard.yaml")); err != nil {
		t.Fatal(err)
	}
	u.await("guard.yaml: in force")
	m.mustReach("shop/web", "shop/other", 80)
	m.mustNotReach("shop/other", "shop/db", 5432)
}

// TestPartialDriftIsRepaired takes single parts of the rules away with the tool that operators use.
func TestPartialDriftIsRepaired(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up()
	u.await("in force")
	for _, args := range []string{
		"delete element inet ringfence local4 { " + m.address("shop/db").String() + " }",
		"flush map inet ringfence subjects_in",
		"flush chain inet ringfence judge",
		"delete table inet ringfence",
	} {
		if out, code := m.ringfence("exec", "node", "--", "nft", args); code != exitOK {
			t.Fatalf("nft %s: code %d, %s", args, code, out)
		}
		t.Log(args, "\n", u.await("somebody changed the rules"))
		m.mustAwait("it is denied again", func() bool {
			c, err := m.dial("shop/other", "shop/db", 5432, 300*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		m.mustAwait("it is allowed again", func() bool {
			c, err := m.dial("shop/web", "shop/db", 5432, time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
}

// TestFloodIsCounted sends datagrams that are denied, ten thousand a second.
func TestFloodIsCounted(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	m.up().await("in force")
	shim, err := m.Shim(key("shop/other"))
	if err != nil {
		t.Fatal(err)
	}
	ns, err := shim.NetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var c net.Conn
	if err := ns.Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(m.address("shop/db"), 9999).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const packets = 10_000
	pace := time.NewTicker(10 * time.Millisecond) // or they overflow the queue of the receiving processor
	defer pace.Stop()
	for i := range packets {
		if i%100 == 0 {
			<-pace.C
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	m.mustAwait("all are counted", func() bool {
		out, _ := m.ringfence("flows", "--totals", "-o", "json")
		var totals flowlog.Totals
		if err := json.Unmarshal([]byte(out), &totals); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		var sum uint64
		for _, d := range totals.Drops {
			sum += d.Packets
		}
		if sum > packets {
			t.Fatalf("%d packets are counted, and %d were sent", sum, packets)
		}
		return sum == packets
	})
	out, code := m.ringfence("flows", "--denied", "--port", "9999/udp")
	if lines := strings.Count(out, "\n"); code != exitOK || lines < 1 || lines > 10 { // one for each few seconds
		t.Errorf("code %d, %d lines for %d packets:\n%s", code, lines, packets, out)
	}
}

// TestStatusOfABeginning: what is not in force yet is not well.
func TestStatusOfABeginning(t *testing.T) {
	s := instanceStatus{Running: true, Watching: true}
	s.judge()
	if len(s.Bad) != 1 || !strings.Contains(s.Bad[0], "nothing is in force yet") {
		t.Errorf("it says %q", s.Bad)
	}
}
