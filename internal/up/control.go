package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/mapview"
	"github.com/ringfence-project/ringfence/internal/reach"
)

// controlSocket is where a running `up` answers other commands: HTTP on a unix socket of its owner's.
func controlSocket(run string) string { return filepath.Join(run, "up.sock") }

// control answers other commands of this program about the running cluster.
type control struct {
	services *services
	rollouts *rollouts
	returnTo http.HandlerFunc // a generation
	resume   http.HandlerFunc
	log      *flowlog.Log
	title    string
}

// serve answers until ctx ends.
func (c *control) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /map", c.showMap)
	mux.HandleFunc("GET /rollouts", c.rollouts.show)
	mux.HandleFunc("POST /rollouts/{name}/{command}", c.rollouts.do)
	mux.HandleFunc("POST /generations/return", c.returnTo)
	mux.HandleFunc("POST /generations/resume", c.resume)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second, MaxHeaderBytes: 1 << 14}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

func (c *control) showMap(w http.ResponseWriter, r *http.Request) {
	format := r.URL.Query().Get("output")
	if !slices.Contains(mapview.Formats, format) {
		http.Error(w, fmt.Sprintf("unknown format %q", format), http.StatusBadRequest)
		return
	}
	m, err := reach.Compute(c.rollouts.judged(c.services), reach.Options{})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	view := mapview.View{Map: m, Title: c.title, Seen: seen(m, c.log.Totals().Pairs)}
	_ = view.Write(w, format) // who does not read to the end has gone
}

// seen puts what was seen of connections on the boxes of a map. What belongs to no box any more is left out.
func seen(m *reach.Map, pairs []flowlog.PairTotal) []mapview.Seen {
	boxes := map[string]int{}
	for i, b := range m.Boxes {
		if b.Kind == reach.Workload && !b.Part {
			name := b.Owner.Name
			if name == "" {
				name = b.Pods[0]
			}
			boxes[b.Namespace+"/"+name] = i
		}
	}
	find := func(group string) (int, bool) {
		if i, ok := boxes[group]; ok {
			return i, true
		}
		if a, err := netip.ParseAddr(group); err == nil {
			return m.BoxAt(a)
		}
		i := slices.IndexFunc(m.Boxes, func(b reach.Box) bool { return b.Name == group })
		return i, i >= 0
	}
	index, all := map[mapview.Seen]int{}, []mapview.Seen(nil)
	for _, p := range pairs {
		from, ok := find(p.Source)
		to, known := find(p.Destination)
		if !ok || !known {
			continue
		}
		key := mapview.Seen{From: from, To: to, Protocol: p.Protocol, Port: p.Port}
		i, there := index[key]
		if !there {
			i, index[key] = len(all), len(all)
			all = append(all, key)
		}
		if p.Verdict == flow.Allow {
			all[i].Allowed += p.Flows
		} else {
			all[i].Denied += max(p.Packets, p.Flows)
		}
		if p.Last.After(all[i].Last) {
			all[i].Last = p.Last
		}
	}
	return all
}

// WriteMap asks the running `up` of an instance for its map, in one of mapview.Formats, and writes that to out.
func WriteMap(ctx context.Context, run, format string, out io.Writer) error {
	answer, err := ask(ctx, run, http.MethodGet, "/map?output="+url.QueryEscape(format))
	if err != nil {
		return fmt.Errorf("%w; name a DIR, or start it", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<12))
		return fmt.Errorf("map: %s", text)
	}
	_, err = io.Copy(out, answer.Body)
	return err
}

// errNobody is returned where no `up` runs.
var errNobody = errors.New("no `ringfence up` answers")

// ask asks the running `up` of an instance. The caller closes the answer's body. The error wraps errNobody if none runs.
func ask(ctx context.Context, run, method, path string) (*http.Response, error) {
	file := controlSocket(run)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", file)
	}}}
	request, err := http.NewRequestWithContext(ctx, method, "http://up"+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", errNobody, file, err)
	}
	return answer, nil
}
