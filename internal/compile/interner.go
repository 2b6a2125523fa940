package compile

// An interner gives each key a number, from 1, and the same number as long as the key is in use. A number is never
// given to another key, also when its own is gone: what was logged with it must stay true.
type interner[K comparable, V ~uint32] struct {
	kept map[K]V // before this round
	used map[K]V // in this round
	last V
}

// id returns the number of k.
func (n *interner[K, V]) id(k K) V {
	if v, ok := n.used[k]; ok {
		return v
	}
	v, ok := n.kept[k]
	if !ok {
		n.last++
		v = n.last
	}
	if n.used == nil {
		n.used = map[K]V{}
	}
	n.used[k] = v
	return v
}

// sweep ends a round: keys that were not used in it are forgotten, or a long-lived compiler would grow for ever.
func (n *interner[K, V]) sweep() { n.kept, n.used = n.used, nil }
