package live

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
)

// No policy can tell a probe pod from the workload that it stands for, if it has the same address: verdict and rule are the
// same at each end, whoever shares the probe pod.
func TestPoliciesCannotTell(t *testing.T) {
	made, denied := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		planner := NewPlanner(s, Options{Outside: true})
		var all []cluster.Connection
		for range 10 {
			c := clustertest.Connection(t, s)
			if planner.Add(s, c) == "" {
				all = append(all, c)
			}
		}
		plan := planner.Plan()
		for _, c := range all {
			n, why := plan.Find(s, c)
			if why != "" {
				t.Fatalf("%v was planned, and is not found: %s", c, why)
			}
			a := plan.Attempts[n]
			there := c
			there.From.Endpoint = endpoint(plan.Probes[a.From])
			if a.To != Outside {
				there.To.Endpoint = endpoint(plan.Probes[a.To])
			}
			want, got := eval.Evaluate(s, c).Flow(), eval.Evaluate(s, there).Flow()
			if got != want {
				t.Fatalf("%v is %v, and %v between probe pods\n%s", c, want, got, dump(plan))
			}
			made++
			if want.Verdict != flow.Allow {
				denied++
			}
		}
	})
	if made == 0 || denied == 0 || denied == made {
		t.Errorf("%d connections, %d of them denied, show nothing", made, denied)
	}
}

// endpoint is a probe pod as policies see it.
func endpoint(p Probe) *cluster.Endpoint {
	return &cluster.Endpoint{Key: cluster.Key{Namespace: p.Namespace, Name: "probe"}, Labels: p.Labels, Ports: p.Named}
}
