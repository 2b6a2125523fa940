package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/rollout/driver"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/up"
)

// instanceStatus is what `status` says.
type instanceStatus struct {
	Name     string `json:"name"`
	Running  bool   `json:"running"`       // pods and rules are there
	Watching bool   `json:"watching"`      // an `up` keeps them in step with the manifests
	PID      int    `json:"pid,omitempty"` // of that
	runtime.Record
	Pods     []podStatus        `json:"pods"`
	Rollouts []driver.View      `json:"rollouts,omitempty"`
	Returned *generation.Return `json:"returned,omitempty"` // to an earlier generation
	driven   bool               // the rollouts
	Bad      []string           `json:"bad"` // all that is not as it should be
}

// podStatus is a line of `status`.
type podStatus struct {
	Pod       string    `json:"pod"`
	State     string    `json:"state"` // "running", "waiting", "backoff" or "gone"
	Ready     bool      `json:"ready"`
	Why       string    `json:"why,omitempty"`
	Restarts  int       `json:"restarts"`
	Since     time.Time `json:"since,omitzero"`
	Addresses []string  `json:"addresses"`
	Command   string    `json:"command,omitempty"`
}

func newStatus() *cobra.Command {
	var flags instanceFlags
	var api clusterStatusFlags
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs and what is in force, since when, and what is wrong",
		Long: `Say what runs and what is in force, since when, and what is wrong: manifests that are bad, with their place, and pods
that do not run or are not ready. With --kubeconfig or --context, or as kubectl's plugin: of a cluster's nodes, what their
agents report, and whether an agent runs on each.

It needs the right to list nodes and nodeenforcements.ringfence.dev and, to say where no agent runs, pods in the agents'
namespace. Exit code 1 if something is not as it should be.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if api.wanted(cmd) {
				return api.run(cmd, output)
			}
			i, err := flags.instance()
			if err != nil {
				return err
			}
			s, err := statusOf(cmd.Context(), i)
			if err != nil {
				return err
			}
			if output == "text" {
				err = s.print(cmd.OutOrStdout())
			} else {
				err = encode(cmd.OutOrStdout(), output, s)
			}
			if err == nil && len(s.Bad) > 0 {
				return failed{}
			}
			return err
		},
	}
	flags.flags(cmd)
	api.flags(cmd)
	outputFlag(cmd, &output, "text", "json", "yaml")
	cmd.AddCommand(newStatusPolicies())
	return cmd
}

func statusOf(ctx context.Context, i runtime.Instance) (*instanceStatus, error) {
	s := &instanceStatus{Name: i.Name, Bad: []string{}, Pods: []podStatus{}}
	record, there, err := i.Read()
	if err != nil {
		return nil, err
	}
	s.Record = record
	if _, err := i.NodeShim(); err == nil {
		s.Running = true
	}
	if p, ok := i.Keeper(); ok {
		s.Watching, s.PID = true, p.PID
	}
	if !there && !s.Watching {
		s.Bad = append(s.Bad, fmt.Sprintf("instance %s does not run; start it with \"ringfence up\"", i.Name))
		return s, nil
	}
	pods, err := i.Pods(ctx, record)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		s.Pods = append(s.Pods, newPodStatus(p))
	}
	rollouts, err := up.ReadRollouts(ctx, i)
	if err != nil {
		return nil, err
	}
	s.Rollouts, s.driven, s.Returned = rollouts.Now, rollouts.Driven, rollouts.Returned
	s.judge()
	return s, nil
}

func newPodStatus(p runtime.PodStatus) podStatus {
	out := podStatus{Pod: p.Key.String(), State: string(p.State), Ready: p.Ready, Why: p.Why, Restarts: p.Restarts,
		Since: p.Since, Command: p.Command, Addresses: []string{}}
	for _, a := range p.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	if !p.Running {
		out.State, out.Ready, out.Why = "gone", false, p.Err.Error()
		if errors.Is(p.Err, os.ErrProcessDone) {
			out.Why = "it does not run; a running up starts it"
		}
	}
	return out
}

// judge lists what is not as it should be.
func (s *instanceStatus) judge() {
	bad := func(format string, args ...any) { s.Bad = append(s.Bad, fmt.Sprintf(format, args...)) }
	switch {
	case !s.Running && s.Watching:
		bad("the node's shim is gone; up starts it again")
	case !s.Running:
		bad("the node is gone: no pod reaches another; \"ringfence up\" mends it")
	}
	if s.Since.IsZero() {
		bad("up is starting: nothing is in force yet")
	}
	if !s.Watching {
		bad("nobody watches the manifests, changes do not come in force; \"ringfence up\" goes on")
	}
	if s.Error != "" {
		bad("%s", s.Error)
	}
	for _, p := range s.Problems {
		bad("%s", p)
	}
	if s.Returned != nil {
		bad("%s", returnedText(s.Returned, drivenBy{}))
	}
	for _, v := range s.Rollouts {
		if why := rolloutTrouble(v, drivenBy{who: upGoesOn, nobody: !s.driven}); why != "" {
			bad("rollout %s is %s", v.Rollout, why)
		}
	}
	for _, p := range s.Pods {
		if !p.Ready {
			bad("pod %s is not ready: %s", p.Pod, p.Why)
		}
	}
}

func (s *instanceStatus) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "instance\t%s\n", s.Name)
	if s.Watching {
		fmt.Fprintf(t, "up\tprocess %d watches %s\n", s.PID, strings.Join(s.Paths, ", "))
	}
	if !s.Since.IsZero() {
		fmt.Fprintf(t, "in force\tgeneration %d since %s\n", s.Generation, when(s.Since))
		fmt.Fprintf(t, "last change\t%s, %s from event to kernel\n", when(s.Changed), s.Took.Round(100*time.Microsecond))
	}
	if s.Returned != nil {
		fmt.Fprintf(t, "policies\tof %s, see below\n", s.Returned)
	}
	for _, v := range s.Rollouts {
		fmt.Fprintf(t, "rollout\t%s\n", headline(v))
	}
	for _, h := range s.Held {
		fmt.Fprintf(t, "held\t%s is bad: its last good version is in force\n", h)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(s.Pods) > 0 {
		fmt.Fprintln(t, "\nPOD\tSTATE\tREADY\tRESTARTS\tSINCE\tADDRESS\tRUNS")
	}
	for _, p := range s.Pods {
		ready, runs, address := "no", "built-in listener", ""
		if p.Ready {
			ready = "yes"
		}
		if p.Command != "" {
			runs = firstLine(p.Command, 40)
		}
		if len(p.Addresses) > 0 {
			address = p.Addresses[0]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", p.Pod, p.State, ready, p.Restarts, age(p.Since), address, runs)
	}
	if len(s.Bad) > 0 {
		fmt.Fprintln(t, "\nnot as it should be:")
	}
	for _, b := range s.Bad {
		fmt.Fprintf(t, "  %s\n", strings.ReplaceAll(b, "\n", "\n  "))
	}
	return t.Flush()
}

// when is a time, and how long ago that is.
func when(t time.Time) string {
	return fmt.Sprintf("%s (%s ago)", t.Local().Format(time.DateTime), age(t))
}

// age is how long ago t is, in two of its largest units at most.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := time.Since(t); {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Second).String(), "0s")
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// firstLine is the beginning of text, on one line.
func firstLine(text string, most int) string {
	line, rest, more := strings.Cut(strings.TrimSpace(text), "\n")
	runes := []rune(line)
	if len(runes) > most {
		return string(runes[:most]) + "…"
	}
	if more && rest != "" {
		return line + " …"
	}
	return line
}
