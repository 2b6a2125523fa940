package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/bench/measure"
)

// tally is what a phase's pods saw, in milliseconds.
type tally struct {
	pods                               int
	fromUp, fromRunning, away, greeted measure.Series
}

// judge adds up what pods wrote down, and fails if something came through that is denied, or broke that is allowed.
// What is good and was cut short is errCut.
func (d *driver) judge() error {
	all, err := readNotes(d.dir)
	if err != nil {
		return err
	}
	var sent, kept, broken, violations, stalls int64
	var longest note
	var waited string
	phases := map[string]*tally{}
	for name, list := range all {
		x, ours := d.seen.of(name)
		if !ours {
			continue
		}
		if phases[x.phase] == nil {
			phases[x.phase] = &tally{}
		}
		phases[x.phase].add(list, x.running, d.servers[0])
		var mine, answered int64
		for _, n := range list {
			switch n.Kind {
			case noteSent:
				mine = n.N
			case noteKept:
				answered = n.N
			case noteViolation:
				if violations++; violations > 20 {
					continue
				}
				fmt.Fprintf(d.out, "VIOLATION at %s: %s got %s\n", n.At.Format(time.TimeOnly), name, n.Peer)
			case noteBroken:
				broken++
				fmt.Fprintf(d.out, "BROKEN at %s: %s to %s\n", n.At.Format(time.TimeOnly), name, n.Peer)
			case noteStalled:
				if stalls++; n.Took > longest.Took {
					longest, waited = n, name
				}
			}
		}
		sent, kept = sent+mine, kept+answered
	}
	for _, phase := range slices.Sorted(maps.Keys(phases)) {
		phases[phase].print(d.out, phase)
	}
	for _, phase := range slices.Sorted(maps.Keys(d.cut)) {
		fmt.Fprintf(d.out, "CUT SHORT: %s, %s\n", phase, d.cut[phase])
	}
	if len(d.starved) > 0 {
		fmt.Fprintf(d.out, "STARVED: %s ran for %v or more and reached nobody\n", strings.Join(d.starved, ", "), starving)
	}
	fmt.Fprintf(d.out, "%d pods in all, of which %d failed and were made again, agent killed %d times, a policy changed %d times\n", d.next, d.failures, d.kills, d.wobbles)
	fmt.Fprintf(d.out, "%d packets and connections sent that are denied: %d arrived\n", sent, violations)
	fmt.Fprintf(d.out, "%d words answered on connections that are allowed: %d connections broke\n", kept, broken)
	if stalls > 0 {
		fmt.Fprintf(d.out, "%d answers took longer than %v; the longest wait was %v, until %s: %s to %s\n", stalls, stall,
			longest.Took.Round(time.Millisecond), longest.At.Format(time.TimeOnly), waited, longest.Peer)
	}
	if violations+broken > 0 || sent == 0 || kept == 0 || len(d.starved) > 0 {
		return errors.New("not as it should be")
	}
	if len(d.cut) > 0 {
		return errCut
	}
	return nil
}

// add takes one pod's notes: near is the server on its own node.
func (t *tally) add(list []note, running time.Time, near string) {
	t.pods++
	var up time.Time
	for _, n := range list {
		ms := func(since time.Time) float64 { return float64(n.At.Sub(since)) / float64(time.Millisecond) }
		switch {
		case n.Kind == noteUp:
			up = n.At
		case n.Kind == noteReached && n.Peer == near:
			t.fromUp = append(t.fromUp, ms(up))
			if !running.IsZero() {
				t.fromRunning = append(t.fromRunning, ms(running))
			}
		case n.Kind == noteReached:
			t.away = append(t.away, ms(up))
		case n.Kind == noteGreeted:
			t.greeted = append(t.greeted, ms(up))
		}
	}
}

func (t *tally) print(w io.Writer, phase string) {
	fmt.Fprintf(w, "%-22s %4d pods", phase, t.pods)
	for _, x := range []struct {
		what string
		ms   measure.Series
	}{{"Running seen to reaching", t.fromRunning}, {"process to reaching", t.fromUp}, {"the same, on the other node", t.away}, {"process to reached", t.greeted}} {
		fmt.Fprintf(w, "; %s (%d) p50 %.0f ms, p99 %.0f ms", x.what, len(x.ms), x.ms.Quantile(0.5), x.ms.Quantile(0.99))
	}
	fmt.Fprintln(w)
}
