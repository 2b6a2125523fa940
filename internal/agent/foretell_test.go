package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// What an agent's audit says of real connections is what happens to them once the change is in force, on random changes, and
// the rest fares as before. 60 rounds with RINGFENCE_LONG.
func TestAuditForetellsEnforcement(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	m, h := shop(t)
	_, err := h.options.Client.CoreV1().Pods("shop").Create(t.Context(), apiPod("unknown", "3", "n1", port("unknown").Addresses...), metav1.CreateOptions{})
	must(t, err)
	a, stop := m.start(h.options)
	defer stop()
	m.awaitReady(a)
	random := clustertest.Texts{Rand: rand.New(rand.NewPCG(seed, 1)), Namespace: "shop", Apps: []string{"web", "db"}}
	differences := 0
	rounds := 3
	if os.Getenv("RINGFENCE_LONG") != "" {
		rounds = 60
	}
	for range rounds {
		policies := objects(t, random.Policies("p")) // in place of those of the round before, or beside them
		h.write("change", policies, `[{"audit":{"for":"1h"}},{"enforce":{"percent":100,"for":"1h"}}]`)
		h.awaitInForce(h.follow("change"))
		began := time.Now()
		before := m.dialAll()
		foretold := m.foretold(a, began, len(before))
		h.awaitInForce(h.do("change", rollout.Promote))
		for c, now := range m.dialAll() {
			if want := before[c] != foretold[c]; now != want {
				t.Errorf("%s: was let through %v, an audit foretold another verdict %v, and then it was let through: %v\n%s", c, before[c], foretold[c], now, policies)
			}
		}
		differences += len(foretold)
		h.awaitInForce(h.do("change", rollout.Promote)) // complete: the next round begins with it
	}
	t.Logf("%d rounds, %d connections that the changes changed", rounds, differences)
}

// objects are documents of YAML as a list's items in JSON.
func objects(t *testing.T, docs []string) string {
	t.Helper()
	var all []string
	for _, d := range docs {
		b, err := yaml.YAMLToJSON([]byte(d))
		must(t, err)
		all = append(all, string(b))
	}
	return strings.Join(all, ",")
}

// connection is one that is tried: of IPv4 or IPv6 (0 and 1).
type connection struct {
	from, to string
	version  int
}

func (c connection) String() string {
	return fmt.Sprintf("%s -> %s, IPv%d", c.from, c.to, 4+2*c.version)
}

// dialAll tries all connections at once, and says which are let through.
func (m *machine) dialAll() map[connection]bool {
	m.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	through := map[connection]bool{}
	for from := range numbers {
		for to := range numbers {
			for v := range 2 {
				if from == to {
					continue
				}
				all.Go(func() {
					c, err := m.dial(m.pods[from], to, v, time.Second)
					if err == nil {
						c.Close()
					}
					mu.Lock()
					defer mu.Unlock()
					through[connection{from, to, v}] = err == nil
				})
			}
		}
	}
	all.Wait()
	return through
}

// foretold are the connections since a time of which the audit says that they would fare otherwise. All of count are waited for.
func (m *machine) foretold(a *Agent, since time.Time, count int) map[connection]bool {
	m.t.Helper()
	var differ map[connection]bool
	eventually(m.t, "all connections are seen", func() bool {
		seen := map[connection]bool{}
		differ = map[connection]bool{}
		err := socket.Stream(m.t.Context(), a.options.Flows, socket.Request{}, func(x socket.Message) error {
			r := x.Record
			if r == nil || r.Time.Before(since) || r.Source.Pod == "" || r.Destination.Pod == "" {
				return nil
			}
			c := connection{from: r.Source.Pod, to: r.Destination.Pod}
			if r.Source.Address.Is6() {
				c.version = 1
			}
			if seen[c] = true; r.Beside == nil {
				return nil
			}
			differ[c] = true
			if !r.Beside.Candidate || r.Beside.Verdict == r.Verdict {
				return errors.New("an audit says " + r.Beside.String() + " of what fared so")
			}
			return nil
		})
		must(m.t, err)
		return len(seen) >= count
	})
	return differ
}
