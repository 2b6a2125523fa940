package enforcement

import "time"

// When something is written. The numbers are in docs/kubernetes.md.
const (
	// settles is how long a new version has to come in force before it is written that it is not.
	settles = 2 * time.Second
	// progress is how often it is written how far something has come that is not in force.
	progress = 10 * time.Second
	// grace is how long something that was in force has to be so no longer: a node starts, or a new one comes.
	grace = time.Minute
	// counts is how often it is written that only figures changed.
	counts = 10 * time.Minute
	// perSecond is how many writes a second there are of all objects together, and burst how many at once.
	perSecond = 10
	burst     = 20
)

// written is what an object says.
type written struct {
	version  string
	enforced bool
	text     string
	since    time.Time // when enforced became what it is
	at       time.Time // when it was written; zero if by a process before this one
}

// held is an object, as it is and as it should be.
type held struct {
	was *written // nil if it says nothing
	is  *want    // nil if it is to go, or nobody has looked yet
	// gone: it is to go.
	gone bool
	// short is since when is has not been enforced in its version; zero if it is.
	short time.Time
	again time.Time // when a write that failed is tried again
}

// take takes over what is to be said.
func (h *held) take(w *want, now time.Time) {
	switch {
	case w.enforced:
		h.short = time.Time{}
	case h.short.IsZero() || h.is == nil || h.is.version != w.version:
		h.short = now
	}
	h.is, h.gone = w, false
}

// urgency orders what is to be written.
type urgency int

const (
	notDue urgency = iota
	figures
	farther
	news
)

// due says how urgent it is to write h.
func (h *held) due(now time.Time) urgency {
	w, is := h.was, h.is
	switch {
	case now.Before(h.again) || is == nil && !h.gone:
		return notDue
	case h.gone:
		return farther
	}
	short := now.Sub(h.short)
	switch {
	case w == nil || w.version != is.version:
		if is.enforced || short >= settles {
			return news
		}
	case is.enforced && !w.enforced:
		return news
	case !is.enforced && w.enforced:
		if short >= grace {
			return news
		}
	case w.text == is.text():
	case !is.enforced && now.Sub(w.at) >= progress:
		return farther
	case now.Sub(w.at) >= counts:
		return figures
	}
	return notDue
}

// since is when what is to be written began to be so.
func (h *held) since(now time.Time) time.Time {
	if h.was != nil && h.was.enforced == h.is.enforced {
		return h.was.since
	}
	return now
}

// budget is how many writes there may be. The zero value begins with none.
type budget struct {
	left float64
	at   time.Time
}

// refill returns how many writes there may be now.
func (b *budget) refill(now time.Time) int {
	if d := now.Sub(b.at); d > 0 {
		b.left = min(burst, b.left+d.Seconds()*perSecond)
	}
	b.at = now
	return int(b.left)
}
