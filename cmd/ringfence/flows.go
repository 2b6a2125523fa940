package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/fatih/color"
	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/alert"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/up"
)

// flowsOptions are the flags of `ringfence flows`.
type flowsOptions struct {
	socket.Request
	instanceFlags
	clusterFlowsFlags
	since    time.Duration
	denied   bool
	exec     string
	socket   string
	output   string
	untilEOF bool
}

func newFlows() *cobra.Command {
	var o flowsOptions
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show the connections that were seen, allowed and denied, and which rule decided",
		Long: `Show the connections that a running instance saw, allowed and denied, with the rule that decided and its place;
of those that ended, how long they lasted and how much was sent.

With --kubeconfig or --context, or as kubectl's plugin: of all nodes of a cluster. Their agents are asked through the API
server by commands in their containers, which takes the rights of the role ringfence-flows that comes with the chart. A
connection between two nodes is shown once, as the node that it went to tells it. Exit code 1 if some nodes' flows could
not be had.

All filters that are given have to hold. An end (--from, --to, --pod) is written as
` + flowlog.EndForms + `.

--exec runs a command for each new kind of denial (same workloads, port and rule), never more than a few at a time.
The command is started directly, without a shell; it gets the record as JSON on its standard input, and its parts as
RINGFENCE_MESSAGE, RINGFENCE_SOURCE, RINGFENCE_SOURCE_LABELS, RINGFENCE_POLICY, RINGFENCE_PLACE, ... in its environment.`,
		Example: `  ringfence flows -f
  ringfence flows --denied --since 10m --to customers/ldap
  ringfence flows -f --would-deny
  ringfence flows -f --denied --exec './tell-us.sh'
  ringfence flows --totals -o json
  kubectl ringfence flows -f -n shop --denied`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return flows(cmd, o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on with what comes")
	f.StringSliceVarP(&o.Namespaces, "namespace", "n", nil, "namespace of either end")
	f.StringVar(&o.From, "from", "", "the client")
	f.StringVar(&o.To, "to", "", "the server")
	f.StringVar(&o.Pod, "pod", "", "either end")
	f.StringVarP(&o.Selector, "selector", "l", "", "labels of either end")
	f.StringVar(&o.Verdict, "verdict", "", "allow or deny")
	f.BoolVar(&o.denied, "denied", false, "the same as --verdict deny")
	f.StringSliceVar(&o.Ports, "port", nil, "the server's port: 389, 53/udp, icmp")
	f.StringVar(&o.Policy, "policy", "", "policy that decided: namespace/name, or a name")
	f.BoolVar(&o.WouldDeny, "would-deny", false, "that a rollout's candidate denies or would deny, and the policies before it allow")
	f.BoolVar(&o.WouldAllow, "would-allow", false, "that a rollout's candidate allows or would allow, and the policies before it deny")
	f.StringVar(&o.Rollout, "rollout", "", "that this rollout changes or would change")
	f.IntVar(&o.Last, "last", 0, "at most so many of those already seen (0: all)")
	f.DurationVar(&o.since, "since", 0, "those of the last 10m, 1h, ... (0: all)")
	f.BoolVar(&o.Totals, "totals", false, "sums by kind of flow, and denied packets by rule, in place of flows; without filters")
	f.StringVar(&o.exec, "exec", "", "with --denied: run this command for each new kind of denial, until interrupted")
	o.instanceFlags.flags(cmd)
	f.StringVar(&o.socket, "socket", "", "socket of the running instance, if it is elsewhere")
	o.clusterFlowsFlags.flags(cmd)
	f.BoolVar(&o.untilEOF, "until-eof", false, "end when the standard input does")
	_ = f.MarkHidden("until-eof")
	outputFlag(cmd, &o.output, "text", "json", "jsonl")
	return cmd
}

// check completes the options, or says what does not fit together.
func (o *flowsOptions) check(now time.Time, ofCluster bool) error {
	if o.denied {
		if o.Verdict != "" && o.Verdict != flow.Deny.String() {
			return fmt.Errorf("--denied and --verdict %s contradict each other", o.Verdict)
		}
		o.Verdict = flow.Deny.String()
	}
	if o.exec != "" {
		if !o.denied {
			return errors.New("--exec needs --denied")
		}
		o.Follow = true
	}
	if o.Follow && o.Totals {
		return errors.New("--totals are of one moment: leave out --follow and --exec")
	}
	if o.Follow && o.output == "json" {
		return errors.New("what goes on has no end, and JSON needs one: use -o jsonl")
	}
	if o.since < 0 {
		return fmt.Errorf("--since %s: want a time before now, like 10m", o.since)
	}
	if o.since > 0 {
		o.Since = now.Add(-o.since)
	}
	if o.socket == "" && !ofCluster {
		i, err := o.instance()
		if err != nil {
			return err
		}
		o.socket = up.FlowsSocket(i.Run)
	}
	_, err := o.Query()
	return err
}

func flows(cmd *cobra.Command, o flowsOptions) error {
	ofCluster := o.wanted(cmd)
	if err := o.check(time.Now(), ofCluster); err != nil {
		return err
	}
	show := showFlows
	if ofCluster {
		show = showClusterFlows
	}
	if o.untilEOF {
		defer endWithInput(cmd)()
	}
	if o.exec == "" {
		return show(cmd, o, nil)
	}
	words, err := alert.Split(o.exec)
	if err != nil {
		return err
	}
	runner, err := alert.New(alert.Options{Command: words, Output: cmd.ErrOrStderr()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	done := make(chan struct{})
	go func() { runner.Run(ctx); close(done) }()
	err = show(cmd, o, runner)
	cancel()
	<-done
	return err
}

// endWithInput ends the command's context when nobody listens any more, which is told by the end of the standard input: a
// command in a container is not told otherwise. What it returns is called at the end.
func endWithInput(cmd *cobra.Command) (stop func()) {
	ctx, cancel := context.WithCancel(cmd.Context())
	cmd.SetContext(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, cmd.InOrStdin()) // however it ends, it has ended
		cancel()
	}()
	return cancel
}

// showFlows prints what comes; an interrupt while following is its regular end.
func showFlows(cmd *cobra.Command, o flowsOptions, runner *alert.Runner) error {
	p := newFlowPrinter(cmd.OutOrStdout(), o.output)
	err := socket.Stream(cmd.Context(), o.socket, o.Request, func(m socket.Message) error {
		switch {
		case m.Totals != nil:
			return printTotals(cmd.OutOrStdout(), m.Totals, o.output)
		case m.Lost > 0:
			fmt.Fprintf(cmd.ErrOrStderr(), "%d flows came faster than they could be shown\n", m.Lost)
		case m.Record != nil:
			if runner != nil {
				runner.Offer(m.Record)
			}
			return p.print(m.Record)
		}
		return nil
	})
	if o.Follow && cmd.Context().Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return p.finish(o.Totals)
}

// flowPrinter prints records in one of the formats.
type flowPrinter struct {
	w       io.Writer
	format  string
	colours bool
	all     []*flowlog.Record // for json, which is one list
	widths  [5]int            // of the columns so far
}

func newFlowPrinter(w io.Writer, format string) *flowPrinter {
	return &flowPrinter{w: w, format: format, colours: colours(w), all: []*flowlog.Record{}, widths: [5]int{9, 24, 24, 8, 6}}
}

func (p *flowPrinter) print(r *flowlog.Record) error {
	switch p.format {
	case "json":
		p.all = append(p.all, r)
		return nil
	case "jsonl":
		return json.NewEncoder(p.w).Encode(r)
	}
	_, err := io.WriteString(p.w, p.line(r))
	return err
}

func (p *flowPrinter) finish(totals bool) error {
	if p.format == "json" && !totals {
		return encode(p.w, "json", p.all)
	}
	return nil
}

// line is one record: time, what happened, source -> destination, port, the rule with its place, and how it ended.
func (p *flowPrinter) line(r *flowlog.Record) string {
	at, what := r.Time, r.Verdict.String()
	switch {
	case r.End != nil:
		at, what = r.End.Time, "end"
	case r.Packets > 1:
		at, what = r.Last, fmt.Sprintf("deny x%d", r.Packets)
	}
	c := color.FgGreen
	if r.Denied() {
		c = color.FgRed
	} else if r.End != nil {
		c = color.Faint
	}
	line := at.Local().Format("15:04:05.000") + "  "
	if r.Node != "" {
		line += p.pad(4, r.Node) + "  "
	}
	line += p.paint(c, p.pad(0, what)) + "  " + p.pad(1, r.Source.String()) +
		" -> " + p.pad(2, r.Destination.String()) + "  " + p.pad(3, flowlog.PortText(r.Protocol, r.Port)) + "  " + r.By()
	if place := r.Rule.Place(); place != "" {
		line += " (" + place + ")"
	}
	for _, more := range moreOf(r) {
		line += "  " + more
	}
	return line + "\n"
}

// moreOf is what not every record has.
func moreOf(r *flowlog.Record) []string {
	var more []string
	if r.Reason != "" {
		more = append(more, r.Reason)
	}
	if r.Beside != nil {
		more = append(more, r.Beside.String())
	}
	if a := r.Asked; a != nil {
		name := a.Service
		if name == "" {
			name = a.Address.String()
		}
		more = append(more, "by way of "+name+":"+flowlog.PortText(r.Protocol, a.Port))
	}
	if r.End != nil {
		more = append(more, r.End.EndText())
		switch {
		case r.End.Outcome == flow.Refused, r.End.Outcome == flow.Reset:
			more = append(more, r.End.Outcome.String())
		case !r.Answered && !r.End.Unseen:
			more = append(more, "no answer")
		}
	}
	return more
}

// pad fills a column, which grows with what it has to hold and does not shrink again.
func (p *flowPrinter) pad(column int, text string) string {
	const widest = 48 // one long name does not push all others to the right
	n := utf8.RuneCountInString(text)
	p.widths[column] = min(max(p.widths[column], n), widest)
	return text + strings.Repeat(" ", max(0, p.widths[column]-n))
}

func (p *flowPrinter) paint(c color.Attribute, text string) string {
	if !p.colours {
		return text
	}
	painter := color.New(c)
	painter.EnableColor()
	return painter.Sprint(text)
}

func printTotals(w io.Writer, t *flowlog.Totals, format string) error {
	switch format {
	case "json":
		return encode(w, "json", t)
	case "jsonl":
		return json.NewEncoder(w).Encode(t)
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, p := range t.Pairs {
		by, place := p.By(), p.Rule.Place()
		if place != "" {
			by += " (" + place + ")"
		}
		amount := flowlog.BytesText(p.Bytes)
		if p.Verdict == flow.Deny {
			amount = fmt.Sprintf("%d packets", p.Packets)
		}
		fmt.Fprintf(tw, "%s\t%s -> %s\t%s\t%d flows\t%s\tlast %s\t%s\n", verdictWord(w, p.Verdict == flow.Allow), p.Source, p.Destination,
			flowlog.PortText(p.Protocol, p.Port), p.Flows, amount, p.Last.Local().Format("15:04:05"), by)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, d := range t.Drops {
		var rules []string
		for _, r := range d.Rules {
			rules = append(rules, strings.TrimSpace(r.String()+" "+r.Place()))
		}
		if rules == nil {
			rules = []string{"unknown rule"}
		}
		fmt.Fprintf(w, "%d packets denied by %s, last %s\n", d.Packets, strings.Join(rules, " or "), d.Last.Local().Format("15:04:05"))
	}
	if t.Lost > 0 {
		fmt.Fprintf(w, "events were lost %d times, as they came too fast: some flows are not in the sums\n", t.Lost)
	}
	return nil
}
