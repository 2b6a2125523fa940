package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/loopback"
)

func (a *Agent) serve(ctx context.Context) error {
	return loopback.Serve(ctx, a.options.Listen, a.handler())
}

func (a *Agent) handler() http.Handler {
	mux := loopback.Mux(a.metrics.registry, a.notReady)
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.Status()) // the reader went away
	})
	mux.HandleFunc("/policies", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.InForce()) // the reader went away
	})
	return mux
}

// notReady says why the node is not known to enforce all that the API says; "" if it is.
func (a *Agent) notReady() string {
	if missing := a.source.Waiting(); len(missing) > 0 {
		return "waiting for the first list of " + strings.Join(missing, ", ")
	}
	unproven := a.unproven(a.families())
	a.mu.Lock()
	defer a.mu.Unlock()
	switch bad, failing := a.own[NotEnforcing]; {
	case failing:
		return bad.String()
	case !a.inForce:
		return "no ruleset is in force yet"
	case unproven != "":
		return "it is not known yet whether " + unproven + " packets of pods pass the ruleset"
	}
	return ""
}

// Status is what the agent knows of itself.
type Status struct {
	Node       string      `json:"node"`
	Ready      bool        `json:"ready"`
	Why        string      `json:"why,omitempty"` // it is not ready
	Generation uint64      `json:"generation"`
	Pods       int         `json:"pods"`    // of this node, whose place is known
	Waiting    int         `json:"waiting"` // of this node, which are closed until their place is known
	Conditions []Condition `json:"conditions"`
}

// Status says how the agent is.
func (a *Agent) Status() Status {
	s := Status{Node: a.options.Node, Why: a.notReady(), Conditions: a.conditions()}
	s.Ready = s.Why == ""
	s.Pods, s.Waiting = a.feed.count()
	if e := a.running(); e != nil {
		s.Generation = e.Status().Generation
	}
	return s
}

// PolicyInForce is a policy of which this node's kernel enforces a version.
type PolicyInForce struct {
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Generation int64  `json:"generation"` // of the object's spec
	// Defect is why a stand-in that denies is in force in its stead.
	Defect string `json:"defect,omitempty"`
}

// InForce returns the policies whose newest known version the kernel enforces, whether they are about pods of this node
// or not, by kind, namespace and name. What is desired and not in force yet is in it with the version before.
func (a *Agent) InForce() []PolicyInForce {
	all := []PolicyInForce{}
	for _, p := range a.feed.policies() {
		all = append(all, PolicyInForce{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name, UID: p.UID, Generation: p.Generation, Defect: p.Defect})
	}
	slices.SortFunc(all, func(x, y PolicyInForce) int {
		return cmp.Or(strings.Compare(x.Kind, y.Kind), strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
	})
	return all
}
