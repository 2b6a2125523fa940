//go:build linux

package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// Answer is what the agents had.
type Answer struct {
	Records []*flowlog.Record // by time, each with its Node; a connection between two nodes once
	Nodes   int               // that were asked
	Missing []Missing         // of these, by node
	// LeftOut is how many records were older than those, and more than Agents.Limit allows.
	LeftOut int
}

// Records returns what the agents have. It is an error only if none of them could be asked.
func (a *Agents) Records(ctx context.Context, o flowlog.Options) (*Answer, error) {
	c, answer, err := a.collect(ctx, o)
	if err != nil {
		return nil, err
	}
	answer.Records = c.told(o)
	return answer, nil
}

// collection is what agents told so far.
type collection struct {
	limit  int
	joiner *joiner

	mu       sync.Mutex
	records  []*flowlog.Record
	leftOut  int
	progress map[string]progress // by node
}

// progress is up to where a node was heard.
type progress struct {
	id uint64    // of its newest record
	at time.Time // when the newest thing happened, by its own clock
}

// has reports whether r was heard before. An agent that was started anew numbers its records anew, but all that it saw is
// younger.
func (p progress) has(r *flowlog.Record) bool { return r.ID <= p.id && !seen(r).After(p.at) }

func (p progress) with(r *flowlog.Record) progress {
	if at := seen(r); at.After(p.at) {
		p.at = at
	}
	p.id = max(p.id, r.ID)
	return p
}

// seen is when the newest thing of a record happened.
func seen(r *flowlog.Record) time.Time {
	switch {
	case r.End != nil:
		return r.End.Time
	case r.Last.After(r.Time):
		return r.Last
	}
	return r.Time
}

func (a *Agents) collect(ctx context.Context, o flowlog.Options) (*collection, *Answer, error) {
	if _, err := o.Query(); err != nil {
		return nil, nil, err
	}
	agents, _, err := a.find(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(agents) == 0 {
		return nil, nil, a.errNoAgents()
	}
	limit := cmp.Or(a.Limit, DefaultLimit)
	c := &collection{limit: limit, joiner: newJoiner(limit), progress: map[string]progress{}}
	answer := &Answer{Nodes: len(agents)}
	answer.Missing, err = a.each(ctx, agents, func(ctx context.Context, g agent) error {
		return a.ask(ctx, g, Arguments(pushed(o), time.Now()), func(line []byte) error {
			r, err := decode(g, line)
			if err == nil {
				c.add(r)
			}
			return err
		})
	})
	if err != nil {
		return nil, nil, err
	}
	c.cut()
	if answer.LeftOut = c.leftOut; c.leftOut > 0 {
		a.warn("%d older flows are left out: more than %d are not held at once; ask for fewer with --since, --last, a namespace or nodes", c.leftOut, limit)
	}
	return c, answer, nil
}

func decode(g agent, line []byte) (*flowlog.Record, error) {
	r := &flowlog.Record{}
	if err := json.Unmarshal(line, r); err != nil {
		return nil, fmt.Errorf("read its answer: %w", err)
	}
	r.Node = g.node
	return r, nil
}

// add keeps a record; of too many the newest.
func (c *collection) add(r *flowlog.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress[r.Node] = c.progress[r.Node].with(r)
	c.records = append(c.records, r)
	if len(c.records) > c.limit+c.limit/4 {
		c.cut()
	}
}

// cut puts the records in order, and leaves out what is too much.
func (c *collection) cut() {
	slices.SortStableFunc(c.records, byTime)
	more := len(c.records) - c.limit
	if more <= 0 {
		return
	}
	c.leftOut += more
	n := copy(c.records, c.records[more:])
	clear(c.records[n:])
	c.records = c.records[:n]
}

func byTime(x, y *flowlog.Record) int {
	return cmp.Or(x.Time.Compare(y.Time), strings.Compare(x.Node, y.Node), cmp.Compare(x.ID, y.ID))
}

// told returns the records, each connection once, and forgets them.
func (c *collection) told(o flowlog.Options) []*flowlog.Record {
	entries := make([]*entry, len(c.records))
	for i, r := range c.records {
		entries[i] = c.joiner.offer(r)
	}
	told := make([]*flowlog.Record, 0, len(entries))
	for i, e := range entries {
		if r := e.complete(c.records[i]); !e.left && isTold(o, r) {
			told = append(told, r)
		}
	}
	c.records = nil
	if o.Last > 0 && len(told) > o.Last {
		told = told[len(told)-o.Last:]
	}
	return told
}

// isTold applies what was not pushed to the agents.
func isTold(o flowlog.Options, r *flowlog.Record) bool {
	return o.Verdict != flow.Allow.String() || !r.Denied()
}

// Totals returns the sums of all nodes' agents, and which of these could not be asked. A connection between two nodes is
// counted at the one that it went to, as that one knows how it fared. Lost is in it, Open, Records and Bytes are sums.
func (a *Agents) Totals(ctx context.Context) (flowlog.Totals, []Missing, error) {
	agents, _, err := a.find(ctx)
	if err != nil {
		return flowlog.Totals{}, nil, err
	}
	if len(agents) == 0 {
		return flowlog.Totals{}, nil, a.errNoAgents()
	}
	var mu sync.Mutex
	var all []flowlog.Totals
	missing, err := a.each(ctx, agents, func(ctx context.Context, g agent) error {
		heard := false
		err := a.ask(ctx, g, []string{"--totals"}, func(line []byte) error {
			var t flowlog.Totals
			if err := json.Unmarshal(line, &t); err != nil {
				return fmt.Errorf("read its answer: %w", err)
			}
			mu.Lock()
			defer mu.Unlock()
			all, heard = append(all, t), true
			return nil
		})
		if err == nil && !heard {
			err = errors.New("its answer is empty")
		}
		return err
	})
	return flowlog.Sum(all), missing, err
}
