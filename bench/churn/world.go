package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
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

// setUp makes what stays: namespaces, policies, servers, and on both nodes a client, an intruder and a mute pod.
func (d *driver) setUp(ctx context.Context) error {
	old, err := filepath.Glob(filepath.Join(d.dir, "*.jsonl"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for _, name := range []string{fenced, unfenced} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := d.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, p := range policies() {
		if _, err := d.client.NetworkingV1().NetworkPolicies(fenced).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	d.seen = newSightings()
	if err := d.watch(ctx); err != nil {
		return err
	}
	for i, node := range d.nodes {
		a, err := d.keeper(ctx, fenced, fmt.Sprint("server", i+1), roleServer, node)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, a)
	}
	if d.open, err = d.keeper(ctx, unfenced, "open", roleServer, d.nodes[1]); err != nil {
		return err
	}
	for i, node := range d.nodes {
		for _, role := range []string{roleClient, roleIntruder, roleMute} {
			if _, err := d.keeper(ctx, fenced, fmt.Sprint(role, i+1), role, node, "-flood", d.cidr); err != nil {
				return err
			}
		}
	}
	return nil
}

// keeper starts a pod that stays, and returns its address.
func (d *driver) keeper(ctx context.Context, namespace, name, role, node string, args ...string) (string, error) {
	d.seen.made(name, role, keepers)
	pods := d.client.CoreV1().Pods(namespace)
	if _, err := awaitAccount(ctx, d, namespace); err != nil {
		return "", err
	}
	if _, err := pods.Create(ctx, d.pod(name, role, node, args...), metav1.CreateOptions{}); err != nil {
		return "", err
	}
	for end := time.Now().Add(patient); time.Now().Before(end); {
		p, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if p.Status.Phase == corev1.PodRunning {
			return p.Status.PodIP, nil
		}
		if !sleep(ctx, beat) {
			return "", ctx.Err()
		}
	}
	return "", fmt.Errorf("pod %s/%s does not start", namespace, name)
}

// awaitAccount waits for a namespace's default account, without which it takes no pods.
func awaitAccount(ctx context.Context, d *driver, namespace string) (*corev1.ServiceAccount, error) {
	for {
		a, err := d.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return a, err
		}
		if !sleep(ctx, beat) {
			return nil, ctx.Err()
		}
	}
}

// tearDown removes what setUp made.
func (d *driver) tearDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for _, name := range []string{fenced, unfenced} {
		if err := d.client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// sighting is what the API says of a pod.
type sighting struct {
	role, phase string
	running     time.Time // when it was seen to run first
	gone        bool
}

type sightings struct {
	mu  sync.Mutex
	all map[string]*sighting
}

func newSightings() *sightings { return &sightings{all: map[string]*sighting{}} }

func (s *sightings) made(name, role, phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = &sighting{role: role, phase: phase}
}

func (s *sightings) see(p *corev1.Pod, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.all[p.Name]
	if x == nil {
		return
	}
	if p.Status.Phase == corev1.PodRunning && x.running.IsZero() {
		x.running = time.Now()
	}
	x.gone = x.gone || gone || p.DeletionTimestamp != nil
}

// starting returns the pods that do not run yet.
func (s *sightings) starting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, x := range s.all {
		if x.running.IsZero() && !x.gone {
			names = append(names, name)
		}
	}
	return names
}

func (d *driver) watch(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(d.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	see := func(o any, gone bool) {
		if p, ok := o.(*corev1.Pod); ok {
			d.seen.see(p, gone)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { see(o, false) },
		UpdateFunc: func(_, o any) { see(o, false) },
		DeleteFunc: func(o any) { see(o, true) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return nil
}
