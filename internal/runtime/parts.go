//go:build linux

package runtime

import (
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// Namespace is the node's network namespace, which stays the Node's: it is valid until Close.
func (n *Node) Namespace() *netns.NS { return n.ns }

// Dataplane is what enforces, for its counters; it stays the Node's, and only the Node changes what is in force.
func (n *Node) Dataplane() *nft.Dataplane { return n.dp }

// Heard is what a pod's shim last said of it; false if nothing is known of it.
func (n *Node) Heard(k cluster.Key) (shim.Status, bool) { return n.seen.status(k) }

// Again has Keep apply what is desired once more, soon.
func (n *Node) Again() { n.poke() }
