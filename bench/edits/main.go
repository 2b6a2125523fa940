// Command edits measures how long `ringfence up` takes from an edited policy to the kernel, and how much memory it and
// its pods' shims hold meanwhile. It brings up a cluster of its own in a folder of its own, and takes it down again.
//
//	go run ./bench/edits -ringfence bin/ringfence -pods 200 -edits 300
//	go run ./bench/edits -ringfence bin/ringfence -pods 30 -for 1h
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const workload = `apiVersion: apps/v1
kind: Deployment
metadata: {name: w%[1]d, namespace: big}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: w%[1]d}}
  template:
    metadata: {labels: {app: w%[1]d}}
    spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: %[3]d}]}]}
`

const policy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: w%[1]d, namespace: big}
spec:
  podSelector: {matchLabels: {app: w%[1]d}}
  ingress: [{from: [{podSelector: {matchLabels: {app: w%[2]d}}}], ports: [{port: http}]}]
`

const perWorkload = 10 // pods

func main() {
	ringfence := flag.String("ringfence", "bin/ringfence", "the program")
	pods := flag.Int("pods", 30, "how many pods, in tens; 30 at least")
	edits := flag.Int("edits", 300, "how many edits; with -for, as many as there is time for")
	during := flag.Duration("for", 0, "how long to go on")
	pause := flag.Duration("pause", 20*time.Millisecond, "between an edit in force and the next")
	flag.Parse()
	b := &bench{program: *ringfence, workloads: max(*pods/perWorkload, 3), edits: *edits, during: *during, pause: *pause}
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

type bench struct {
	program       string
	workloads     int
	edits         int
	during, pause time.Duration

	dir   string // all of it
	up    *exec.Cmd
	lines *bufio.Scanner // of its output
	took  []time.Duration
	seen  []time.Duration // the same from outside: from the write to the line that tells
}

func (b *bench) run() (err error) {
	if b.dir, err = os.MkdirTemp("", "rfedits"); err != nil {
		return err
	}
	defer func() {
		if b.up != nil {
			err = errors.Join(err, b.end())
		}
		err = errors.Join(err, os.RemoveAll(b.dir))
	}()
	if err := b.start(); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	begin, next := time.Now(), time.Minute
	b.memory(0, 0)
	for i := 0; b.during == 0 && i < b.edits || time.Since(begin) < b.during; i++ {
		if err := b.edit(i); err != nil {
			return err
		}
		if d := time.Since(begin); d > next {
			b.memory(d, i+1)
			next += time.Minute
		}
		select {
		case <-stop:
			return errors.New("interrupted")
		case <-time.After(b.pause):
		}
	}
	b.memory(time.Since(begin), len(b.took))
	b.print("event to kernel", b.took)
	b.print("write to line on the screen", b.seen)
	return nil
}

// command runs the program on the instance of this bench.
func (b *bench) command(args ...string) *exec.Cmd {
	return exec.Command(b.program, append(args, "--run", filepath.Join(b.dir, "run"), "--state", filepath.Join(b.dir, "state"))...)
}

func (b *bench) manifest(kind string, i int) string {
	return filepath.Join(b.dir, "manifests", fmt.Sprintf("%s%d.yaml", kind, i))
}

func (b *bench) start() error {
	if err := os.Mkdir(filepath.Join(b.dir, "manifests"), 0o755); err != nil {
		return err
	}
	for i := range b.workloads {
		text := fmt.Sprintf(workload, i, perWorkload, 8000+i)
		if err := os.WriteFile(b.manifest("workload", i), []byte(text), 0o644); err != nil {
			return err
		}
		if err := b.write(i, 1); err != nil {
			return err
		}
	}
	up := b.command("up", filepath.Join(b.dir, "manifests"))
	up.Stderr = os.Stderr
	out, err := up.StdoutPipe()
	if err != nil {
		return err
	}
	if err := up.Start(); err != nil {
		return err
	}
	b.up, b.lines = up, bufio.NewScanner(out)
	line, err := b.await("in force after")
	if err != nil {
		return err
	}
	_, text, _ := strings.Cut(line, "files: ")
	fmt.Printf("%d pods: %s\n", b.workloads*perWorkload, text)
	return nil
}

// write lets the neighbour at that distance into workload i.
func (b *bench) write(i, distance int) error {
	text := fmt.Sprintf(policy, i, (i+distance)%b.workloads)
	return os.WriteFile(b.manifest("policy", i), []byte(text), 0o644)
}

// edit changes one policy, and waits until that is in force.
func (b *bench) edit(n int) error {
	i, round := n%b.workloads, n/b.workloads
	start := time.Now()
	if err := b.write(i, 2-round%2); err != nil {
		return err
	}
	line, err := b.await(fmt.Sprintf("policy%d.yaml: in force after ", i))
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(line, "in force after ")
	text, _, _ := strings.Cut(rest, ",")
	took, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	b.took, b.seen = append(b.took, took), append(b.seen, time.Since(start))
	return nil
}

// await returns the next line of `up` with a text in it.
func (b *bench) await(text string) (string, error) {
	for b.lines.Scan() {
		if strings.Contains(b.lines.Text(), text) {
			return b.lines.Text(), nil
		}
	}
	return "", fmt.Errorf("up has ended before it said %q: %w", text, errors.Join(b.lines.Err(), io.ErrUnexpectedEOF))
}

func (b *bench) end() error {
	_ = b.up.Process.Signal(os.Interrupt)
	_ = b.up.Wait()
	out, err := b.command("down").CombinedOutput()
	if err != nil {
		return fmt.Errorf("down: %w: %s", err, out)
	}
	return nil
}

func (b *bench) print(what string, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	at := func(percent int) time.Duration { return all[(len(all)-1)*percent/100].Round(100 * time.Microsecond) }
	fmt.Printf("%s, %d edits: p50 %s, p90 %s, p99 %s, longest %s\n", what, len(all), at(50), at(90), at(99), at(100))
}

// memory prints how much memory `up` and the shims, which are its children, hold.
func (b *bench) memory(after time.Duration, edits int) {
	own, _ := resident(b.up.Process.Pid)
	var shims []int
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, f := range folders {
		pid, _ := strconv.Atoi(filepath.Base(f))
		if kib, parent := resident(pid); parent == b.up.Process.Pid && kib > 0 {
			shims = append(shims, kib)
		}
	}
	if len(shims) == 0 {
		return
	}
	slices.Sort(shims)
	fmt.Printf("resident after %4s and %5d edits: up %.1f MiB; %d shims, median %.1f MiB, most %.1f MiB\n", after.Round(time.Second), edits,
		mib(own), len(shims), mib(shims[len(shims)/2]), mib(shims[len(shims)-1]))
}

func mib(kib int) float64 { return float64(kib) / 1024 }

// resident is how many KiB a process holds in memory, and its parent; 0 if it is gone.
func resident(pid int) (kib, parent int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		switch name {
		case "VmRSS":
			kib, _ = strconv.Atoi(fields[0])
		case "PPid":
			parent, _ = strconv.Atoi(fields[0])
		}
	}
	return kib, parent
}
