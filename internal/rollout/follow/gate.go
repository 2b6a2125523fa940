package follow

import "sync"

// gate is open or shut, and can be waited for. Make one with newGate.
type gate struct {
	mu     *sync.Mutex
	isOpen bool
	opens  chan struct{} // closed while it is open
	shuts  chan struct{} // closed while it is shut
}

func newGate() gate {
	g := gate{mu: new(sync.Mutex), opens: make(chan struct{}), shuts: make(chan struct{})}
	close(g.shuts)
	return g
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open == g.isOpen {
		return
	}
	g.isOpen = open
	if open {
		close(g.opens)
		g.shuts = make(chan struct{})
	} else {
		close(g.shuts)
		g.opens = make(chan struct{})
	}
}

// open returns what is closed once the gate is open.
func (g *gate) open() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opens
}

// shut returns what is closed once the gate is shut.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shuts
}
