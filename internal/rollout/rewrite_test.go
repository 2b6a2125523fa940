package rollout_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// drawPart draws a change of s and who is judged by it.
func drawPart(t *rapid.T, s *cluster.State) rollout.Part {
	policies, removed := clustertest.Candidates(t, s)
	p := rollout.Part{Name: "r", Change: rollout.Change{Policies: policies}, Members: map[cluster.Key]bool{}}
	for _, r := range removed {
		p.Change.Remove = append(p.Change.Remove, rollout.RefOf(r))
	}
	for _, e := range s.Endpoints() {
		if rapid.Bool().Draw(t, "member "+e.Name) {
			p.Members[e.Key] = true
		}
	}
	return p
}

func rewrite(t *rapid.T, s *cluster.State, parts ...rollout.Part) *cluster.State {
	out, err := rollout.Rewrite(s, parts...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sideText is what a side says, whichever version's name the rule has.
func sideText(s *eval.Side) string {
	if s == nil {
		return "not judged"
	}
	r := s.Rule
	r.Name = strings.TrimSuffix(r.Name, " (candidate)")
	return fmt.Sprint(s.Verdict, r)
}

// Every side of every connection is judged by the candidate alone if its subject is a member, else by the old policies
// alone: verdict and rule, in both directions. And the compiler says the same of what Rewrite makes.
func TestEveryPodIsJudgedByOneVersion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := clustertest.State(t)
		part := drawPart(t, before)
		after := rewrite(t, before, rollout.Part{Name: part.Name, Change: part.Change, Final: true})
		mixed := rewrite(t, before, part)
		want := func(e *cluster.Endpoint) *cluster.State {
			if e != nil && part.Members[e.Key] {
				return after
			}
			return before
		}
		compiled := compile.New(compile.Options{})
		compiled.Update(mixed, nil)
		for range 20 {
			tuple := clustertest.Tuple(t, before)
			in := func(s *cluster.State) eval.Decision { return eval.Evaluate(s, s.Resolve(tuple)) }
			got, c := in(mixed), before.Resolve(tuple)
			if g, w := sideText(got.Egress), sideText(in(want(c.From.Endpoint)).Egress); g != w {
				t.Fatalf("%s: egress is %s, want %s", tuple, g, w)
			}
			if g, w := sideText(got.Ingress), sideText(in(want(c.To.Endpoint)).Ingress); g != w {
				t.Fatalf("%s: ingress is %s, want %s", tuple, g, w)
			}
			full := got.Connection.Tuple()
			if d := compiled.Decide(full); d != got.Flow() {
				t.Fatalf("%s: compiled %+v, evaluated %+v", full, d, got.Flow())
			}
		}
	})
}

// For everyone it is the new policies, whether they have their own names yet or not; for nobody nothing changes.
func TestEveryoneAndNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		part := drawPart(t, s)
		everyone := rewrite(t, s, rollout.Part{Name: "r", Change: part.Change, Everyone: true})
		final := rewrite(t, s, rollout.Part{Name: "r", Change: part.Change, Final: true})
		if nobody := rewrite(t, s, rollout.Part{Name: "r", Change: part.Change}); nobody != s {
			t.Fatal("a change for nobody changes the state")
		}
		if len(final.Policies()) != len(everyone.Policies()) {
			t.Fatalf("%d policies for everyone, %d at the end", len(everyone.Policies()), len(final.Policies()))
		}
		for range 10 {
			tuple := clustertest.Tuple(t, s)
			a, b := eval.Evaluate(everyone, everyone.Resolve(tuple)), eval.Evaluate(final, final.Resolve(tuple))
			if sideText(a.Egress) != sideText(b.Egress) || sideText(a.Ingress) != sideText(b.Ingress) {
				t.Fatalf("%s: %v for everyone, %v at the end", tuple, a.Flow(), b.Flow())
			}
		}
	})
}

// Two rollouts of different policies do not meet: each side is judged by the versions that its subject is a member of.
func TestTwoRolloutsAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		a, b := drawPart(t, s), drawPart(t, s)
		taken := a.Change.Touches()
		b.Name = "other"
		b.Change.Policies = slices.DeleteFunc(b.Change.Policies, func(p *policy.Policy) bool { return slices.Contains(taken, rollout.RefOf(p)) })
		b.Change.Remove = slices.DeleteFunc(b.Change.Remove, func(r rollout.Ref) bool { return slices.Contains(taken, r) })
		mixed := rewrite(t, s, a, b)
		final := func(p rollout.Part) rollout.Part { p.Final = true; return p }
		of := func(e *cluster.Endpoint) *cluster.State {
			out := s
			if e != nil && a.Members[e.Key] {
				out = rewrite(t, out, final(a))
			}
			if e != nil && b.Members[e.Key] {
				out = rewrite(t, out, final(b))
			}
			return out
		}
		for range 5 {
			tuple := clustertest.Tuple(t, s)
			in := func(s *cluster.State) eval.Decision { return eval.Evaluate(s, s.Resolve(tuple)) }
			got, c := in(mixed), s.Resolve(tuple)
			if g, w := sideText(got.Egress), sideText(in(of(c.From.Endpoint)).Egress); g != w {
				t.Fatalf("%s: egress is %s, want %s", tuple, g, w)
			}
			if g, w := sideText(got.Ingress), sideText(in(of(c.To.Endpoint)).Ingress); g != w {
				t.Fatalf("%s: ingress is %s, want %s", tuple, g, w)
			}
		}
	})
}

func TestTwoVersionsOfOnePolicyAreRefused(t *testing.T) {
	p, err := policy.New(policy.Policy{Tier: policy.Admin, Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := cluster.NewState(cluster.Objects{Policies: []*policy.Policy{p},
		Endpoints: []*cluster.Endpoint{{Key: cluster.Key{Namespace: "a", Name: "x"}}}})
	if err != nil {
		t.Fatal(err)
	}
	one := rollout.Part{Name: "one", Change: rollout.Change{Policies: []*policy.Policy{p}}, Members: map[cluster.Key]bool{{Namespace: "a", Name: "x"}: true}}
	two := one
	two.Name = "two"
	if _, err := rollout.Rewrite(s, one, two); err == nil {
		t.Error("two versions of one policy are taken")
	}
	one.Final = true
	if _, err := rollout.Rewrite(s, one, two); err != nil {
		t.Errorf("a rollout on top of a finished one: %v", err)
	}
	one.Final, one.Name = false, "no name"
	if _, err := rollout.Rewrite(s, one); err == nil {
		t.Error("a name that cannot be a mark is taken")
	}
}

// pods makes a state of n pods that the returned change selects.
func pods(t *testing.T, n int) (*cluster.State, rollout.Change) {
	t.Helper()
	o := cluster.Objects{}
	for i := range n {
		o.Endpoints = append(o.Endpoints, &cluster.Endpoint{Key: cluster.Key{Namespace: "a", Name: fmt.Sprintf("web-%d", i)},
			Node: fmt.Sprintf("n%d", i%2), Labels: label.MustSet(map[string]string{"odd": fmt.Sprint(i % 2)})})
	}
	s, err := cluster.NewState(o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(policy.Policy{Tier: policy.Admin, Name: "p", Subject: policy.Pods{Namespaces: label.Everything(), Pods: label.Everything()}})
	if err != nil {
		t.Fatal(err)
	}
	return s, rollout.Change{Policies: []*policy.Policy{p}}
}

func TestCohortIsStableAndOnlyGrows(t *testing.T) {
	s, change := pods(t, 2000)
	var last map[cluster.Key]bool
	for _, percent := range []int{1, 10, 25, 50, 99, 100} {
		now := rollout.Cohort{Percent: percent}.Choose(s, "r", change)
		for k := range last {
			if !now[k] {
				t.Errorf("%s was in a smaller cohort, and is not in that of %d%%", k, percent)
			}
		}
		want := 2000 * percent / 100
		if off := math.Abs(float64(len(now) - want)); off > 5*math.Sqrt(2000)/2 || percent == 100 && off != 0 {
			t.Errorf("%d%% of 2000 are %d", percent, len(now))
		}
		last = now
	}
	if a, b := (rollout.Cohort{Percent: 10}).Choose(s, "r", change), (rollout.Cohort{Percent: 10}).Choose(s, "q", change); fmt.Sprint(a) == fmt.Sprint(b) {
		t.Error("every rollout has the same canaries")
	}
	if n := len(rollout.Cohort{}.Choose(s, "r", change)); n != 0 {
		t.Errorf("the zero cohort has %d pods", n)
	}
	o := s.Objects() // others' coming and going moves nobody
	few, err := cluster.NewState(cluster.Objects{Endpoints: o.Endpoints[:500]})
	if err != nil {
		t.Fatal(err)
	}
	all := rollout.Cohort{Percent: 10}.Choose(s, "r", change)
	for _, e := range few.Endpoints() {
		if (rollout.Cohort{Percent: 10}).Choose(few, "r", change)[e.Key] != all[e.Key] {
			t.Fatalf("%s moves with others", e.Key)
		}
	}
}

func TestCohortIsNeverEmpty(t *testing.T) {
	s, change := pods(t, 2)
	canary := rollout.Cohort{Percent: 1}.Choose(s, "r", change)
	if len(canary) != 1 {
		t.Fatalf("1%% of 2 pods are %v", canary)
	}
	for percent := 1; percent < 100; percent++ {
		for k := range canary {
			if !(rollout.Cohort{Percent: percent}).Choose(s, "r", change)[k] {
				t.Fatalf("%s is not in the cohort of %d%% any more", k, percent)
			}
		}
	}
}

func TestCohortOfSelectorAndNodes(t *testing.T) {
	s, change := pods(t, 10)
	odd := label.MustParse("odd=1")
	for what, c := range map[string]rollout.Cohort{
		"selector": {Percent: 100, Pods: &odd},
		"nodes":    {Percent: 100, Nodes: []string{"n1"}},
	} {
		members := c.Choose(s, "r", change)
		if len(members) != 5 || !members[cluster.Key{Namespace: "a", Name: "web-1"}] {
			t.Errorf("%s chooses %v", what, members)
		}
	}
	none := label.MustParse("odd=7")
	if members := (rollout.Cohort{Percent: 100, Namespaces: &none}).Choose(s, "r", change); len(members) != 0 {
		t.Errorf("a namespace that is not there has %v", members)
	}
	if members := (rollout.Cohort{Percent: 100}).Choose(s, "r", rollout.Change{}); len(members) != 0 {
		t.Errorf("a change of nothing has the cohort %v", members)
	}
}
