package manifest

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden decodes the files of each testdata/*.txtar in order and compares what they say with the file "want".
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b := NewBundle()
			want := -1
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = i
				} else {
					b.Decode(f.Name, f.Data)
				}
			}
			if want < 0 {
				archive.Files = append(archive.Files, txtar.File{Name: "want"})
				want = len(archive.Files) - 1
			}
			got := dump(t, b.Finish(Options{MaxReplicas: 20}))
			if bytes.Equal(got, archive.Files[want].Data) {
				return
			}
			if *update {
				archive.Files[want].Data = got
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("got:\n%s\nwant:\n%s", got, archive.Files[want].Data)
		})
	}
}

// dump prints everything that a Result says, one line a thing; and it has to be good for a State.
func dump(t testing.TB, r Result) []byte {
	t.Helper()
	var b bytes.Buffer
	state, err := cluster.NewState(r.Objects)
	if err != nil {
		t.Errorf("no state can be made: %v", err)
		return nil
	}
	for _, p := range r.Problems {
		fmt.Fprintln(&b, p.Text())
	}
	for _, n := range r.Notices {
		fmt.Fprintf(&b, "notice %v\n", n)
	}
	for _, n := range state.Namespaces() {
		fmt.Fprintf(&b, "namespace %s [%s]\n", n.Name, n.Labels)
	}
	for _, n := range state.Nodes() {
		fmt.Fprintf(&b, "node %s [%s] %v\n", n.Name, n.Labels, n.Addresses)
	}
	if len(state.PodRanges()) > 0 {
		fmt.Fprintf(&b, "pod ranges %v\n", state.PodRanges())
	}
	if len(state.APIServers()) > 0 {
		fmt.Fprintf(&b, "API servers %v\n", state.APIServers())
	}
	for _, w := range state.Workloads() {
		fmt.Fprintf(&b, "workload %s %s x%d\n", w.Kind, w.Key, w.Replicas)
	}
	for _, e := range state.Endpoints() {
		fmt.Fprintln(&b, endpointText(e))
	}
	for _, s := range r.Services {
		fmt.Fprintf(&b, "service %s %s %v affinity %v selects %s ports %v (%s:%d)\n", s.Key, s.Kind, s.ClusterIPs, s.Affinity, s.Selector, s.Ports, s.File, s.Line)
	}
	for _, p := range state.Policies() {
		writePolicy(&b, p)
	}
	for _, s := range r.Rollouts {
		writeRollout(&b, s)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Ignored)) {
		fmt.Fprintf(&b, "ignored %d %s\n", r.Ignored[kind], kind)
	}
	return b.Bytes()
}

func endpointText(e *cluster.Endpoint) string {
	s := fmt.Sprintf("pod %s [%s] %v", e.Key, e.Labels, e.Addresses)
	if e.Node != "" {
		s += " on " + e.Node
	}
	if e.HostNetwork {
		s += " hostNetwork"
	}
	if e.UsesAPI {
		s += " usesAPI"
	}
	if e.Owner.Kind != "" {
		s += " of " + e.Owner.Kind + "/" + e.Owner.Name
	}
	for _, p := range e.Ports {
		s += fmt.Sprintf(" %s:%d/%s", p.Name, p.Number, p.Protocol)
	}
	return s + fmt.Sprintf(" (%s:%d)", e.File, e.Line)
}

func writeRollout(b *bytes.Buffer, s *rollout.Spec) {
	fmt.Fprintf(b, "rollout %s (%s:%d)\n", s.Name, s.File, s.Line)
	for _, p := range s.Policies {
		writePolicy(b, p)
	}
	for _, r := range s.Remove {
		fmt.Fprintf(b, "removes %s\n", r)
	}
	for _, step := range s.Steps {
		fmt.Fprintln(b, step)
	}
	analysis := s.Analysis
	analysis.Queries = nil
	fmt.Fprintf(b, "analysis %+v\n", analysis)
	for _, q := range s.Analysis.Queries {
		fmt.Fprintf(b, "query %s of %s: %s; then %s; %s\n", q.Name, q.Server, q.Text, q.Then, q.Tell(nil))
		for _, limit := range []*float64{q.Min, q.Max} {
			if limit != nil {
				fmt.Fprintf(b, "  limit %g\n", *limit)
			}
		}
	}
}

func writePolicy(b *bytes.Buffer, p *policy.Policy) {
	fmt.Fprintf(b, "policy %s %s/%s %d (%s:%d) %s", p.Tier, p.Namespace, p.Name, p.Priority, p.File, p.Line, p.Subject)
	for _, d := range flow.Directions {
		if p.Isolates(d) {
			fmt.Fprintf(b, " isolates-%s", d)
		}
	}
	if p.Defect != "" {
		fmt.Fprintf(b, " STAND-IN")
	}
	fmt.Fprintln(b)
	for _, d := range flow.Directions {
		for i, r := range p.Rules(d) {
			peers, ports := []string{}, []string{}
			for _, x := range r.Peers {
				peers = append(peers, x.String())
			}
			for _, x := range r.Ports {
				ports = append(ports, x.String())
			}
			fmt.Fprintf(b, "  %s[%d] :%d %s %q peers {%s} ports {%s}\n", d, i, r.Line, r.Action, r.Name, strings.Join(peers, "; "), strings.Join(ports, "; "))
		}
	}
}
