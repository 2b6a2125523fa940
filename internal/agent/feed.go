package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/rollout/follow"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// relocate is how long a pod without a place waits for the next look, where no event tells.
const relocate = 500 * time.Millisecond

// feed makes edits of what the API says, and gives the pods of this node their places.
type feed struct {
	node    string
	source  *kube.Source
	locator locator
	changed chan struct{} // of one place
	before  func()        // is called before every edit; may be nil
	rolls   *follow.Follower

	mu    sync.Mutex
	own   map[cluster.Key]*ownPod
	known map[kube.PolicyKey]*kube.Policy // in force
	// observed is up to which resource version policies are in force, by kind; digest stands for known.
	observed map[string]string
	digest   inforce.Digest
	// clusterDigest stands for those that are of the whole cluster.
	clusterDigest inforce.Digest
	times         func(what string, took time.Duration)
}

// ownPod is a pod of this node with addresses of its own.
type ownPod struct {
	pod   *kube.Pod
	place place
	// lost: it had a place that is gone. It gets another one only when the API says that it was started anew: an address
	// that leads elsewhere now may be another pod's, which the API does not know yet.
	lost  bool
	since time.Time // when it was seen first with its addresses
}

func (p *ownPod) isPlaced() bool { return p.place.at.Interface != "" }

// newFeed returns the feed of o.Node. It sets o.Again.
func newFeed(s *kube.Source, l locator, o follow.Options) *feed {
	f := &feed{node: o.Node, source: s, locator: l, changed: make(chan struct{}, 1), own: map[cluster.Key]*ownPod{},
		known: map[kube.PolicyKey]*kube.Policy{}, observed: map[string]string{}, times: func(string, time.Duration) {}}
	o.Again = f.wake
	f.rolls = follow.New(o)
	return f
}

// Run implements engine.Feed. The source runs elsewhere, as its first list is waited for before there is an engine.
func (f *feed) Run(ctx context.Context) error {
	moved, err := f.locator.watch(ctx)
	if err != nil {
		return err
	}
	f.wake()
	again := time.NewTicker(relocate)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.source.Changed():
		case <-moved:
		case <-again.C:
			if !f.isWaiting() {
				continue
			}
		}
		f.wake()
	}
}

func (f *feed) wake() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Changed implements engine.Feed.
func (f *feed) Changed() <-chan struct{} { return f.changed }

func (f *feed) isWaiting() bool {
	_, waiting := f.count()
	return waiting > 0
}

// count returns how many pods of this node have a place, and how many have none yet.
func (f *feed) count() (placed, waiting int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.own {
		if p.isPlaced() {
			placed++
		} else if !p.lost {
			waiting++
		}
	}
	return placed, waiting
}

// families reports of which families the pods of this node have addresses.
func (f *feed) families() (has [2]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.own {
		for _, x := range p.pod.Addresses {
			has[familyOf(x)] = true
		}
	}
	return has
}

// pod returns what is known of a pod of this node, or nil.
func (f *feed) pod(k cluster.Key) *kube.Pod {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.own[k]; p != nil {
		return p.pod
	}
	return nil
}

// routedRanges returns the prefixes that the node routes to pods and that a pod of the API has an address in: what has
// none may be for containers of others.
func (f *feed) routedRanges() []netip.Prefix {
	ranges := f.locator.ranges()
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(ranges, func(r netip.Prefix) bool {
		for _, p := range f.own {
			if slices.ContainsFunc(p.pod.Addresses, r.Contains) {
				return false
			}
		}
		return true
	})
}

// policies returns the policies that are in force, in no order.
func (f *feed) policies() []*kube.Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.known))
}

// Take implements engine.Feed.
func (f *feed) Take() (engine.Edit, bool) {
	batch, ok := f.source.Take()
	if !ok {
		return engine.Edit{}, false
	}
	if f.before != nil {
		f.before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.takePods(batch.Pods)
	placed := f.findPlaces(changed)
	rolls := f.rolls.Take(batch)
	for _, key := range rolls.Pods {
		if f.own[key] != nil {
			changed[key] = true
		}
	}
	pods := make([]follow.PodEdit, 0, len(batch.Pods)+len(changed))
	for key, p := range batch.Pods {
		if f.own[key] == nil {
			pods = append(pods, follow.PodEdit{Key: key, Pod: kube.EndpointOf(p)})
		}
	}
	for key := range changed {
		pods = append(pods, f.own[key].edit(key, f.rolls.Pod(key)))
	}
	all := follow.Edits{Batch: batch, Pods: pods, Policies: rolls.Policies}
	return engine.Edit{Apply: func(c *compile.Compiler) { all.Apply(c); rolls.Apply() },
		Done: func() { f.done(batch, placed); rolls.Done() }}, true
}

// edit is what the compiler is told of a pod as policies are to see it. It leaves out the addresses of one that has no
// place: they are an unknown pod's until it has.
func (p *ownPod) edit(key cluster.Key, seen *cluster.Endpoint) follow.PodEdit {
	if p.isPlaced() {
		return follow.PodEdit{Key: key, Pod: seen, At: p.place.at}
	}
	e := *seen
	e.Addresses = nil
	return follow.PodEdit{Key: key, Pod: &e}
}

// takePods takes over what the API says of this node's pods, and returns those that changed.
func (f *feed) takePods(pods map[cluster.Key]*kube.Pod) map[cluster.Key]bool {
	changed := map[cluster.Key]bool{}
	for key, p := range pods {
		if p == nil || p.Node != f.node || p.HostNetwork || p.Ended || len(p.Addresses) == 0 {
			delete(f.own, key)
			continue
		}
		changed[key] = true
		old := f.own[key]
		if old == nil || old.pod.UID != p.UID || !slices.Equal(old.pod.Addresses, p.Addresses) {
			f.own[key] = &ownPod{pod: p, since: p.Seen}
			continue
		}
		if old.lost && !old.pod.Started.Equal(p.Started) {
			old.lost, old.since = false, p.Seen
		}
		old.pod = p
	}
	return changed
}

// findPlaces looks for the places of pods that have none, and adds to changed those whose place came or went. It returns
// those that have been waiting.
func (f *feed) findPlaces(changed map[cluster.Key]bool) []*ownPod {
	var placed []*ownPod
	for key, p := range f.own {
		switch {
		case p.isPlaced() && !f.locator.exists(p.place.index):
			p.place, p.lost = place{}, true
			changed[key] = true
		case !p.isPlaced() && !p.lost:
			at, err := f.locator.locate(p.pod)
			if err != nil {
				continue
			}
			p.place = at
			changed[key] = true
			placed = append(placed, p)
		}
	}
	return placed
}

// done notes what is in force now.
func (f *feed) done(batch kube.Batch, placed []*ownPod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.observe(batch)
	for key, p := range batch.Policies {
		for _, toggled := range []*kube.Policy{f.known[key], p} {
			if toggled == nil {
				continue
			}
			f.digest.Toggle(versionOf(toggled))
			if key.Namespace == "" {
				f.clusterDigest.Toggle(versionOf(toggled))
			}
		}
		if p == nil {
			delete(f.known, key)
		} else {
			f.known[key] = p
			f.times("policy", time.Since(p.Seen))
		}
	}
	for _, p := range placed {
		f.times("pod", time.Since(p.since))
	}
}

// observe notes up to which versions policies are in force. That ClusterNetworkPolicies have newer versions, of which none
// changes anything, is no news: it was their status that was written, and all nodes would report that.
func (f *feed) observe(batch kube.Batch) {
	const wide = "clusternetworkpolicies"
	before := f.observed[wide]
	known := before != ""
	maps.Copy(f.observed, batch.Observed)
	for key := range batch.Policies {
		known = known && key.Namespace != ""
	}
	if known {
		f.observed[wide] = before
	}
}
