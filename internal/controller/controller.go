// Package controller drives the rollouts of a Kubernetes cluster: it follows what the PolicyRollouts say, sums up what the
// agents report, lets time pass, and writes down in the objects' statuses what follows. Agents put in force what a status
// says; nothing else leads from here to them. So a controller that is gone leaves everything as it is.
//
// Of many controllers one leads, which a Lease decides. Nothing depends on that being exact: each status is written only
// over the version that was read, times are counted from what is stored, and evidence is a function of the reports, so that
// two leaders do what one would do. What a leader keeps in memory only saves it work.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/loopback"
)

// LeaseName is the name of the Lease that decides who leads.
const LeaseName = "ringfence-controller"

// The times of the lease: who leads and does not say so for renewWithin stops, and others take over after leaseFor.
const (
	leaseFor    = 15 * time.Second
	renewWithin = 10 * time.Second
	tryEvery    = 2 * time.Second
)

// Options say what to run.
type Options struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Namespace string // of the Lease
	Identity  string // of this process, among all controllers
	Listen    string // where metrics and health are served, on a loopback address; "" is nowhere
	// Nodes selects those that are meant to run an agent; nil is all. Of others nothing is expected.
	Nodes *label.Selector
	Log   *slog.Logger
}

// Controller is a running controller.
type Controller struct {
	options Options
	metrics *metrics

	mu      sync.Mutex
	leading *leader // nil while another one leads
}

// Run drives rollouts, whenever this process is the one that leads, until ctx ends.
func Run(ctx context.Context, o Options) error {
	c := &Controller{options: o, metrics: newMetrics()}
	group, ctx := errgroup.WithContext(ctx)
	if o.Listen != "" {
		group.Go(func() error { return loopback.Serve(ctx, o.Listen, loopback.Mux(c.metrics.registry, c.notReady)) })
	}
	group.Go(func() error { return c.elect(ctx) })
	return group.Wait()
}

// notReady says why the process does not do what it is for; "" if it does. One that waits for its turn does.
func (c *Controller) notReady() string {
	c.mu.Lock()
	l := c.leading
	c.mu.Unlock()
	if l == nil {
		return ""
	}
	return l.notReady()
}

// elect waits for its turn to lead, and leads, again and again until ctx ends.
func (c *Controller) elect(ctx context.Context) error {
	ctx = logr.NewContextWithSlogLogger(ctx, c.options.Log)
	for ctx.Err() == nil {
		var t term
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: LeaseName, Namespace: c.options.Namespace},
				Client: c.options.Client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: c.options.Identity}},
			LeaseDuration: leaseFor, RenewDeadline: renewWithin, RetryPeriod: tryEvery, ReleaseOnCancel: true, Name: LeaseName,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(ctx context.Context) { t.run(ctx, c.lead) }, OnStoppedLeading: func() {}}})
		if err != nil {
			return fmt.Errorf("take part in the election: %w", err)
		}
		elector.Run(ctx)
		t.wait()
	}
	return nil
}

// term is one time of leading. An elector starts it in a goroutine of its own, perhaps only after it has ended.
type term struct {
	mu      sync.Mutex
	running sync.WaitGroup
}

func (t *term) run(ctx context.Context, lead func(context.Context)) {
	t.mu.Lock()
	if ctx.Err() != nil {
		t.mu.Unlock()
		return
	}
	t.running.Add(1)
	t.mu.Unlock()
	defer t.running.Done()
	lead(ctx)
}

// wait waits until nothing runs. It is called once the context of run has ended.
func (t *term) wait() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running.Wait()
}

// lead drives the rollouts until ctx ends, which it does when somebody else leads.
func (c *Controller) lead(ctx context.Context) {
	l := newLeader(c.options, c.metrics)
	c.set(l)
	defer c.set(nil)
	c.options.Log.Info("leads", "identity", c.options.Identity)
	defer c.options.Log.Info("does not lead any more", "identity", c.options.Identity)
	l.run(ctx)
}

func (c *Controller) set(l *leader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leading = l
	c.metrics.leader.Set(0)
	if l != nil {
		c.metrics.leader.Set(1)
		return
	}
	c.metrics.show(nil, nil)
}
