// Reach measures all-pairs connectivity, the compilation included, as the static analysers in the peers' table do it.
//
//	go run ./bench/reach [-data DIR] [-rounds N] [-profile FILE]
//
// DIR is as for bench/engine; without it the built-in generator makes the like. One port: may each of 1,000 pods connect
// to each other's, 100 policies. All ports: what each of 500 workloads may reach of each other and of what lies outside,
// as text, 1,000 policies. Times are CPU time of the process, garbage collection included, from decoded objects.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/ringfence-project/ringfence/bench/measure"
	"github.com/ringfence-project/ringfence/bench/workload"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/reach"
)

func main() {
	data := flag.String("data", "", "folder with one folder for each size; empty: make the workload")
	rounds := flag.Int("rounds", 9, "times that each is done")
	profile := flag.String("profile", "", "file for a CPU profile")
	flag.Parse()
	if err := run(*data, *rounds, *profile); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(data string, rounds int, profile string) error {
	small, err := workload.Load(data, "small")
	if err != nil {
		return err
	}
	medium, err := workload.Load(data, "medium")
	if err != nil {
		return err
	}
	medium.Pods = onePodEach(medium.Pods)
	return measure.Profiled(profile, func() error {
		if err := repeat("one port, all pairs", small, rounds, onePort); err != nil {
			return err
		}
		return repeat("all ports, all pairs", medium, rounds, allPorts)
	})
}

// onePodEach keeps the first pod of each workload.
func onePodEach(pods []*cluster.Endpoint) []*cluster.Endpoint {
	type workload struct {
		namespace string
		owner     cluster.Owner
	}
	seen := map[workload]bool{}
	var kept []*cluster.Endpoint
	for _, e := range pods {
		if w := (workload{e.Namespace, e.Owner}); !seen[w] {
			seen[w] = true
			kept = append(kept, e)
		}
	}
	return kept
}

func repeat(what string, w *workload.Workload, rounds int, do func(*cluster.State) (string, error)) error {
	var times measure.Series
	var said string
	for range rounds {
		s, err := cluster.NewState(cluster.Objects{Namespaces: w.Namespaces, Endpoints: w.Pods, Policies: w.Policies})
		if err != nil {
			return err
		}
		runtime.GC()
		took := measure.Time(func() { said, err = do(s) })
		if err != nil {
			return err
		}
		times = append(times, float64(took)/float64(time.Millisecond))
	}
	fmt.Printf("%s: %d pods, %d policies: CPU median %.1f ms, %.1f to %.1f; %s\n", what, len(w.Pods), len(w.Policies),
		times.Quantile(0.5), times.Quantile(0), times.Quantile(1), said)
	return nil
}

// onePort makes the matrix of all pods on one port.
func onePort(s *cluster.State) (string, error) {
	m, err := reach.Compute(s, reach.Options{})
	if err != nil {
		return "", err
	}
	pods := s.Endpoints()
	boxOf := make([]int, len(pods))
	for i, e := range pods {
		boxOf[i], _ = m.BoxAt(e.Addresses[0])
	}
	rows := make([][]bool, len(m.Boxes)) // by box: may its pods connect to each pod
	matrix, allowed := make([]bool, 0, len(pods)*len(pods)), 0
	for i, from := range boxOf {
		if rows[from] == nil {
			rows[from] = reachedFrom(m, from, boxOf)
		}
		matrix = append(matrix, rows[from]...)
		matrix[i*len(pods)+i] = true // a pod always reaches itself
	}
	for _, ok := range matrix {
		if ok {
			allowed++
		}
	}
	return fmt.Sprintf("%d of %d pairs allowed, %d boxes", allowed, len(matrix), len(m.Boxes)), nil
}

// reachedFrom says of each pod, given by its box, whether the pods of a box may connect to it.
func reachedFrom(m *reach.Map, from int, boxOf []int) []bool {
	verdicts := make([]bool, len(m.Boxes))
	for to := range verdicts {
		d, judged := m.Decide(from, to, true, flow.TCP, 80)
		verdicts[to] = !judged || d.Verdict == flow.Allow
	}
	row := make([]bool, len(boxOf))
	for i, to := range boxOf {
		row[i] = verdicts[to]
	}
	return row
}

// allPorts says for every pair which ports are allowed.
func allPorts(s *cluster.State) (string, error) {
	m, err := reach.Compute(s, reach.Options{})
	if err != nil {
		return "", err
	}
	texts, reached := map[int]string{}, 0
	for from := range m.Boxes {
		for to := range m.Boxes {
			i := m.AlikeIndex(from, to)
			text, ok := texts[i]
			if !ok {
				text = m.AnswerAt(i).Text()
				texts[i] = text
			}
			if text != "" && text != "none" {
				reached++
			}
		}
	}
	return fmt.Sprintf("%d boxes, %d pairs with something allowed, %d different answers, %d by their ports alone",
		len(m.Boxes), reached, m.Answers(), len(texts)), nil
}
