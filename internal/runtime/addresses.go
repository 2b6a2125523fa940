//go:build linux

package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// reuseAfter is how long an address stays with a pod that is gone: others may still remember it.
const reuseAfter = 10 * time.Minute

// leases says which number each pod has: its addresses are the ones with that number in the ranges. A pod's number is
// the hash of its name, so that the same pods have the same addresses whatever happened before, save where two fall
// on one number.
type leases struct {
	path string
	pods map[string]*lease
	now  func() time.Time
}

type lease struct {
	Number   int       `json:"number"`
	Released time.Time `json:"released,omitzero"` // zero while the pod is there
}

func openLeases(path string) (*leases, error) {
	l := &leases{path: path, pods: map[string]*lease{}, now: time.Now}
	if err := readJSON(path, &l.pods); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("addresses given out: %w; \"ringfence down\" starts anew", err)
	}
	return l, nil
}

// firstNumber leaves out a range's own address and its gateway.
const firstNumber = 2

// assign gives every key a number below limit that free allows, and takes the numbers of all other pods back.
func (l *leases) assign(keys []cluster.Key, limit int, free func(int) bool) error {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, cluster.Key.Compare)
	wanted, held := map[string]bool{}, map[int]string{}
	for _, k := range keys {
		wanted[k.String()] = true
	}
	for name, s := range l.pods {
		switch {
		case wanted[name]:
			s.Released = time.Time{}
		case s.Released.IsZero():
			s.Released = l.now()
		case l.now().Sub(s.Released) > reuseAfter:
			delete(l.pods, name)
			continue
		}
		held[s.Number] = name
	}
	for _, k := range keys {
		name := k.String()
		if s := l.pods[name]; s != nil && s.Number < limit && free(s.Number) {
			continue
		}
		n, err := l.find(name, limit, held, free)
		if err != nil {
			return fmt.Errorf("pod %s: %w", k, err)
		}
		delete(l.pods, held[n]) // of one that is gone, if there is nothing better
		held[n], l.pods[name] = name, &lease{Number: n}
	}
	if err := writeJSON(l.path, l.pods); err != nil {
		return fmt.Errorf("note addresses: %w", err)
	}
	return nil
}

// find looks for a number from the name's own on: one that nobody has had lately, else one whose pod is gone.
func (l *leases) find(name string, limit int, held map[int]string, free func(int) bool) (int, error) {
	h := fnv.New64a()
	h.Write([]byte(name))
	count := limit - firstNumber
	if count <= 0 {
		return 0, errors.New("no address left: the pod range is too small")
	}
	start := int(h.Sum64() % uint64(count))
	for _, evenRecent := range []bool{false, true} {
		for i := range count {
			n := firstNumber + (start+i)%count
			holder := l.pods[held[n]]
			if (holder == nil || evenRecent && !holder.Released.IsZero()) && free(n) {
				return n, nil
			}
		}
	}
	return 0, errors.New("no address left in the pod range")
}

func (l *leases) number(k cluster.Key) int { return l.pods[k.String()].Number }

// numbered is the address with that number in a range.
func numbered(r netip.Prefix, n int) netip.Addr {
	if r.Addr().Is4() {
		b := r.Masked().Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := r.Masked().Addr().As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+uint64(n))
	return netip.AddrFrom16(b)
}
