//go:build linux

package scenario

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/cluster/clustertest"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/lab"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// TestScenariosInTheKernel boots the manifests of every scenario and example in the lab, and has the kernel judge real
// packets between all of their pods. The lab has one node, so that it compares with what the reference says of the
// cluster as the lab runs it.
func TestScenariosInTheKernel(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Glob("../../examples/*/expected.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, examples...) {
		name := strings.TrimSuffix(filepath.ToSlash(file), ".txtar")
		t.Run(strings.NewReplacer("testdata/", "", "../../examples/", "").Replace(name), func(t *testing.T) {
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

func proveInKernel(t *testing.T, o cluster.Objects) *lab.Report {
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
	return report
}

// randomClusters is how many random clusters the kernel is tried with; -random N tries more.
var randomClusters = flag.Int("random", 15, "how many random clusters to prove in the kernel")

// TestRandomClustersInTheKernel has the kernel judge real packets in clusters that nobody thought of.
func TestRandomClustersInTheKernel(t *testing.T) {
	seed := int(time.Now().UnixNano() % 1_000_000)
	draw := rapid.Custom(clustertest.State)
	for i := range *randomClusters {
		t.Run(fmt.Sprintf("seed %d", seed+i), func(t *testing.T) {
			o := draw.Example(seed + i).Objects()
			if !slices.ContainsFunc(o.Endpoints, func(e *cluster.Endpoint) bool { return !e.HostNetwork && !e.Ended }) {
				return // nobody to probe
			}
			proveInKernel(t, o)
		})
	}
}

// TestOnlineBoutiqueInTheKernel proves Google's example shop with its own policies, where it is at hand; of all its
// pods only the cart service may reach redis.
func TestOnlineBoutiqueInTheKernel(t *testing.T) {
	const folder = "../../../shared/data/online-boutique"
	if _, err := os.Stat(folder); err != nil {
		t.Skipf("Online Boutique is not at hand: %v", err)
	}
	bundle, err := dir.Load([]string{folder}, nil)
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]bool{}
	for _, r := range proveInKernel(t, bundle.Finish(manifest.Options{}).Objects).Results {
		if strings.HasPrefix(r.To.Name, "default/redis-cart") && r.Tuple.Port == 6379 && r.Outcome == lab.Answered && r.From.Name != r.To.Name {
			clients[r.From.Group] = true
		}
	}
	if got := slices.Sorted(maps.Keys(clients)); !slices.Equal(got, []string{"default/cartservice", "node/lab-node"}) {
		t.Errorf("redis is reached from %v", got)
	}
}
