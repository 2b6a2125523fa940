// Package kube follows the objects of a Kubernetes API that policies speak of: pods, namespaces, nodes,
// NetworkPolicies and, where their definition is installed, ClusterNetworkPolicies.
//
// What arrives is decoded by package manifest at once, and nothing else of it is kept. Changes wait until Take fetches
// them, and a newer one of an object takes the place of an older one, so that whoever is slow has less to do and never
// more. Nothing can be taken before the first list of every kind is there: half of a cluster would open what the other
// half closes.
//
// What is wrong is a Condition, and never an opening: an object that cannot be read is replaced by its stand-in, and
// what was known of a kind stays as it was while the API does not answer, forbids, or does not know the kind any more,
// also by an earlier process.
package kube

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// Options say what to follow.
type Options struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Ranges are prefixes that pods get their addresses from, beside those that the nodes' objects say.
	Ranges []netip.Prefix
	// Memory is a folder in which the ClusterNetworkPolicies and rollouts known last are kept for the next process: if the
	// API does not know their kind when it starts, they are what it begins with. "" keeps none.
	Memory string
	// Retry is how long a failed request waits for the next one at first; it grows to thirty times as much. 0 is a
	// second.
	Retry time.Duration
	// Health: what rollouts are judged by is followed too: pods' health, each change of which is a change of the pod, and
	// whether they use the API; where that is served; and CronJobs, whose pods are not there most of the time.
	Health bool
}

// Pod is a pod with what only its own node needs to know.
type Pod struct {
	*cluster.Endpoint
	UID         string
	Terminating bool // it was told to end
	// Started is when its containers were started last: it changes when the pod gets a new sandbox.
	Started time.Time
	Seen    time.Time // when this change of it came
	Health            // where Options ask for it
}

// EndpointOf is p's Endpoint, nil if p is nil.
func EndpointOf(p *Pod) *cluster.Endpoint {
	if p == nil {
		return nil
	}
	return p.Endpoint
}

// Health is how a pod is, with times of its kubelet's clock, in whole seconds. So whoever looks for the first time can tell
// what happened since some moment.
type Health struct {
	Ready bool
	// Since is when Ready became what it is; zero before anybody said.
	Since time.Time
	// Restarted is when one of its containers was last started again or, where it waits for that, had ended; zero if none was.
	Restarted time.Time
}

// Policy is a policy with what tells its versions apart.
type Policy struct {
	*policy.Policy
	UID        string
	Generation int64 // of the object's spec
	// ResourceVersion is that in which this version of it was seen first: what is written to its status later is not counted.
	ResourceVersion string
	Seen            time.Time // when this change of it came
}

// Batch is what changed. A nil value says that the object is gone.
type Batch struct {
	Pods       map[cluster.Key]*Pod
	Namespaces map[string]*cluster.Namespace
	Nodes      map[string]*cluster.Node
	Policies   map[PolicyKey]*Policy
	Rollouts   map[string]*record.Record
	CronJobs   map[cluster.Key]*cluster.Workload
	Ranges     []netip.Prefix // all prefixes that pods get their addresses from; only where RangesChanged
	// RangesChanged: Ranges are other ones than before.
	RangesChanged bool
	// APIServers are where the API is served; only where APIServersChanged.
	APIServers        []netip.AddrPort
	APIServersChanged bool
	// Observed says, by kind of policy ("networkpolicies", "clusternetworkpolicies"), up to which resource version of the
	// API everything is in this batch or in earlier ones; only where that changed.
	Observed map[string]string
}

// PolicyKey names a policy: a NetworkPolicy by namespace and name, a ClusterNetworkPolicy by its name.
type PolicyKey = cluster.Key

func newBatch() Batch {
	return Batch{Pods: map[cluster.Key]*Pod{}, Namespaces: map[string]*cluster.Namespace{}, Nodes: map[string]*cluster.Node{},
		Policies: map[PolicyKey]*Policy{}, Rollouts: map[string]*record.Record{}, CronJobs: map[cluster.Key]*cluster.Workload{},
		Observed: map[string]string{}}
}

// Source follows an API. Make one with New; its methods may be called from any goroutine.
type Source struct {
	options Options
	kinds   []*kind
	changed chan struct{} // of one place
	synced  chan struct{} // closed when the first lists have come

	mu         sync.Mutex
	batch      Batch
	waiting    int // kinds whose first list has not come
	ranges     map[string][]netip.Prefix
	nodeRanges map[string][]netip.Prefix
	servers    map[string][]netip.AddrPort // of the API, by EndpointSlice
	nodeUIDs   map[string]string
	nodeBoots  map[string]string
	conditions conditions

	pods map[cluster.Key]*Pod // as passed on last; only the goroutine of their kind looks at these
	// policies by kind; nothing is added to the outer map.
	policies map[string]map[PolicyKey]*Policy
	nodes    map[string]*cluster.Node
}

// New returns a source that does nothing until Run.
func New(o Options) *Source {
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	s := &Source{options: o, changed: make(chan struct{}, 1), synced: make(chan struct{}), batch: newBatch(), ranges: map[string][]netip.Prefix{},
		nodeRanges: map[string][]netip.Prefix{}, servers: map[string][]netip.AddrPort{}, nodeUIDs: map[string]string{}, nodeBoots: map[string]string{}, conditions: conditions{changed: make(chan struct{}, 1)},
		pods: map[cluster.Key]*Pod{}, nodes: map[string]*cluster.Node{},
		policies: map[string]map[PolicyKey]*Policy{"NetworkPolicy": {}, "ClusterNetworkPolicy": {}}}
	s.setRanges("options", o.Ranges)
	s.kinds = s.allKinds()
	s.waiting = len(s.kinds)
	return s
}

// Run follows the API until ctx ends. It never fails for good: what does not work is tried again, and is a Condition
// meanwhile.
func (s *Source) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, k := range s.kinds {
		group.Go(func() error { return k.follow(ctx) })
	}
	return group.Wait()
}

// Changed has a value when Take may have something to return.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Take returns what changed since the last call, and false before the first list of every kind has come. What it returns
// is the caller's, but for the objects, which are shared and never change.
func (s *Source) Take() (Batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting > 0 {
		return Batch{}, false
	}
	b := s.batch
	if b.RangesChanged {
		b.Ranges = allOf(s.ranges, netip.Prefix.Compare)
	}
	if b.APIServersChanged {
		b.APIServers = allOf(s.servers, netip.AddrPort.Compare)
	}
	s.batch = newBatch()
	return b, true
}

// Waiting names the kinds whose first list has not come.
func (s *Source) Waiting() []string {
	var names []string
	for _, k := range s.kinds {
		if !k.isListed() {
			names = append(names, k.name)
		}
	}
	return names
}

// NodeRanges returns the prefixes that the pods of a node get their addresses from, as its object says. It is known as
// soon as the nodes are listed.
func (s *Source) NodeRanges(node string) []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeRanges[node]
}

// NodeUID returns the UID of a node's object, "" while it is not known.
func (s *Source) NodeUID(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodeUIDs[node]
}

// NodeBoots returns the id of each node's present start, "" where its kubelet does not say.
func (s *Source) NodeBoots() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.nodeBoots)
}

// NodeCount returns how many nodes there are.
func (s *Source) NodeCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.nodeUIDs)
}

// change notes changes of objects, and that they can be taken.
func (s *Source) change(f func(*Batch)) {
	s.mu.Lock()
	f(&s.batch)
	ready := s.waiting == 0
	s.mu.Unlock()
	if ready {
		s.wake()
	}
}

func (s *Source) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// listed notes that the first list of a kind has come.
func (s *Source) listed() {
	s.mu.Lock()
	s.waiting--
	ready := s.waiting == 0
	s.mu.Unlock()
	if ready {
		close(s.synced)
		s.wake()
	}
}

// Synced is closed once the first list of every kind has come.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// setRanges notes which prefixes an object says pods get their addresses from. It is called by change, and by New.
func (s *Source) setRanges(object string, ranges []netip.Prefix) {
	if slices.Equal(s.ranges[object], ranges) {
		return
	}
	if len(ranges) == 0 {
		delete(s.ranges, object)
	} else {
		s.ranges[object] = ranges
	}
	s.batch.RangesChanged = true
}

// allOf is what all objects say together, sorted, each once.
func allOf[T comparable](by map[string][]T, compare func(a, b T) int) []T {
	var all []T
	for _, list := range by {
		all = append(all, list...)
	}
	slices.SortFunc(all, compare)
	return slices.Compact(all)
}
