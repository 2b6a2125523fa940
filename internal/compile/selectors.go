package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/policy"
)

// selectorID is the number of a distinct selector. Subjects and peers share the numbers: an equal selector is one.
type selectorID uint32

// selectorKey is what makes two selectors equal.
type selectorKey struct {
	kind policy.PeerKind
	a, b string // canonical texts
}

func podsKey(p policy.Pods) selectorKey {
	return selectorKey{policy.PeerPods, p.Namespaces.String(), p.Pods.String()}
}

func blockKey(p policy.Peer) selectorKey {
	except := slices.Clone(p.Except)
	slices.SortFunc(except, netip.Prefix.Compare)
	var texts []string
	for _, e := range slices.Compact(except) {
		texts = append(texts, e.String())
	}
	return selectorKey{policy.PeerBlock, p.Block.String(), strings.Join(texts, ",")}
}

// selectorTable holds the selectors that count in one compilation, by kind.
type selectorTable struct {
	ids    *interner[selectorKey, selectorID]
	pods   map[selectorID]policy.Pods
	nodes  map[selectorID]label.Selector
	blocks map[selectorID]policy.Peer
}

func newSelectorTable(ids *interner[selectorKey, selectorID]) *selectorTable {
	return &selectorTable{ids: ids, pods: map[selectorID]policy.Pods{}, nodes: map[selectorID]label.Selector{},
		blocks: map[selectorID]policy.Peer{}}
}

func (t *selectorTable) addPods(p policy.Pods) selectorID {
	id := t.ids.id(podsKey(p))
	t.pods[id] = p
	return id
}

func (t *selectorTable) addNodes(s label.Selector) selectorID {
	id := t.ids.id(selectorKey{policy.PeerNodes, s.String(), ""})
	t.nodes[id] = s
	return id
}

func (t *selectorTable) addBlock(p policy.Peer) selectorID {
	id := t.ids.id(blockKey(p))
	t.blocks[id] = p
	return id
}
