//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// realized is what the kernel has of our table.
type realized struct {
	exists bool
	plain  bool // not owned by a process and not put to sleep
	chains map[string]*realChain
	sets   map[string]*realSet
}

type realChain struct {
	shape string
	rules []string // their comments; "" if one has none
}

type realSet struct {
	shape    string
	elements map[string]string // as in set
}

// The reading is written here: google/nftables does not say which chain an element of a map goes to.

// read asks the kernel for our table. A table that changes meanwhile is read wrongly, and what is then sent refused or
// put right the next time.
func read(ns int) (*realized, error) {
	conn, err := dial(ns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	r := &realized{chains: map[string]*realChain{}, sets: map[string]*realSet{}}
	steps := []func(*netlink.Conn) error{r.readTable, r.readChains, r.readRules, r.readSets, r.readElements}
	for i, step := range steps {
		if err := step(conn); err != nil {
			return nil, fmt.Errorf("read table %s: %w", tableName, err)
		}
		if i == 0 && !r.exists {
			return r, nil
		}
	}
	return r, nil
}

// answerTime bounds the wait for an answer of the kernel that never comes.
const answerTime = 10 * time.Second

// Socket buffers are limits, not allocations: a transaction is one message, and each of its parts is acknowledged.
const socketBuffer = 64 << 20

func dial(ns int) (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	if err := prepare(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func prepare(conn *netlink.Conn) error {
	return errors.Join(conn.SetReadBuffer(socketBuffer), conn.SetWriteBuffer(socketBuffer), conn.SetDeadline(time.Now().Add(answerTime)))
}

// ask sends one request about our table and calls f with the attributes of each answer. Attribute 1 is the table's
// name, in requests and answers of every kind; 2 is what the kind is about.
func ask(conn *netlink.Conn, kind uint16, flags netlink.HeaderFlags, about string, f func(*netlink.AttributeDecoder)) error {
	request := netlink.NewAttributeEncoder()
	request.String(unix.NFTA_TABLE_NAME, tableName)
	if about != "" {
		request.String(unix.NFTA_SET_NAME, about)
	}
	body, err := request.Encode()
	if err != nil {
		return err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, body...),
	})
	if err != nil {
		return err
	}
	for _, m := range answers {
		if len(m.Data) < 4 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		d.ByteOrder = binary.BigEndian
		f(d)
		if d.Err() != nil {
			return d.Err()
		}
	}
	return nil
}

func (r *realized) readTable(conn *netlink.Conn) error {
	err := ask(conn, unix.NFT_MSG_GETTABLE, 0, "", func(d *netlink.AttributeDecoder) {
		r.exists, r.plain = true, true
		for d.Next() {
			if d.Type() == unix.NFTA_TABLE_FLAGS {
				r.plain = d.Uint32() == 0
			}
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (r *realized) readChains(conn *netlink.Conn) error {
	return ask(conn, unix.NFT_MSG_GETCHAIN, netlink.Dump, "", func(d *netlink.AttributeDecoder) {
		var table, name, kind string
		hook, priority, based := uint32(0), uint32(0), false
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_CHAIN_TABLE:
				table = d.String()
			case unix.NFTA_CHAIN_NAME:
				name = d.String()
			case unix.NFTA_CHAIN_TYPE:
				kind = d.String()
			case unix.NFTA_CHAIN_HOOK:
				based = true
				d.Nested(func(d *netlink.AttributeDecoder) error {
					for d.Next() {
						switch d.Type() {
						case unix.NFTA_HOOK_HOOKNUM:
							hook = d.Uint32()
						case unix.NFTA_HOOK_PRIORITY:
							priority = d.Uint32()
						}
					}
					return nil
				})
			}
		}
		if table == tableName {
			r.chains[name] = &realChain{shape: chainShape(based, kind, hook, int32(priority))}
		}
	})
}

func chainShape(based bool, kind string, hook uint32, priority int32) string {
	if !based {
		return ""
	}
	return fmt.Sprintf("%s %d %d", kind, hook, priority)
}

func (r *realized) readRules(conn *netlink.Conn) error {
	return ask(conn, unix.NFT_MSG_GETRULE, netlink.Dump, "", func(d *netlink.AttributeDecoder) {
		var table, name, comment string
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_RULE_TABLE:
				table = d.String()
			case unix.NFTA_RULE_CHAIN:
				name = d.String()
			case unix.NFTA_RULE_USERDATA:
				comment = ruleComment(d.Bytes())
			}
		}
		if c := r.chains[name]; table == tableName && c != nil {
			c.rules = append(c.rules, comment)
		}
	})
}

// ruleComment reads what userdata.AppendString wrote: a type, a length and a string that ends in zero. What anybody
// else wrote may be anything.
func ruleComment(b []byte) string {
	if len(b) < 2 || b[0] != byte(userdata.TypeComment) || int(b[1]) != len(b)-2 {
		return ""
	}
	return strings.TrimRight(string(b[2:]), "\x00")
}

func (r *realized) readSets(conn *netlink.Conn) error {
	return ask(conn, unix.NFT_MSG_GETSET, netlink.Dump, "", func(d *netlink.AttributeDecoder) {
		var table, name string
		var flags, key, length, data uint32
		for d.Next() {
			switch d.Type() {
			case unix.NFTA_SET_TABLE:
				table = d.String()
			case unix.NFTA_SET_NAME:
				name = d.String()
			case unix.NFTA_SET_FLAGS:
				flags = d.Uint32()
			case unix.NFTA_SET_KEY_TYPE:
				key = d.Uint32()
			case unix.NFTA_SET_KEY_LEN:
				length = d.Uint32()
			case unix.NFTA_SET_DATA_TYPE:
				data = d.Uint32()
			}
		}
		if table == tableName && flags&unix.NFT_SET_ANONYMOUS == 0 {
			r.sets[name] = &realSet{shape: setShape(flags, key, length, data), elements: map[string]string{}}
		}
	})
}

// setShape leaves out the flag of concatenation, which old kernels do not give back.
func setShape(flags, key, length, data uint32) string {
	return fmt.Sprintf("%x %x %d %x", flags&(unix.NFT_SET_MAP|unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL|unix.NFT_SET_INTERVAL), key, length, data)
}

func (r *realized) readElements(conn *netlink.Conn) error {
	for name, s := range r.sets {
		if strings.HasPrefix(name, "clients-") { // packets fill them
			continue
		}
		err := ask(conn, unix.NFT_MSG_GETSETELEM, netlink.Dump, name, func(d *netlink.AttributeDecoder) {
			for d.Next() {
				if d.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					d.Nested(s.readList)
				}
			}
		})
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func (s *realSet) readList(list *netlink.AttributeDecoder) error {
	for list.Next() {
		list.Nested(func(d *netlink.AttributeDecoder) error {
			var key, chain string
			for d.Next() {
				switch d.Type() {
				case unix.NFTA_SET_ELEM_KEY:
					d.Nested(func(d *netlink.AttributeDecoder) error {
						for d.Next() {
							key = string(d.Bytes())
						}
						return nil
					})
				case unix.NFTA_SET_ELEM_DATA:
					d.Nested(func(d *netlink.AttributeDecoder) error {
						for d.Next() {
							d.Nested(func(d *netlink.AttributeDecoder) error {
								for d.Next() {
									if d.Type() == unix.NFTA_VERDICT_CHAIN {
										chain = d.String()
									}
								}
								return nil
							})
						}
						return nil
					})
				}
			}
			s.elements[key] = chain
			return nil
		})
	}
	return nil
}
