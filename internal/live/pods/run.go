package pods

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/live"
	"github.com/ringfence-project/ringfence/internal/live/wire"
)

// awaitRunning waits until all pods of a namespace run, and keeps their addresses.
func (s *Session) awaitRunning(ctx context.Context, namespace string) error {
	w := starting{session: s, namespace: namespace, index: map[string]int{}, waiting: map[string]string{}}
	for i, p := range s.plan.Probes {
		if p.Namespace == namespace {
			name := s.name(i)
			w.index[name], w.waiting[name] = i, "nobody has seen it"
		}
	}
	err := w.await(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the probe pods do not run within %s: %s", s.Startup, some(namespace, w.waiting))
	}
	return err
}

// starting are the pods of a namespace that do not run yet.
type starting struct {
	session   *Session
	namespace string
	index     map[string]int    // of the probe, by pod
	waiting   map[string]string // for what, by pod
}

func (w *starting) await(ctx context.Context) error {
	api := w.session.Client.CoreV1().Pods(w.namespace)
	for {
		list, err := api.List(ctx, metav1.ListOptions{LabelSelector: Label + "=" + w.session.run})
		if err != nil {
			return fmt.Errorf("look at the probe pods in namespace %s: %w", w.namespace, err)
		}
		for i := range list.Items {
			if err := w.saw(&list.Items[i]); err != nil {
				return err
			}
		}
		if len(w.waiting) == 0 {
			return nil
		}
		changes, err := api.Watch(ctx, metav1.ListOptions{LabelSelector: Label + "=" + w.session.run, ResourceVersion: list.ResourceVersion})
		if err != nil {
			return fmt.Errorf("watch the probe pods in namespace %s: %w", w.namespace, err)
		}
		err = w.follow(ctx, changes)
		changes.Stop()
		if err != nil || len(w.waiting) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// follow returns nil when all run, or the watch has ended.
func (w *starting) follow(ctx context.Context, changes watch.Interface) error {
	for len(w.waiting) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, more := <-changes.ResultChan():
			p, isPod := e.Object.(*corev1.Pod)
			switch {
			case !more:
				return nil
			case !isPod: // an error, after which the watch ends
			case e.Type == watch.Deleted:
				return fmt.Errorf("probe pod %s/%s is gone", w.namespace, p.Name)
			default:
				if err := w.saw(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// saw notes how a pod is. An error says that it will never run.
func (w *starting) saw(p *corev1.Pod) error {
	i, ours := w.index[p.Name]
	if !ours {
		return nil
	}
	s := w.session
	what, err := pending(p)
	if err != nil {
		return fmt.Errorf("probe pod %s/%s, for %s, with image %s: %w", w.namespace, p.Name, s.plan.Probes[i], s.Image, err)
	}
	delete(w.waiting, p.Name)
	if what != "" {
		w.waiting[p.Name] = what
	} else if s.addresses[i] == nil {
		s.addresses[i] = addressesOf(p)
		s.Tell(fmt.Sprintf("%d of %d probe pods run in namespace %s", len(w.index)-len(w.waiting), len(w.index), w.namespace))
	}
	return nil
}

// some says what some pods wait for.
func some(namespace string, waiting map[string]string) string {
	var first string
	for name := range waiting {
		if first == "" || name < first {
			first = name
		}
	}
	text := fmt.Sprintf("pod %s/%s: %s", namespace, first, waiting[first])
	if n := len(waiting) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

func addressesOf(p *corev1.Pod) []netip.Addr {
	all := []netip.Addr{}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// again is how long is waited between two looks where nothing tells.
const again = 200 * time.Millisecond

// awaitListening waits until each pod has connected to all of its own ports. A pod's connections to itself are nobody's
// business.
func (s *Session) awaitListening(ctx context.Context) error {
	return s.each(func(i int) bool { return len(s.plan.Probes[i].Listen) > 0 }, func(i int) error {
		for {
			answers, err := s.connect(ctx, i, loopback(s.plan.Probes[i].Listen))
			missing := ""
			for _, a := range answers {
				if a.Outcome != wire.Answered {
					missing = a.Target + ": " + a.Why
				}
			}
			if err == nil && missing == "" {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("probe pod for %s does not listen: %w", s.plan.Probes[i], errors.Join(err, errors.New(missing)))
			case <-time.After(again):
			}
		}
	})
}

func loopback(ports []cluster.Port) []wire.Target {
	var all []wire.Target
	for _, p := range ports {
		all = append(all, wire.Target{Protocol: p.Protocol, To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Number)})
	}
	return all
}

// atOnce is how many pods are told to connect at the same time.
const atOnce = 8

// each calls f for the probes that are wanted, some at a time, and returns what went wrong first.
func (s *Session) each(wanted func(i int) bool, f func(i int) error) error {
	slots := make(chan struct{}, atOnce)
	errs := make([]error, len(s.plan.Probes))
	var all sync.WaitGroup
	for i := range s.plan.Probes {
		if !wanted(i) {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			errs[i] = f(i)
			<-slots
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// most is how many targets one command is given.
const most = 100

// connect has a pod connect to targets, and returns an answer for each.
func (s *Session) connect(ctx context.Context, i int, targets []wire.Target) ([]wire.Answer, error) {
	var all []wire.Answer
	for len(targets) > 0 {
		part := targets[:min(len(targets), most)]
		targets = targets[len(part):]
		command := []string{"ringfence", "probe", "connect", "--timeout", s.Patience.String()}
		for _, t := range part {
			command = append(command, t.String())
		}
		var out, said bytes.Buffer
		p := s.plan.Probes[i]
		name := s.name(i)
		if err := s.Exec(ctx, p.Namespace, name, container, command, &out, &said); err != nil {
			return all, fmt.Errorf("have probe pod %s/%s connect: %w %s", p.Namespace, name, err, strings.TrimSpace(said.String()))
		}
		lines := json.NewDecoder(&out)
		for range part {
			var a wire.Answer
			if err := lines.Decode(&a); err != nil {
				return all, fmt.Errorf("read what probe pod %s/%s says: %w", p.Namespace, name, err)
			}
			all = append(all, a)
		}
	}
	return all, nil
}

// Connect makes all attempts of the plan and returns what became of each: see live.Settle.
func (s *Session) Connect(ctx context.Context) ([]live.Result, error) {
	return live.Settle(ctx, s.plan, s.Settle, again, s.round, s.Tell)
}

// tries is how many times a pod is told to connect before that counts as impossible.
const tries = 3

// round makes attempts once.
func (s *Session) round(ctx context.Context, attempts []int) ([]live.Result, error) {
	results := make([]live.Result, len(attempts))
	targets := map[int][]wire.Target{} // by probe
	places := map[int][]int{}
	for k, n := range attempts {
		a := s.plan.Attempts[n]
		to := s.plan.Address(n, s.addresses)
		if !to.IsValid() {
			results[k] = live.Result{Outcome: live.Unmade, Why: "the probe pods have no addresses of the family"}
			continue
		}
		targets[a.From] = append(targets[a.From], wire.Target{Protocol: a.Protocol, To: to, Open: a.To == live.Outside && a.Protocol == flow.TCP})
		places[a.From] = append(places[a.From], k)
	}
	err := s.each(func(i int) bool { return len(targets[i]) > 0 }, func(i int) error {
		answers, err := s.connect(ctx, i, targets[i])
		for try := 1; err != nil && ctx.Err() == nil && try < tries; try++ { // the way to a pod is long, and to ask again costs nothing
			answers, err = s.connect(ctx, i, targets[i])
		}
		for j, a := range answers {
			results[places[i][j]] = live.Result{Outcome: outcomes[a.Outcome], Why: a.Why}
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return results, err
}

var outcomes = map[wire.Outcome]live.Outcome{wire.Answered: live.Answered, wire.Silent: live.Silent, wire.Refused: live.Refused}
