// Engine measures the compiler at the sizes of the peers' table: full sync, and each kind of update by itself.
//
//	go run ./bench/engine [-data DIR] [-verdicts DIR] SIZE...
//
// DIR holds a folder for each size, in the form of the common workload (namespaces, pods and policies as Kubernetes
// JSON, one a line; ops.jsonl; conns.jsonl). Without -data the built-in generator makes the same kinds of objects. Time is
// the CPU time of this process, that of the garbage collector included. With -data the updates are made twice: with objects
// that were decoded before everything else, and with objects that are decoded right before their update, as an agent's are.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/ringfence-project/ringfence/bench/measure"
	"github.com/ringfence-project/ringfence/bench/workload"
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
	if err := measure.Profiled(*profile, func() error {
		for _, size := range sizes {
			if err := run(*data, size, *verdicts, *rounds); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bench is what is measured.
type bench struct{ *workload.Workload }

func run(data, size, verdicts string, rounds int) error {
	loaded, err := workload.Load(data, size)
	if err != nil {
		return err
	}
	w := &bench{loaded}
	fmt.Printf("%s: %d namespaces, %d pods, %d policies, %d updates\n", size, len(w.Namespaces), len(w.Pods), len(w.Policies), len(w.Updates))
	c := w.fullSync(rounds)
	w.verdicts(c)
	if verdicts != "" {
		if err := w.writeVerdicts(filepath.Join(verdicts, size+".txt")); err != nil {
			return err
		}
	}
	if err := w.updates(c, false); err != nil {
		return err
	}
	if data == "" { // made, not decoded
		return nil
	}
	return w.updates(w.compiled(workload.LocalNode), true)
}

// compiled returns a compiler that knows everything, for a node or, without one, for all of them.
func (w *bench) compiled(node string) *compile.Compiler {
	c := compile.New(compile.Options{Node: node})
	w.Feed(c)
	c.Flush()
	return c
}

// fullSync prints what it takes to compile everything, and returns the last compiler.
func (w *bench) fullSync(rounds int) *compile.Compiler {
	var c *compile.Compiler
	for range rounds {
		c = nil
		base := liveHeap()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		cpu, wall := measure.CPU(), time.Now()
		c = compile.New(compile.Options{Node: workload.LocalNode})
		w.Feed(c)
		d := c.Flush()
		ops := len(d.Ops)
		d = ruleset.Delta{}
		used, took := measure.CPU()-cpu, time.Since(wall)
		runtime.ReadMemStats(&after)
		live := liveHeap() - base
		fmt.Printf("  full sync  cpu %6.0f ms  wall %6.0f ms  allocations %8d (%5.1f MB)  live %5.1f MB  ops %d\n",
			ms(used), ms(took), after.Mallocs-before.Mallocs, mb(after.TotalAlloc-before.TotalAlloc), mb(live), ops)
	}
	return c
}

// updates prints what each kind of update takes; every update is flushed by itself. All objects are decoded before the
// first update, so the memory of most is cold. An agent compiles a pod that it has just decoded: with again each update
// is decoded anew right before its time is taken. What is timed is the same, the compiler's part.
func (w *bench) updates(c *compile.Compiler, again bool) error {
	kinds := map[string]*series{}
	var order []string
	runtime.GC()
	for i := 0; i < len(w.Updates); { // those of one kind come one after another
		s, kind := &series{}, w.Updates[i].Kind
		if known := kinds[kind]; known != nil {
			s = known
		} else {
			kinds[kind], order = s, append(order, kind)
		}
		mallocs := allocated()
		for ; i < len(w.Updates) && w.Updates[i].Kind == kind; i++ {
			u := w.Updates[i]
			if again {
				var err error
				if u, err = u.Again(); err != nil {
					return err
				}
			}
			s.measure(func() int {
				u.Apply(c)
				return len(c.Flush().Ops)
			})
		}
		s.malloc += allocated() - mallocs
	}
	if again {
		fmt.Printf("  %-22s %9s %9s %9s\n", "decoded just before", "p50 µs", "p99 µs", "mean µs")
	} else {
		fmt.Printf("  %-22s %9s %9s %9s %9s %9s\n", "update", "p50 µs", "p99 µs", "mean µs", "allocs", "ops")
	}
	for _, kind := range order {
		s := kinds[kind]
		fmt.Printf("  %-22s %9.1f %9.1f %9.1f", kind, s.times.Quantile(0.5), s.times.Quantile(0.99), s.times.Mean())
		if !again { // decoding allocates too
			fmt.Printf(" %9.0f %9.1f", s.allocs(), s.opsMean())
		}
		fmt.Println()
	}
	return nil
}

// series is what was measured of one kind of update.
type series struct {
	times  measure.Series // µs of CPU time
	ops    int
	malloc uint64
}

func (s *series) measure(f func() int) {
	ops := 0
	took := measure.Time(func() { ops = f() })
	s.times = append(s.times, float64(took)/1e3)
	s.ops += ops
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func (s *series) allocs() float64  { return float64(s.malloc) / float64(len(s.times)) }
func (s *series) opsMean() float64 { return float64(s.ops) / float64(len(s.times)) }

// verdicts prints what one verdict takes.
func (w *bench) verdicts(c *compile.Compiler) {
	if len(w.Connections) == 0 {
		return
	}
	const rounds = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, allowed := measure.CPU(), 0
	for range rounds {
		for _, t := range w.Connections {
			if c.Judge(t).Verdict == flow.Allow {
				allowed++
			}
		}
	}
	used := measure.CPU() - cpu
	runtime.ReadMemStats(&after)
	n := rounds * len(w.Connections)
	fmt.Printf("  verdict    %.0f ns, %.3f allocations (%d connections, %d allowed by this node's rules)\n",
		float64(used.Nanoseconds())/float64(n), float64(after.Mallocs-before.Mallocs)/float64(n), len(w.Connections), allowed/rounds)
}

// writeVerdicts writes one verdict a line, as the whole cluster would give it: by a compiler for all nodes.
func (w *bench) writeVerdicts(file string) error {
	whole := w.compiled("")
	fmt.Print("  as the whole cluster judges: ")
	w.verdicts(whole)
	out := make([]byte, 0, 2*len(w.Connections))
	for _, t := range w.Connections {
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

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
func mb(n uint64) float64        { return float64(n) / 1e6 }
