package judge

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

// TestFindingsAreWhatTheReferenceSays: whatever pods the candidate is in force for, what is seen is a finding exactly if
// the reference judges it otherwise by the policies before than it fared, or by those after.
func TestFindingsAreWhatTheReferenceSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		var change rollout.Change
		policies, removed := clustertest.Candidates(t, s)
		change.Policies = policies
		for _, p := range removed {
			change.Remove = append(change.Remove, rollout.RefOf(p))
		}
		part := rollout.Part{Name: "r", Change: change, Members: map[cluster.Key]bool{}}
		selected := map[cluster.Key]bool{}
		for _, e := range change.Selected(s) {
			selected[e.Key] = true
			part.Members[e.Key] = rapid.Bool().Draw(t, "member")
		}
		j := New("r", compile.Options{})
		j.Selected = func(k cluster.Key) bool { return selected[k] }
		j.Judged = func(k cluster.Key) bool { return selected[k] && part.Includes(k) }
		if err := j.Update(s, change, nil); err != nil {
			t.Fatal(err)
		}
		now, after := rewritten(t, s, part), rewritten(t, s, rollout.Part{Name: "r", Change: change, Final: true})
		for range 20 {
			c := s.Resolve(clustertest.Tuple(t, s))
			before, after, fared := verdict(s, c), verdict(after, c), verdict(now, c)
			var e rollout.Evidence
			diff, first := j.Saw(&e, Connection{Connection: c, Fared: fared, InForce: fared, At: time.Unix(1, 0)})
			about := c.From.Endpoint != nil && selected[c.From.Endpoint.Key] || c.To.Endpoint != nil && selected[c.To.Endpoint.Key]
			known := !c.From.Unknown && !c.To.Unknown
			want := about && known && (before != fared || after != fared)
			if (diff != nil) != want || first != want || (len(e.Findings) == 1) != want || (e.Uncertain == 1) != (about && !known) {
				t.Fatalf("%s: before %s, after %s, fared %s: difference %+v, evidence %+v", c.Tuple(), before, after, fared, diff, e)
			}
			if want && ((e.Findings[0].Kind == rollout.NewlyDenied) != (before == flow.Allow) || e.Findings[0].Enforced != (before != fared)) {
				t.Fatalf("%s: before %s, after %s, fared %s: %+v", c.Tuple(), before, after, fared, e.Findings[0])
			}
		}
	})
}

func rewritten(t *rapid.T, s *cluster.State, p rollout.Part) *cluster.State {
	out, err := rollout.Rewrite(s, p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func verdict(s *cluster.State, c cluster.Connection) flow.Verdict {
	return eval.Evaluate(s, s.Resolve(c.Tuple())).Flow().Verdict
}
