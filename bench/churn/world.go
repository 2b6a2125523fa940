package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// policies let clients and servers in, and mute pods out nowhere.
func policies() []*networkingv1.NetworkPolicy {
	who := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "role", Operator: metav1.LabelSelectorOpIn, Values: []string{roleClient, roleServer}}}}
	return []*networkingv1.NetworkPolicy{
		{ObjectMeta: metav1.ObjectMeta{Name: "fence"}, Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &who}}}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "mute"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"role": roleMute}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}}},
	}
}

// wobble names half of the pods as peers of servers, for something that changes nothing for them: so identities split in
// two and become one again, and the rows of servers change.
func wobble() *networkingv1.NetworkPolicy {
	half := metav1.LabelSelector{MatchLabels: map[string]string{"half": "a"}}
	other := intstr.FromInt32(port + 1)
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "wobble"}, Spec: networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"role": roleServer}},
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &half}},
			Ports: []networkingv1.NetworkPolicyPort{{Port: &other}}}}}}
}

// setUp makes what stays: namespaces, policies, servers, and on both nodes a client, an intruder and a mute pod. What it
// begins goes on until ctx ends, and it is done before the shorter one does.
func (d *driver) setUp(ctx, short context.Context) error {
	old, err := filepath.Glob(filepath.Join(d.dir, "*.jsonl"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := d.watch(ctx, short); err != nil {
		return err
	}
	for _, name := range []string{fenced, unfenced} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := d.client.CoreV1().Namespaces().Create(short, ns, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, p := range policies() {
		if _, err := d.client.NetworkingV1().NetworkPolicies(fenced).Create(short, p, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for i, node := range d.nodes {
		a, err := d.keeper(short, fenced, fmt.Sprint("server", i+1), roleServer, node)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, a)
	}
	if d.open, err = d.keeper(short, unfenced, "open", roleServer, d.nodes[1]); err != nil {
		return err
	}
	for i, node := range d.nodes {
		for _, role := range []string{roleClient, roleIntruder, roleMute} {
			if _, err := d.keeper(short, fenced, fmt.Sprint(role, i+1), role, node, "-flood", d.cidr); err != nil {
				return err
			}
		}
	}
	return d.measureRoom(short)
}

// keeper starts a pod that stays, and returns its address. One that is turned down gets a successor.
func (d *driver) keeper(ctx context.Context, namespace, name, role, node string, args ...string) (string, error) {
	if err := d.awaitAccount(ctx, namespace); err != nil {
		return "", err
	}
	pods := d.client.CoreV1().Pods(namespace)
	for i := 1; ; i++ {
		this := name
		if i > 1 {
			this = fmt.Sprint(name, "-", i)
		}
		d.seen.made(namespace, this, role, keepers, node)
		if _, err := pods.Create(ctx, d.pod(this, role, node, args...), metav1.CreateOptions{}); err != nil {
			return "", err
		}
		for {
			p, err := pods.Get(ctx, this, metav1.GetOptions{})
			if err != nil {
				return "", fmt.Errorf("pod %s/%s does not start: %w", namespace, this, err)
			}
			if p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" {
				return p.Status.PodIP, nil
			}
			if why := ended(p); why != "" {
				d.seen.mourn(this)
				if err := d.failed(this, why); err != nil {
					return "", err
				}
				break
			}
			if !sleep(ctx, beat) {
				return "", fmt.Errorf("pod %s/%s does not start: %w", namespace, this, ctx.Err())
			}
		}
	}
}

// awaitAccount waits for a namespace's default account, without which it takes no pods.
func (d *driver) awaitAccount(ctx context.Context, namespace string) error {
	for {
		_, err := d.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		if !sleep(ctx, beat) {
			return ctx.Err()
		}
	}
}

// tearDown removes what setUp made.
func (d *driver) tearDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	for _, name := range []string{fenced, unfenced} {
		err := d.client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
