package manifest

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/label"
)

// workload is a controller with what its pods need beside the template.
type workload struct {
	cluster.Workload
	first        int               // the number of the first pod
	nodeSelector map[string]string // of a DaemonSet's pods
	indexed      bool              // a Job whose pods carry their index as a label
}

// ownerKey names an object that can have or be a controller.
type ownerKey struct {
	namespace string
	cluster.Owner
}

func (w *workload) ownerKey() ownerKey {
	return ownerKey{w.Namespace, cluster.Owner{Kind: w.Kind, Name: w.Name}}
}

// addWorkload adds a controller whose template stands at base.
func (b *Bundle) addWorkload(o *object, meta *metav1.ObjectMeta, base string, t *corev1.PodTemplateSpec, w workload) {
	o.checkName()
	e := o.endpoint(base, &t.ObjectMeta, &t.Spec)
	if len(o.Problems) > 0 || !b.once(o) {
		return
	}
	w.Key, w.Kind, w.Template = o.Key, o.Kind, e
	e.Owner = cluster.Owner{Kind: o.Kind, Name: o.Key.Name}
	w.nodeSelector = t.Spec.NodeSelector
	b.keepSpec(o, base, &t.ObjectMeta, &t.Spec)
	b.workloads = append(b.workloads, w)
	if owner := metav1.GetControllerOf(meta); owner != nil {
		b.owners[w.ownerKey()] = cluster.Owner{Kind: owner.Kind, Name: owner.Name}
	}
}

// checkSelector notes a selector that does not select the workload's own pods, which the API server would refuse. It is
// no problem: no verdict depends on it, as the pods have the labels of the template. But one of the two is a slip.
func (o *object) checkSelector(s *metav1.LabelSelector, labels map[string]string) {
	if s == nil {
		o.Notice("spec", "has no selector; the API server would refuse it")
		return
	}
	before := len(o.Problems)
	sel := o.selector("spec.selector", s)
	set, err := label.NewSet(labels)
	if len(o.Problems) > before || err != nil {
		return // noted where it is wrong
	}
	if r, unmet := sel.FirstUnmet(set); unmet {
		o.Notice("spec.selector", "the selector does not select the pods of its own template, whose labels %q do not meet %q; the API server would refuse it", set, r)
	}
}

func (o *object) replicas(path string, n *int32) int {
	switch {
	case n == nil:
		return 1
	case *n < 0:
		o.Problem(path, "", "%d is less than 0", *n)
		return 0
	}
	return int(*n)
}

func (b *Bundle) takeDeployment(o *object, d *appsv1.Deployment) {
	o.checkSelector(d.Spec.Selector, d.Spec.Template.Labels)
	w := workload{first: 1}
	w.Replicas = o.replicas("spec.replicas", d.Spec.Replicas)
	b.addWorkload(o, &d.ObjectMeta, "spec.template", &d.Spec.Template, w)
}

func (b *Bundle) takeReplicaSet(o *object, r *appsv1.ReplicaSet) {
	o.checkSelector(r.Spec.Selector, r.Spec.Template.Labels)
	w := workload{first: 1}
	w.Replicas = o.replicas("spec.replicas", r.Spec.Replicas)
	b.addWorkload(o, &r.ObjectMeta, "spec.template", &r.Spec.Template, w)
}

func (b *Bundle) takeReplicationController(o *object, r *corev1.ReplicationController) {
	t := r.Spec.Template
	if t == nil {
		o.Problem("spec.template", "", "required field is missing")
		return
	}
	if len(r.Spec.Selector) > 0 { // none selects by the template's labels
		o.checkSelector(&metav1.LabelSelector{MatchLabels: r.Spec.Selector}, t.Labels)
	}
	w := workload{first: 1}
	w.Replicas = o.replicas("spec.replicas", r.Spec.Replicas)
	b.addWorkload(o, &r.ObjectMeta, "spec.template", t, w)
}

func (b *Bundle) takeStatefulSet(o *object, s *appsv1.StatefulSet) {
	o.checkSelector(s.Spec.Selector, s.Spec.Template.Labels)
	var w workload
	w.Replicas = o.replicas("spec.replicas", s.Spec.Replicas)
	if s.Spec.Ordinals != nil {
		w.first = int(max(s.Spec.Ordinals.Start, 0))
	}
	b.addWorkload(o, &s.ObjectMeta, "spec.template", &s.Spec.Template, w)
}

func (b *Bundle) takeDaemonSet(o *object, d *appsv1.DaemonSet) {
	o.checkSelector(d.Spec.Selector, d.Spec.Template.Labels)
	b.addWorkload(o, &d.ObjectMeta, "spec.template", &d.Spec.Template, workload{first: 1})
}

func (b *Bundle) takeJob(o *object, j *batchv1.Job) {
	b.addWorkload(o, &j.ObjectMeta, "spec.template", &j.Spec.Template, o.jobPods(&j.Spec, "spec"))
}

func (b *Bundle) takeCronJob(o *object, c *batchv1.CronJob) {
	b.addWorkload(o, &c.ObjectMeta, "spec.jobTemplate.spec.template", &c.Spec.JobTemplate.Spec.Template, workload{
		Workload: cluster.Workload{Replicas: 1}, first: 1})
}

// jobPods says how many pods of a Job run at a time. A suspended one counts too, as it can be resumed.
func (o *object) jobPods(s *batchv1.JobSpec, path string) workload {
	w := workload{first: 1}
	w.Replicas = o.replicas(path+".parallelism", s.Parallelism)
	if s.Completions != nil {
		w.Replicas = min(w.Replicas, o.replicas(path+".completions", s.Completions))
	}
	if s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion {
		w.first, w.indexed = 0, true
	}
	return w
}

// podName is the name of the n-th pod: readable and stable, where a controller would append random letters.
func (w *workload) podName(n int) string { return fmt.Sprintf("%s-%d", w.Name, n) }

// podLabels are the labels that the workload's controller gives to its n-th pod beside the template's. Those that hold
// random parts, as pod-template-hash, are left out: no policy can name them.
func (w *workload) podLabels(n int, pod string) map[string]string {
	switch w.Kind {
	case "StatefulSet":
		return map[string]string{appsv1.StatefulSetPodNameLabel: pod, appsv1.PodIndexLabel: fmt.Sprint(n)}
	case "Job":
		labels := map[string]string{batchv1.JobNameLabel: w.Name, "job-name": w.Name}
		if w.indexed {
			labels[batchv1.JobCompletionIndexAnnotation] = fmt.Sprint(n)
		}
		return labels
	}
	return nil
}
