package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/plan"
	"github.com/ringfence-project/ringfence/internal/source/dir"
	"github.com/ringfence-project/ringfence/internal/up"
)

// recordedFlags say where recorded connections are.
type recordedFlags struct {
	file     string
	live     bool
	since    string
	instance instanceFlags
	cluster  clusterFlowsFlags
}

func (r *recordedFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.file, "flows", "", "recorded connections: a file, - for stdin, the socket of a running instance, or 7d for --live --since 7d")
	f.BoolVar(&r.live, "live", false, "the connections that the running instance recorded, or the agents of the cluster")
	f.StringVar(&r.since, "since", "", "of the recorded connections those of the last 90m, 4h, 7d, ...")
	r.instance.flags(cmd)
	r.cluster.flags(cmd)
}

func (r *recordedFlags) given() bool { return r.file != "" || r.live }

// read returns what was recorded; nil if nobody asked for it.
func (r recordedFlags) read(ctx context.Context, cmd *cobra.Command, now time.Time) (*plan.Recorded, error) {
	if isSpan(r.file) {
		if r.since != "" || r.live {
			return nil, fmt.Errorf("--flows %s says --live and --since already", r.file)
		}
		r.file, r.since, r.live = "", r.file, true
	}
	switch {
	case !r.given() && r.since != "":
		return nil, errors.New("--since is about recorded connections: give --flows or --live")
	case !r.given():
		return nil, nil
	case r.live && r.file != "":
		return nil, errors.New("--flows and --live contradict each other")
	}
	out := &plan.Recorded{Source: r.file}
	if r.since != "" {
		span, err := parseSpan(r.since)
		if err != nil {
			return nil, fmt.Errorf("--since: %w", err)
		}
		out.Since = now.Add(-span)
	}
	if r.live && r.cluster.wanted(cmd) {
		out.Source = "the agents of the cluster"
		return out, r.askAgents(cmd, out)
	}
	if r.live {
		i, err := r.instance.instance()
		if err != nil {
			return nil, err
		}
		out.Source = "the running instance " + i.Name
		return out, askRecords(ctx, up.FlowsSocket(i.Run), out)
	}
	if r.file == dir.Stdin {
		return out, decodeRecords(cmd.InOrStdin(), "stdin", out)
	}
	info, err := os.Stat(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recorded connections: there is no file %s; --live asks a running instance, or the agents of a cluster", r.file)
	}
	if err != nil {
		return nil, fmt.Errorf("recorded connections: %w", err)
	}
	if info.Mode()&os.ModeSocket != 0 {
		return out, askRecords(ctx, r.file, out)
	}
	f, err := os.Open(r.file)
	if err != nil {
		return nil, fmt.Errorf("recorded connections: %w", err)
	}
	defer f.Close()
	return out, decodeRecords(f, r.file, out)
}

// askRecords asks a running instance.
func askRecords(ctx context.Context, path string, out *plan.Recorded) error {
	for _, totals := range []bool{false, true} {
		request := socket.Request{Totals: totals}
		request.Since = out.Since
		err := socket.Stream(ctx, path, request, func(m socket.Message) error {
			switch {
			case m.Totals != nil:
				out.Lost += m.Totals.Lost
			case m.Lost > 0:
				out.Lost += uint64(m.Lost)
			case m.Record != nil:
				out.Records = append(out.Records, m.Record)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("recorded connections: %w", err)
		}
	}
	return nil
}

// maxRecords bounds how many recorded connections are read.
const maxRecords = 1_000_000

// decodeRecords reads a list of records in JSON, or records one after the other.
func decodeRecords(r io.Reader, name string, out *plan.Recorded) error {
	buffered := bufio.NewReader(r)
	d := json.NewDecoder(buffered)
	isList, err := startsList(buffered)
	if err == nil && isList {
		_, err = d.Token()
	}
	for err == nil && d.More() {
		if len(out.Records) == maxRecords {
			return fmt.Errorf("recorded connections: %s holds more than %d; leave some out with \"ringfence flows --since\"", name, maxRecords)
		}
		record := &flowlog.Record{}
		if err = d.Decode(record); err == nil {
			out.Records = append(out.Records, record)
		}
	}
	if err == nil && isList {
		_, err = d.Token()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("recorded connections: %s, after %d of them: %w; want what \"ringfence flows -o json\" or \"-o jsonl\" writes", name, len(out.Records), err)
	}
	if errors.Is(err, io.EOF) && isList {
		return fmt.Errorf("recorded connections: %s ends in the middle of its list", name)
	}
	return nil
}

// startsList reports whether the first character that is no space begins a list.
func startsList(r *bufio.Reader) (bool, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return false, err
		}
		if b == ' ' || b == '\n' || b == '\t' || b == '\r' {
			continue
		}
		return b == '[', r.UnreadByte()
	}
}
