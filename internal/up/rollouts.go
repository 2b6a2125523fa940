package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/conntrack"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/driver"
	"github.com/ringfence-project/ringfence/internal/rollout/measure"
	"github.com/ringfence-project/ringfence/internal/runtime"
)

// rollouts is the part of `up` that drives rollouts.
type rollouts struct {
	*driver.Driver
	generations *generations
	asker       *measure.Asker
}

// rolloutsFolder is where an instance keeps them.
func rolloutsFolder(i runtime.Instance) string { return filepath.Join(i.State, "rollouts") }

func newRollouts(node *runtime.Node, g *generations, say func(string, ...any)) (*rollouts, error) {
	asker := measure.New(measure.Options{})
	d, err := driver.Open(driver.Options{
		Folder: rolloutsFolder(node.Instance),
		Decide: node.Engine().Decide,
		Living: func(ctx context.Context) ([]flow.Tuple, error) {
			var all []flow.Tuple
			err := conntrack.List(ctx, node.Namespace(), func(c conntrack.Conn) {
				if !c.Over() {
					all = append(all, c.Tuple())
				}
			})
			return all, err
		},
		Pod: func(k cluster.Key) (driver.Pod, bool) {
			s, known := node.Heard(k)
			return driver.Pod{Ready: s.Ready, Restarts: s.Restarts}, known
		},
		Measured: asker.Measured,
		Again:    node.Again,
		Say:      say,
	})
	if err != nil {
		return nil, err
	}
	return &rollouts{d, g, asker}, nil
}

// Run drives until ctx ends.
func (r *rollouts) Run(ctx context.Context) {
	defer r.asker.Close()
	r.Driver.Run(ctx)
}

// judged is the state that policies are judged by; before there is one, that of s.
func (r *rollouts) judged(s *services) *cluster.State {
	if j := r.generations.state(); j != nil {
		return j
	}
	if j := r.InForce(); j != nil {
		return j
	}
	return s.current()
}

// Rollouts are all rollouts of an instance.
type Rollouts struct {
	Driven bool          `json:"driven"` // an `up` drives them; else they stay as they are
	Now    []driver.View `json:"rollouts"`
	Past   []driver.View `json:"past,omitempty"` // that are no more, the newest first
	// Returned is what a person returned to: nothing of the rollouts is in force then. Nil if the files and rollouts rule.
	Returned *generation.Return `json:"returned,omitempty"`
}

func (r *rollouts) show(w http.ResponseWriter, _ *http.Request) {
	now, past := r.Views()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Rollouts{true, now, past, r.generations.returned()}) // who does not read to the end has gone
}

func (r *rollouts) do(w http.ResponseWriter, q *http.Request) {
	c := rollout.Command(q.PathValue("command"))
	if !slices.Contains(rollout.Commands, c) {
		http.Error(w, fmt.Sprintf("unknown command %q", c), http.StatusBadRequest)
		return
	}
	r.generations.steering.Lock()
	defer r.generations.steering.Unlock()
	if to := r.generations.returned(); to != nil {
		http.Error(w, fmt.Sprintf("policies were returned to %s; first \"ringfence rollout resume\"", to), http.StatusConflict)
		return
	}
	err := r.Do(q.PathValue("name"), c, time.Now())
	switch {
	case errors.Is(err, driver.ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

// ReadRollouts asks the running `up` of an instance for its rollouts, or reads what it left if none runs.
func ReadRollouts(ctx context.Context, i runtime.Instance) (Rollouts, error) {
	answer, err := ask(ctx, i.Run, http.MethodGet, "/rollouts")
	if errors.Is(err, errNobody) && ctx.Err() == nil {
		now, past, err := driver.Read(rolloutsFolder(i))
		to, damage := readReturn(returnFile(i))
		return Rollouts{false, now, past, to}, errors.Join(err, damage)
	}
	if err != nil {
		return Rollouts{}, err
	}
	defer answer.Body.Close()
	var r Rollouts
	if err := json.NewDecoder(answer.Body).Decode(&r); err != nil {
		return r, fmt.Errorf("rollouts: %w", err)
	}
	return r, nil
}

// Command tells the running `up` of an instance what a person wants of a rollout. The error says why it does not do it.
func Command(ctx context.Context, i runtime.Instance, name string, c rollout.Command) error {
	_, err := tell(ctx, i, "/rollouts/"+url.PathEscape(name)+"/"+string(c))
	return err
}
