package policytest

import (
	"fmt"
	"slices"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// makeAll makes the connections of all cases for real and returns what became of each: one Judge for what is in force,
// and another for the candidate.
func (r *Runner) makeAll(cases [][]expected, now, later *arena) (func(expected) (Observed, error), error) {
	type key struct {
		arena      *arena
		connection cluster.Connection
	}
	seen := map[key]Observed{}
	arenas := []*arena{now}
	if later != now {
		arenas = append(arenas, later)
	}
	for _, a := range arenas {
		var list []cluster.Connection
		for _, c := range cases {
			for _, e := range c {
				if e.arena == a {
					list = append(list, e.connection)
				}
			}
		}
		if len(list) == 0 {
			continue
		}
		observed, err := r.makeIn(a, list)
		if err != nil {
			return nil, err
		}
		for i, o := range observed {
			seen[key{a, list[i]}] = o
		}
	}
	return func(e expected) (Observed, error) { return seen[key{e.arena, e.connection}], nil }, nil
}

func (r *Runner) makeIn(a *arena, list []cluster.Connection) ([]Observed, error) {
	judge, err := r.Boot(a.clone(), Needs{Connections: list, Namespaces: a.named,
		Hypothetical: r.Cluster != nil && !slices.Equal(a.objects.Policies, a.inForce)})
	if err != nil {
		return nil, err
	}
	defer judge.Close()
	there := make([]cluster.Connection, len(list))
	for i, c := range list {
		moved, err := move(judge.State(), c)
		if err != nil {
			return nil, err
		}
		there[i] = moved
	}
	return judge.Connect(there)
}

// move is a connection between the same parties in another cluster, where they may have other addresses.
func move(s *cluster.State, c cluster.Connection) (cluster.Connection, error) {
	var err error
	if c.From, err = moveParty(s, c.From); err == nil {
		c.To, err = moveParty(s, c.To)
	}
	return c, err
}

func moveParty(s *cluster.State, p cluster.Party) (cluster.Party, error) {
	if p.Endpoint == nil {
		return s.At(p.Addr), nil
	}
	e := s.Endpoint(p.Endpoint.Key)
	if e == nil {
		return p, fmt.Errorf("%s does not run: a workload with no pods cannot be asked with packets", p)
	}
	for _, a := range e.Addresses {
		if p.Addr.IsValid() && a.Is4() == p.Addr.Is4() {
			return s.PartyOf(e, a), nil
		}
	}
	return p, fmt.Errorf("%s has no address of the family of %s there", p, p.Addr)
}
