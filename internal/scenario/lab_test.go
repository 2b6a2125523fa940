//go:build linux

package scenario

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/lab"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// TestScenariosInTheKernel boots the manifests of every scenario in the lab, and has the kernel judge real
// packets between all of their pods. The lab has one node, so that it compares with what the reference says of the
// cluster as the lab runs it.
func TestScenariosInTheKernel(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			for _, o := range clusters(t, file) {
				proveInKernel(t, o)
			}
		})
	}
}

// clusters are the different clusters that a scenario loads.
func clusters(t *testing.T, file string) []cluster.Objects {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := runner{file: file, archive: archive}
	var all []cluster.Objects
	loads := [][]string{nil}
	for _, l := range commandLines(string(archive.Comment)) {
		if names, ok := strings.CutPrefix(l.text, "load "); ok {
			loads = append(loads, strings.Fields(names))
		}
	}
	if len(loads) > 1 {
		loads = loads[1:]
	}
	for _, names := range loads {
		b := manifest.NewBundle()
		for _, name := range r.manifests(names) {
			data, err := r.readFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b.Decode(name, data)
		}
		all = append(all, b.Finish(manifest.Options{}).Objects)
	}
	return all
}

func proveInKernel(t *testing.T, o cluster.Objects) {
	t.Helper()
	l, err := lab.Boot(t.Context(), lab.Spec{Objects: o, Dataplane: func(node *netns.NS) (dataplane.Dataplane, error) {
		return nft.New(nft.Options{NetNS: node.FD(), LogGroup: 1})
	}})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, dataplane.ErrNotSupported) {
		t.Skipf("this machine has no lab: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	report, err := l.Probe(t.Context(), lab.Selection{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range report.Mismatches() {
		t.Errorf("%s: %s", m.Tuple, m.Mismatch)
	}
	t.Logf("%d probes: %d reached, %d denied", len(report.Results), report.Count(lab.Answered), report.Count(lab.Denied))
}
