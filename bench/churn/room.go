package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod that is made with its node's name in it passes the scheduler by, so nobody but the kubelet sees whether there is
// room for it. One that is too many it fails, for good.

// spare pods are left to others, above all to the next agent: an agent that is killed is gone from the API at once, and
// from the node later.
const spare = 5

// measureRoom finds how many pods there may be on the node, and asks for no more than that.
func (d *driver) measureRoom(ctx context.Context) error {
	node, err := d.client.CoreV1().Nodes().Get(ctx, d.nodes[0], metav1.GetOptions{})
	if err != nil {
		return err
	}
	takes := int(node.Status.Allocatable.Pods().Value())
	d.room = takes - spare
	others, _ := d.seen.on()
	fits := d.room - others - 1 // a turn starts one more
	if fits < 1 {
		return fmt.Errorf("node %s takes %d pods and has %d: there is no room", d.nodes[0], takes, others)
	}
	if d.pods > fits {
		d.say("node %s takes %d pods, of which %d are others' and %d are left free: %d instead of %d come and go",
			d.nodes[0], takes, others, spare, fits, d.pods)
		d.pods = fits
	}
	return nil
}

// hasRoom tells whether one more pod may be made. Those that end still are on the node.
func (d *driver) hasRoom() bool {
	all, _ := d.seen.on()
	return all < d.room
}

// pause waits a little, tells progress now and then, and sees to pods that failed.
func (d *driver) pause(ctx context.Context, wait time.Duration) error {
	if err := d.mend(ctx); err != nil {
		return err
	}
	if time.Since(d.told) >= telling {
		d.told = time.Now()
		all, ending := d.seen.on()
		d.say("%d pods on %s, which may have %d: %d start, %d end; %d made, %d failed; agent killed %d times",
			all, d.nodes[0], d.room, len(d.seen.starting()), ending, d.next, d.failures, d.kills)
	}
	if !sleep(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

// say prints a line of progress.
func (d *driver) say(format string, args ...any) {
	fmt.Fprintf(d.out, "[%s] %s: %s\n", time.Now().Format(time.TimeOnly), d.phase, fmt.Sprintf(format, args...))
}

// mend removes pods that failed, and makes another for each, but not faster than a second, as what turned one down may
// turn down the next.
func (d *driver) mend(ctx context.Context) error {
	for _, name := range d.seen.unmourned() {
		x := d.seen.mourn(name)
		if err := d.failed(name, x.ended); err != nil {
			return err
		}
		if x.phase == keepers {
			return fmt.Errorf("%s, which is to stay all the time, ended: %s", name, x.ended)
		}
		now := int64(0)
		if err := d.remove(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			return err
		}
		if i := slices.Index(d.alive, name); i >= 0 {
			d.alive = slices.Delete(d.alive, i, i+1)
			d.owed = append(d.owed, x.phase)
		}
	}
	if len(d.owed) == 0 || !d.hasRoom() || time.Since(d.mended) < time.Second {
		return nil
	}
	phase := d.owed[0]
	d.owed, d.mended = d.owed[1:], time.Now()
	return d.create(ctx, phase)
}

// failed counts a pod that failed, and tells it. If more fail than there are to be, it is not for want of room.
func (d *driver) failed(name, why string) error {
	d.failures++
	d.say("%s failed: %s", name, why)
	if d.failures > max(d.pods, 10) {
		return fmt.Errorf("%d pods failed, the last of them %s: %s", d.failures, name, why)
	}
	return nil
}

// lack is what is not there yet: pods that start, clients that reach nobody, and how many are to be made again.
type lack struct {
	starting, unreached []string
	owed                int
}

func (l lack) none() bool { return len(l.starting)+len(l.unreached)+l.owed == 0 }

// said is what is lacking in words, with a few of the names.
func (l lack) said() string {
	var parts []string
	for _, x := range []struct {
		names []string
		what  string
	}{{l.starting, "pods do not run"}, {l.unreached, "clients reach nobody"}} {
		if n := len(x.names); n > 3 {
			parts = append(parts, fmt.Sprintf("%d %s (%s, …)", n, x.what, strings.Join(x.names[:3], ", ")))
		} else if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", n, x.what, strings.Join(x.names, ", ")))
		}
	}
	if l.owed > 0 {
		parts = append(parts, fmt.Sprintf("%d that failed have no successor", l.owed))
	}
	if len(parts) == 0 {
		return "it was not done"
	}
	return strings.Join(parts, ", ")
}

// missing finds what is lacking now. Clients are asked for once all pods run.
func (d *driver) missing() lack {
	l := lack{starting: d.seen.starting(), owed: len(d.owed)}
	if len(l.starting) > 0 {
		return l
	}
	for _, name := range d.alive {
		if strings.HasSuffix(name, roleClient) && !d.hasReached(name) {
			l.unreached = append(l.unreached, name)
		}
	}
	return l
}

// hasReached tells whether a client has reached every server, by what it wrote.
func (d *driver) hasReached(pod string) bool {
	if d.reached[pod] {
		return true
	}
	list, err := readFile(filepath.Join(d.dir, pod+".jsonl"))
	n := 0
	for _, x := range list {
		if x.Kind == noteReached {
			n++
		}
	}
	d.reached[pod] = err == nil && n >= len(d.servers)
	return d.reached[pod]
}

// giveUp ends the wait for pods that do not run, and for clients that reach nobody. A client that had the time is a
// mistake of somebody, and not of a machine that is slow.
func (d *driver) giveUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	d.owed = nil
	var rest []string
	for _, name := range d.alive {
		x, _ := d.seen.of(name)
		runs := !x.running.IsZero()
		if runs && (x.role != roleClient || d.hasReached(name)) {
			rest = append(rest, name)
			continue
		}
		if runs && time.Since(x.running) > starving {
			d.starved = append(d.starved, name)
		}
		if err := d.remove(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	d.alive = rest
	return nil
}
