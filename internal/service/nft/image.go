//go:build linux

package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/service"
)

// tableName is ours alone.
const tableName = "ringfence-services"

var families = [...]service.Family{service.IPv4, service.IPv6}

// An image is all of our table as it is to be.
type image struct {
	chains map[string]*chain
	sets   map[string]*set
}

// A chain is one of ours; a base chain has a kind and sees packets at a hook.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	rules    []rule
}

// A set is a set, or a map from keys to the chains that they go to.
type set struct {
	name     string
	key      nftables.SetDatatype
	verdicts bool
	clients  bool              // filled by packets, and emptied by time
	elements map[string]string // keys, and in a map the chain that each goes to
}

// maxClients is how many clients one backend of a Service with affinity remembers. Beyond that new ones are balanced
// anew with each connection: a flood of them must not eat the kernel's memory.
const maxClients = 65536

var (
	portType    = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	addressType = [2]nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr}
)

// newImage is the table t in chains and sets.
func newImage(t *service.Table) *image {
	m := &image{chains: map[string]*chain{}, sets: map[string]*set{}}
	for i, f := range families {
		address := addressType[i]
		m.addSet(&set{name: named("services", f), key: nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService), verdicts: true})
		m.addSet(&set{name: named("nodeports", f), key: portType, verdicts: true})
		m.addSet(&set{name: named("addresses", f), key: address})
		m.addSet(&set{name: named("closed", f), key: portType})
		m.addSet(&set{name: named("hairpin", f), key: nftables.MustConcatSetType(address, address)})
	}
	m.addTranslation()
	m.addRefusal(t.Ranges)
	for i := range t.Frontends {
		m.addFrontend(&t.Frontends[i])
	}
	return m
}

func named(name string, f service.Family) string { return fmt.Sprintf("%s%d", name, f) }

func (m *image) addSet(s *set) {
	s.elements = map[string]string{}
	m.sets[s.name] = s
}

func (m *image) put(name string, f service.Family, key, chain string) {
	m.sets[named(name, f)].elements[key] = chain
}

func (m *image) addChain(name string, rules ...rule) {
	m.chains[name] = &chain{name: name, rules: rules}
}

func (m *image) addBase(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority, rules ...rule) {
	m.chains[name] = &chain{name, kind, *hook, priority, rules}
}

// addTranslation adds the constant chains that destinations and hairpins are translated by. They see the first packet
// of a connection only.
func (m *image) addTranslation() {
	dstnat, srcnat := *nftables.ChainPriorityNATDest, *nftables.ChainPriorityNATSource
	m.addBase("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, dstnat, does("from pods and outside", jump("translate")))
	m.addBase("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, dstnat, does("from this node", jump("translate")))
	var toService, toPort, hairpin []rule
	for _, f := range families {
		n := words(f)
		toService = append(toService, does("to a Service's address", ofFamily(f), one(loadAddress(f, false, word0)), loadPort(word0+n),
			one(follow(named("services", f)))))
		toPort = append(toPort, does("no node ports on loopback", ofFamily(f), toPrefix(loopback(f)), back()),
			does("to a node port", ofFamily(f), loadPort(word0), one(follow(named("nodeports", f)))))
		// The backend answers itself without asking the node, so the answer would come from the wrong address.
		hairpin = append(hairpin, does("from a pod by a Service to itself", hasBits(expr.CtKeySTATUS, statusDNAT), ofFamily(f),
			one(loadAddress(f, true, word0), loadAddress(f, false, word0+n), in(named("hairpin", f)), &expr.Masq{})))
	}
	m.addChain("translate", append(toService, does("to this node", toNode(), goTo("nodeports")))...)
	m.addChain("nodeports", toPort...)
	m.addBase("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, srcnat, hairpin...)
}

// addRefusal adds the chains that refuse what was sent to a Service and not translated: no backend, no such port, or
// nobody's address. They run just after translation, so that whatever still has a Service's address is theirs.
func (m *image) addRefusal(ranges []netip.Prefix) {
	after := *nftables.ChainPriorityNATDest + 5
	m.addBase("refuse-forwarded", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, after, does("from pods and outside", jump("unserved")))
	m.addBase("refuse-local", nftables.ChainTypeFilter, nftables.ChainHookOutput, after, does("from this node", jump("unserved")))
	established := uint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	unserved := []rule{does("was served", hasBits(expr.CtKeySTATE, established), back())}
	for _, f := range families {
		unserved = append(unserved, does("to the node itself", ofFamily(f), toPrefix(loopback(f)), back()))
	}
	unserved = append(unserved, does("to the node itself", toNode(), goTo("unserved-node")))
	for _, f := range families {
		unserved = append(unserved, does("to a Service's address", ofFamily(f),
			one(loadAddress(f, false, word0), in(named("addresses", f))), goTo("refuse")))
	}
	for _, r := range ranges {
		unserved = append(unserved, does("to nobody's address", ofFamily(service.FamilyOf(r.Addr())), toPrefix(r), goTo("refuse")))
	}
	m.addChain("unserved", unserved...)
	var closed []rule
	for _, f := range families {
		closed = append(closed, does("to a node port without backends", ofFamily(f), loadPort(word0), one(in(named("closed", f))), goTo("refuse")))
	}
	m.addChain("unserved-node", closed...)
	m.addChain("refuse",
		// A reset in answer to a late packet would end a connection that is well.
		does("part of no connection", hasBits(expr.CtKeySTATE, expr.CtStateBitINVALID), drop()),
		does("nobody is there", one(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, equals(reg1, unix.IPPROTO_TCP),
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})),
		does("nobody is there", one(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})))
}

func loopback(f service.Family) netip.Prefix {
	if f == service.IPv6 {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

func (m *image) addFrontend(f *service.Frontend) {
	family, protocol := service.FamilyOf(f.Address), byte(f.Protocol)
	m.put("addresses", family, addressKey(f.Address), "")
	port := portKey(protocol, f.NodePort)
	if len(f.Backends) == 0 {
		if f.NodePort != 0 {
			m.put("closed", family, port, "")
		}
		return
	}
	name := serviceChain(f)
	m.put("services", family, addressKey(f.Address)+portKey(protocol, f.Port), name)
	if f.NodePort != 0 {
		m.put("nodeports", family, port, name)
	}
	for _, b := range f.Backends {
		m.put("hairpin", family, addressKey(b.Addr())+addressKey(b.Addr()), "")
	}
	if f.Affinity > 0 {
		m.addSticky(f, name, family)
		return
	}
	if len(f.Backends) == 1 { // a map for each rule is what loading many costs
		m.addChain(name, does("to the only backend", fixed(f.Backends[0])))
		return
	}
	c := &choices{data: nftables.MustConcatSetType(addressType[family/6], nftables.TypeInetService)}
	for i, b := range f.Backends {
		c.elements = append(c.elements, nftables.SetElement{Key: host32(uint32(i)), Val: target(b)})
	}
	m.addChain(name, rule{why: "to any backend", from: c, exprs: one(pick(len(f.Backends)),
		&expr.Lookup{SourceRegister: word0, IsDestRegSet: true, DestRegister: word0, SetName: ownMap}, translate(family))})
}

// addSticky balances with affinity: each backend has a set of its clients, so that one that leaves takes only them
// along, and a chain that notes them.
func (m *image) addSticky(f *service.Frontend, name string, family service.Family) {
	c := &choices{data: nftables.TypeVerdict}
	var rules []rule
	for i, b := range f.Backends {
		clients, backend := backendName("clients", f, b), backendName("backend", f, b)
		m.addSet(&set{name: clients, key: addressType[family/6], clients: true})
		m.addChain(backend, does("note the client", remember(family, clients, f.Affinity)),
			does("to this backend", fixed(b)))
		rules = append(rules, does("a client of it", ofFamily(family), one(loadAddress(family, true, word0), in(clients)), goTo(backend)))
		c.elements = append(c.elements, nftables.SetElement{Key: host32(uint32(i)), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: backend}})
	}
	m.addChain(name, append(rules, rule{why: "to any backend", from: c, exprs: one(pick(len(f.Backends)), follow(ownMap))})...)
}

// serviceChain is for instance "service-shop/web/tcp/80/ip4": one port of a Service, of one family.
func serviceChain(f *service.Frontend) string {
	return fmt.Sprintf("service-%s/%s/%s/%d/ip%d", plain(f.Service.Namespace), plain(f.Service.Name), f.Protocol, f.Port, service.FamilyOf(f.Address))
}

// backendName is for instance "clients-shop/web/tcp/80/ip4/10.0.0.1/8080".
func backendName(what string, f *service.Frontend, b netip.AddrPort) string {
	address := strings.ReplaceAll(b.Addr().String(), ":", ".") // nft reads no colon in a name
	return strings.Replace(serviceChain(f), "service-", what+"-", 1) + fmt.Sprintf("/%s/%d", address, b.Port())
}

// plain makes a name that nft reads of any text, and different ones of different texts. Names of Kubernetes stay as
// they are.
func plain(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
