// Engine measures the compiler at the sizes of the peers' table: full sync, and each kind of update by itself.
//
//	go run ./bench/engine [-data DIR] [-verdicts DIR] SIZE...
//
// DIR holds a folder for each size, in the form of the common workload (namespaces, pods and policies as Kubernetes
// JSON, one a line; ops.jsonl; conns.jsonl). Without -data the built-in generator makes the same kinds of objects. Time is
// the CPU time of this process, that of the garbage collector included.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

func main() {
	data := flag.String("data", "", "folder with one folder for each size; empty: make the workload")
	verdicts := flag.String("verdicts", "", "folder to write SIZE.txt to, one verdict (0 or 1) a connection")
	rounds := flag.Int("rounds", 3, "full syncs")
	profile := flag.String("profile", "", "file for a CPU profile of the full syncs and updates")
	flag.Parse()
	sizes := flag.Args()
	if len(sizes) == 0 {
		sizes = []string{"small", "medium", "large", "xpol"}
	}
	stop := startProfile(*profile)
	defer stop()
	for _, size := range sizes {
		if err := run(*data, size, *verdicts, *rounds); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func run(data, size, verdicts string, rounds int) error {
	w, err := load(data, size)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d namespaces, %d pods, %d policies, %d updates\n", size, len(w.namespaces), len(w.pods), len(w.policies), len(w.ops))
	c := w.fullSync(rounds)
	w.verdicts(c)
	if verdicts != "" {
		if err := w.writeVerdicts(filepath.Join(verdicts, size+".txt")); err != nil {
			return err
		}
	}
	w.updates(c)
	return nil
}

// fullSync prints what it takes to compile everything, and returns the last compiler.
func (w *workload) fullSync(rounds int) *compile.Compiler {
	var c *compile.Compiler
	for range rounds {
		c = nil
		base := liveHeap()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cpu, wall := cpuTime(), time.Now()
		c = compile.New(compile.Options{Node: localNode})
		w.feed(c)
		d := c.Flush()
		ops := len(d.Ops)
		d = ruleset.Delta{}
		used, took := cpuTime()-cpu, time.Since(wall)
		runtime.ReadMemStats(&after)
		live := liveHeap() - base
		fmt.Printf("  full sync  cpu %6.0f ms  wall %6.0f ms  allocations %8d (%5.1f MB)  live %5.1f MB  ops %d\n",
			ms(used), ms(took), after.Mallocs-before.Mallocs, mb(after.TotalAlloc-before.TotalAlloc), mb(live), ops)
	}
	return c
}

func (w *workload) feed(c *compile.Compiler) {
	for _, n := range w.namespaces {
		c.SetNamespace(n)
	}
	for _, e := range w.pods {
		c.SetPod(e, ruleset.Attachment{})
	}
	for _, p := range w.policies {
		c.SetPolicy(p)
	}
}

// updates prints what each kind of update takes; every update is flushed by itself.
func (w *workload) updates(c *compile.Compiler) {
	kinds := map[string]*series{}
	var order []string
	runtime.GC()
	for i := 0; i < len(w.ops); { // those of one kind come one after another
		s, kind := &series{}, w.ops[i].kind
		if known := kinds[kind]; known != nil {
			s = known
		} else {
			kinds[kind], order = s, append(order, kind)
		}
		mallocs := allocated()
		for ; i < len(w.ops) && w.ops[i].kind == kind; i++ {
			s.measure(func() int {
				w.ops[i].apply(c)
				return len(c.Flush().Ops)
			})
		}
		s.malloc += allocated() - mallocs
	}
	fmt.Printf("  %-22s %9s %9s %9s %9s %9s\n", "update", "p50 µs", "p99 µs", "mean µs", "allocs", "ops")
	for _, kind := range order {
		s := kinds[kind]
		fmt.Printf("  %-22s %9.1f %9.1f %9.1f %9.0f %9.1f\n", kind, s.quantile(0.5), s.quantile(0.99), s.mean(), s.allocs(), s.opsMean())
	}
}

// series is what was measured of one kind of update.
type series struct {
	times  []float64 // µs
	ops    int
	malloc uint64
}

// measure takes CPU time, as other processes share the machine; what it costs to ask for it is taken off.
func (s *series) measure(f func() int) {
	start := clock()
	ops := f()
	s.times = append(s.times, max(0, float64(clock()-start-clockCost)/1e3))
	s.ops += ops
}

// clockCost is the time between two readings of the clock that follow each other.
var clockCost = func() int64 {
	var all []int64
	for range 1001 {
		start := clock()
		all = append(all, clock()-start)
	}
	slices.Sort(all)
	return all[len(all)/2]
}()

// clock is the CPU time of the process in nanoseconds.
func clock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func (s *series) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s.times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s *series) mean() float64 {
	sum := 0.0
	for _, t := range s.times {
		sum += t
	}
	return sum / float64(len(s.times))
}

func (s *series) allocs() float64  { return float64(s.malloc) / float64(len(s.times)) }
func (s *series) opsMean() float64 { return float64(s.ops) / float64(len(s.times)) }

// verdicts prints what one verdict takes.
func (w *workload) verdicts(c *compile.Compiler) {
	if len(w.connections) == 0 {
		return
	}
	const rounds = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, allowed := cpuTime(), 0
	for range rounds {
		for _, t := range w.connections {
			if c.Judge(t).Verdict == flow.Allow {
				allowed++
			}
		}
	}
	used := cpuTime() - cpu
	runtime.ReadMemStats(&after)
	n := rounds * len(w.connections)
	fmt.Printf("  verdict    %.0f ns, %.3f allocations (%d connections, %d allowed by this node's rules)\n",
		float64(used.Nanoseconds())/float64(n), float64(after.Mallocs-before.Mallocs)/float64(n), len(w.connections), allowed/rounds)
}

// writeVerdicts writes one verdict a line, as the whole cluster would give it: by a compiler for all nodes.
func (w *workload) writeVerdicts(file string) error {
	whole := compile.New(compile.Options{})
	w.feed(whole)
	whole.Flush()
	out := make([]byte, 0, 2*len(w.connections))
	for _, t := range w.connections {
		verdict := byte('0')
		if whole.Judge(t).Verdict == flow.Allow {
			verdict = '1'
		}
		out = append(out, verdict, '\n')
	}
	return os.WriteFile(file, out, 0o644)
}

// liveHeap is what is reachable, in bytes.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func cpuTime() time.Duration { return time.Duration(clock()) }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
func mb(n uint64) float64        { return float64(n) / 1e6 }
