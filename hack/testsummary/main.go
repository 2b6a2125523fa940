// Command testsummary reads the output of go test -json and prints it for people: a line for each package, the
// output of what failed, what was skipped with its reason, and where tests that draw by chance began.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type result struct {
	output  map[string][]string // by package and test, until it passed
	skipped []string
	passed  int
	failed  int
}

func main() {
	r := result{output: map[string][]string{}}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text())
			continue
		}
		r.add(e)
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sort.Strings(r.skipped)
	for _, s := range r.skipped {
		fmt.Println("skipped " + s)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, len(r.skipped))
}

func (r *result) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		r.output[key] = append(r.output[key], e.Output)
	case "pass":
		if e.Test != "" {
			r.passed++
			r.tell(e, r.output[key])
		} else {
			fmt.Printf("ok      %6.1fs  %s\n", e.Elapsed, e.Package)
		}
		delete(r.output, key)
	case "skip":
		if e.Test != "" {
			r.skipped = append(r.skipped, e.Package+" "+e.Test+": "+reason(r.output[key]))
		}
		delete(r.output, key)
	case "fail":
		if e.Test != "" {
			r.failed++
		}
		fmt.Printf("FAIL    %6.1fs  %s\n%s", e.Elapsed, key, strings.Join(r.output[key], ""))
	case "build-fail":
		fmt.Print(strings.Join(r.output[key], ""))
	}
}

// tell prints the seeds that a test logged, so that also a run that found nothing can be repeated.
func (r *result) tell(e event, output []string) {
	for _, line := range output {
		if strings.Contains(line, "-seed ") {
			fmt.Printf("seed             %s %s: %s\n", e.Package, e.Test, strings.TrimSpace(line))
		}
	}
}

// reason is what the test said before it was skipped.
func reason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		line := strings.TrimSpace(output[i])
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}
