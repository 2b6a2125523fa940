// Package measure has the clocks and the sums that the benches share.
package measure

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the CPU time of the process so far, all its threads together: its garbage collector's too, and what the kernel
// did for it. On a machine that others use as well it says more than the time of day.
func CPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err) // the kernel has this clock since 2.6.12
	}
	return time.Duration(t.Nano())
}

// Cost is the time between two readings of CPU that follow each other, to be taken off short times.
var Cost = func() time.Duration {
	var all Series
	for range 1001 {
		start := CPU()
		all = append(all, float64(CPU()-start))
	}
	return time.Duration(all.Quantile(0.5))
}()

// Time is the CPU time that f takes.
func Time(f func()) time.Duration {
	start := CPU()
	f()
	return max(0, CPU()-start-Cost)
}

// Series is figures of one kind, in any unit.
type Series []float64

// Quantile is the value that a part q of all is not above; 0 if there is none.
func (s Series) Quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// Mean is the arithmetic mean; 0 if there is no value.
func (s Series) Mean() float64 {
	sum := 0.0
	for _, x := range s {
		sum += x
	}
	return sum / float64(max(1, len(s)))
}

// ThreadCPU is the CPU time of the calling thread so far, with what the kernel did on its behalf. A goroutine that
// compares two readings is locked to its thread.
func ThreadCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // as in CPU
	}
	return time.Duration(t.Nano())
}
