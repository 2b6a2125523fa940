package kube

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// The types of Conditions.
const (
	// Malformed: an object cannot be used as it is. Its stand-in is, which denies.
	Malformed = "Malformed"
	// NotInstalled: the API does not know the kind, of which nothing is known: there is nothing wrong unless it is wanted.
	NotInstalled = "NotInstalled"
	// Uninstalled: the API does not know the kind any more. What was known of it before stays in force.
	Uninstalled = "Uninstalled"
	// NotKept: what is known could not be written down, for a process that starts when the API does not know the kind.
	NotKept = "NotKept"
	// Forbidden: we may not list or watch the kind.
	Forbidden = "Forbidden"
	// Unreachable: the API does not answer, or not as it should. What was known stays in force.
	Unreachable = "Unreachable"
)

// Condition is something that is wrong, for as long as it is.
type Condition struct {
	Type    string    `json:"type"`
	Object  string    `json:"object"` // "NetworkPolicy shop/web", or a kind alone
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// String is "Malformed NetworkPolicy shop/web: message".
func (c Condition) String() string { return c.Type + " " + c.Object + ": " + c.Message }

type conditionKey struct{ kind, object string }

type conditions struct {
	changed chan struct{} // of one place
	mu      sync.Mutex
	now     map[conditionKey]Condition
}

// set makes a condition hold, or end where message is "".
func (c *conditions) set(kind, object, message string) {
	c.mu.Lock()
	key := conditionKey{kind, object}
	old, was := c.now[key]
	if message == "" && !was || was && old.Message == message {
		c.mu.Unlock()
		return
	}
	if message == "" {
		delete(c.now, key)
	} else {
		if c.now == nil {
			c.now = map[conditionKey]Condition{}
		}
		since := time.Now()
		if was {
			since = old.Since
		}
		c.now[key] = Condition{Type: kind, Object: object, Message: message, Since: since}
	}
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Conditions returns what is wrong now, by type and object.
func (s *Source) Conditions() []Condition {
	c := &s.conditions
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Condition
	for _, x := range c.now {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b Condition) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Object, b.Object))
	})
	return all
}

// ConditionsChanged has a value when Conditions may return others than before.
func (s *Source) ConditionsChanged() <-chan struct{} { return s.conditions.changed }
