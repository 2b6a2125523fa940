//go:build linux

package netfilter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Read takes a picture of the tables of a name, and says of which generation of nftables it is. It can leave out the
// elements of maps.
func (s *Conn) Read(table string, elements bool) (*Image, uint32, error) {
	var img *Image
	generation, err := s.Steady(func() (err error) {
		img, err = s.readOnce(table, elements)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read table %s: %w", table, err)
	}
	return img, generation, nil
}

func (s *Conn) readOnce(table string, elements bool) (*Image, error) {
	img := NewImage()
	for _, family := range []byte{Inet, Bridge} {
		answer, err := s.Request(nftMessage(unix.NFT_MSG_GETTABLE), family, 0, Attrs(nil).Text(unix.NFTA_TABLE_NAME, table))
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, m := range answer {
			img.Tables[family] = Uint32(Parse(m.Data[HeaderLen:])[unix.NFTA_TABLE_FLAGS])
		}
		r := reader{s, img, table, family}
		if err := errors.Join(r.chains(), r.rules(), r.counters(), r.maps(elements)); err != nil {
			return nil, err
		}
	}
	return img, nil
}

type reader struct {
	*Conn
	img    *Image
	table  string
	family byte
}

// List asks for all objects of a kind in a table. The kernel does not filter all kinds by table, so we do.
func (s *Conn) List(kind uint16, family byte, table string, body Attrs) ([]map[uint16][]byte, error) {
	messages, err := s.Dump(nftMessage(kind), family, append(Attrs(nil).Text(unix.NFTA_CHAIN_TABLE, table), body...))
	if err != nil {
		return nil, err
	}
	var found []map[uint16][]byte
	for _, m := range messages {
		if len(m.Data) < HeaderLen || m.Data[0] != family {
			continue
		}
		if body := Parse(m.Data[HeaderLen:]); Text(body[unix.NFTA_CHAIN_TABLE]) == table {
			found = append(found, body)
		}
	}
	return found, nil
}

func (r reader) chains() error {
	list, err := r.List(unix.NFT_MSG_GETCHAIN, r.family, r.table, nil)
	for _, c := range list {
		image := chainImage{}
		if h := c[unix.NFTA_CHAIN_HOOK]; h != nil {
			at := Parse(h)
			image.Hook = hookText(Uint32(at[unix.NFTA_HOOK_HOOKNUM]), int32(Uint32(at[unix.NFTA_HOOK_PRIORITY])),
				Text(c[unix.NFTA_CHAIN_TYPE]), Uint32(c[unix.NFTA_CHAIN_POLICY]))
		}
		r.img.Chains[Ref{r.family, Text(c[unix.NFTA_CHAIN_NAME])}] = image
	}
	return err
}

func (r reader) rules() error {
	list, err := r.List(unix.NFT_MSG_GETRULE, r.family, r.table, nil)
	for _, rule := range list {
		at := Ref{r.family, Text(rule[unix.NFTA_RULE_CHAIN])}
		c := r.img.Chains[at]
		c.Rules = append(c.Rules, canonical(rule[unix.NFTA_RULE_EXPRESSIONS], rule[unix.NFTA_RULE_USERDATA]))
		r.img.Chains[at] = c
	}
	return err
}

// Rules reads the rules of one chain, as an Image has them. A chain that is not there has none.
func (s *Conn) Rules(chain Ref, table string) ([]string, error) {
	list, err := s.List(unix.NFT_MSG_GETRULE, chain.Family, table, Attrs(nil).Text(unix.NFTA_RULE_CHAIN, chain.Name))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, rule := range list {
		if Text(rule[unix.NFTA_RULE_CHAIN]) == chain.Name {
			found = append(found, canonical(rule[unix.NFTA_RULE_EXPRESSIONS], rule[unix.NFTA_RULE_USERDATA]))
		}
	}
	return found, nil
}

func (r reader) counters() error {
	list, err := r.Conn.Counters(r.family, r.table)
	for _, c := range list {
		r.img.Counters[Ref{r.family, c.Name}] = true
	}
	return err
}

func (r reader) maps(elements bool) error {
	list, err := r.List(unix.NFT_MSG_GETSET, r.family, r.table, nil)
	for _, m := range list {
		flags := Uint32(m[unix.NFTA_SET_FLAGS])
		if flags&unix.NFT_SET_ANONYMOUS != 0 {
			continue // a part of a rule, which is somebody else's
		}
		value := "0"
		if flags&unix.NFT_SET_MAP != 0 {
			value = fmt.Sprintf("%d", Uint32(m[unix.NFTA_SET_DATA_TYPE]))
			if Uint32(m[unix.NFTA_SET_DATA_TYPE]) == unix.NFT_DATA_VERDICT {
				value = "verdict"
			}
		}
		interval := flags&unix.NFT_SET_INTERVAL != 0
		image := mapImage{shape: fmt.Sprintf("%d:%s interval=%t", Uint32(m[unix.NFTA_SET_KEY_TYPE]), value, interval)}
		at := Ref{r.family, Text(m[unix.NFTA_SET_NAME])}
		if elements {
			if image.Elements, err = r.elements(at.Name, interval); err != nil {
				return fmt.Errorf("map %s: %w", at.Name, err)
			}
		}
		r.img.Maps[at] = image
	}
	return err
}

func (r reader) elements(name string, interval bool) (map[string]string, error) {
	return r.Elements(r.table, Map{Ref: Ref{r.family, name}, Interval: interval})
}

// Elements reads what is in one map, of whose definition only the name and Interval count. For a map that is not there
// it fails with ENOENT.
func (s *Conn) Elements(table string, d Map) (map[string]string, error) {
	list, err := s.List(unix.NFT_MSG_GETSETELEM, d.Family, table, Attrs(nil).Text(unix.NFTA_SET_ELEM_LIST_SET, d.Name))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	var edges []rangeEdge
	for _, message := range list {
		for _, b := range Each(message[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			e := Parse(b)
			key := string(Parse(e[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE])
			value := readData(e[unix.NFTA_SET_ELEM_DATA])
			if !d.Interval {
				found[key] = value
				continue
			}
			end := Uint32(e[unix.NFTA_SET_ELEM_FLAGS])&unix.NFT_SET_ELEM_INTERVAL_END != 0
			edges = append(edges, rangeEdge{key, value, end})
		}
	}
	if d.Interval {
		joinRanges(edges, found)
	}
	return found, nil
}

// readData is the inverse of data.
func readData(b []byte) string {
	d := Parse(b)
	v := d[unix.NFTA_DATA_VERDICT]
	if v == nil {
		return string(d[unix.NFTA_DATA_VALUE])
	}
	verdict := Parse(v)
	switch expr.VerdictKind(int32(Uint32(verdict[unix.NFTA_VERDICT_CODE]))) {
	case expr.VerdictJump:
		return "jump " + Text(verdict[unix.NFTA_VERDICT_CHAIN])
	case expr.VerdictGoto:
		return "goto " + Text(verdict[unix.NFTA_VERDICT_CHAIN])
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

// A Counter is an object of a table that rules count with.
type Counter struct {
	Name    string
	Handle  uint64 // its number in the table: one that was made again has another
	Packets uint64
}

// Counters lists the counters of a table.
func (s *Conn) Counters(family byte, table string) ([]Counter, error) {
	list, err := s.List(unix.NFT_MSG_GETOBJ, family, table, Attrs(nil).U32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER))
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	found := make([]Counter, len(list))
	for i, c := range list {
		found[i] = Counter{Text(c[unix.NFTA_OBJ_NAME]), Uint64(c[objHandle]),
			Uint64(Parse(c[unix.NFTA_OBJ_DATA])[unix.NFTA_COUNTER_PACKETS])}
	}
	return found, nil
}
