// Package up is what `ringfence up` runs: the cluster of package runtime kept in step with watched manifests, and
// beside its pods and policies Services, names, flows and a map.
//
// What has to go on without it is held by others: pods by their shims, policies and Services by the kernel, names by a
// pod. So this process may be killed at any moment, and the next one takes over what it finds.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/podspec"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// Denials of the node's namespace are reported in this NFLOG group, so many a second for each row; what is more is
// counted.
const (
	LogGroup = 1
	LogRate  = 50
)

// Options say what to run.
type Options struct {
	Instance runtime.Instance
	Paths    []string               // files and folders of manifests
	Commands map[cluster.Key]string // what pods, or the pods of workloads, run instead of what their manifests say
	Bridge   bool                   // pods on one bridge instead of routed veths
	Out      io.Writer              // is told what changes
}

// Run keeps the cluster in step with its manifests until ctx ends. Then, as after any error, pods and rules stay as they
// are. An error that wraps os.ErrPermission says that the rights of root are missing.
func Run(ctx context.Context, o Options) error {
	topology := "routed"
	if o.Bridge {
		topology = "bridge"
	}
	u := &upRun{repaired: make(chan struct{}, 1), paths: o.Paths, commands: o.Commands, out: o.Out, topology: topology}
	var err error
	if u.services, err = newServices(o.Instance, u.say); err != nil {
		return err
	}
	if u.executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	u.node, err = runtime.Open(ctx, o.Instance, runtime.Options{Bridge: o.Bridge,
		LogGroup: LogGroup, LogRate: LogRate, Resolv: u.services.resolv, Extend: u.services.extend,
		Rewrite:  u.rewrite,
		Enforced: u.enforced})
	if err != nil {
		return err
	}
	store, err := dir.OpenStore(o.Instance.Good())
	if err != nil {
		return errors.Join(err, u.node.Close())
	}
	if u.generations, err = openGenerations(o.Instance, u.say); err != nil {
		return errors.Join(err, u.node.Close())
	}
	if u.rollouts, err = newRollouts(u.node, u.generations, u.say); err != nil {
		return errors.Join(err, u.node.Close())
	}
	if u.flows, err = newFlowService(u.node, u.services, u.rollouts); err != nil {
		return errors.Join(err, u.node.Close())
	}
	err = errors.Join(u.run(ctx, store), u.node.Close())
	fmt.Fprintln(u.out, "up has ended; pods and rules stay as they are. \"ringfence up\" takes them over, \"ringfence down\" ends them.")
	return err
}

// upRun is an `up` while it runs.
type upRun struct {
	node     *runtime.Node
	paths    []string
	commands map[cluster.Key]string
	out      io.Writer
	topology string

	services    *services
	rollouts    *rollouts
	generations *generations
	flows       *flowService
	executable  string
	repaired    chan struct{} // of one place: what somebody changed in the kernel was put right

	mu     sync.Mutex
	latest *dir.Snapshot // the last that was read
	done   *dir.Snapshot // the last that is in force
	err    error         // why manifests cannot be read
	record runtime.Record
	said   map[string]bool // problems that were reported
	noted  map[string]bool // the same of notices
}

func (u *upRun) run(ctx context.Context, store *dir.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	desired := make(chan runtime.Desired, 1)
	var parts sync.WaitGroup
	failed := make(chan error, 4)
	parts.Go(func() {
		failed <- dir.Watch(ctx, u.paths, store, func(s dir.Snapshot, err error) { u.read(s, err, desired) })
		cancel()
	})
	parts.Go(func() {
		failed <- u.node.Watch(ctx, u.observe)
		cancel()
	})
	parts.Go(func() {
		failed <- u.flows.run(ctx)
		cancel()
	})
	parts.Go(func() {
		failed <- u.answer(ctx)
		cancel()
	})
	parts.Go(func() { u.refresh(ctx) })
	parts.Go(func() { u.rollouts.Run(ctx) })
	parts.Go(func() { u.generations.keepProving(ctx) })
	parts.Go(func() { u.flows.log.Outcomes(ctx, u.rollouts.Ended) })
	u.node.Keep(ctx, desired, u.applied)
	parts.Wait()
	return errors.Join(<-failed, <-failed, <-failed, <-failed)
}

// lookAgain is how often Services are compared with what is in the kernel. No event tells that somebody changed them.
const lookAgain = 10 * time.Second

// refresh puts Services right that somebody changed: at once where policies were changed too, else before long.
func (u *upRun) refresh(ctx context.Context) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-u.repaired:
		}
		if err := u.node.Refresh(ctx); err != nil && ctx.Err() == nil {
			u.mu.Lock()
			u.say("error: %v; it is tried again", err)
			u.mu.Unlock()
		}
	}
}

// answer answers other commands.
func (u *upRun) answer(ctx context.Context) error {
	l, err := socket.Listen(controlSocket(u.node.Run))
	if err != nil {
		return err
	}
	c := &control{services: u.services, rollouts: u.rollouts, returnTo: u.returnTo, resume: u.resume, log: u.flows.log, title: strings.Join(u.paths, " ")}
	return c.serve(ctx, l)
}

// read takes in what the manifests say, and hands it on in the stead of what waits.
func (u *upRun) read(s dir.Snapshot, err error, desired chan runtime.Desired) {
	u.generations.steering.Lock()
	defer u.generations.steering.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err = err; err != nil {
		u.say("%v; what was in force stays so", err)
		u.write()
		return
	}
	u.report(s)
	select {
	case d := <-desired: // its changes are still to be reported
		overtaken := d.Note.(*dir.Snapshot)
		s.Event = overtaken.Event
		s.Changed = slices.Compact(slices.Sorted(slices.Values(append(overtaken.Changed, s.Changed...))))
	default:
	}
	u.latest = &s
	if u.generations.returned() == nil {
		u.rollouts.Follow(s.Rollouts, time.Now())
	}
	desired <- u.desired(&s)
}

// report prints problems and notices that were not there before.
func (u *upRun) report(s dir.Snapshot) {
	said := map[string]bool{}
	u.record.Problems, u.record.Held = []string{}, s.Held
	for _, p := range s.Problems {
		text := p.Text()
		if !u.said[text] {
			u.say("%s", text)
		}
		said[text] = true
		u.record.Problems = append(u.record.Problems, text)
	}
	if len(u.said) > 0 && len(said) == 0 {
		u.say("all manifests are good again")
	}
	u.said = said
	noted := map[string]bool{}
	for _, n := range s.Notices {
		text := n.String()
		if !u.noted[text] {
			u.say("note: %s", text)
		}
		noted[text] = true
	}
	u.noted = noted
}

func (u *upRun) desired(s *dir.Snapshot) runtime.Desired {
	d := runtime.Desired{Objects: s.Objects, Workloads: map[cluster.Key]podspec.Spec{}, Extra: s.Services, Note: s}
	for _, e := range s.Objects.Endpoints {
		spec := s.Workloads[e.Key]
		if c, ok := u.commands[cluster.Key{Namespace: e.Namespace, Name: e.Owner.Name}]; ok {
			spec.Command = c
		}
		if c, ok := u.commands[e.Key]; ok {
			spec.Command = c
		}
		d.Workloads[e.Key] = spec
	}
	u.services.addDNS(&d, u.executable)
	return d
}

// applied reports what has come in force.
func (u *upRun) applied(o runtime.Outcome) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var files []string
	took := time.Duration(0)
	if s := o.Note.(*dir.Snapshot); s != u.done && !o.InForce.IsZero() {
		files, took, u.done = changedFiles(s), o.InForce.Sub(s.Event), s
		u.record.Changed, u.record.Took = o.InForce, took
	}
	if !o.InForce.IsZero() {
		u.generations.note(fileList(files), time.Now())
	}
	u.record.Error = ""
	if o.Err != nil {
		u.record.Error = o.Err.Error()
	}
	u.record.Generation, u.record.Since = o.Status.Generation, o.Status.Since
	u.write() // before anything is said: who reads it here finds it in the status too
	for _, what := range o.Lost {
		u.say("the shim of %s has ended; it is started again", what)
	}
	if o.Err != nil {
		u.say("error: %v", o.Err)
	}
	if o.New && !o.InForce.IsZero() || len(o.Started)+len(o.Stopped) > 0 {
		u.say("%s", describeChange(files, o, took))
	}
}

// changedFiles are the files of a change, as they count.
func changedFiles(s *dir.Snapshot) []string {
	files := slices.Clone(s.Changed)
	for i, f := range files {
		if slices.Contains(s.Held, f) {
			files[i] += " (its last good version)"
		}
	}
	return files
}

// describeChange is "web.yaml: in force after 12ms, generation 7, 2 pods started after 60ms".
func describeChange(files []string, o runtime.Outcome, took time.Duration) string {
	var parts []string
	if took > 0 {
		what := fileList(files)
		if what == "" { // they could not be found for a while, and are as they were
			what = "manifests"
		}
		parts = append(parts, fmt.Sprintf("%s: in force after %s", what, took.Round(100*time.Microsecond)))
	}
	parts = append(parts, fmt.Sprintf("generation %d", o.Status.Generation))
	if n := len(o.Started); n > 0 {
		text := count(n, "pod") + " started"
		if !o.InForce.IsZero() {
			text += fmt.Sprintf(" after %s", o.At.Sub(o.InForce).Round(time.Millisecond))
		}
		parts = append(parts, text)
	}
	if n := len(o.Stopped); n > 0 {
		parts = append(parts, count(n, "pod")+" stopped")
	}
	return strings.Join(parts, ", ")
}

// fileList names a few files, and counts many.
func fileList(files []string) string {
	if len(files) > 3 {
		return fmt.Sprintf("%d files", len(files))
	}
	return strings.Join(files, ", ")
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// rewrite returns the state that policies are judged by.
func (u *upRun) rewrite(s *cluster.State) (*cluster.State, error) {
	if returned, err := u.generations.rewrite(s); returned != nil || err != nil {
		return returned, err
	}
	return u.rollouts.Rewrite(s)
}

// enforced takes note that policies are in force.
func (u *upRun) enforced(s *cluster.State) {
	u.flows.log.Part(time.Now())
	u.rollouts.Enforced(s)
	policies, finals := u.rollouts.ForEveryone()
	u.generations.enforced(s, policies, finals)
}

// observe reports what the kernel tells.
func (u *upRun) observe(e engine.Event) {
	u.flows.observe(e)
	if e.Repaired == "" {
		return
	}
	select {
	case u.repaired <- struct{}{}:
	default:
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.say("somebody changed the rules in the kernel (%s); they are put right", e.Repaired)
}

// write notes for `status` what only this process knows.
func (u *upRun) write() {
	u.record.Paths, u.record.Topology = u.paths, u.topology
	u.record.Pods = u.node.Records()
	r := u.record
	if u.err != nil {
		r.Error = u.err.Error()
	}
	if err := u.node.Write(r); err != nil {
		u.say("error: %v", err)
	}
}

func (u *upRun) say(format string, args ...any) {
	fmt.Fprintf(u.out, time.Now().Format("15:04:05")+" "+format+"\n", args...)
}
