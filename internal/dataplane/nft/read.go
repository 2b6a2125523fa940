//go:build linux

package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// read takes a picture of the tables of a name, and says of which generation of nftables it is. It can leave out the
// elements of maps.
func (s *socket) read(table string, elements bool) (*image, uint32, error) {
	var img *image
	generation, err := s.steady(func() (err error) {
		img, err = s.readOnce(table, elements)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read table %s: %w", table, err)
	}
	return img, generation, nil
}

func (s *socket) readOnce(table string, elements bool) (*image, error) {
	img := newImage()
	for _, family := range []byte{inet, bridge} {
		answer, err := s.request(nftMessage(unix.NFT_MSG_GETTABLE), family, 0, attrs(nil).str(unix.NFTA_TABLE_NAME, table))
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range answer {
			img.tables[family] = bigEndian32(parse(m.Data[headerLen:])[unix.NFTA_TABLE_FLAGS])
		}
		r := reader{s, img, table, family}
		if err := errors.Join(r.chains(), r.rules(), r.counters(), r.maps(elements)); err != nil {
			return nil, err
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
	list, err := r.socket.counters(r.family, r.table)
	for _, c := range list {
		r.img.counters[ref{r.family, c.name}] = true
	}
	return err
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

// A counter is an object of a table that rules count with.
type counter struct {
	name    string
	handle  uint64 // its number in the table: one that was made again has another
	packets uint64
}

// counters lists the counters of a table.
func (s *socket) counters(family byte, table string) ([]counter, error) {
	list, err := s.list(unix.NFT_MSG_GETOBJ, family, table, attrs(nil).u32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	found := make([]counter, len(list))
	for i, c := range list {
		found[i] = counter{text(c[unix.NFTA_OBJ_NAME]), bigEndian64(c[objHandle]),
			bigEndian64(parse(c[unix.NFTA_OBJ_DATA])[unix.NFTA_COUNTER_PACKETS])}
	}
	return found, nil
}
