package manifest

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
)

func (b *Bundle) takePod(o *object, pod *corev1.Pod) {
	if b.addPod(o, pod) {
		b.keepSpec(o, "", &pod.ObjectMeta, &pod.Spec)
	}
}

// addPod adds a pod that can be used, and reports whether it could.
func (b *Bundle) addPod(o *object, pod *corev1.Pod) bool {
	o.checkName()
	addresses := o.podAddresses(pod)
	e := o.endpoint("", &pod.ObjectMeta, &pod.Spec)
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if ended {
		addresses = nil
	}
	if len(o.Problems) > 0 {
		b.fenceUnreadable(o, addresses, pod.Spec.HostNetwork)
		return false
	}
	if !b.once(o) {
		return false
	}
	e.Addresses, e.Created, e.UID, e.Ended = addresses, pod.CreationTimestamp.Time, string(pod.UID), ended
	if owner := metav1.GetControllerOf(pod); owner != nil {
		e.Owner = cluster.Owner{Kind: owner.Kind, Name: owner.Name}
	}
	b.pods = append(b.pods, e)
	return true
}

// fenceUnreadable keeps the addresses of a pod that cannot be used from counting as the world outside: as a range of
// pods they belong to an unknown pod, which nothing accepts by labels.
func (b *Bundle) fenceUnreadable(o *object, addresses []netip.Addr, hostNetwork bool) {
	if hostNetwork || len(addresses) == 0 {
		return
	}
	for _, a := range addresses {
		b.podRanges = append(b.podRanges, netip.PrefixFrom(a, a.BitLen()))
	}
	o.Effect("%s counts as an unknown pod, which no rule accepts by labels", addresses[0])
}

func (o *object) podAddresses(pod *corev1.Pod) []netip.Addr {
	var addresses []netip.Addr
	add := func(path, text string) {
		if a, ok := o.address(path, text); ok && !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	if pod.Status.PodIP != "" {
		add("status.podIP", pod.Status.PodIP)
	}
	for i, ip := range pod.Status.PodIPs {
		add(document.At("status.podIPs", i)+".ip", ip.IP)
	}
	return addresses
}

// endpoint is a pod or a pod template, whose fields stand below base. It counts only if no problem was noted: the API
// server would refuse the object, and a pod with half its labels is worse than none.
func (o *object) endpoint(base string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) *cluster.Endpoint {
	e := &cluster.Endpoint{Key: o.Key, Labels: o.labels(under(base, "metadata.labels"), meta.Labels),
		Node: spec.NodeName, HostNetwork: spec.HostNetwork, UsesAPI: usesAPI(spec, meta.UID != ""), File: o.File, Line: o.Line}
	path := under(base, "spec")
	for i, c := range spec.Containers {
		e.Ports = append(e.Ports, o.containerPorts(document.At(path+".containers", i), c.Ports)...)
	}
	for i, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways { // a sidecar runs on
			e.Ports = append(e.Ports, o.containerPorts(document.At(path+".initContainers", i), c.Ports)...)
		}
	}
	return e
}

func under(base, path string) string {
	if base == "" {
		return path
	}
	return base + "." + path
}

func (o *object) containerPorts(path string, list []corev1.ContainerPort) []cluster.Port {
	var ports []cluster.Port
	names := map[string]bool{}
	for i, p := range list {
		where := document.At(path+".ports", i)
		if o.Missing(where + ".containerPort") {
			o.Notice(where, "the port has no containerPort and is left out; the API server would refuse it")
			continue
		}
		if p.Name != "" {
			o.portName(where+".name", p.Name)
			if names[p.Name] { // which one would a policy mean?
				o.Problem(where+".name", "", "the container has another port called %q", p.Name)
			}
			names[p.Name] = true
		}
		ports = append(ports, cluster.Port{Name: p.Name, Protocol: o.protocol(where+".protocol", p.Protocol),
			Number: o.portNumber(where+".containerPort", p.ContainerPort)})
	}
	return ports
}
