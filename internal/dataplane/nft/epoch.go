//go:build linux

package nft

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/netfilter"
)

// An epoch is a label of connections: the bit that judge puts on what it accepts. It is one of the highest labels there
// are, which nobody else seems to use. There are many, as taking labels off again means to look at every connection.
const (
	firstEpoch = 64
	lastEpoch  = 127
	labelBytes = 16
)

// Names that golang.org/x/sys/unix does not have.
const (
	ctaTupleOrig  = 1  // CTA_TUPLE_ORIG
	ctaID         = 12 // CTA_ID
	ctaZone       = 18 // CTA_ZONE
	ctaLabels     = 22 // CTA_LABELS
	ctaLabelsMask = 23 // CTA_LABELS_MASK
	ctMessageNew  = 0  // IPCTNL_MSG_CT_NEW
	ctMessageGet  = 1  // IPCTNL_MSG_CT_GET
)

// freshEpoch returns an epoch that no connection is labelled with. used are the epochs that rules in force name.
//
// Epochs come one after the other. At the end, and where it is not known what is clean, all labels but the used ones are taken
// from all connections: nothing puts them on again. The used ones stay unclean, and so are cleaned before they come round.
func (d *Dataplane) freshEpoch(used []int) (int, error) {
	next, mask := 0, make([]byte, labelBytes)
	for e := lastEpoch; e >= firstEpoch; e-- {
		if !slices.Contains(used, e) {
			next, mask = e, or(mask, labelBit(e))
		}
	}
	if next == 0 {
		return 0, fmt.Errorf("rules name all %d epochs: delete table %s", lastEpoch-firstEpoch+1, d.opts.Table)
	}
	if len(used) == 1 && used[0] < lastEpoch {
		next = used[0] + 1
		if d.unclean != nil && !slices.Contains(d.unclean, next) {
			return next, nil
		}
	}
	if err := clearLabels(d.conn, mask); err != nil {
		return 0, fmt.Errorf("clear labels of connections: %w", err)
	}
	d.unclean = append([]int{}, used...)
	return next, nil
}

func or(a, b []byte) []byte {
	c := bytes.Clone(a)
	for i := range c {
		c[i] |= b[i]
	}
	return c
}

// clearLabels takes the labels in mask from all connections. It asks for both families at once: the kernel goes through
// all its connections for each question, which takes 10 ms even if there are none.
func clearLabels(s *netfilter.Conn, mask []byte) error {
	list, err := s.Dump(unix.NFNL_SUBSYS_CTNETLINK<<8|ctMessageGet, unix.AF_UNSPEC, nil)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	var updates []netlink.Message
	for _, m := range list {
		if len(m.Data) < netfilter.HeaderLen {
			continue
		}
		connection := netfilter.Parse(m.Data[netfilter.HeaderLen:])
		if labels := connection[ctaLabels]; len(labels) == labelBytes && bytes.ContainsFunc(and(labels, mask), notZero) {
			updates = append(updates, clearing(m.Data[0], connection, mask))
		}
	}
	for part := range slices.Chunk(updates, 512) {
		if err := s.Update(part); err != nil {
			return err
		}
	}
	return nil
}

func and(a, b []byte) []byte {
	c := bytes.Clone(a)
	for i := range c {
		c[i] &= b[i]
	}
	return c
}

func notZero(r rune) bool { return r != 0 }

// clearing changes a connection's labels under mask to none. The connection is found by its tuple and zone, and by its
// number, so that one which took its place meanwhile is left alone.
func clearing(family byte, connection map[uint16][]byte, mask []byte) netlink.Message {
	body := netfilter.Attrs(nil).Nest(ctaTupleOrig, connection[ctaTupleOrig])
	for _, kind := range []uint16{ctaID, ctaZone} {
		if b := connection[kind]; b != nil {
			body = body.Bytes(kind, b)
		}
	}
	body = body.Bytes(ctaLabels, make([]byte, labelBytes)).Bytes(ctaLabelsMask, mask)
	return netfilter.Message(unix.NFNL_SUBSYS_CTNETLINK<<8|ctMessageNew, family, 0, netlink.Acknowledge, body)
}
