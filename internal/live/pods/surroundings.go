package pods

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/flowlog/nodes"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/live"
)

// Published lists the Services that send connections also to pods that are not ready.
func Published(ctx context.Context, c kubernetes.Interface) ([]live.Published, error) {
	list, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	var all []live.Published
	for _, s := range list.Items {
		if !s.Spec.PublishNotReadyAddresses || len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		selector, err := label.MatchLabels(s.Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("service %s/%s: %w", s.Namespace, s.Name, err)
		}
		all = append(all, live.Published{Namespace: s.Namespace, Name: s.Name, Selector: selector})
	}
	return all, nil
}

// Blocked names the PodDisruptionBudgets that let nothing be evicted while the probe pods are there, as "namespace/name".
// Those that count by percent, or by how many pods may be missing, ask each pod's controller how many there should be, and
// one controller that cannot say so makes them refuse everything. Those that name a number that has to be healthy do not mind.
func (s *Session) Blocked(ctx context.Context) ([]string, error) {
	var all []string
	for _, namespace := range s.plan.Namespaces() {
		list, err := s.Client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list poddisruptionbudgets in namespace %s: %w", namespace, err)
		}
		for _, b := range list.Items {
			if s.blocks(&b) {
				all = append(all, b.Namespace+"/"+b.Name)
			}
		}
	}
	return all, nil
}

func (s *Session) blocks(b *policyv1.PodDisruptionBudget) bool {
	if least := b.Spec.MinAvailable; b.Spec.MaxUnavailable == nil && (least == nil || least.Type == intstr.Int) {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return false
	}
	for _, p := range s.plan.Probes {
		if p.Namespace == b.Namespace && selector.Matches(labels.Set(s.labels(p))) {
			return true
		}
	}
	return false
}

// AgentImage is the image that the agents in a namespace run; "" if there are none.
func AgentImage(ctx context.Context, c kubernetes.Interface, namespace string) (string, error) {
	list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: nodes.Selector})
	if err != nil {
		return "", fmt.Errorf("look for the agents' image: %w", err)
	}
	for _, p := range list.Items {
		for _, of := range p.Spec.Containers {
			if of.Name == nodes.Container {
				return of.Image, nil
			}
		}
	}
	return "", nil
}
