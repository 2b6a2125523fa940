// Package alert runs a command for each new kind of denial: once for each kind, not too many at a time, and none of
// them for long.
//
// The command is started directly, never by a shell. What was seen of the network reaches it as data only: the
// record as JSON on its standard input, and its parts in environment variables.
package alert

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
)

// Options say what is run and how often. A zero field is its default.
type Options struct {
	Command     []string      // the program and its arguments
	Output      io.Writer     // where the command's output and what went wrong goes; nil: nowhere
	Again       time.Duration // a kind that was quiet for so long is new again; default an hour
	Every       time.Duration // between two starts, beyond the first Burst; default a second
	Burst       int           // default 10
	Concurrency int           // commands at one time; default 4
	Timeout     time.Duration // for one command; default 30 seconds
	Waiting     int           // kinds that wait for their turn; default 1,000. More are counted, and come up when seen again
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{{&o.Again, time.Hour}, {&o.Every, time.Second}, {&o.Timeout, 30 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	for _, n := range []struct {
		value *int
		or    int
	}{{&o.Burst, 10}, {&o.Concurrency, 4}, {&o.Waiting, 1000}} {
		if *n.value <= 0 {
			*n.value = n.or
		}
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	return o
}

// maxKinds bounds how many kinds are remembered.
const maxKinds = 10_000

// Runner runs the command. Make one with New.
type Runner struct {
	opts    Options
	waiting chan *flowlog.Record

	mu      sync.Mutex
	kinds   map[flowlog.Pair]time.Time // when each was last seen
	skipped int                        // kinds that found no room to wait
	output  sync.Mutex
}

// New returns a runner, or an error if the program is not there.
func New(o Options) (*Runner, error) {
	if len(o.Command) == 0 {
		return nil, fmt.Errorf("alert command is empty: name a program")
	}
	if _, err := exec.LookPath(o.Command[0]); err != nil {
		return nil, fmt.Errorf("alert command: %w", err)
	}
	o = o.withDefaults()
	return &Runner{opts: o, waiting: make(chan *flowlog.Record, o.Waiting), kinds: map[flowlog.Pair]time.Time{}}, nil
}

// Offer takes a record: a denial of a new kind will have the command run. It does not block.
func (r *Runner) Offer(rec *flowlog.Record) {
	if !rec.Denied() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	kind := rec.Pair()
	seen := rec.Time
	if rec.Last.After(seen) {
		seen = rec.Last
	}
	last, known := r.kinds[kind]
	if known && seen.Sub(last) < r.opts.Again {
		if seen.After(last) {
			r.kinds[kind] = seen
		}
		return
	}
	select {
	case r.waiting <- rec:
		if len(r.kinds) >= maxKinds {
			r.forget()
		}
		r.kinds[kind] = seen
	default:
		r.skipped++ // not remembered: it comes up again
	}
}

// forget makes room: the older half goes.
func (r *Runner) forget() {
	var sum, n int64
	for _, t := range r.kinds {
		sum += t.Unix()
		n++
	}
	for k, t := range r.kinds {
		if t.Unix() <= sum/n {
			delete(r.kinds, k)
		}
	}
}

// Run starts commands until ctx ends, and waits for those that run. It may run once.
func (r *Runner) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, r.opts.Concurrency)
	rate := newRate(r.opts.Burst, r.opts.Every)
	for {
		select {
		case <-ctx.Done():
			return
		case rec := <-r.waiting:
			if !rate.wait(ctx) {
				return
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			running.Go(func() {
				defer func() { <-places }()
				r.command(ctx, rec)
			})
		}
	}
}

func (r *Runner) command(ctx context.Context, rec *flowlog.Record) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	record, err := json.Marshal(rec)
	if err != nil {
		r.say([]byte(fmt.Sprintf("alert: %v\n", err)))
		return
	}
	cmd := exec.CommandContext(ctx, r.opts.Command[0], r.opts.Command[1:]...)
	cmd.Stdin = bytes.NewReader(append(record, '\n'))
	cmd.Env = append(os.Environ(), r.environment(rec)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that what it starts ends with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for grandchildren that hold the output open
	var out limited
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("ended after %s", r.opts.Timeout)
		}
		fmt.Fprintf(&out, "alert: %s: %v\n", r.opts.Command[0], err)
	}
	r.say(out.data)
}

func (r *Runner) say(text []byte) {
	r.output.Lock()
	defer r.output.Unlock()
	_, _ = r.opts.Output.Write(text) // nobody to tell
}

// environment is the record's parts, for commands that do not read JSON.
func (r *Runner) environment(rec *flowlog.Record) []string {
	r.mu.Lock()
	skipped := r.skipped
	r.mu.Unlock()
	vars := [][2]string{
		{"MESSAGE", rec.Message()},
		{"TIME", rec.Time.UTC().Format(time.RFC3339Nano)},
		{"VERDICT", rec.Verdict.String()},
		{"PROTOCOL", rec.Protocol.String()},
		{"PORT", strconv.Itoa(int(rec.Port))},
		{"POLICY", rec.Rule.Policy()},
		{"RULE", rec.By()},
		{"PLACE", rec.Rule.Place()},
		{"REASON", rec.Reason},
		{"DIRECTION", direction(rec.Direction)},
		{"SKIPPED", strconv.Itoa(skipped)},
	}
	for prefix, e := range map[string]flowlog.End{"SOURCE": rec.Source, "DESTINATION": rec.Destination} {
		vars = append(vars, [2]string{prefix, e.String()}, [2]string{prefix + "_ADDRESS", e.Address.String()},
			[2]string{prefix + "_NAMESPACE", e.Namespace}, [2]string{prefix + "_POD", e.Pod},
			[2]string{prefix + "_WORKLOAD", e.Workload}, [2]string{prefix + "_LABELS", e.Labels.String()})
	}
	var env []string
	for _, v := range vars {
		env = append(env, "RINGFENCE_"+v[0]+"="+strings.ReplaceAll(v[1], "\x00", ""))
	}
	return env
}

func direction(d flow.Direction) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// limited keeps the beginning of what a command says.
type limited struct{ data []byte }

const maxOutput = 64 << 10

func (l *limited) Write(p []byte) (int, error) {
	room := max(0, maxOutput-len(l.data))
	l.data = append(l.data, p[:min(room, len(p))]...)
	return len(p), nil
}

// rate is a token bucket.
type rate struct {
	every  time.Duration
	burst  int
	tokens int
	filled time.Time
}

func newRate(burst int, every time.Duration) *rate {
	return &rate{every: every, burst: burst, tokens: burst, filled: time.Now()}
}

// wait takes a token; false if ctx ended before there was one.
func (r *rate) wait(ctx context.Context) bool {
	for {
		n := int(time.Since(r.filled) / r.every)
		r.tokens, r.filled = min(r.burst, r.tokens+n), r.filled.Add(time.Duration(n)*r.every)
		if r.tokens > 0 {
			r.tokens--
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Until(r.filled.Add(r.every))):
		}
	}
}

// Split takes a command line apart at its spaces, as a shell does, with quotes but without any substitution.
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, inWord := rune(0), false
	escaped := false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("command %q: a quote is not closed", line)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
