package live

import (
	"context"
	"fmt"
	"time"
)

// Outcome is what became of an attempt.
type Outcome uint8

// The outcomes. Refused: an answer came, and it was no.
const (
	Unmade Outcome = iota
	Answered
	Silent
	Refused
)

// Result is what became of an attempt, and of all but Answered why.
type Result struct {
	Outcome
	Why string
}

// Settle makes all attempts of a plan until they fare as policies say, or until it has gone on for so long that they
// never will: the rules for new pods take a moment to be in force everywhere, and a pod that a node does not know yet may
// be closed, or open. So what is allowed is made first, and again until it works; then it is known that the nodes know the
// pods, and only from then on a connection that does not work counts as denied. What is denied and works all the same is
// tried again for as long too.
//
// round makes some attempts, given by their numbers, once each, and returns their results. pause is how long is waited
// between two rounds where a round takes less.
func Settle(ctx context.Context, plan *Plan, patience, pause time.Duration,
	round func(ctx context.Context, attempts []int) ([]Result, error), tell func(text string)) ([]Result, error) {
	results := make([]Result, len(plan.Attempts))
	for _, allowed := range []bool{true, false} {
		var left []int
		for i := range plan.Attempts {
			if plan.Allowed[i] == allowed {
				left = append(left, i)
			}
		}
		verb := map[bool]string{true: "allow", false: "deny"}[allowed]
		for start := time.Now(); len(left) > 0; {
			tell(fmt.Sprintf("connecting: %d that policies %s", len(left), verb))
			began := time.Now()
			got, err := round(ctx, left)
			if err != nil {
				return nil, err
			}
			var not []int
			for k, i := range left {
				results[i] = got[k]
				if (got[k].Outcome == Answered) != allowed && got[k].Outcome != Unmade {
					not = append(not, i)
				}
			}
			if left = not; len(left) == 0 || time.Since(start) >= patience {
				break
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Until(began.Add(pause))):
			}
		}
	}
	return results, nil
}
