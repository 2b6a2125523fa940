//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// readTries is how often reading starts again because somebody committed to nftables meanwhile.
const readTries = 20

// read takes a picture of our tables, and says of which generation of nftables it is. It can leave out the elements
// of maps.
func (s *socket) read(table string, elements bool) (*image, uint32, error) {
	for range readTries {
		before, err := s.generation()
		if err != nil {
			return nil, 0, err
		}
		img, err := s.readOnce(table, elements)
		after, err2 := s.generation()
		if err2 != nil {
			return nil, 0, err2
		}
		if before == after {
			return img, before, err
		}
	}
	return nil, 0, fmt.Errorf("read table %s: nftables did not hold still for %d attempts", table, readTries)
}

func (s *socket) readOnce(table string, elements bool) (*image, error) {
	img := newImage()
	for _, family := range []byte{inet, bridge} {
		answer, err := s.request(nftMessage(unix.NFT_MSG_GETTABLE), family, 0, attrs(nil).str(unix.NFTA_TABLE_NAME, table))
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", table, supported(err))
		}
		for _, m := range answer {
			img.tables[family] = bigEndian32(parse(m.Data[headerLen:])[unix.NFTA_TABLE_FLAGS])
		}
		r := reader{s, img, table, family}
		if err := errors.Join(r.chains(), r.rules(), r.counters(), r.maps(elements)); err != nil {
			return nil, fmt.Errorf("read table %s: %w", table, err)
		}
	}
	return img, nil
}

type reader struct {
	*socket
	img    *image
	table  string
	family byte
}

// list asks for all objects of a kind in a table. The kernel does not filter all kinds by table, so we do.
func (s *socket) list(kind uint16, family byte, table string, body attrs) ([]map[uint16][]byte, error) {
	messages, err := s.dump(nftMessage(kind), family, append(attrs(nil).str(unix.NFTA_CHAIN_TABLE, table), body...))
	if err != nil {
		return nil, err
	}
	var found []map[uint16][]byte
	for _, m := range messages {
		if len(m.Data) < headerLen || m.Data[0] != family {
			continue
		}
		if body := parse(m.Data[headerLen:]); text(body[unix.NFTA_CHAIN_TABLE]) == table {
			found = append(found, body)
		}
	}
	return found, nil
}

func (r reader) chains() error {
	list, err := r.list(unix.NFT_MSG_GETCHAIN, r.family, r.table, nil)
	for _, c := range list {
		image := chainImage{}
		if h := c[unix.NFTA_CHAIN_HOOK]; h != nil {
			at := parse(h)
			image.hook = hookText(bigEndian32(at[unix.NFTA_HOOK_HOOKNUM]), int32(bigEndian32(at[unix.NFTA_HOOK_PRIORITY])),
				text(c[unix.NFTA_CHAIN_TYPE]), bigEndian32(c[unix.NFTA_CHAIN_POLICY]))
		}
		r.img.chains[ref{r.family, text(c[unix.NFTA_CHAIN_NAME])}] = image
	}
	return err
}

func (r reader) rules() error {
	list, err := r.list(unix.NFT_MSG_GETRULE, r.family, r.table, nil)
	for _, rule := range list {
		at := ref{r.family, text(rule[unix.NFTA_RULE_CHAIN])}
		c := r.img.chains[at]
		c.rules = append(c.rules, canonical(rule[unix.NFTA_RULE_EXPRESSIONS], rule[unix.NFTA_RULE_USERDATA]))
		r.img.chains[at] = c
	}
	return err
}

func (r reader) counters() error {
	list, err := r.counterObjects(r.family, r.table)
	for _, c := range list {
		r.img.counters[ref{r.family, text(c[unix.NFTA_OBJ_NAME])}] = true
	}
	return err
}

// counterObjects lists the counters of a table with what they count.
func (s *socket) counterObjects(family byte, table string) ([]map[uint16][]byte, error) {
	return s.list(unix.NFT_MSG_GETOBJ, family, table, attrs(nil).u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
}

func (r reader) maps(elements bool) error {
	list, err := r.list(unix.NFT_MSG_GETSET, r.family, r.table, nil)
	for _, m := range list {
		flags := bigEndian32(m[unix.NFTA_SET_FLAGS])
		if flags&unix.NFT_SET_ANONYMOUS != 0 {
			continue // a part of a rule, which is somebody else's
		}
		value := "0"
		if flags&unix.NFT_SET_MAP != 0 {
			value = fmt.Sprintf("%d", bigEndian32(m[unix.NFTA_SET_DATA_TYPE]))
			if bigEndian32(m[unix.NFTA_SET_DATA_TYPE]) == unix.NFT_DATA_VERDICT {
				value = "verdict"
			}
		}
		interval := flags&unix.NFT_SET_INTERVAL != 0
		image := mapImage{shape: fmt.Sprintf("%d:%s interval=%t", bigEndian32(m[unix.NFTA_SET_KEY_TYPE]), value, interval)}
		at := ref{r.family, text(m[unix.NFTA_SET_NAME])}
		if elements {
			if image.elements, err = r.elements(at.name, interval); err != nil {
				return fmt.Errorf("map %s: %w", at.name, err)
			}
		}
		r.img.maps[at] = image
	}
	return err
}

func (r reader) elements(name string, interval bool) (map[string]string, error) {
	list, err := r.list(unix.NFT_MSG_GETSETELEM, r.family, r.table, attrs(nil).str(unix.NFTA_SET_ELEM_LIST_SET, name))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	var edges []rangeEdge
	for _, message := range list {
		for _, b := range each(message[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			e := parse(b)
			key := string(parse(e[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE])
			value := readData(e[unix.NFTA_SET_ELEM_DATA])
			if !interval {
				found[key] = value
				continue
			}
			end := bigEndian32(e[unix.NFTA_SET_ELEM_FLAGS])&unix.NFT_SET_ELEM_INTERVAL_END != 0
			edges = append(edges, rangeEdge{key, value, end})
		}
	}
	if interval {
		joinRanges(edges, found)
	}
	return found, nil
}

// readData is the inverse of data.
func readData(b []byte) string {
	d := parse(b)
	v := d[unix.NFTA_DATA_VERDICT]
	if v == nil {
		return string(d[unix.NFTA_DATA_VALUE])
	}
	verdict := parse(v)
	switch expr.VerdictKind(int32(bigEndian32(verdict[unix.NFTA_VERDICT_CODE]))) {
	case expr.VerdictJump:
		return "jump " + text(verdict[unix.NFTA_VERDICT_CHAIN])
	case expr.VerdictGoto:
		return "goto " + text(verdict[unix.NFTA_VERDICT_CHAIN])
	}
	return "another verdict"
}

// A rangeEdge is the first key of a range, or the first behind it.
type rangeEdge struct {
	key, value string
	end        bool
}

// joinRanges makes ranges of their edges. A range without an end goes to the last key of all, and an end without a
// range (some tools write one at zero) is none.
func joinRanges(edges []rangeEdge, into map[string]string) {
	slices.SortFunc(edges, func(a, b rangeEdge) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		if a.end == b.end {
			return 0
		}
		if a.end {
			return -1
		}
		return 1
	})
	for i, e := range edges {
		if e.end {
			continue
		}
		last := strings.Repeat("\xff", len(e.key))
		if i+1 < len(edges) {
			last = predecessor(edges[i+1].key)
		}
		into[e.key+last] = e.value
	}
}

func predecessor(key string) string {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return string(b)
}

var (
	generationText = regexp.MustCompile(`"generation (\d+)"`)
	bornText       = regexp.MustCompile(`"rf:(\d+):\d+:[or]"`)
	defaultText    = regexp.MustCompile(`"row_(\d+)"`)
)

// decode says what an image means. It leaves out what means nothing: whoever wants to know encodes the result again
// and compares.
func (i *image) decode() (r *ruleset.Ruleset, epoch int, born map[ruleset.RowID]uint64) {
	r, born, epoch = ruleset.New(), map[ruleset.RowID]uint64{}, firstEpoch
	for _, text := range i.chains[ref{inet, "state"}].rules {
		r.Generation = find(generationText, text)
	}
	for _, e := range i.epochs() {
		epoch = e
	}
	i.decodeAddresses(r)
	for key := range i.maps[rowsMap.ref].elements {
		if id := ruleset.RowID(readNumber(key) - ruleset.RowBase); readNumber(key) > ruleset.RowBase {
			r.Rows[id], born[id] = i.decodeRow(id)
		}
	}
	for _, d := range flow.Directions {
		for key := range i.maps[subjectsMap(d).ref].elements {
			s := ruleset.Subject{Direction: d, Identity: ruleset.Identity(readNumber(key))}
			if rules := i.chains[ref{inet, subjectChain(s)}].rules; len(rules) > 0 {
				r.Defaults[s] = ruleset.RowID(find(defaultText, rules[len(rules)-1]))
			}
			for peer, row := range i.maps[peersMap(s).ref].elements {
				r.Pairs[ruleset.Pair{Subject: s, Peer: ruleset.Identity(readNumber(peer))}] = ruleset.RowID(readNumber(row) - ruleset.RowBase)
			}
		}
	}
	return r, epoch, born
}

// find returns the number that the pattern picks out of s, or 0.
func find(pattern *regexp.Regexp, s string) uint64 {
	m := pattern.FindStringSubmatch(s)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// epochs returns the epochs that rules name; in order, and one unless somebody edited them.
func (i *image) epochs() []int {
	var found []int
	for e := firstEpoch; e <= lastEpoch; e++ {
		bit := fmt.Sprintf("=%x", labelBit(e))
		for _, c := range i.chains {
			if slices.ContainsFunc(c.rules, func(s string) bool { return strings.Contains(s, bit) }) {
				found = append(found, e)
				break
			}
		}
	}
	return found
}

func (i *image) decodeAddresses(r *ruleset.Ruleset) {
	for v := range 2 {
		for key, value := range i.maps[identityMap(v).ref].elements {
			if a, ok := netip.AddrFromSlice([]byte(key)); ok {
				r.Addresses[netip.PrefixFrom(a, a.BitLen())] = ruleset.Identity(readNumber(value))
			}
		}
		for key, value := range i.maps[prefixMap(v).ref].elements {
			a, bits := splitKey(key, v)
			r.Addresses[netip.PrefixFrom(a, int(readNumber(bits)))] = ruleset.Identity(readNumber(value))
		}
		for key := range i.maps[localMap(v).ref].elements {
			if a, ok := netip.AddrFromSlice([]byte(key)); ok {
				r.Locals[a] = ruleset.Attachment{}
			}
		}
		for _, family := range []byte{inet, bridge} {
			for key := range i.maps[bindingSet(family, v).ref].elements {
				a, name := splitKey(key, v)
				at, ok := r.Locals[a]
				if !ok {
					continue
				}
				if family == inet {
					at.Interface = text([]byte(name))
				} else {
					at.Port = text([]byte(name))
				}
				r.Locals[a] = at
			}
		}
	}
}

// splitKey splits a key that starts with an address of a version.
func splitKey(key string, v int) (netip.Addr, string) {
	n := min(len(key), []int{4, 16}[v])
	a, _ := netip.AddrFromSlice([]byte(key[:n]))
	return a, key[n:]
}

func (i *image) decodeRow(id ruleset.RowID) (ruleset.Row, uint64) {
	rules := i.chains[ref{inet, rowChain(id)}].rules
	has := func(r rule) bool { return slices.Contains(rules, r.canonical()) }
	if len(rules) == 1 && has(does(back())) {
		return ruleset.Uniform(ruleset.Cell{Verdict: flow.Allow}), 0
	}
	row, allow := ruleset.Uniform(ruleset.Cell{}), ruleset.Cell{Verdict: flow.Allow}
	for _, p := range flow.PortProtocols {
		if has(does(loadMeta(expr.MetaKeyL4PROTO), is(byte(p)), back())) {
			row = row.With(p, 0, 65535, allow)
		}
		for key := range i.maps[portsSet(id, p).ref].elements {
			if len(key) == len(portRange{}) {
				b := []byte(key)
				row = row.With(p, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), allow)
			}
		}
	}
	if has(does(loadMeta(expr.MetaKeyL4PROTO), notIn(portedSet.name), back())) {
		row.Other = allow
	}
	born := uint64(0)
	for _, text := range rules {
		born = max(born, find(bornText, text))
	}
	return row, born
}
