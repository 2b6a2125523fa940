package agent

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// closedAfter is how long a pod waits for its place before that is reported: pods that start are no news.
const closedAfter = 10 * time.Second

// lookAgain is how often it is looked for what no event tells.
const lookAgain = 5 * time.Second

// startsWithin is the time in which an agent that starts is not asked whether it is ready: what the one before it reported
// is in force until then.
const startsWithin = 15 * time.Second

// recallWithin is how long the API is asked for the last report once it answers otherwise: then pods wait for it.
const recallWithin = 10 * time.Second

// recall reads what the agent before this one reported of rollouts. Without it, whoever is in a cohort is judged by a
// candidate only once the living connections have been judged again.
func (a *Agent) recall(ctx context.Context) error {
	defer close(a.recalled)
	var end <-chan time.Time
	synced := a.source.Synced()
	for {
		s, err := inforce.Get(ctx, a.options.Dynamic, a.options.Node)
		switch {
		case err == nil && s != nil:
			a.feed.rolls.Restore(*s)
			return nil
		case err == nil || ctx.Err() != nil:
			return nil
		case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
			a.log.Warn("the last report may not be read", "error", err)
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			a.log.Warn("the last report could not be read", "error", err)
			return nil
		case <-synced:
			synced, end = nil, time.After(recallWithin)
		case <-time.After(time.Second):
		}
	}
}

// report keeps this node's NodeEnforcement in step until ctx ends.
func (a *Agent) report(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.recalled:
	}
	starts := time.NewTimer(startsWithin)
	defer starts.Stop()
	for late := false; !late && a.notReady() != ""; {
		select {
		case <-ctx.Done():
			return nil
		case <-starts.C:
			late = true
		case <-a.news:
		}
	}
	a.wakeReporter()
	r := inforce.Reporter{Client: a.options.Dynamic, Node: a.options.Node, Log: a.log, Now: a.enforcement, Nodes: a.source.NodeCount, Wrote: a.feed.rolls.Stored,
		UID: func() string { return a.source.NodeUID(a.options.Node) }}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.keepWaking(ctx) })
	group.Go(func() error { return r.Run(ctx, a.news) })
	return group.Wait()
}

func (a *Agent) keepWaking(ctx context.Context) error {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			a.wakeReporter()
		}
	}
}

func (a *Agent) wakeReporter() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// enforcement is the report as it should be now.
func (a *Agent) enforcement() v1alpha1.NodeEnforcementStatus {
	why := a.notReady()
	s := v1alpha1.NodeEnforcementStatus{Ready: why == "", Message: why, BootID: bootID(), AgentVersion: a.options.Version}
	for _, c := range a.conditions() {
		if c.Type == OffPath || c.Type == NotEnforcing {
			s.Ready, s.Message = false, c.Type+": "+c.Message
		}
		s.Conditions = append(s.Conditions, v1alpha1.NodeCondition{Type: c.Type, Object: c.Object, Message: c.Message, Since: metav1.NewTime(c.Since)})
	}
	a.feed.report(&s, time.Now().Add(-closedAfter))
	s.Rollouts = a.feed.rolls.Report()
	return s
}

// report fills in what is in force, and which pods have been closed since before a time.
func (f *feed) report(s *v1alpha1.NodeEnforcementStatus, before time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Observed = v1alpha1.ObservedVersions{NetworkPolicies: f.observed["networkpolicies"],
		ClusterNetworkPolicies: f.observed["clusternetworkpolicies"]}
	s.Policies, s.Digest, s.ClusterDigest = int32(len(f.known)), f.digest.String(), f.clusterDigest.String()
	for _, p := range f.known {
		if p.Defect != "" {
			s.Defective = append(s.Defective, v1alpha1.PolicyReference{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name})
		}
	}
	slices.SortFunc(s.Defective, func(x, y v1alpha1.PolicyReference) int {
		return cmp.Or(strings.Compare(x.Kind, y.Kind), strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
	})
	for key, p := range f.own {
		if !p.isPlaced() && !p.pod.Terminating && p.since.Before(before) {
			s.Closed = append(s.Closed, key.String())
		}
	}
	slices.Sort(s.Closed)
}

func versionOf(p *kube.Policy) inforce.Policy {
	return inforce.Policy{Kind: p.Kind(), Namespace: p.Namespace, Name: p.Name, UID: p.UID, Generation: p.Generation}
}

// bootID names the machine's present start, as its kubelet tells the API; "" if the kernel does not say.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(data))
}
