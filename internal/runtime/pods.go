//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/podnet"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// pod is a pod's shim, and how it is connected.
type pod struct {
	key     cluster.Key
	shim    *shim.Client
	ns      *netns.NS
	host    bool        // it shares the node's network
	port    podnet.Port // where it is plugged in; zero if it is not
	told    []byte      // what it was told to run, as JSON
	unwatch context.CancelFunc
}

func (p *pod) release() {
	if p.unwatch != nil {
		p.unwatch()
	}
	if p.ns != nil {
		p.ns.Close()
	}
}

// readiness is what shims say, as it was last heard.
type readiness struct {
	mu      sync.Mutex
	pods    map[cluster.Key]shim.Status
	changed chan struct{} // of one place
}

func (r *readiness) hear(k cluster.Key, s shim.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, known := r.pods[k]
	r.pods[k] = s
	if !known || before.Ready != s.Ready {
		r.tell()
	}
}

func (r *readiness) forget(k cluster.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, known := r.pods[k]; known {
		delete(r.pods, k)
		if before.Ready {
			r.tell()
		}
	}
}

func (r *readiness) tell() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *readiness) status(k cluster.Key) (shim.Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.pods[k]
	return s, known
}

func (r *readiness) ready(k cluster.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[k].Ready
}

// adopt finds the pods that run, and how they are plugged in.
func (n *Node) adopt(ctx context.Context) error {
	dirs, err := n.shims()
	if err != nil {
		return err
	}
	plugged, err := podnet.Plugged(n.ns)
	if err != nil {
		return err
	}
	byIndex := map[int]string{}
	for name, index := range plugged {
		byIndex[index] = name
	}
	for k, d := range dirs {
		c, err := shim.Find(d)
		if errors.Is(err, os.ErrProcessDone) {
			continue // Apply starts it again, or nobody wants it
		}
		if err != nil {
			return err
		}
		p := &pod{key: k, shim: c}
		if err := n.look(p, byIndex); err != nil {
			p.release()
			return fmt.Errorf("pod %s: %w", k, err)
		}
		n.pods[k] = p
		n.watch(p)
	}
	return nil
}

// look finds out how a pod that runs is connected.
func (n *Node) look(p *pod, byIndex map[int]string) (err error) {
	if p.ns, err = p.shim.NetNS(); err != nil {
		return err
	}
	if p.host, err = p.ns.Same(n.ns); err != nil || p.host {
		return err
	}
	peer, err := podnet.Peer(p.ns)
	if err != nil {
		return err
	}
	if s := n.leases.pods[p.key.String()]; s != nil {
		if port := n.port(p.key); byIndex[peer] == port.Veth {
			p.port = port
		}
	}
	return nil
}

// watch keeps what is known of a pod's readiness up to date, and notes the end of its shim.
func (n *Node) watch(p *pod) {
	ctx, cancel := context.WithCancel(context.Background())
	p.unwatch = cancel
	go func() {
		for ctx.Err() == nil {
			_ = p.shim.Watch(ctx, func(s shim.Status) error { n.seen.hear(p.key, s); return nil })
			if ctx.Err() != nil {
				return
			}
			n.seen.forget(p.key) // it ended, or does not answer: then it is asked again
			if n.awaitEnd(ctx, p.shim, askAgain) {
				n.poke()
				return
			}
		}
	}()
}

// askAgain is how long a shim that runs and does not answer is left alone.
const askAgain = time.Second

// awaitEnd reports whether a shim ends before ctx does, and within the given time.
func (n *Node) awaitEnd(ctx context.Context, c *shim.Client, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := c.AwaitEnd(ctx)
	if err != nil {
		<-ctx.Done() // also where it cannot be looked at
	}
	return err == nil
}

// start starts the shim of a pod, which is connected to nothing.
func (n *Node) start(ctx context.Context, k cluster.Key, host bool) (*pod, error) {
	d := n.podDir(k)
	if err := endShim(ctx, d); err != nil { // one that an Apply cut off, and then failed
		return nil, err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, err
	}
	if err := writeJSON(filepath.Join(string(d), "pod.json"), k); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(n.podState(k), 0o711); err != nil {
		return nil, err
	}
	s := shim.Start{Kind: shim.PodKind, Dir: d, Hostname: k.Name, Executable: n.options.Executable}
	if host {
		s.NetNS = n.ns
	}
	c, err := s.Start(ctx)
	if err != nil {
		return nil, err
	}
	p := &pod{key: k, shim: c, host: host}
	if p.ns, err = c.NetNS(); err != nil {
		return nil, err
	}
	n.watch(p)
	return p, nil
}

// writeResolv writes into the file that is mounted in the pod, so it must stay the same file.
func (n *Node) writeResolv(k cluster.Key) error {
	text := ""
	if n.options.Resolv != nil {
		text = n.options.Resolv(k)
	}
	path := n.podDir(k).Resolv()
	if was, err := os.ReadFile(path); err == nil && string(was) == text {
		return nil
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// remove ends a pod that is not plugged in any more, and takes away what it leaves behind; its log and its command's
// folder only if it does not come again.
func (i Instance) remove(ctx context.Context, k cluster.Key, d shim.Dir, again bool) error {
	c, err := shim.Find(d)
	if err == nil {
		err = c.Stop(ctx, stopTimeout)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pod %s: %w", k, err)
	}
	if !again {
		if err := os.RemoveAll(i.podState(k)); err != nil {
			return fmt.Errorf("pod %s: %w", k, err)
		}
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return fmt.Errorf("pod %s: %w", k, err)
	}
	_ = os.Remove(filepath.Dir(i.podState(k))) // its namespace's, if it was the last one
	return nil
}

// stopTimeout is how long a pod may take to end, its command's grace included.
const stopTimeout = 40 * time.Second
