package reach_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/eval"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// TestChangesAreEvals draws a cluster and changes it: a connection has a change exactly if the reference gives it
// another verdict, and then the change has both decisions.
func TestChangesAreEvals(t *testing.T) {
	changed := 0
	rapid.Check(t, func(t *rapid.T) {
		s := clustertest.State(t)
		after := s
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			after = clustertest.Mutate(t, after)
		}
		c := comparison(t, s, after)
		changes := map[[2]int][]reach.Change{}
		for x := range c.Changes() {
			if x.Old.Verdict == x.New.Verdict {
				t.Fatalf("no change: %+v", x)
			}
			changes[[2]int{x.From, x.To}] = append(changes[[2]int{x.From, x.To}], x)
		}
		for range 30 {
			tuple := clustertest.Tuple(t, c.Old.State)
			tuple.Translated = false
			was, is := c.Old.State.Resolve(tuple), c.New.State.Resolve(tuple)
			from, ok1 := groupOf(c, was.From, is.From)
			to, ok2 := groupOf(c, was.To, is.To)
			if !ok1 || !ok2 || was.FromOwnNode() || is.FromOwnNode() || was.From.Endpoint != nil && was.From.Endpoint == was.To.Endpoint {
				continue
			}
			old, now := eval.Evaluate(c.Old.State, was).Flow(), eval.Evaluate(c.New.State, is).Flow()
			got := find(changes[[2]int{from, to}], tuple)
			if (got != nil) != (old.Verdict != now.Verdict) || got != nil && (got.Old != old || got.New != now) {
				t.Fatalf("%s, %s to %s:\n got %+v\nwant %+v\n and %+v", was.Tuple(), c.Groups[from].Name, c.Groups[to].Name, got, old, now)
			}
			if got != nil {
				changed++
			}
		}
	})
	if changed == 0 {
		t.Error("no verdict changed")
	}
}

func comparison(t interface{ Fatal(...any) }, before, after *cluster.State) *reach.Comparison {
	old, err := reach.Compute(before, reach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now, err := reach.Compute(after, reach.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return reach.Compare(old, now)
}

// groupOf finds the group of somebody who is the same in both states.
func groupOf(c *reach.Comparison, was, is cluster.Party) (int, bool) {
	for i, g := range c.Groups {
		old, ok1 := c.Old.BoxAt(was.Addr)
		now, ok2 := c.New.BoxAt(is.Addr)
		switch {
		case !ok1 || !ok2 || g.Old != old || g.New != now:
		case was.Endpoint != nil && is.Endpoint != nil:
			return i, was.Endpoint.Key == is.Endpoint.Key
		case was.Node != nil && is.Node != nil:
			return i, was.Node.Name == is.Node.Name
		default:
			return i, was.Endpoint == nil && is.Endpoint == nil && was.Node == nil && is.Node == nil
		}
	}
	return 0, false
}

func find(changes []reach.Change, t flow.Tuple) *reach.Change {
	protocol, port := t.Protocol, t.Port
	if !protocol.HasPorts() {
		protocol, port = 0, 0
	}
	family := "IPv6"
	if t.Source.Is4() {
		family = "IPv4"
	}
	for i, c := range changes {
		if c.Ports.Protocol == protocol && c.Ports.First <= port && port <= c.Ports.Last && (c.Family == "" || c.Family == family) {
			return &changes[i]
		}
	}
	return nil
}

func TestCompare(t *testing.T) {
	db := cluster.Owner{Kind: "StatefulSet", Name: "db"}
	pods := func(more ...string) []*cluster.Endpoint {
		all := []*cluster.Endpoint{pod("db-0", "db", db), pod("db-1", "db", db)}
		for _, name := range more {
			all = append(all, pod(name, name, cluster.Owner{}))
		}
		return all
	}
	state := func(o cluster.Objects) *cluster.State {
		s, err := cluster.NewState(o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := state(cluster.Objects{Endpoints: pods("web", "old")})
	after := state(cluster.Objects{Endpoints: pods("web", "new"), Policies: []*policy.Policy{deny(t, "p", "pod=db-1", block("198.51.100.0/24"))}})
	c := comparison(t, before, after)
	var got []string
	for x := range c.Changes() {
		got = append(got, fmt.Sprintf("%s to %s %s%s: %s by %s", c.Groups[x.From].Name, c.Groups[x.To].Name, strings.TrimLeft(x.Family+" ", " "), x.Ports, x.New.Verdict, x.New.Rule.Place()))
	}
	want := `shop/db (db-0) to shop/db (db-1) tcp: deny by p.yaml:3
shop/db (db-0) to shop/db (db-1) udp: deny by p.yaml:3`
	if text := strings.Join(got, "\n"); !strings.HasPrefix(text, want) {
		t.Errorf("got\n%s\nwant first\n%s", text, want)
	}
	port80 := "198.51.100.0/24 to shop/db (db-1) IPv4 0-79: deny by p.yaml:3\n198.51.100.0/24 to shop/db (db-1) IPv4 81-65535: deny by p.yaml:3\n"
	if text := strings.Join(got, "\n"); !strings.Contains(text, port80) {
		t.Errorf("port 80 stays open for the block, and only that: got\n%s\nwant in it\n%s", text, port80)
	}
	if strings.Join(c.Gone, " ") != "shop/old" || strings.Join(c.Come, " ") != "shop/new" {
		t.Errorf("gone %v, come %v", c.Gone, c.Come)
	}
}
