package manifest

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/podspec"
)

// ExecAnnotation is the annotation of a pod, or a pod template, that says what runs in it on a machine without
// containers: a command for sh -c.
const ExecAnnotation = "ringfence.dev/exec"

// specKey names the object that a pod's spec comes from.
type specKey struct {
	kind string
	cluster.Key
}

// keepSpec notes what runs in the pods of o. Nothing in it is a problem: no verdict depends on it.
func (b *Bundle) keepSpec(o *object, base string, meta *metav1.ObjectMeta, spec *corev1.PodSpec) {
	s := podspec.Spec{Command: meta.Annotations[ExecAnnotation]}
	if t := spec.TerminationGracePeriodSeconds; t != nil && *t > 0 {
		s.Grace = seconds(int32(min(*t, 3600)))
	}
	o.runAs(&s, spec)
	for i, c := range spec.Containers {
		path := document.At(under(base, "spec.containers"), i)
		s.Env = append(s.Env, o.env(path+".env", c.Env)...)
		if s.WorkingDir == "" {
			s.WorkingDir = c.WorkingDir
		}
		if p, ok := o.probe(path+".readinessProbe", c, c.ReadinessProbe); ok {
			s.Readiness = append(s.Readiness, p)
		}
		if p, ok := o.probe(path+".livenessProbe", c, c.LivenessProbe); ok {
			s.Liveness = append(s.Liveness, p)
		}
		if p, ok := o.probe(path+".startupProbe", c, c.StartupProbe); ok {
			s.Startup = append(s.Startup, p)
		}
	}
	b.specs[specKey{o.Kind, o.Key}] = s
}

// podSpecs says what runs in each pod: what the pod itself says, else the workload that it comes from.
func (b *Bundle) podSpecs(pods []*cluster.Endpoint) map[cluster.Key]podspec.Spec {
	all := map[cluster.Key]podspec.Spec{}
	for _, p := range pods {
		s, ok := b.specs[specKey{"Pod", p.Key}]
		if !ok {
			s = b.specs[specKey{p.Owner.Kind, cluster.Key{Namespace: p.Namespace, Name: p.Owner.Name}}]
		}
		all[p.Key] = s
	}
	return all
}

// runAs takes the user of the first container that says one, or of the pod.
func (o *object) runAs(s *podspec.Spec, spec *corev1.PodSpec) {
	var user, group *int64
	for _, c := range spec.Containers {
		if sc := c.SecurityContext; sc != nil && user == nil {
			user, group = sc.RunAsUser, sc.RunAsGroup
		}
	}
	if sc := spec.SecurityContext; sc != nil {
		if user == nil {
			user = sc.RunAsUser
		}
		if group == nil {
			group = sc.RunAsGroup
		}
	}
	s.User, s.Group = id(user), id(group)
}

func id(n *int64) *uint32 {
	if n == nil || *n < 0 || *n >= 1<<32-1 {
		return nil
	}
	small := uint32(*n)
	return &small
}

func (o *object) env(path string, list []corev1.EnvVar) []podspec.Env {
	known := []podspec.Field{podspec.PodName, podspec.PodNamespace, podspec.PodIP}
	var env []podspec.Env
	for i, e := range list {
		switch from := e.ValueFrom; {
		case from == nil:
			env = append(env, podspec.Env{Name: e.Name, Value: e.Value})
		case from.FieldRef != nil && slices.Contains(known, podspec.Field(from.FieldRef.FieldPath)):
			env = append(env, podspec.Env{Name: e.Name, Field: podspec.Field(from.FieldRef.FieldPath)})
		default:
			o.NoticeOfRunning(document.At(path, i), "the variable %s is not set in pods that run here, as its value is not in the manifest: give it one, or set it in the annotation "+ExecAnnotation, document.Shorten(e.Name))
		}
	}
	return env
}

// probe reads a probe of container c. One of a kind that is not known here is left out.
func (o *object) probe(path string, c corev1.Container, p *corev1.Probe) (podspec.Probe, bool) {
	if p == nil {
		return podspec.Probe{}, false
	}
	out := podspec.Probe{Delay: seconds(p.InitialDelaySeconds), Period: seconds(p.PeriodSeconds), Timeout: seconds(p.TimeoutSeconds),
		Success: int(max(p.SuccessThreshold, 1)), Failure: int(p.FailureThreshold)}
	if p.PeriodSeconds <= 0 {
		out.Period = 10 * time.Second
	}
	if p.TimeoutSeconds <= 0 {
		out.Timeout = time.Second
	}
	if p.FailureThreshold <= 0 {
		out.Failure = 3
	}
	switch {
	case p.Exec != nil && len(p.Exec.Command) > 0:
		out.Exec = p.Exec.Command
	case p.TCPSocket != nil:
		out.TCP = probePort(c, p.TCPSocket.Port)
	case p.HTTPGet != nil:
		out.HTTP = &podspec.HTTPGet{Scheme: string(p.HTTPGet.Scheme), Host: p.HTTPGet.Host, Port: probePort(c, p.HTTPGet.Port), Path: p.HTTPGet.Path}
		for _, h := range p.HTTPGet.HTTPHeaders {
			if out.HTTP.Headers == nil {
				out.HTTP.Headers = map[string]string{}
			}
			out.HTTP.Headers[h.Name] = h.Value
		}
	}
	if out.Exec == nil && out.TCP == 0 && (out.HTTP == nil || out.HTTP.Port == 0) {
		o.NoticeOfRunning(path, "the probe is left out, as it is neither exec nor httpGet nor tcpSocket, or its port is not declared")
		return podspec.Probe{}, false
	}
	return out, true
}

// probePort is the number of a probe's port, which may be a name; 0 if there is none of that name.
func probePort(c corev1.Container, p intstr.IntOrString) uint16 {
	if p.Type == intstr.Int {
		if p.IntVal < 1 || p.IntVal > 65535 {
			return 0
		}
		return uint16(p.IntVal)
	}
	for _, own := range c.Ports {
		if own.Name == p.StrVal && own.ContainerPort > 0 && own.ContainerPort <= 65535 {
			return uint16(own.ContainerPort)
		}
	}
	return 0
}

func seconds(n int32) time.Duration { return time.Duration(max(n, 0)) * time.Second }
