//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/bench/measure"
	"github.com/ringfence-project/ringfence/bench/workload"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// named is a ruleset to measure with.
type named struct {
	name  string
	rules *ruleset.Ruleset
}

func rulesets(w *workload.Workload) []named {
	c := nodeOf(w).compiler(len(w.Policies))
	c.Flush()
	return []named{{"one node of the cluster", c.Ruleset()}, {"100 subjects × 9,000 identities", dense(100, 9000)}}
}

// measureLoads prints the time and the kernel's memory to put rulesets in force.
func measureLoads(ctx context.Context, w *workload.Workload) error {
	const rounds = 5
	for _, r := range rulesets(w) {
		var cpu, wall, slab, unreclaimable, percpu, vmalloc measure.Series
		for range rounds {
			l, err := load(ctx, r.rules)
			if err != nil {
				return err
			}
			cpu, wall = append(cpu, ms(l.cpu)), append(wall, ms(l.wall))
			slab, unreclaimable = append(slab, l.memory["Slab"]), append(unreclaimable, l.memory["SUnreclaim"])
			percpu, vmalloc = append(percpu, l.memory["Percpu"]), append(vmalloc, l.memory["VmallocUsed"])
		}
		n := len(r.rules.Addresses) + len(r.rules.Locals) + len(r.rules.Pairs) + len(r.rules.Rows)
		fmt.Printf("load, %s: %s\n", r.name, elements(r.rules))
		fmt.Printf("  CPU %s ms, wall %s ms\n", spread(cpu), spread(wall))
		fmt.Printf("  kernel memory, MB: slab %s (unreclaimable %s), percpu %s, vmalloc %s; slab for each of %d elements: %.0f B\n",
			spread(slab), spread(unreclaimable), spread(percpu), spread(vmalloc), n, unreclaimable.Quantile(0.5)*1e6/float64(n))
	}
	return nil
}

type loading struct {
	cpu, wall time.Duration
	memory    map[string]float64 // MB
}

// load puts r in force in a namespace of its own, once.
func load(ctx context.Context, r *ruleset.Ruleset) (l loading, err error) {
	ns, d, err := enforcer()
	if err != nil {
		return l, err
	}
	defer ns.Close()
	defer d.Close()
	runtime.GC()
	settle()
	before, err := kernelMemory()
	if err != nil {
		return l, err
	}
	start, cpu := time.Now(), measure.CPU()
	if err := d.Replace(ctx, r); err != nil {
		return l, err
	}
	l.wall, l.cpu = time.Since(start), measure.CPU()-cpu
	settle()
	after, err := kernelMemory()
	if err != nil {
		return l, err
	}
	l.memory = map[string]float64{}
	for k := range after {
		l.memory[k] = float64(after[k]-before[k]) / 1e6
	}
	return l, d.Remove(ctx)
}

// enforcer is a dataplane in an empty namespace.
func enforcer() (*netns.NS, *nft.Dataplane, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, nil, err
	}
	d, err := nft.New(nft.Options{NetNS: ns.FD()})
	if err != nil {
		return nil, nil, err
	}
	return ns, d, nil
}

// settle waits until the kernel has freed what it frees after a grace period: memory is read with nothing else to wait for.
func settle() { time.Sleep(500 * time.Millisecond) }

// kernelMemory is what the kernel says that it uses itself, in bytes.
func kernelMemory() (map[string]int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	used := map[string]int64{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		switch name {
		case "Slab", "SUnreclaim", "Percpu", "VmallocUsed":
			var kb int64
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				return nil, fmt.Errorf("/proc/meminfo: %s: %w", s.Text(), err)
			}
			used[name] = kb << 10
		}
	}
	return used, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// spread is the median of figures, with the least and the greatest.
func spread(s measure.Series) string {
	return fmt.Sprintf("%.1f (%.1f to %.1f)", s.Quantile(0.5), s.Quantile(0), s.Quantile(1))
}
