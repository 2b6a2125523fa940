package main

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

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/lab"
	"github.com/ringfence-project/ringfence/internal/podspec"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// Denials of the node's namespace are reported in this NFLOG group, so many a second for each row; what is more is
// counted.
const (
	nodeLogGroup = 1
	nodeLogRate  = 50
)

// upFlags are what `up` is asked for.
type upFlags struct {
	instanceFlags
	topology string
	exec     []string
}

func newUp() *cobra.Command {
	var flags upFlags
	cmd := &cobra.Command{
		Use:   "up DIR...",
		Short: "Run a cluster on this machine and keep it in step with its manifests",
		Long: `Run a cluster on this machine and keep it in step with its manifests: each pod in a network namespace of its own,
policies in force between them. A pod answers on the ports that it declares, or runs a real command: that of its
annotation ringfence.dev/exec, or of --exec.

Files that are edited, added or removed are in force moments later. A file that has become bad is reported, and its
last good version stays in force. Ctrl-C ends the watching only: pods and rules stay as they are, the next "up"
takes them over, and "ringfence down" ends them. The host's own network is not touched.`,
		Example: `  ringfence up examples/ldap
  ringfence up k8s/ --exec 'shop/web=nginx -g "daemon off;"'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return up(cmd, flags, args) },
	}
	flags.flags(cmd)
	cmd.Flags().StringVar(&flags.topology, "topology", "routed", "how pods are connected: routed or bridge")
	cmd.Flags().StringArrayVar(&flags.exec, "exec", nil, "NAMESPACE/NAME=COMMAND that the pod, or the workload's pods, run; can be repeated")
	return cmd
}

func up(cmd *cobra.Command, flags upFlags, paths []string) error {
	i, err := flags.instance()
	if err != nil {
		return err
	}
	topology, err := lab.ParseTopology(flags.topology)
	if err != nil {
		return err
	}
	commands, err := parseCommands(flags.exec)
	if err != nil {
		return err
	}
	for _, path := range paths { // later, one that is gone is no reason to end
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("manifests: %w", err)
		}
	}
	u := &upRun{paths: paths, commands: commands, out: cmd.OutOrStdout(), topology: flags.topology}
	if u.services, err = newServices(i, u.say); err != nil {
		return err
	}
	if u.executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	node, err := runtime.Open(cmd.Context(), i, runtime.Options{Bridge: topology == lab.Bridge,
		LogGroup: nodeLogGroup, LogRate: nodeLogRate, Resolv: u.services.resolv, Extend: u.services.extend})
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; up needs the rights of root: \"ringfence doctor\" says which are missing", err)
	}
	if err != nil {
		return err
	}
	store, err := dir.OpenStore(i.Good())
	if err != nil {
		return errors.Join(err, node.Close())
	}
	u.node = node
	if u.flows, err = newFlowService(node, u.services); err != nil {
		return errors.Join(err, node.Close())
	}
	err = errors.Join(u.run(cmd.Context(), store), node.Close())
	fmt.Fprintln(u.out, "up has ended; pods and rules stay as they are. \"ringfence up\" takes them over, \"ringfence down\" ends them.")
	return err
}

// parseCommands reads the values of --exec.
func parseCommands(values []string) (map[cluster.Key]string, error) {
	commands := map[cluster.Key]string{}
	for _, v := range values {
		ref, command, ok := strings.Cut(v, "=")
		ns, name, qualified := strings.Cut(ref, "/")
		if !ok || !qualified || ns == "" || name == "" || command == "" {
			return nil, fmt.Errorf("--exec %q: want NAMESPACE/NAME=COMMAND, for instance 'shop/web=nginx -g \"daemon off;\"'", v)
		}
		commands[cluster.Key{Namespace: ns, Name: name}] = command
	}
	return commands, nil
}

// upRun is an `up` while it runs.
type upRun struct {
	node     *runtime.Node
	paths    []string
	commands map[cluster.Key]string
	out      io.Writer
	topology string

	services   *services
	flows      *flowService
	executable string

	mu     sync.Mutex
	done   *dir.Snapshot // the last that is in force
	err    error         // why manifests cannot be read
	record runtime.Record
	said   map[string]bool // problems that were reported
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
	u.node.Keep(ctx, desired, u.applied)
	parts.Wait()
	return errors.Join(<-failed, <-failed, <-failed, <-failed)
}

// answer answers other commands.
func (u *upRun) answer(ctx context.Context) error {
	l, err := listenControl(u.node.Run)
	if err != nil {
		return err
	}
	c := &control{services: u.services, log: u.flows.log, title: strings.Join(u.paths, " ")}
	return c.serve(ctx, l)
}

// read takes in what the manifests say, and hands it on in the stead of what waits.
func (u *upRun) read(s dir.Snapshot, err error, desired chan runtime.Desired) {
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
	desired <- u.desired(&s)
}

// report prints problems that were not there before.
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
		files, took, u.done = s.Changed, o.InForce.Sub(s.Event), s
		u.record.Changed, u.record.Took = o.InForce, took
	}
	u.record.Error = ""
	if o.Err != nil {
		u.record.Error = o.Err.Error()
	}
	u.record.Generation, u.record.Since = o.Status.Generation, o.Status.Since
	u.write() // before anything is said: who reads it here finds it in the status too
	if o.Err != nil {
		u.say("error: %v", o.Err)
	}
	if o.New && !o.InForce.IsZero() || len(o.Started)+len(o.Stopped) > 0 {
		u.say("%s", describeChange(files, o, took))
	}
}

// describeChange is "web.yaml: in force after 12ms, generation 7, 2 pods started after 60ms".
func describeChange(files []string, o runtime.Outcome, took time.Duration) string {
	var parts []string
	if took > 0 {
		what := strings.Join(files, ", ")
		if len(files) > 3 {
			what = fmt.Sprintf("%d files", len(files))
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

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// observe reports what the kernel tells.
func (u *upRun) observe(e engine.Event) {
	u.flows.observe(e)
	if e.Repaired == "" {
		return
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
