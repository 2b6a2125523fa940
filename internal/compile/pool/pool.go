// Package pool numbers things: small dense numbers, so that what belongs to things can be kept in slices and bitmaps
// instead of maps of pointers.
package pool

// A Pool holds things by small numbers, so that what belongs to them can be kept in slices. 0 is no number. A number
// that was given back is given out again only after the next settle: within one flush the old and the new meaning of
// a number must not meet.
type Pool[T any] struct {
	Items      []T // by number; of those that are not taken the zero value
	free, gone []uint32
}

// New returns an empty pool.
func New[T any]() Pool[T] { return Pool[T]{Items: make([]T, 1)} }

// At returns the thing with a number. The pointer is good until the next Take.
func (p *Pool[T]) At(i uint32) *T { return &p.Items[i] }

// Take gives out a number; its thing is the zero value.
func (p *Pool[T]) Take() uint32 {
	var zero T
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		p.Items[i] = zero
		return i
	}
	p.Items = append(p.Items, zero)
	return uint32(len(p.Items) - 1)
}

// Drop gives a number back. The thing stays until Settle.
func (p *Pool[T]) Drop(i uint32) { p.gone = append(p.gone, i) }

// Settle lets the numbers that were given back be given out again.
func (p *Pool[T]) Settle() {
	for _, i := range p.gone {
		var zero T
		p.Items[i] = zero // lets go of what it points to
	}
	p.free = append(p.free, p.gone...)
	p.gone = p.gone[:0]
}

// An Index finds the number of a thing by the thing's hash. Beside each number it keeps half of the hash, so that it looks
// at hardly any thing but the right one, and at none when it grows; the keys stay where they are. Collisions go to the
// next place; deleted places are kept until the next growth.
type Index struct {
	places []place
	used   int // places that are not empty
	live   int
}

type place struct {
	hash uint32 // the lower half
	n    uint32 // a number; empty and deleted are marked
}

const (
	empty   = 0
	deleted = ^uint32(0)
)

// Find returns the first number with the hash for which is holds, 0 if there is none.
func (x *Index) Find(hash uint64, is func(uint32) bool) uint32 {
	if len(x.places) == 0 {
		return 0
	}
	h, mask := uint32(hash), uint32(len(x.places)-1)
	for i := h & mask; ; i = (i + 1) & mask {
		switch p := x.places[i]; {
		case p.n == empty:
			return 0
		case p.hash == h && p.n != deleted && is(p.n):
			return p.n
		}
	}
}

// Insert adds a number that is not there yet.
func (x *Index) Insert(hash uint64, n uint32) {
	if 4*(x.used+1) > 3*len(x.places) {
		x.grow()
	}
	if x.put(place{uint32(hash), n}) {
		x.used++
	}
	x.live++
}

// Live is how many numbers there are.
func (x *Index) Live() int { return x.live }

// put reports whether the place was empty.
func (x *Index) put(p place) bool {
	mask := uint32(len(x.places) - 1)
	for i := p.hash & mask; ; i = (i + 1) & mask {
		if old := x.places[i].n; old == empty || old == deleted {
			x.places[i] = p
			return old == empty
		}
	}
}

func (x *Index) grow() {
	old, size := x.places, max(16, len(x.places))
	if 2*x.live >= size {
		size *= 2
	}
	x.places, x.used = make([]place, size), 0
	for _, p := range old {
		if p.n != empty && p.n != deleted {
			x.put(p)
			x.used++
		}
	}
}

// Remove takes out a number that is there.
func (x *Index) Remove(hash uint64, n uint32) {
	mask := uint32(len(x.places) - 1)
	for i := uint32(hash) & mask; x.places[i].n != empty; i = (i + 1) & mask {
		if x.places[i].n == n {
			x.places[i].n = deleted
			x.live--
			return
		}
	}
}

// Without removes the first v from list, whose order does not matter.
func Without[T comparable](list []T, v T) []T {
	for i := range list {
		if list[i] == v {
			list[i] = list[len(list)-1]
			return list[:len(list)-1]
		}
	}
	return list
}
