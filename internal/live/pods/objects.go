// Package pods makes the probe pods of a live.Plan in a Kubernetes cluster, has them connect to each other, and takes
// them away again.
//
// In each namespace, everything that is made belongs to one Lease, which is made first: its deletion takes the rest with
// it, also where whoever made it is gone, and the Lease itself says for how long it is needed. The pods have it as their
// controller, so no ReplicaSet or other controller adopts them by their labels. They have a readiness gate that nobody
// opens, so they are never ready: Services leave them out, and budgets do not count them as healthy. They end by
// themselves after a while, whatever happens. They hold no token, and are made to pass the Pod Security level
// "restricted".
package pods

import (
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/live"
	"github.com/ringfence-project/ringfence/internal/live/wire"
)

// Label is on all that is made; its value is the run's.
const Label = "ringfence.dev/probe"

// Gate is the condition that probe pods wait for in vain.
const Gate corev1.PodConditionType = "ringfence.dev/never-ready"

const (
	prefix    = "ringfence-probe-"
	container = "probe"
)

// lease is what all of a run in a namespace belongs to.
func (s *Session) lease(namespace string) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: prefix + s.run, Labels: map[string]string{Label: s.run}},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       new("ringfence test --live"),
			AcquireTime:          new(metav1.NewMicroTime(time.Now())),
			LeaseDurationSeconds: new(int32(s.Lifetime / time.Second)),
		},
	}
}

// name is that of the pod of a probe.
func (s *Session) name(i int) string { return fmt.Sprintf("%s%s-%d", prefix, s.run, i) }

// labels are those of the pod of a probe.
func (s *Session) labels(p live.Probe) map[string]string {
	all := p.Labels.Map()
	all[Label] = s.run
	return all
}

// pod is the pod of a probe. owner is the UID of the Lease in its namespace.
func (s *Session) pod(i int, p live.Probe, owner types.UID) *corev1.Pod {
	spec := corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		ActiveDeadlineSeconds:         new(int64(s.Lifetime / time.Second)),
		TerminationGracePeriodSeconds: new(int64(1)),
		AutomountServiceAccountToken:  new(false),
		EnableServiceLinks:            new(false),
		ReadinessGates:                []corev1.PodReadinessGate{{ConditionType: Gate}},
		NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux"},
		SecurityContext:               &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers:                    []corev1.Container{s.container(p)},
	}
	if low(p) {
		// One of the sysctls that every Pod Security level lets pods set: it is about the pod's own network.
		spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: s.name(i), Labels: s.labels(p),
			Annotations: map[string]string{
				"ringfence.dev/stands-for":                       p.String(),
				"cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
				"sidecar.istio.io/inject":                        "false", // a sidecar would answer in the stead of who is asked
				"linkerd.io/inject":                              "disabled",
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Name: prefix + s.run, UID: owner, Controller: new(true)}},
		},
		Spec: spec,
	}
}

func (s *Session) container(p live.Probe) corev1.Container {
	c := corev1.Container{
		Name:                     container,
		Image:                    s.Image,
		ImagePullPolicy:          corev1.PullIfNotPresent,
		Command:                  []string{"ringfence", "probe", "serve"},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	for _, port := range p.Listen {
		c.Command = append(c.Command, wire.FormatPort(port))
	}
	for _, port := range p.Named {
		c.Ports = append(c.Ports, corev1.ContainerPort{Name: port.Name, ContainerPort: int32(port.Number), Protocol: protocols[port.Protocol]})
	}
	return c
}

var protocols = map[flow.Protocol]corev1.Protocol{flow.TCP: corev1.ProtocolTCP, flow.UDP: corev1.ProtocolUDP, flow.SCTP: corev1.ProtocolSCTP}

// low reports whether p listens on a port that only root may else.
func low(p live.Probe) bool {
	for _, port := range p.Listen {
		if port.Number < 1024 {
			return true
		}
	}
	return false
}
