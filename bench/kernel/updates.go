//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/bench/measure"
	"github.com/ringfence-project/ringfence/bench/workload"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// measureUpdates prints what changes take, with large rulesets in force.
func measureUpdates(ctx context.Context, w *workload.Workload, rounds int) error {
	if err := nodeOf(w).updates(ctx, rounds); err != nil {
		return err
	}
	return denseUpdates(ctx, rounds)
}

// applier applies differences and keeps what they took.
type applier struct {
	d     *nft.Dataplane
	kinds map[string]*taken
	order []string
}

type taken struct {
	cpu, wall, ops measure.Series // µs
}

func (a *applier) apply(ctx context.Context, kind string, d ruleset.Delta) error {
	if d.From == d.To {
		return nil // nothing for the kernel to do
	}
	t := a.kinds[kind]
	if t == nil {
		t = &taken{}
		a.kinds[kind], a.order = t, append(a.order, kind)
	}
	start, cpu := time.Now(), measure.CPU()
	if err := a.d.Apply(ctx, d); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	t.cpu, t.wall = append(t.cpu, 1000*ms(measure.CPU()-cpu)), append(t.wall, 1000*ms(time.Since(start)))
	t.ops = append(t.ops, float64(len(d.Ops)))
	return nil
}

func (a *applier) print(what string) {
	fmt.Printf("updates, %s in force; µs from the call of Apply to the kernel's acknowledgement\n", what)
	fmt.Printf("  %-34s %6s %9s %9s %9s %9s %9s\n", "", "times", "cpu p50", "cpu p99", "wall p50", "wall p99", "elements")
	for _, kind := range a.order {
		t := a.kinds[kind]
		fmt.Printf("  %-34s %6d %9.0f %9.0f %9.0f %9.0f %9.1f\n", kind, len(t.cpu), t.cpu.Quantile(0.5), t.cpu.Quantile(0.99),
			t.wall.Quantile(0.5), t.wall.Quantile(0.99), t.ops.Mean())
	}
}

// updates are those of the workload, and pods of kinds that are known.
func (n node) updates(ctx context.Context, rounds int) error {
	c := n.compiler(len(n.w.Policies))
	c.Flush()
	ns, d, err := enforcer()
	if err != nil {
		return err
	}
	defer ns.Close()
	defer d.Close()
	if err := d.Replace(ctx, c.Ruleset()); err != nil {
		return err
	}
	a := &applier{d: d, kinds: map[string]*taken{}}
	if err := n.knownPods(ctx, a, c, rounds); err != nil {
		return err
	}
	done := map[string]int{}
	for _, u := range n.w.Updates {
		if strings.HasSuffix(u.Kind, "-remote") || done[u.Kind] == rounds {
			continue // as knownPods; and enough of that kind
		}
		done[u.Kind]++
		u.Apply(c)
		if err := a.apply(ctx, u.Kind, c.Flush()); err != nil {
			return err
		}
	}
	a.print("one node of the cluster")
	return nil
}

// knownPods adds and removes pods like those that are there.
func (n node) knownPods(ctx context.Context, a *applier, c *compile.Compiler, rounds int) error {
	for i := range rounds {
		for _, kind := range []string{"local", "remote"} {
			like := n.locals[i%len(n.locals)]
			at := ruleset.Attachment{Interface: "veth-new"}
			if kind == "remote" {
				like, at = n.w.Pods[(i*7919)%len(n.w.Pods)], ruleset.Attachment{}
				if like.Node == workload.LocalNode {
					continue
				}
			}
			pod := *like
			pod.Key = cluster.Key{Namespace: like.Namespace, Name: fmt.Sprint("one-more-", i)}
			pod.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 250, byte(i >> 8), byte(i)})}
			c.SetPod(&pod, at)
			if err := a.apply(ctx, "pod of a known kind added, "+kind, c.Flush()); err != nil {
				return err
			}
			c.DeletePod(pod.Key)
			if err := a.apply(ctx, "pod of a known kind removed, "+kind, c.Flush()); err != nil {
				return err
			}
		}
	}
	return nil
}

// denseUpdates are changes with 100 subjects × 9,000 identities in force.
func denseUpdates(ctx context.Context, rounds int) error {
	const subjects, peers = 100, 9000
	ns, d, err := enforcer()
	if err != nil {
		return err
	}
	defer ns.Close()
	defer d.Close()
	if err := d.Replace(ctx, dense(subjects, peers)); err != nil {
		return err
	}
	a := &applier{d: d, kinds: map[string]*taken{}}
	generation := uint64(1)
	apply := func(kind string, tightens bool, ops ...ruleset.Op) error {
		generation++
		return a.apply(ctx, kind, ruleset.Delta{From: generation - 1, To: generation, Tightens: tightens, Ops: ops})
	}
	pod := netip.MustParsePrefix("10.250.0.1/32")
	for i := range rounds {
		known := ruleset.Identity(i%subjects + 1)
		on := ruleset.Attachment{Interface: "veth-new"}
		row, subject := ruleset.RowID(1000+i), ruleset.Subject{Direction: flow.Ingress, Identity: known}
		value := ruleset.Uniform(ruleset.Cell{}).With(flow.TCP, 7, 7, ruleset.Cell{Verdict: flow.Allow})
		added := []ruleset.Op{{Kind: ruleset.AddRow, Row: row, Value: value}}
		var removed []ruleset.Op
		for j := range 100 {
			peer := ruleset.Identity(subjects + (i*97+j)%peers + 1)
			added = append(added, ruleset.Op{Kind: ruleset.SetPair, Subject: subject, Peer: peer, Row: row})
			removed = append(removed, ruleset.Op{Kind: ruleset.SetPair, Subject: subject, Peer: peer, Row: 1})
		}
		removed = append(removed, ruleset.Op{Kind: ruleset.DeleteRow, Row: row})
		for _, step := range []func() error{
			func() error {
				return apply("pod of a known kind added, local", false, ruleset.Op{Kind: ruleset.SetAddress, Prefix: pod, Identity: known},
					ruleset.Op{Kind: ruleset.SetLocal, Prefix: pod, Attachment: on})
			},
			func() error {
				return apply("pod of a known kind removed, local", false, ruleset.Op{Kind: ruleset.DeleteLocal, Prefix: pod},
					ruleset.Op{Kind: ruleset.DeleteAddress, Prefix: pod})
			},
			func() error { return apply("policy: one row for 100 peers", true, added...) },
			func() error { return apply("… removed", true, removed...) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	a.print("100 subjects × 9,000 identities")
	return nil
}
