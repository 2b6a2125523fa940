//go:build linux

package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// podKeeper is a pod's shim: it runs what it was told last, one run at a time.
type podKeeper struct {
	ctx      context.Context // of the shim
	children *children

	updating sync.Mutex // one update at a time

	mu      sync.Mutex
	changes changes
	now     Status
	spec    []byte // what runs, as JSON
	running *Pod   // the same
	stop    context.CancelFunc
	ended   chan struct{} // closed when the run has ended
}

func newPodKeeper(ctx context.Context) *podKeeper {
	return &podKeeper{ctx: ctx, children: newChildren(), changes: changes{next: make(chan struct{})},
		now: Status{State: Waiting, Why: "not told yet what to run", Since: time.Now()}}
}

func (k *podKeeper) status() (Status, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now, k.changes.next
}

func (k *podKeeper) pod() *Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running
}

// set changes the status.
func (k *podKeeper) set(change func(*Status)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.now
	change(&k.now)
	if k.now == before {
		return
	}
	if k.now.State != before.State {
		k.now.Since = time.Now()
	}
	k.changes.happened()
}

// update runs r.Pod in the stead of what runs now, unless it is the same.
func (k *podKeeper) update(r Request) error {
	if r.Pod == nil {
		return errors.New("an update of a pod needs one")
	}
	spec, err := json.Marshal(r.Pod)
	if err != nil {
		return err
	}
	k.updating.Lock()
	defer k.updating.Unlock()
	if bytes.Equal(k.spec, spec) || k.ctx.Err() != nil {
		return nil
	}
	log, err := openLog(r.Pod.Log)
	if err != nil {
		return err
	}
	again := k.endRun()
	ctx, stop := context.WithCancel(k.ctx)
	k.spec, k.stop, k.ended = spec, stop, make(chan struct{})
	k.set(func(s *Status) {
		k.running = r.Pod
		s.Ready, s.State, s.Why = false, Waiting, "starting"
		if again {
			s.Restarts = 0
		}
	})
	go func(ended chan struct{}) {
		defer close(ended)
		defer log.Close()
		(&runner{keeper: k, pod: *r.Pod, log: log}).run(ctx)
	}(k.ended)
	k.awaitStart()
	return nil
}

// awaitStart returns when the run has begun: then the built-in listener listens. It does not wait for ever.
func (k *podKeeper) awaitStart() {
	enough := time.After(time.Second)
	for {
		now, changed := k.status()
		if now.State != Waiting {
			return
		}
		select {
		case <-changed:
		case <-enough:
			return
		}
	}
}

// endRun ends what runs, and reports whether something did.
func (k *podKeeper) endRun() bool {
	if k.stop == nil {
		return false
	}
	k.stop()
	<-k.ended
	return true
}

func (k *podKeeper) close() error {
	k.updating.Lock()
	defer k.updating.Unlock()
	k.endRun()
	return nil
}
