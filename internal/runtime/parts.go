//go:build linux

package runtime

import (
	"github.com/ringfence-project/ringfence/internal/dataplane/nft"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// Namespace is the node's network namespace, which stays the Node's: it is valid until Close.
func (n *Node) Namespace() *netns.NS { return n.ns }

// Dataplane is what enforces, for its counters; it stays the Node's, and only the Node changes what is in force.
func (n *Node) Dataplane() *nft.Dataplane { return n.dp }
