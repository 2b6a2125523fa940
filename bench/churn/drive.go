package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	fenced    = "ringfence-churn"      // the namespace with the policies
	unfenced  = "ringfence-churn-open" // the one without
	patient   = 8 * time.Minute        // for what has to come
	keepers   = "kept"                 // the phase of pods that stay all the time
	churnTick = 300 * time.Millisecond // between two pods that come and go
)

// driver makes pods and judges what they write.
type driver struct {
	client           kubernetes.Interface
	nodes            [2]string
	image, dir, pull string
	cidr             string
	pods             int
	during           time.Duration
	kill             string
	killEvery        time.Duration
	reboot           string

	servers []string
	open    string
	next    int
	alive   []string // of the pods that come and go, the oldest first
	seen    *sightings
	kills   int
	wobbles int
}

func runDrive(ctx context.Context, args []string) error {
	d := &driver{}
	f := flag.NewFlagSet("drive", flag.ContinueOnError)
	kubeconfig := f.String("kubeconfig", os.Getenv("KUBECONFIG"), "the cluster")
	f.StringVar(&d.nodes[0], "node", "node1", "the node whose pods come and go")
	f.StringVar(&d.nodes[1], "other", "node2", "another node")
	f.StringVar(&d.cidr, "cidr", "10.244.1.0/24", "prefix of the node's pods, which is flooded")
	f.StringVar(&d.image, "image", "", "image that pods run in, which any is; it is not pulled")
	f.StringVar(&d.dir, "dir", "", "folder with this program that is the same on both nodes and here; pods write there")
	f.IntVar(&d.pods, "pods", 180, "pods on the node at once")
	f.DurationVar(&d.during, "for", 2*time.Minute, "how long pods come and go, with and without agents that are killed")
	f.StringVar(&d.kill, "kill", "", "shell command that kills the agent of the node and sees to it that there is a new one")
	f.DurationVar(&d.killEvery, "kill-every", 10*time.Second, "between two of these")
	f.StringVar(&d.reboot, "reboot", "", "shell command that takes the node's tables away and goes through its start")
	if err := f.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 200, 400
	if d.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	return d.run(ctx)
}

func (d *driver) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.setUp(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.tearDown()) }()
	for _, phase := range []struct {
		name string
		run  func(context.Context, string) error
	}{
		{"10 pods", func(ctx context.Context, name string) error { return d.turns(ctx, name, 10, 30) }},
		{fmt.Sprint(d.pods, " pods"), func(ctx context.Context, name string) error { return d.turns(ctx, name, d.pods, 30) }},
		{"churn", func(ctx context.Context, name string) error { return d.churn(ctx, name, "") }},
		{"churn, agent killed", func(ctx context.Context, name string) error { return d.churn(ctx, name, d.kill) }},
		{"after a start", d.start},
	} {
		start := time.Now()
		if err := phase.run(ctx, phase.name); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		fmt.Printf("%s: %d pods so far, %v\n", phase.name, d.next, time.Since(start).Round(time.Second))
	}
	return d.judge(ctx)
}

// turns fills the node up to n pods, and then starts one more, n times, one after the other.
func (d *driver) turns(ctx context.Context, phase string, n, turns int) error {
	for len(d.alive) < n {
		if err := d.create(ctx, "filling"); err != nil {
			return err
		}
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	for range turns {
		if err := d.create(ctx, phase); err != nil {
			return err
		}
		if err := d.settle(ctx); err != nil {
			return err
		}
		if err := d.retire(ctx); err != nil {
			return err
		}
	}
	return nil
}

// churn deletes the oldest pod and makes another, again and again, and kills the agent meanwhile.
func (d *driver) churn(ctx context.Context, phase, kill string) error {
	end, due := time.Now().Add(d.during), time.Now()
	for ; time.Now().Before(end); d.wobbles++ {
		if err := d.wobble(ctx); err != nil {
			return err
		}
		if kill != "" && !time.Now().Before(due) {
			if err := shell(ctx, kill); err != nil {
				return err
			}
			d.kills++
			due = time.Now().Add(d.killEvery)
		}
		// What is being deleted is still on the node, and what is not running yet is too.
		if len(d.seen.starting()) < 8 {
			if err := d.retire(ctx); err != nil {
				return err
			}
			if err := d.create(ctx, phase); err != nil {
				return err
			}
		}
		if !sleep(ctx, churnTick) {
			return ctx.Err()
		}
	}
	return d.settle(ctx)
}

// wobble makes the policy of that name, or takes it away.
func (d *driver) wobble(ctx context.Context) error {
	policies := d.client.NetworkingV1().NetworkPolicies(fenced)
	if d.wobbles%2 == 1 {
		return policies.Delete(ctx, "wobble", metav1.DeleteOptions{})
	}
	_, err := policies.Create(ctx, wobble(), metav1.CreateOptions{})
	return err
}

// start goes through a start of the node with pods on it, and then starts some more.
func (d *driver) start(ctx context.Context, phase string) error {
	if d.reboot == "" {
		return nil
	}
	if err := shell(ctx, d.reboot); err != nil {
		return err
	}
	for range 10 {
		if err := d.create(ctx, phase); err != nil {
			return err
		}
		if err := d.retire(ctx); err != nil {
			return err
		}
	}
	return d.settle(ctx)
}

// retire deletes the oldest pod.
func (d *driver) retire(ctx context.Context) error {
	name := d.alive[0]
	d.alive = d.alive[1:]
	err := d.client.CoreV1().Pods(fenced).Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// create starts the next pod: a client, an intruder, a mute one, and so on.
func (d *driver) create(ctx context.Context, phase string) error {
	role := []string{roleClient, roleIntruder, roleClient, roleMute}[d.next%4]
	name := fmt.Sprintf("p%04d-%s", d.next, role)
	d.next++
	p := d.pod(name, role, d.nodes[0])
	d.seen.made(name, role, phase)
	if _, err := d.client.CoreV1().Pods(fenced).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return err
	}
	d.alive = append(d.alive, name)
	return nil
}

// settle waits until every pod that is there runs, and every client has reached both servers.
func (d *driver) settle(ctx context.Context) error {
	for end := time.Now().Add(patient); ; {
		missing := d.seen.starting()
		for _, name := range d.alive {
			if strings.HasSuffix(name, roleClient) && len(missing) == 0 && !d.reached(name) {
				missing = append(missing, name+" reaches nobody")
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %v there is still: %s", patient, strings.Join(missing, ", "))
		}
		if !sleep(ctx, beat) {
			return ctx.Err()
		}
	}
}

func (d *driver) reached(pod string) bool {
	list, err := readFile(filepath.Join(d.dir, pod+".jsonl"))
	n := 0
	for _, x := range list {
		if x.Kind == noteReached {
			n++
		}
	}
	return err == nil && n >= len(d.servers)
}

func shell(ctx context.Context, command string) error {
	out, err := exec.CommandContext(ctx, "bash", "-c", command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

func (d *driver) pod(name, role, node string, args ...string) *corev1.Pod {
	grace, no, half := int64(1), false, "a"
	if d.next%8 >= 4 {
		half = "b"
	}
	args = append([]string{"pod", "-role", role, "-name", name, "-out", d.dir, "-servers", strings.Join(d.servers, ","), "-open", d.open}, args...)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"role": role, "half": half}},
		Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			RestartPolicy: corev1.RestartPolicyNever,
			Volumes: []corev1.Volume{{Name: "dir", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: d.dir}}}},
			Containers: []corev1.Container{{Name: "c", Image: d.image, ImagePullPolicy: corev1.PullNever,
				Command:      append([]string{filepath.Join(d.dir, "churn")}, args...),
				VolumeMounts: []corev1.VolumeMount{{Name: "dir", MountPath: d.dir}}}}}}
}
