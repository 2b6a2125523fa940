//go:build linux

// Package nft puts a service.Table in force in the kernel of one network namespace: destination translation by
// nftables, in a table of its own. `nft list table inet ringfence-services` shows it:
//
//	map services4 { type ipv4_addr . inet_proto . inet_service : verdict }   # address and port of a Service → its chain
//	map nodeports4 { type inet_proto . inet_service : verdict }              # node port → the same chain
//	set addresses4, closed4                                                  # Services' addresses; node ports without backends
//	set hairpin4 { type ipv4_addr . ipv4_addr }                              # each backend and itself
//	chain prerouting, output → translate → service-shop/web/tcp/80/ip4:
//	    dnat ip to numgen random mod 3 map { 0 : 10.0.0.1 . 8080, ... }
//	chain postrouting: ct status dnat, from a hairpin → masquerade
//	chain refuse-forwarded, refuse-local: a Service's address that was not translated → reset, port unreachable
//
// What has to hold, and why it does:
//
//   - The source of a connection stays as it is until postrouting's source translation, so that policy, which is judged
//     just before that on the connection, sees the client. Only a pod that reaches itself by a Service is masqueraded
//     at all, recognised by the pair of addresses: the packet mark is others'.
//   - Rules of NAT see the first packet of a connection. So a backend that leaves gets no new connection at once, and
//     established ones of TCP live until they close. UDP has no such end: a client that keeps sending would stay with a
//     backend that is gone, so these entries are deleted from connection tracking.
//   - Everything of one change is one transaction. What did not change is not sent, so it keeps its clients' affinity.
//   - What is in force is read from the kernel each time, never remembered: a new process goes on where another ended,
//     and what somebody changed by hand is put right. A rule is recognised by its comment, which holds a hash of it.
//   - The table belongs to no process: it stays in force when this one ends.
//
// Locally made connections to a Service need a route to its address before they are translated: whoever makes the
// node gives it one for the range of cluster addresses (to lo will do).
package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Kernel is the Services' table of one network namespace. It holds nothing open.
type Kernel struct {
	ns *netns.NS

	mu    sync.Mutex
	swept bool // stale UDP entries were looked for since this process began
}

// New returns the Kernel of a namespace, which stays the caller's and has to be open while Kernel is used.
func New(ns *netns.NS) *Kernel { return &Kernel{ns: ns} }

// Change says what Apply did.
type Change struct {
	Chains, Elements int // changed, added or removed
	Rebuilt          bool
	Flows            int // UDP flows that were forgotten, as they led to a backend that is gone

	udp bool // a chain of a UDP port is among those
}

// Zero reports whether nothing was done.
func (c Change) Zero() bool { return c == Change{} }

// Apply puts t in force: afterwards the kernel has exactly that, whatever it had. It is safe to repeat. On an error of
// the transaction nothing has changed.
func (k *Kernel) Apply(t *service.Table) (Change, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, err := read(k.ns.FD())
	if err != nil {
		return Change{}, err
	}
	want := newImage(t)
	c, err := k.commit(have, want)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		// Somebody else changed the table between reading and writing; once more from what it is now.
		if have, err = read(k.ns.FD()); err == nil {
			c, err = k.commit(have, want)
		}
	}
	if err != nil || k.swept && !c.udp { // reading all that is tracked is dear where there is much
		return c, err
	}
	c.Flows, err = forget(k.ns, newStale(t, have, want))
	k.swept = err == nil
	return c, err
}

// Remove takes the table away; that there is none is no error. Translated connections of TCP live until they close.
func (k *Kernel) Remove() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, err := read(k.ns.FD())
	if err != nil || !have.exists {
		return err
	}
	b, err := newBatch(k.ns.FD())
	if err != nil {
		return err
	}
	b.conn.DelTable(b.table)
	if err := b.conn.Flush(); err != nil {
		return fmt.Errorf("remove table %s: %w", tableName, err)
	}
	empty := &service.Table{}
	_, err = forget(k.ns, newStale(empty, have, newImage(empty)))
	return err
}

// commit sends the difference between what is and what is to be.
func (k *Kernel) commit(have *realized, want *image) (Change, error) {
	b, err := newBatch(k.ns.FD())
	if err != nil {
		return Change{}, err
	}
	if have.exists && !have.fits(want) {
		b.conn.DelTable(b.table)
		b.change.Rebuilt = true
		have = &realized{}
	}
	if !have.exists {
		b.conn.AddTable(b.table)
	}
	changed := have.changedChains(want)
	b.makeRoom(have, want)
	for _, name := range changed {
		if have.chains[name] != nil {
			b.conn.FlushChain(b.chain(name))
		}
	}
	b.takeAway(have, want)
	b.fill(have, want, changed)
	if b.err != nil {
		return Change{}, b.err
	}
	if b.change.Zero() && have.exists {
		return b.change, nil
	}
	if err := b.conn.Flush(); err != nil {
		return Change{}, fmt.Errorf("change table %s: %w", tableName, err)
	}
	return b.change, nil
}

// fits reports whether the table can be made into want by changing rules, elements and chains that are not base
// chains. If not, somebody else made it, or another version of this program: it is made anew.
func (r *realized) fits(want *image) bool {
	if !r.plain {
		return false
	}
	for name, c := range r.chains {
		if w := want.chains[name]; w == nil && c.shape != "" || w != nil && w.shape() != c.shape {
			return false
		}
	}
	for name, s := range r.sets {
		if w := want.sets[name]; w != nil && w.shape() != s.shape {
			return false
		}
	}
	return true
}

func (c *chain) shape() string {
	return chainShape(c.kind != "", string(c.kind), uint32(c.hook), int32(c.priority))
}

func (s *set) shape() string {
	var flags, data uint32
	if s.verdicts {
		flags, data = unix.NFT_SET_MAP, unix.NFT_DATA_VERDICT
	}
	if s.clients {
		flags = unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
	}
	return setShape(flags, s.key.GetNFTMagic(), s.key.Bytes, data)
}

func (c *chain) comments() []string {
	var out []string
	for _, r := range c.rules {
		out = append(out, r.comment())
	}
	return out
}

// changedChains are those of want whose rules are not as they should be.
func (r *realized) changedChains(want *image) []string {
	var changed []string
	for _, name := range sortedKeys(want.chains) {
		if c := r.chains[name]; c == nil || !slices.Equal(c.rules, want.chains[name].comments()) {
			changed = append(changed, name)
		}
	}
	return changed
}

// A batch collects one transaction.
type batch struct {
	conn   *nftables.Conn
	table  *nftables.Table
	change Change
	err    error // the first one
}

func newBatch(ns int) (*batch, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(ns), nftables.WithSockOptions(func(c *netlink.Conn) error { return prepare(c) }))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &batch{conn: conn, table: &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}}, nil
}

func (b *batch) keep(err error) {
	if b.err == nil && err != nil {
		b.err = fmt.Errorf("encode table %s: %w", tableName, err)
	}
}

func (b *batch) changed(chain string) {
	b.change.Chains++
	b.change.udp = b.change.udp || strings.Contains(chain, "/"+flow.UDP.String()+"/")
}

func (b *batch) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: b.table}
}

func (b *batch) set(s *set) *nftables.Set {
	out := &nftables.Set{Table: b.table, Name: s.name, KeyType: s.key, IsMap: s.verdicts,
		Concatenation: strings.Contains(s.key.Name, " . "), KeyByteOrder: binaryutil.BigEndian}
	if s.verdicts {
		out.DataType = nftables.TypeVerdict
	}
	if s.clients {
		out.HasTimeout, out.Dynamic, out.Size = true, true, maxClients
	}
	return out
}

// makeRoom adds the chains and sets that are missing, empty: everything that is pointed to, before what points to it.
func (b *batch) makeRoom(have *realized, want *image) {
	for _, name := range sortedKeys(want.sets) {
		if have.sets[name] == nil {
			b.keep(b.conn.AddSet(b.set(want.sets[name]), nil))
			b.change.Elements++
		}
	}
	for _, name := range sortedKeys(want.chains) {
		if have.chains[name] != nil {
			continue
		}
		c := b.chain(name)
		if w := want.chains[name]; w.kind != "" {
			c.Type, c.Hooknum, c.Priority = w.kind, &w.hook, &w.priority
		}
		b.conn.AddChain(c)
	}
}

// takeAway removes what is not wanted: pointers first.
func (b *batch) takeAway(have *realized, want *image) {
	for _, name := range sortedKeys(have.sets) {
		var gone []nftables.SetElement
		w := want.sets[name]
		if w == nil || w.clients {
			continue
		}
		for _, key := range sortedKeys(have.sets[name].elements) {
			if chain, wanted := w.elements[key]; !wanted || chain != have.sets[name].elements[key] {
				gone = append(gone, nftables.SetElement{Key: []byte(key)})
			}
		}
		b.elements(w, gone, b.conn.SetDeleteElements)
	}
	var gone []string
	for _, name := range sortedKeys(have.chains) {
		if want.chains[name] == nil {
			gone = append(gone, name)
			b.conn.FlushChain(b.chain(name))
		}
	}
	for _, name := range gone {
		b.conn.DelChain(b.chain(name))
		b.changed(name)
	}
	for _, name := range sortedKeys(have.sets) {
		if want.sets[name] == nil {
			b.conn.DelSet(&nftables.Set{Table: b.table, Name: name})
			b.change.Elements++
		}
	}
}

// maxElements is how many elements go into one message: the length of a list has 16 bits.
const maxElements = 400

func (b *batch) elements(s *set, list []nftables.SetElement, send func(*nftables.Set, []nftables.SetElement) error) {
	b.change.Elements += len(list)
	for part := range slices.Chunk(list, maxElements) {
		b.keep(send(b.set(s), part))
	}
}

// fill adds the rules of changed chains and the elements that are missing.
func (b *batch) fill(have *realized, want *image, changed []string) {
	for _, name := range changed {
		b.changed(name)
		for _, r := range want.chains[name].rules {
			b.rule(name, r)
		}
	}
	for _, name := range sortedKeys(want.sets) {
		var missing []nftables.SetElement
		has := map[string]string{}
		if s := have.sets[name]; s != nil {
			has = s.elements
		}
		for _, key := range sortedKeys(want.sets[name].elements) {
			chain := want.sets[name].elements[key]
			if old, there := has[key]; there && old == chain {
				continue
			}
			e := nftables.SetElement{Key: []byte(key)}
			if chain != "" {
				e.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
			}
			missing = append(missing, e)
		}
		b.elements(want.sets[name], missing, b.conn.SetAddElements)
	}
}

func (b *batch) rule(chain string, r rule) {
	exprs := slices.Clone(r.exprs)
	if r.from != nil {
		// A mark is a number of four bytes of which nft knows the byte order; it would print plain integers turned round.
		own := &nftables.Set{Table: b.table, Anonymous: true, Constant: true, IsMap: true, KeyType: nftables.TypeMark, DataType: r.from.data}
		b.keep(b.conn.AddSet(own, r.from.elements))
		for i, e := range exprs {
			if l, ok := e.(*expr.Lookup); ok && l.SetName == ownMap {
				named := *l
				named.SetID = own.ID
				exprs[i] = &named
			}
		}
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: b.chain(chain), Exprs: exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment())})
}
