//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/netns"
)

// Limits of probing. Each probe under way can have one denial in the dataplane's buffers, so their number bounds
// what those have to hold.
const (
	maxFlights  = 256
	resendAfter = time.Second
	// patience is how long a probe waits for an answer or a denial. Only what fails waits that long, and a machine that
	// is busy with other things should not fail.
	patience = 10 * time.Second
	// maxLost is how many lost probes prove enough: each takes its whole time, and thousands would take minutes.
	maxLost = 512
)

// attempt is one probe to make: t, from a host's namespace.
type attempt struct {
	from *netns.NS
	t    flow.Tuple
}

// landing is what became of an attempt.
type landing struct {
	outcome Outcome
	denial  dataplane.Denial // of Denied
	took    time.Duration
	err     error // of Failed, or what is known of Lost; may be nil
}

// prober makes attempts, many at a time, on one thread that goes from namespace to namespace.
type prober struct {
	epoll    int
	denials  *denials
	at       *netns.NS // where the thread is
	flights  map[int]*flight
	byTuple  map[flow.Tuple]*flight
	resends  queue
	expiries queue
	patience time.Duration
	lost     int
	land     func(index int, l landing)
}

type flight struct {
	index  int
	tuple  flow.Tuple
	socket *socket
	start  time.Time
	sent   time.Time // the last time, for datagrams
	landed bool
}

// queue holds flights in the order in which they are due.
type queue []*flight

// due removes and returns the head if what since says of it is that long ago.
func (q *queue) due(after time.Duration, since func(*flight) time.Time) *flight {
	for len(*q) > 0 && (*q)[0].landed {
		*q = (*q)[1:]
	}
	if len(*q) == 0 || time.Since(since((*q)[0])) < after {
		return nil
	}
	f := (*q)[0]
	*q = (*q)[1:]
	return f
}

func started(f *flight) time.Time { return f.start }

func lastSent(f *flight) time.Time { return f.sent }

// probe makes attempts and calls land once for each, from one goroutine, until all have landed or ctx ends. It makes no
// more when maxLost were lost. home
// is any namespace of the lab: the thread is put back where it was after being there.
func probe(ctx context.Context, home *netns.NS, d *denials, patience time.Duration, attempts []attempt, land func(int, landing)) error {
	return home.Do(func() error {
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open epoll: %w", err)
		}
		defer unix.Close(epoll)
		p := &prober{epoll: epoll, denials: d, at: home, flights: map[int]*flight{}, byTuple: map[flow.Tuple]*flight{}, patience: patience, land: land}
		if err := p.wait(d.fd, unix.EPOLLIN); err != nil {
			return err
		}
		defer p.abandon()
		return p.run(ctx, attempts)
	})
}

func (p *prober) wait(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("add to epoll: %w", err)
	}
	return nil
}

func (p *prober) run(ctx context.Context, attempts []attempt) error {
	next := 0
	for {
		if p.lost >= maxLost {
			next = len(attempts)
		}
		if next == len(attempts) && len(p.flights) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for ; next < len(attempts) && len(p.flights) < maxFlights; next++ {
			if err := p.launch(next, attempts[next]); err != nil {
				return err
			}
		}
		if err := p.poll(); err != nil {
			return err
		}
		p.expire()
	}
}

// launch starts one attempt. Only what makes all further ones senseless is an error.
func (p *prober) launch(index int, a attempt) error {
	if p.byTuple[a.t] != nil {
		return fmt.Errorf("%s is probed twice at a time", a.t)
	}
	if a.from != p.at {
		if err := a.from.Enter(); err != nil {
			return err
		}
		p.at = a.from
	}
	start := time.Now()
	s, err := openSocket(a.t, uint64(index)+1)
	if err != nil {
		p.land(index, landing{outcome: outcomeOf(err), err: err})
		return nil
	}
	if err := p.wait(s.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET); err != nil {
		s.close()
		return err
	}
	f := &flight{index: index, tuple: a.t, socket: s, start: start, sent: start}
	p.flights[s.fd], p.byTuple[a.t] = f, f
	if !s.stream() { // the kernel itself repeats what streams send
		p.resends = append(p.resends, f)
	}
	p.expiries = append(p.expiries, f)
	return nil
}

// poll waits for the next things to happen, but not for long.
func (p *prober) poll() error {
	var events [128]unix.EpollEvent
	n, err := unix.EpollWait(p.epoll, events[:], 50)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for probes: %w", err)
	}
	for _, ev := range events[:max(n, 0)] {
		if int(ev.Fd) == p.denials.fd {
			if err := p.takeDenials(); err != nil {
				return err
			}
		} else if f := p.flights[int(ev.Fd)]; f != nil {
			p.look(f)
		}
	}
	return nil
}

func (p *prober) takeDenials() error {
	seen, err := p.denials.take()
	for _, d := range seen {
		if f := p.byTuple[d.Tuple]; f != nil {
			p.finish(f, landing{outcome: Denied, denial: d})
		}
	}
	return err
}

func (p *prober) look(f *flight) {
	if done, err := f.socket.ready(); done {
		p.finish(f, landing{outcome: outcomeOf(err), err: err})
	}
}

func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Answered
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	}
	return Failed
}

func (p *prober) expire() {
	for f := p.resends.due(resendAfter, lastSent); f != nil; f = p.resends.due(resendAfter, lastSent) {
		if err := f.socket.send(); err != nil {
			p.finish(f, landing{outcome: outcomeOf(err), err: err})
			continue
		}
		f.sent = time.Now()
		p.resends = append(p.resends, f)
	}
	for f := p.expiries.due(p.patience, started); f != nil; f = p.expiries.due(p.patience, started) {
		p.lost++
		p.finish(f, landing{outcome: Lost, err: f.socket.progress()})
	}
}

func (p *prober) finish(f *flight, l landing) {
	p.drop(f)
	l.took = time.Since(f.start)
	p.land(f.index, l)
}

func (p *prober) drop(f *flight) {
	delete(p.flights, f.socket.fd)
	delete(p.byTuple, f.tuple)
	f.socket.close()
	f.landed = true
}

// abandon lets go of what is still under way.
func (p *prober) abandon() {
	for _, f := range p.flights {
		p.drop(f)
	}
}
