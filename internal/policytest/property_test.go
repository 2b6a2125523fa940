package policytest

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
)

// What is certain about a pod that nobody knows holds whoever it turns out to be, as far as the other end decides.
func TestWhatIsCertainHoldsForWhoeverItIs(t *testing.T) {
	certain := map[Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		for range 80 { // few have one end that nobody knows, and few of these are denied
			c := clustertest.Connection(t, s)
			if c.From.Unknown == c.To.Unknown {
				continue
			}
			v := verdict(eval.Evaluate(s, c))
			certain[v]++
			for range 4 {
				if v == Unknown {
					break
				}
				if got := asPod(t, s, c); got != v {
					t.Fatalf("%v is %s for certain, but %s for some pod", c, v, got)
				}
			}
		}
	})
	for _, v := range []Verdict{Allowed, Denied, Unknown} {
		if certain[v] == 0 {
			t.Errorf("no connection was %s: %v", v, certain)
		}
	}
}

// asPod makes a pod of the unknown end and says what the known end says of it.
func asPod(t *rapid.T, s *cluster.State, c cluster.Connection) Verdict {
	end := &c.From
	if c.To.Unknown {
		end = &c.To
	}
	labels := map[string]string{}
	for _, k := range []string{"app", "role", "hash", "env", "zone"} {
		if v := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, k); v != "" {
			labels[k] = v
		}
	}
	pod := &cluster.Endpoint{Key: cluster.Key{Namespace: rapid.SampledFrom([]string{"a", "b", "c", "new"}).Draw(t, "namespace"), Name: "stranger"},
		Labels: label.MustSet(labels), Addresses: []netip.Addr{end.Addr}}
	if rapid.Bool().Draw(t, "declares") {
		pod.Ports = []cluster.Port{{Name: rapid.SampledFrom([]string{"http", "dns"}).Draw(t, "name"), Protocol: c.Protocol, Number: c.Port}}
	}
	o := s.Objects()
	o.Endpoints = append(slices.Clone(o.Endpoints), pod)
	known, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	fromUnknown := c.From.Unknown
	*end = cluster.Party{Endpoint: pod, Addr: end.Addr}
	d := eval.Evaluate(known, c)
	side := d.Egress
	if fromUnknown {
		side = d.Ingress
	}
	if side == nil || side.Verdict == flow.Allow {
		return Allowed
	}
	return Denied
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("kind: PolicyTest\ntests:\n- name: x\n  patch: [{pod: a/b, labels: {c: null}}]\n  candidate: [x.yaml]\n  cases: [{from: [a, 1], to: \"b:1\", ports: [1], want: allow}]\ninvariants: [{only: \"a !b -> {c=d}/*:all\"}]\n"))
	f.Add([]byte("kind: PolicyTest\n---\n[{}]\n--- &a\nkind: *a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, problems := Read("x_test.yaml", data)
		if len(docs)+len(problems) == 0 {
			t.Error("neither a document nor a problem")
		}
		for _, p := range problems {
			if p.File == "" || p.Message == "" {
				t.Errorf("a problem without its place or its why: %+v", p)
			}
		}
	})
}
