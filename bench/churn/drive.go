package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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
	keepers   = "kept"                 // the phase of pods that stay all the time
	churnTick = 300 * time.Millisecond // between two pods that come and go
	telling   = 15 * time.Second       // between two lines of progress
	shellMax  = 5 * time.Minute        // for a command, which is not left half done
	starving  = 2 * time.Minute        // a client that runs for so long and reaches nobody will not
)

// driver makes pods and judges what they write.
type driver struct {
	client           kubernetes.Interface
	nodes            [2]string
	image, dir, pull string
	cidr             string
	pods             int
	during, limit    time.Duration
	kill             string
	killEvery        time.Duration
	reboot           string
	out              io.Writer

	servers  []string
	open     string
	next     int
	alive    []string // of the pods that come and go, the oldest first
	seen     *sightings
	room     int             // pods that there may be on the node, with those that end
	owed     []string        // phases of pods that failed, of which there is to be another
	failures int             // pods that failed
	reached  map[string]bool // clients that have reached all servers
	starved  []string        // clients that reached nobody, though they had the time
	cut      map[string]string
	phase    string
	told     time.Time // when progress was last told
	mended   time.Time // when there last was another for one that failed
	kills    int
	wobbles  int
}

// errCut ends a phase that takes too long, and the program if nothing worse is to be said.
var errCut = errors.New("cut short: what is said above is of the pods that were there")

func runDrive(ctx context.Context, args []string) error {
	d := &driver{out: os.Stdout}
	f := flag.NewFlagSet("drive", flag.ContinueOnError)
	kubeconfig := f.String("kubeconfig", os.Getenv("KUBECONFIG"), "the cluster")
	f.StringVar(&d.nodes[0], "node", "node1", "the node whose pods come and go")
	f.StringVar(&d.nodes[1], "other", "node2", "another node")
	f.StringVar(&d.cidr, "cidr", "10.244.1.0/24", "prefix of the node's pods, which is flooded")
	f.StringVar(&d.image, "image", "", "image that pods run in, which any is; it is not pulled")
	f.StringVar(&d.dir, "dir", "", "folder with this program that is the same on both nodes and here; pods write there")
	f.IntVar(&d.pods, "pods", 180, "pods on the node at once")
	f.DurationVar(&d.during, "for", 2*time.Minute, "how long pods come and go, with and without agents that are killed")
	f.DurationVar(&d.limit, "limit", 8*time.Minute, "how long a phase may take beside that; then it ends with the pods that are there")
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

// run goes through the phases, and judges whatever came of them.
func (d *driver) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.seen, d.reached, d.cut = newSightings(d.nodes[0]), map[string]bool{}, map[string]string{}
	defer func() {
		if left := d.tearDown(); left != nil {
			err = errors.Join(err, left)
		}
	}()
	setUp, done := context.WithTimeout(ctx, d.limit)
	defer done()
	if err := d.setUp(ctx, setUp); err != nil {
		return err
	}
	for _, phase := range []struct {
		name string
		run  func(context.Context, string) error
	}{
		{"10 pods", func(ctx context.Context, name string) error { return d.turns(ctx, name, min(10, d.pods), 30) }},
		{fmt.Sprint(d.pods, " pods"), func(ctx context.Context, name string) error { return d.turns(ctx, name, d.pods, 30) }},
		{"churn", func(ctx context.Context, name string) error { return d.churn(ctx, name, "") }},
		{"churn, agent killed", func(ctx context.Context, name string) error { return d.churn(ctx, name, d.kill) }},
		{"after a start", d.start},
	} {
		if err := d.within(ctx, phase.name, phase.run); err != nil {
			err = fmt.Errorf("%s: %w", phase.name, err)
			if wrong := d.judge(); wrong != errCut {
				err = errors.Join(err, wrong)
			}
			return err
		}
	}
	return d.judge()
}

// within runs a phase and ends it when its time is over: what is missing then is written down, and not waited for again.
func (d *driver) within(ctx context.Context, name string, run func(context.Context, string) error) error {
	limit := d.during + d.limit
	short, cancel := context.WithTimeoutCause(ctx, limit, errCut)
	defer cancel()
	start := time.Now()
	d.phase = name
	err := run(short, name)
	if err != nil && !errors.Is(context.Cause(short), errCut) {
		d.cut[name] = err.Error()
		return err
	}
	if err != nil {
		d.cut[name] = fmt.Sprintf("after %v %s", limit, d.missing().said())
		d.say("cut short: %s", d.cut[name])
		if err := d.giveUp(ctx); err != nil {
			return err
		}
	}
	d.say("over after %v", time.Since(start).Round(time.Second))
	return nil
}

// turns fills the node up to n pods, and then starts one more, n times, one after the other.
func (d *driver) turns(ctx context.Context, phase string, n, turns int) error {
	for len(d.alive)+len(d.owed) < n {
		if err := d.createWithRoom(ctx, "filling"); err != nil {
			return err
		}
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	for range turns {
		if err := d.createWithRoom(ctx, phase); err != nil {
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
	end, due, before := time.Now().Add(d.during), time.Now(), d.kills
	for time.Now().Before(end) {
		if err := d.wobble(ctx); err != nil {
			return err
		}
		if kill != "" && !time.Now().Before(due) {
			if err := shell(ctx, kill); err != nil {
				d.say("the agent was not killed: %v", err)
			} else {
				d.kills++
			}
			due = time.Now().Add(d.killEvery)
		}
		// What is being deleted is still on the node, and what is not running yet is too.
		if d.hasRoom() && len(d.seen.starting())+len(d.owed) < 8 {
			if err := d.retire(ctx); err != nil {
				return err
			}
			if err := d.create(ctx, phase); err != nil {
				return err
			}
		}
		if err := d.pause(ctx, churnTick); err != nil {
			return err
		}
	}
	if kill != "" && d.kills == before {
		return errors.New("the agent was never killed")
	}
	return d.settle(ctx)
}

// wobble makes the policy of that name, or takes it away.
func (d *driver) wobble(ctx context.Context) error {
	policies := d.client.NetworkingV1().NetworkPolicies(fenced)
	var err error
	if d.wobbles%2 == 1 {
		err = policies.Delete(ctx, "wobble", metav1.DeleteOptions{})
	} else {
		_, err = policies.Create(ctx, wobble(), metav1.CreateOptions{})
	}
	if err == nil {
		d.wobbles++
	}
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
		if err := d.createWithRoom(ctx, phase); err != nil {
			return err
		}
		if err := d.retire(ctx); err != nil {
			return err
		}
	}
	return d.settle(ctx)
}

// retire deletes the oldest pod, which goes on being on the node until its end has been seen.
func (d *driver) retire(ctx context.Context) error {
	if len(d.alive) == 0 {
		return nil // all of them failed
	}
	name := d.alive[0]
	d.alive = d.alive[1:]
	return d.remove(ctx, name, metav1.DeleteOptions{})
}

func (d *driver) remove(ctx context.Context, name string, o metav1.DeleteOptions) error {
	err := d.client.CoreV1().Pods(fenced).Delete(ctx, name, o)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	d.seen.leaves(fenced, name, err != nil)
	return nil
}

// createWithRoom starts the next pod as soon as there is room for it.
func (d *driver) createWithRoom(ctx context.Context, phase string) error {
	for !d.hasRoom() {
		if err := d.pause(ctx, beat); err != nil {
			return err
		}
	}
	return d.create(ctx, phase)
}

// create starts the next pod: a client, an intruder, a mute one, and so on.
func (d *driver) create(ctx context.Context, phase string) error {
	role := []string{roleClient, roleIntruder, roleClient, roleMute}[d.next%4]
	name := fmt.Sprintf("p%04d-%s", d.next, role)
	d.next++
	p := d.pod(name, role, d.nodes[0])
	d.seen.made(fenced, name, role, phase, d.nodes[0])
	d.alive = append(d.alive, name) // also if the answer comes too late
	_, err := d.client.CoreV1().Pods(fenced).Create(ctx, p, metav1.CreateOptions{})
	return err
}

// settle waits until every pod that is there runs, and every client has reached both servers.
func (d *driver) settle(ctx context.Context) error {
	for !d.missing().none() {
		if err := d.pause(ctx, beat); err != nil {
			return err
		}
	}
	return nil
}

// shell runs a command to its end, also if its phase's time is over meanwhile: half a start would leave the node off.
func shell(ctx context.Context, command string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shellMax)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-c", command)
	c.WaitDelay = time.Second // for children that hold its output open
	out, err := c.CombinedOutput()
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
