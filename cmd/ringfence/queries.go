package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/query"
)

// jsonQuery is one entry of --queries. From and To are "namespace/name", of the kind given, or an address.
type jsonQuery struct {
	ID       json.RawMessage `json:"id"`
	From     string          `json:"from"`
	To       string          `json:"to"`
	Protocol string          `json:"protocol"`
	Port     json.RawMessage `json:"port"` // a number, or a string with a number or a port's name
	FromKind string          `json:"from_kind"`
	ToKind   string          `json:"to_kind"`
}

// jsonAnswer echoes the query's id.
type jsonAnswer struct {
	ID json.RawMessage `json:"id,omitempty"`
	answer
}

// jsonError is the answer to a query that has none: it must carry no verdict that could be read as one.
type jsonError struct {
	ID    json.RawMessage `json:"id,omitempty"`
	Error string          `json:"error"`
}

// maxQueries bounds the size of a query file in bytes.
const maxQueries = 256 << 20

// answerQueries answers every query that can be answered. Bad manifests are told, and count as they do in the running
// system, where what cannot be read isolates: a list of answers must not depend on a manifest that nobody asked about.
func answerQueries(cmd *cobra.Command, in input, file, output string) error {
	in.keepGoing = true
	loaded, err := in.load(cmd)
	if err != nil {
		return err
	}
	queries, err := unlessInterrupted(cmd.Context(), func() ([]jsonQuery, error) { return readQueries(cmd, file) })
	if err != nil {
		return err
	}
	scope, judge, all, unanswered := loaded.scope(in), newJudge(loaded.state), make([]any, len(queries)), 0
	for i, q := range queries {
		if all[i], err = q.answer(scope, judge); err != nil {
			all[i] = jsonError{q.ID, err.Error()}
			unanswered++
		}
	}
	if err := printQueries(cmd.OutOrStdout(), all, output); err != nil {
		return err
	}
	if unanswered > 0 {
		return failed{fmt.Sprintf("%d of %d queries could not be answered", unanswered, len(queries))}
	}
	return nil
}

func readQueries(cmd *cobra.Command, file string) ([]jsonQuery, error) {
	var r io.Reader = cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read queries: %w", err)
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxQueries))
	if err != nil {
		return nil, fmt.Errorf("read queries from %s: %w", file, err)
	}
	var queries []jsonQuery
	if err := json.Unmarshal(data, &queries); err != nil { // and not a Decoder, which leaves what follows the list unread
		return nil, fmt.Errorf("read queries from %s: %w; want a JSON list of {id, from, to, protocol, port}", file, err)
	}
	return queries, nil
}

func (q jsonQuery) answer(scope query.Scope, j *judge) (any, error) {
	port, err := q.portText()
	if err != nil {
		return nil, err
	}
	all, err := connections(scope, question{withKind(q.From, q.FromKind), withKind(q.To, q.ToKind), port})
	if err != nil {
		return nil, err
	}
	var a answer
	for i, c := range all { // a denial of one pod or family is the answer for all
		if d := j.decide(c); i == 0 || d.Verdict != flow.Allow {
			a = newAnswer(c, d)
		}
		if !a.Allow {
			break
		}
	}
	a.From, a.To = q.From, q.To
	return jsonAnswer{ID: q.ID, answer: a}, nil
}

// withKind turns "ns/name" of a kind into "ns/kind/name".
func withKind(ref, kind string) string {
	ns, name, ok := strings.Cut(ref, "/")
	if kind == "" || !ok || strings.Contains(name, "/") {
		return ref
	}
	return ns + "/" + kind + "/" + name
}

// portText is the port as people write it. Where it is missing or null, the protocol has to be one without ports.
func (q jsonQuery) portText() (string, error) {
	port := strings.Trim(string(q.Port), `"`)
	switch {
	case port != "" && port != "null" && q.Protocol != "":
		return port + "/" + q.Protocol, nil
	case port != "" && port != "null":
		return port, nil
	}
	if p, err := flow.ParseProtocol(q.Protocol); err != nil || p.HasPorts() {
		return "", errors.New("port: missing; want a number, or the name of a port that TO declares; only icmp goes without")
	}
	return q.Protocol, nil
}

func printQueries(w io.Writer, all []any, output string) error {
	if output != "jsonl" && output != "text" {
		return encode(w, output, all)
	}
	enc := json.NewEncoder(w)
	for _, a := range all {
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return nil
}
