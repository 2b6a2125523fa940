package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func namespaceName(i int) string { return fmt.Sprintf("ns%d", i%namespaces) }

// address is a pod's: 10.244.NODE.x, so that a node's pods are in its range. Nodes have at most 250 pods.
func address(i int) string { return fmt.Sprintf("10.244.%d.%d", i%nodes, 2+i/nodes) }

// fill makes all objects, many at once.
func (b *bench) fill(parent context.Context) error {
	group, ctx := errgroup.WithContext(parent)
	group.SetLimit(32)
	for i := range nodes {
		group.Go(func() error { return b.makeNode(ctx, i) })
	}
	for i := range namespaces {
		group.Go(func() error {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceName(i), Labels: map[string]string{"team": fmt.Sprint("t", i%teams)}}}
			_, err := b.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	group, ctx = errgroup.WithContext(parent)
	group.SetLimit(32)
	for i := range b.pods {
		group.Go(func() error { return b.makePod(ctx, i) })
	}
	for i := range b.policies {
		group.Go(func() error { return b.makePolicy(ctx, fmt.Sprint("p", i), i) })
	}
	return group.Wait()
}

func (b *bench) makeNode(ctx context.Context, i int) error {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node", i)}, Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.244.%d.0/24", i),
		PodCIDRs: []string{fmt.Sprintf("10.244.%d.0/24", i)}}}
	_, err := b.client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
	return err
}

func (b *bench) makePod(ctx context.Context, i int) error {
	pods := b.client.CoreV1().Pods(namespaceName(i / nodes))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod", i), Labels: map[string]string{"app": fmt.Sprint("a", i%apps),
		"pod-template-hash": fmt.Sprint(i % 500)}},
		Spec: corev1.PodSpec{NodeName: fmt.Sprint("node", i%nodes), Containers: []corev1.Container{{Name: "c", Image: "none",
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}}}
	made, err := pods.Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	made.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address(i), PodIPs: []corev1.PodIP{{IP: address(i)}}}
	_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// makePolicy lets one kind of pods be reached from another kind in the namespaces of a team, and from a block.
func (b *bench) makePolicy(ctx context.Context, name string, i int) error {
	http := intstr.FromString("http")
	from := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("a", (i/7)%apps)}},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint("t", (i/3)%teams)}}}}
	if i%10 == 0 {
		from = append(from, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("192.0.2.%d/30", i%250/4*4)}})
	}
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint("a", (i/namespaces)%apps)}},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: from, Ports: []networkingv1.NetworkPolicyPort{{Port: &http}}}}}}
	_, err := b.client.NetworkingV1().NetworkPolicies(namespaceName(i)).Create(ctx, p, metav1.CreateOptions{})
	return err
}
