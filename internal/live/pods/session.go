package pods

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/flowlog/nodes"
	"github.com/ringfence-project/ringfence/internal/live"
)

// Options say where and how probe pods are made.
type Options struct {
	Client kubernetes.Interface
	Exec   nodes.Exec
	Image  string // has the program ringfence in its path, and a user who is not root
	// Patience is how long a connection waits for an answer, and Settle for how long it is tried again where it does not fare
	// as policies say: the rules for new pods take a moment to be in force everywhere.
	Patience, Settle time.Duration
	Startup          time.Duration // in which the pods have to run
	Lifetime         time.Duration // after which pods end by themselves
	Tell             func(text string)
}

// Session is the probe pods of one run. Make one with New, and Remove what Start has made.
type Session struct {
	Options
	plan      *live.Plan
	run       string
	leases    map[string]types.UID // by namespace
	made      []bool               // by probe: it may be there
	addresses [][]netip.Addr
}

// New returns a session with no pods yet.
func New(o Options, plan *live.Plan) *Session {
	return &Session{Options: o, plan: plan, run: strings.ToLower(rand.Text()[:8]), leases: map[string]types.UID{},
		made: make([]bool, len(plan.Probes)), addresses: make([][]netip.Addr, len(plan.Probes))}
}

// Run is what Label says of all that the session makes.
func (s *Session) Run() string { return s.run }

// Addresses are those of the pods, by probe.
func (s *Session) Addresses() [][]netip.Addr { return s.addresses }

// Start makes the pods and waits until they run and listen. Whatever it returns, Remove has to be called.
func (s *Session) Start(ctx context.Context) error {
	for _, namespace := range s.plan.Namespaces() {
		if err := s.begin(ctx, namespace); err != nil {
			return err
		}
	}
	for i, p := range s.plan.Probes {
		s.made[i] = true // also where the answer is lost
		if _, err := s.Client.CoreV1().Pods(p.Namespace).Create(ctx, s.pod(i, p, s.leases[p.Namespace]), metav1.CreateOptions{}); err != nil {
			s.made[i] = !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err)
			return fmt.Errorf("make a probe pod in namespace %s, for %s: %w", p.Namespace, p, err)
		}
	}
	starting, cancel := context.WithTimeout(ctx, s.Startup)
	defer cancel()
	for _, namespace := range s.plan.Namespaces() {
		if err := s.awaitRunning(starting, namespace); err != nil {
			return err
		}
	}
	s.Tell("waiting until they listen")
	return s.awaitListening(starting)
}

// begin takes away what earlier runs have left in a namespace, and makes the Lease of this one.
func (s *Session) begin(ctx context.Context, namespace string) error {
	leases := s.Client.CoordinationV1().Leases(namespace)
	old, err := leases.List(ctx, metav1.ListOptions{LabelSelector: Label})
	if err != nil {
		return fmt.Errorf("look for what an earlier run has left in namespace %s: %w", namespace, err)
	}
	for _, l := range old.Items {
		if !over(l, time.Now()) {
			continue
		}
		s.Tell(fmt.Sprintf("removing what run %s has left in namespace %s", l.Labels[Label], namespace))
		if err := leases.Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &l.UID}}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove what an earlier run has left in namespace %s: %w", namespace, err)
		}
	}
	s.leases[namespace] = ""
	made, err := leases.Create(ctx, s.lease(namespace), metav1.CreateOptions{})
	if err != nil {
		if apierrors.IsForbidden(err) {
			delete(s.leases, namespace)
		}
		return fmt.Errorf("make the Lease that probe pods belong to, in namespace %s: %w", namespace, err)
	}
	s.leases[namespace] = made.UID
	return nil
}

// over reports whether a run has ended for sure, by clocks that may differ by a minute.
func over(l coordinationv1.Lease, now time.Time) bool {
	if l.Spec.AcquireTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return false
	}
	return now.After(l.Spec.AcquireTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second + time.Minute))
}

// cleanUp is how long Remove takes at most.
const cleanUp = 30 * time.Second

// Remove takes away all that was made, also when ctx has ended. The error says what could not be removed, and how to.
func (s *Session) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	var failed []error
	for i, p := range s.plan.Probes {
		if !s.made[i] {
			continue
		}
		name := s.name(i)
		err := s.Client.CoreV1().Pods(p.Namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))})
		if err != nil && !apierrors.IsNotFound(err) {
			failed = append(failed, fmt.Errorf("pod %s/%s: %w", p.Namespace, name, err))
		}
	}
	for _, namespace := range s.plan.Namespaces() {
		if _, made := s.leases[namespace]; !made {
			continue
		}
		err := s.Client.CoordinationV1().Leases(namespace).Delete(ctx, prefix+s.run, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			failed = append(failed, fmt.Errorf("lease %s/%s: %w", namespace, prefix+s.run, err))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("not everything could be removed; the pods end by themselves within %s. %s removes it:\n%w", s.Lifetime, s.Removal(), errors.Join(failed...))
	}
	return nil
}

// Removal is the command by which a person removes all that was made.
func (s *Session) Removal() string {
	var all []string
	for _, namespace := range s.plan.Namespaces() {
		all = append(all, fmt.Sprintf("kubectl -n %s delete pod,lease -l %s=%s", namespace, Label, s.run))
	}
	return `"` + strings.Join(all, "; ") + `"`
}

// pending says what a pod waits for; "" if it runs. The error says that it never will.
func pending(p *corev1.Pod) (string, error) {
	if p.DeletionTimestamp != nil {
		return "", errors.New("somebody deletes it")
	}
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			return "", fmt.Errorf("its container ended, %s: %s", t.Reason, strings.TrimSpace(t.Message))
		}
		if w := c.State.Waiting; w != nil && slices.Contains(hopeless, w.Reason) {
			return "", fmt.Errorf("%s: %s", w.Reason, w.Message)
		}
	}
	switch p.Status.Phase {
	case corev1.PodFailed, corev1.PodSucceeded:
		return "", fmt.Errorf("it ended, %s: %s", p.Status.Reason, p.Status.Message)
	case corev1.PodRunning:
		if len(p.Status.PodIPs) > 0 {
			return "", nil
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue && c.Message != "" {
			return c.Reason + ": " + c.Message, nil
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			return strings.TrimSuffix(w.Reason+": "+w.Message, ": "), nil
		}
	}
	return "it has not begun", nil
}

// hopeless are the reasons why a container waits for what does not come.
var hopeless = []string{"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
