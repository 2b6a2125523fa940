// Package compile turns a cluster into a ruleset: every selector, tier and precedence is resolved here, when the
// cluster changes, so that no packet has to.
//
// It is incremental. Pods, namespaces, nodes and policies come, change and go in any order; Flush works out what that
// changes and returns it as an ordered Delta. The cost is that of what is affected, not of the cluster. The result
// depends on the objects only, never on the way to them, but for the numbers that identities, rows and rules have.
//
// The steps, each in its file or package:
//
//   - hosts: whose address is whose. The owner of an address has a label set.
//   - sets: pods with the same namespace, labels and named ports become one label set; nodes have label sets too.
//   - selectors: equal selectors are one, with the label sets that it matches, and the reverse.
//   - policies: those that select a pod of ours; only their selectors count.
//   - regions: the prefixes at whose edges the answer of an address block changes.
//   - identities: label sets and regions that the same selectors match are one identity, a class of compile/classes.
//   - compile/classes: sides, which are all policies that speak for a pod in one direction; the row that they give each
//     identity, which compile/rows makes of their rules; and the difference, in an order that is safe at every point.
package compile

import (
	"hash/maphash"
	"net/netip"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/compile/classes"
	"github.com/ringfence-project/ringfence/internal/compile/pool"
	"github.com/ringfence-project/ringfence/internal/compile/rows"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Options say what a Compiler compiles for.
type Options struct {
	// Node is the node whose pods the rulesets judge; "" is all pods of the cluster.
	Node string
}

// Compiler turns the objects of one cluster into a ruleset and keeps it up to date. Make one with New. It is for one
// caller at a time; only Judge, Decide and Generation may run at once with each other, as they write nothing. Between a
// change and the next Flush, Judge, Decide and Ruleset must not be called: there is no ruleset then that they could speak of.
//
// What is given to it is kept, and must not be changed afterwards.
type Compiler struct {
	options Options
	seed    maphash.Seed

	pods        pool.Pool[pod]
	podIndex    pool.Index
	attachments map[uint32]ruleset.Attachment // by pod
	nodes       map[string]uint32
	nodePool    pool.Pool[node]
	hosts       pool.Pool[host]
	hostIndex   pool.Index
	rivals      map[uint32][]owner            // by host: owners beyond the first
	attached    map[uint32]ruleset.Attachment // by host: as last flushed
	locals      int                           // hosts that are judged, as last flushed
	areas       map[areaKey]*area

	spaces    pool.Pool[space]
	spaceName map[string]uint32
	sets      pool.Pool[set]
	setIndex  pool.Index
	nodeSets  []uint32
	withLabel map[string][]uint32 // sets by "key=value"

	selectors     pool.Pool[selector]
	selectorIndex map[selectorKey]uint32
	spaceSels     pool.Pool[spaceSelector]
	spaceSelIndex map[string]uint32
	generalSels   []uint32 // space selectors that do not just name a namespace
	subjects      anchors  // selectors of the subjects of all policies
	peers         anchors  // selectors that tell identities apart
	nodeSelectors []uint32
	podSelectors  int // how many of those that tell identities apart are over pods

	policies    pool.Pool[pol]
	policyIndex map[policyKey]uint32

	regions     pool.Pool[region]
	regionIndex map[netip.Prefix]uint32
	lengths     lengths
	lengthCount [2][129]int
	wideRegions [2]int // regions that are larger than an area, by family
	ranges      []netip.Prefix
	wasSpecial  bool

	classes *classes.Classes

	rows *rows.Rows

	pending pending
	scratch scratch
}

// pending is what has been touched since the last flush.
type pending struct {
	hosts    []touchedHost
	sets     []uint32
	spaces   bool
	policies map[policyKey]*policy.Policy // nil: to be deleted
	edges    []netip.Prefix               // regions that came, went or changed
	names    bool                         // other port names are used
	selected []uint32                     // selectors of subjects that select other pods of ours
	regions  []touchedRegion
}

// New returns a compiler whose current ruleset is empty.
func New(o Options) *Compiler {
	c := &Compiler{options: o, seed: maphash.MakeSeed(),
		pods: pool.New[pod](), attachments: map[uint32]ruleset.Attachment{}, nodes: map[string]uint32{}, nodePool: pool.New[node](),
		hosts: pool.New[host](), rivals: map[uint32][]owner{}, attached: map[uint32]ruleset.Attachment{}, areas: map[areaKey]*area{},
		spaces: pool.New[space](), spaceName: map[string]uint32{}, sets: pool.New[set](),
		withLabel: map[string][]uint32{}, rows: rows.New(),
		selectors: pool.New[selector](), selectorIndex: map[selectorKey]uint32{}, spaceSels: pool.New[spaceSelector](),
		spaceSelIndex: map[string]uint32{}, subjects: newAnchors(), peers: newAnchors(),
		policies: pool.New[pol](), policyIndex: map[policyKey]uint32{},
		regions: pool.New[region](), regionIndex: map[netip.Prefix]uint32{}}
	c.pending.policies = map[policyKey]*policy.Policy{}
	c.classes = classes.New(c.rows)
	c.classes.SideOf = c.sideOf
	return c
}

// Generation is that of the current ruleset.
func (c *Compiler) Generation() uint64 { return c.classes.Generation }

// Update makes the ruleset of s the current one and returns the difference from the one before; at says where pods
// are plugged in. It looks at every object of s, and does something for those that differ. Where nothing changes the
// Delta is empty and the generation stays.
func (c *Compiler) Update(s *cluster.State, at map[cluster.Key]ruleset.Attachment) ruleset.Delta {
	c.updateSpaces(s)
	c.updateNodes(s)
	for _, e := range s.Endpoints() {
		c.SetPod(e, at[e.Key])
	}
	c.updatePolicies(s)
	c.dropPodsNotIn(s)
	c.SetPodRanges(s.PodRanges())
	return c.Flush()
}

func (c *Compiler) updateSpaces(s *cluster.State) {
	for name, id := range c.spaceName {
		if n := s.Namespace(name); c.spaces.At(id).labels != n.Labels {
			c.DeleteNamespace(name)
		}
	}
	for _, n := range s.Namespaces() {
		c.SetNamespace(n)
	}
}

func (c *Compiler) updateNodes(s *cluster.State) {
	there := map[string]bool{}
	for _, n := range s.Nodes() {
		there[n.Name] = true
		c.SetNode(n)
	}
	for name := range c.nodes {
		if !there[name] {
			c.DeleteNode(name)
		}
	}
}

func (c *Compiler) updatePolicies(s *cluster.State) {
	there := map[policyKey]bool{}
	for _, p := range s.Policies() {
		there[keyOf(p)] = true
		c.SetPolicy(p)
	}
	for key := range c.policyIndex {
		if !there[key] {
			c.pending.policies[key] = nil
		}
	}
}

func (c *Compiler) dropPodsNotIn(s *cluster.State) {
	if c.podIndex.Live() == len(s.Endpoints()) {
		return // those of s are all there
	}
	for i := range c.pods.Items {
		if e := c.pods.Items[i].endpoint; e != nil && s.Endpoint(e.Key) == nil {
			c.DeletePod(e.Key)
		}
	}
}
