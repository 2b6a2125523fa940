package manifest

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

func (b *Bundle) takePod(o *object, pod *corev1.Pod) {
	o.checkName()
	addresses, readable := o.podAddresses(pod)
	e, good := o.endpoint("", &pod.ObjectMeta, &pod.Spec)
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if ended {
		addresses = nil
	}
	if !good || !readable || o.key.Name == "" {
		b.fenceUnreadable(o, addresses, pod.Spec.HostNetwork)
		return
	}
	if !b.once(o) {
		return
	}
	e.Addresses, e.Created = addresses, pod.CreationTimestamp.Time
	if owner := metav1.GetControllerOf(pod); owner != nil {
		e.Owner = cluster.Owner{Kind: owner.Kind, Name: owner.Name}
	}
	b.pods = append(b.pods, e)
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
	if len(o.problems) > 0 {
		o.problems[0].Effect = fmt.Sprintf("until this is fixed, %s counts as an unknown pod, which no rule accepts by labels", addresses[0])
	}
}

func (o *object) podAddresses(pod *corev1.Pod) (addresses []netip.Addr, good bool) {
	good = !o.broken("status.podIP") && !o.broken("status.podIPs") && !o.broken("status.phase")
	add := func(path, text string) {
		a, ok := o.address(path, text)
		good = good && ok
		if ok && !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	if pod.Status.PodIP != "" {
		add("status.podIP", pod.Status.PodIP)
	}
	for i, ip := range pod.Status.PodIPs {
		add(at("status.podIPs", i)+".ip", ip.IP)
	}
	return addresses, good
}

// endpoint is a pod or a pod template, whose fields stand below base. It is false if something that policy looks at
// could not be read: a pod with the wrong labels is worse than none.
func (o *object) endpoint(base string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) (*cluster.Endpoint, bool) {
	labels, good := o.labels(under(base, "metadata.labels"), meta.Labels)
	e := &cluster.Endpoint{Key: o.key, Labels: labels, Node: spec.NodeName, HostNetwork: spec.HostNetwork, File: o.file, Line: o.line}
	specPath := under(base, "spec")
	before := len(o.problems)
	for i, c := range spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways { // a sidecar
			e.Ports = append(e.Ports, o.containerPorts(at(specPath+".initContainers", i), c.Ports)...)
		}
	}
	var ports []cluster.Port
	for i, c := range spec.Containers {
		ports = append(ports, o.containerPorts(at(specPath+".containers", i), c.Ports)...)
	}
	e.Ports = append(ports, e.Ports...)
	good = good && len(o.problems) == before && !o.brokenPod(base)
	return e, good
}

func under(base, path string) string {
	if base == "" {
		return path
	}
	return base + "." + path
}

// brokenPod reports whether there is a problem in what policy looks at.
func (o *object) brokenPod(base string) bool {
	spec := under(base, "spec")
	return slices.ContainsFunc(o.problems, func(p Problem) bool {
		if within(p.Field, under(base, "metadata")) || p.Field == spec || p.Field == base || parent(p.Field) == spec || parent(p.Field) == base {
			return true
		}
		for _, list := range []string{".containers", ".initContainers"} {
			if within(p.Field, spec+list) && (parent(p.Field) == spec+list || within(parent(parent(parent(p.Field))), spec+list)) {
				return true
			}
		}
		return false
	})
}

func (o *object) containerPorts(path string, list []corev1.ContainerPort) []cluster.Port {
	var ports []cluster.Port
	for i, p := range list {
		where := at(path+".ports", i)
		if o.missing(where + ".containerPort") {
			o.notice(where, "the port has no containerPort and is left out; the API server would refuse it")
			continue
		}
		if p.Name != "" {
			o.portName(where+".name", p.Name)
		}
		ports = append(ports, cluster.Port{Name: p.Name, Protocol: o.protocol(where+".protocol", p.Protocol),
			Number: o.portNumber(where+".containerPort", p.ContainerPort)})
	}
	return ports
}
