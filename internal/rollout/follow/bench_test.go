package follow

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// A cluster of benchPods pods in benchSpaces namespaces, a hundred of which run on this node; in each namespace a policy for
// each of its ten applications.
const benchPods, benchSpaces, benchNodes = 10_000, 50, 100

func benchPod(i, version int) *kube.Pod {
	space := fmt.Sprintf("space%d", i%benchSpaces)
	app := fmt.Sprintf("app%d", i/benchSpaces%10)
	return &kube.Pod{Endpoint: &cluster.Endpoint{Key: cluster.Key{Namespace: space, Name: fmt.Sprint("pod", i)}, UID: fmt.Sprint(i), Node: fmt.Sprint("n", i%benchNodes),
		Labels: label.MustSet(map[string]string{"app": app}), Owner: cluster.Owner{Kind: "Deployment", Name: app},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(version), byte(i >> 8), byte(i)})}}}
}

func benchPolicy(tb testing.TB, space, app int, port uint16) *policy.Policy {
	sel := func(app int) policy.Pods {
		return policy.Pods{Namespaces: label.MustParse(fmt.Sprint(cluster.NameLabel, "=space", space)), Pods: label.MustParse(fmt.Sprint("app=app", app))}
	}
	p, err := policy.New(policy.Policy{Tier: policy.Namespace, Namespace: fmt.Sprint("space", space), Name: fmt.Sprint("app", app), Subject: sel(app),
		IsolatesIngress: true, Ingress: []policy.Rule{{Action: policy.Accept, Peers: []policy.Peer{{Kind: policy.PeerPods, Pods: sel((app + 1) % 10)}},
			Ports: []policy.Port{{Protocol: flow.TCP, First: port, Last: port}}}}})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func benchNode(tb testing.TB) *node {
	f := newNode("n7")
	b := kube.Batch{Pods: map[cluster.Key]*kube.Pod{}, Namespaces: map[string]*cluster.Namespace{}, Policies: map[kube.PolicyKey]*kube.Policy{}}
	for i := range benchPods {
		p := benchPod(i, 0)
		b.Pods[p.Key] = p
	}
	for space := range benchSpaces {
		n := fmt.Sprint("space", space)
		b.Namespaces[n] = &cluster.Namespace{Name: n}
		for app := range 10 {
			p := benchPolicy(tb, space, app, 80)
			b.Policies[cluster.Key{Namespace: p.Namespace, Name: p.Name}] = &kube.Policy{Policy: p}
		}
	}
	f.put(b)
	return f
}

// benchRollout brings new versions of a tenth of the policies, in force for a tenth of the pods that they select.
func benchRollout(tb testing.TB, revision int) *record.Record {
	spec := &rollout.Spec{Name: "r", Digest: "1", Steps: []rollout.Step{{Kind: rollout.Enforce, Cohort: rollout.Cohort{Percent: 10}}}}
	for space := range benchSpaces {
		spec.Policies = append(spec.Policies, benchPolicy(tb, space, 3, 81))
	}
	return &record.Record{Name: "r", Spec: spec, Digest: "1", Status: rollout.Status{Rollout: "r", Digest: "1", Revision: revision, Phase: rollout.Progressing}}
}

// BenchmarkOnePod is what one pod of another node that gets another address costs: what rollouts add where there are none,
// all of it without them, and while one is under way.
func BenchmarkOnePod(b *testing.B) {
	f := benchNode(b)
	var batches []kube.Batch
	for i := range 4 * benchPods {
		p := benchPod(i*7%benchPods, 1+i%3)
		batches = append(batches, kube.Batch{Pods: map[cluster.Key]*kube.Pod{p.Key: p}})
	}
	run := func(name string, put func(kube.Batch)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				put(batches[i%len(batches)])
			}
		})
	}
	run("added", func(batch kube.Batch) {
		c := f.Take(batch)
		c.Apply()
		c.Done()
	})
	run("no rollout", f.put)
	f.put(kube.Batch{Rollouts: map[string]*record.Record{"r": benchRollout(b, 1)}})
	f.settle(true)
	run("one rollout", f.put)
}

// BenchmarkBegin is what the begin of a rollout costs: two more compilers, and who is selected.
func BenchmarkBegin(b *testing.B) {
	f := benchNode(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.put(kube.Batch{Rollouts: map[string]*record.Record{"r": benchRollout(b, i)}})
	}
}

// BenchmarkStep is what a step of it costs, which narrows or widens the cohort.
func BenchmarkStep(b *testing.B) {
	f := benchNode(b)
	x := benchRollout(b, 1)
	x.Spec.Steps = append(x.Spec.Steps, rollout.Step{Kind: rollout.Enforce, Cohort: rollout.Cohort{Percent: 50}})
	f.put(kube.Batch{Rollouts: map[string]*record.Record{"r": x}})
	f.settle(true)
	for i := 0; b.Loop(); i++ {
		next := *x
		next.Status.Step = i % 2
		f.put(kube.Batch{Rollouts: map[string]*record.Record{"r": &next}})
	}
}
