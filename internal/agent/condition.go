package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// Condition is something that is wrong; see kube.Condition.
type Condition = kube.Condition

// The types of conditions that are the agent's own. Their object is the node.
const (
	// NotEnforcing: what the API says could not be put in force. What was in force still is.
	NotEnforcing = "NotEnforcing"
	// StartGap: the agent found no closed table when it started, so pods were open until then.
	StartGap = "StartGap"
	// OffPath: it is not proved that the packets of pods pass the table, of each family that they have.
	OffPath = "OffPath"
	// TrackingFull: the kernel tracks as many connections as it can, and drops new ones.
	TrackingFull = "TrackingFull"
	// NoPodRange: it is not known where pods get their addresses from, so unknown pods are open.
	NoPodRange = "NoPodRange"
	// NotSeeing and NotListing: connections are not seen, so that no flows are kept and rollouts cannot be judged.
	NotSeeing  = "NotSeeing"
	NotListing = "NotListing"
	// Conflicting: two rollouts that are under way touch the same policy. One of them is left out.
	Conflicting = "Conflicting"
)

// setCondition makes one of the agent's own conditions hold, or end where message is "".
func (a *Agent) setCondition(kind, message string) {
	a.mu.Lock()
	old, was := a.own[kind]
	if message == "" {
		delete(a.own, kind)
	} else if !was || old.Message != message {
		a.own[kind] = Condition{Type: kind, Object: "Node " + a.options.Node, Message: message, Since: time.Now()}
	}
	a.mu.Unlock()
	if was || message != "" {
		a.logConditions()
		a.wakeReporter()
	}
}

// conditions returns what is wrong, by type and object.
func (a *Agent) conditions() []Condition {
	all := a.source.Conditions()
	a.mu.Lock()
	for _, c := range a.own {
		all = append(all, c)
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y Condition) int {
		return cmp.Or(strings.Compare(x.Type, y.Type), strings.Compare(x.Object, y.Object))
	})
	return all
}

// tellConditions logs conditions of the source as they come and go.
func (a *Agent) tellConditions(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.source.ConditionsChanged():
			a.logConditions()
			a.wakeReporter()
		}
	}
}

// logConditions logs those that are new, and those that are over.
func (a *Agent) logConditions() {
	now := map[string]bool{}
	for _, c := range a.conditions() {
		now[c.String()] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range now {
		if !a.told[c] {
			a.log.Warn("condition", "what", c)
		}
	}
	for c := range a.told {
		if !now[c] {
			a.log.Info("condition is over", "what", c)
		}
	}
	a.told = now
}
