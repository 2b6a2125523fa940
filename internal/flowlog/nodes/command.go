//go:build linux

package nodes

import (
	"strconv"
	"time"

	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// Arguments are options as flags of `ringfence flows`. What is asked for since a time is a span there, by the agent's clock.
func Arguments(o flowlog.Options, now time.Time) []string {
	var args []string
	text := func(flag, value string) {
		if value != "" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	yes := func(flag string, set bool) {
		if set {
			args = append(args, "--"+flag)
		}
	}
	if !o.Since.IsZero() {
		text("since", max(now.Sub(o.Since), time.Millisecond).Round(time.Millisecond).String())
	}
	if o.Last > 0 {
		text("last", strconv.Itoa(o.Last))
	}
	for _, n := range o.Namespaces {
		text("namespace", n)
	}
	text("pod", o.Pod)
	text("from", o.From)
	text("to", o.To)
	text("selector", o.Selector)
	text("verdict", o.Verdict)
	for _, p := range o.Ports {
		text("port", p)
	}
	text("policy", o.Policy)
	yes("would-deny", o.WouldDeny)
	yes("would-allow", o.WouldAllow)
	text("rollout", o.Rollout)
	return args
}

// pushed are the options that an agent may apply for itself. What was let through on one node may have been denied on the
// other one, so that "allow" can be told from both ends only; and the newest of what is left are to be had only then.
func pushed(o flowlog.Options) flowlog.Options {
	if o.Verdict == "allow" {
		o.Verdict, o.Last = "", 0
	}
	return o
}
