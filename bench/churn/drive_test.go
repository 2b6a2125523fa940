package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

// kubelet stands in for those of both nodes: it starts and ends pods in its own time, and fails what is too many. The
// clock is that of a bubble.
type kubelet struct {
	t             *testing.T
	dir           string
	client        *fake.Clientset
	takes         int
	starts, ends  time.Duration
	never, silent func(pod string) bool // does not start; reaches nobody
	refuse        func(pod string) bool

	mu    sync.Mutex
	holds map[string]bool // on node1, with those that end
	most  int
	made  int
}

// newKubelet holds what a cluster has before: an agent and two others on node1.
func newKubelet(t *testing.T, takes int) *kubelet {
	no := func(string) bool { return false }
	k := &kubelet{t: t, dir: t.TempDir(), takes: takes, starts: time.Second, ends: time.Second, holds: map[string]bool{}, never: no, silent: no, refuse: no}
	objects := []runtime.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(int64(takes), resource.DecimalSI)}}}}
	for _, ns := range []string{fenced, unfenced} {
		objects = append(objects, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}})
	}
	for _, name := range []string{"agent", "proxy", "dns"} {
		k.holds[name] = true
		objects = append(objects, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: name},
			Spec: corev1.PodSpec{NodeName: "node1"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}})
	}
	// The other kind tracks who owns each field, which takes a second a test.
	k.client = fake.NewSimpleClientset(objects...)
	k.client.PrependReactor("create", "pods", k.create)
	k.client.PrependReactor("delete", "pods", k.delete)
	return k
}

func (k *kubelet) create(a kubetesting.Action) (bool, runtime.Object, error) {
	p := a.(kubetesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
	p.Namespace = a.GetNamespace()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made++
	if p.Spec.NodeName == "node1" {
		if len(k.holds) >= k.takes || k.refuse(p.Name) {
			time.AfterFunc(k.starts, func() {
				p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "OutOfpods", "Node didn't have enough resource: pods"
				k.update(p)
			})
			return false, nil, nil
		}
		k.holds[p.Name] = true
		k.most = max(k.most, len(k.holds))
	}
	if !k.never(p.Name) {
		time.AfterFunc(k.starts, func() { k.run(p) })
	}
	return false, nil, nil
}

// run starts a pod, which writes what pods write.
func (k *kubelet) run(p *corev1.Pod) {
	k.mu.Lock()
	p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprintf("10.0.0.%d", 1+k.made%250)
	k.mu.Unlock()
	k.update(p)
	list := []note{{Kind: noteUp, At: time.Now()}}
	switch args := strings.Join(p.Spec.Containers[0].Command, " "); {
	case strings.Contains(args, "-role client") && !k.silent(p.Name):
		for _, s := range strings.Split(strings.Fields(strings.SplitAfter(args, "-servers ")[1])[0], ",") {
			list = append(list, note{Kind: noteReached, Peer: s, At: time.Now().Add(time.Millisecond)})
		}
		list = append(list, note{Kind: noteKept, N: 10})
	case !strings.Contains(args, "-role server"):
		list = append(list, note{Kind: noteSent, N: 10})
	}
	var b []byte
	for _, x := range list {
		line, err := json.Marshal(x)
		if err != nil {
			k.t.Error(err)
		}
		b = append(append(b, line...), '\n')
	}
	if err := os.WriteFile(filepath.Join(k.dir, p.Name+".jsonl"), b, 0o644); err != nil {
		k.t.Error(err)
	}
}

// update shows a pod's status, if the API has the pod.
func (k *kubelet) update(p *corev1.Pod) {
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	old, err := k.client.Tracker().Get(pods, p.Namespace, p.Name)
	if err != nil {
		return // it is gone
	}
	next := old.(*corev1.Pod).DeepCopy()
	next.Status = p.Status
	if err := k.client.Tracker().Update(pods, next, p.Namespace); err != nil {
		k.t.Error(err)
	}
}

// delete takes a pod from the API when it has ended, and at once if that is asked for.
func (k *kubelet) delete(a kubetesting.Action) (bool, runtime.Object, error) {
	d := a.(kubetesting.DeleteAction)
	gone := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.holds, d.GetName())
	}
	if s := d.GetDeleteOptions().GracePeriodSeconds; s != nil && *s == 0 {
		gone()
		return false, nil, nil
	}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	old, err := k.client.Tracker().Get(pods, d.GetNamespace(), d.GetName())
	if err != nil {
		return true, nil, err
	}
	next := old.(*corev1.Pod).DeepCopy()
	now := metav1.Now()
	next.DeletionTimestamp = &now
	time.AfterFunc(k.ends, func() {
		gone()
		if err := k.client.Tracker().Delete(pods, d.GetNamespace(), d.GetName()); err != nil {
			k.t.Error(err)
		}
	})
	return true, nil, k.client.Tracker().Update(pods, next, d.GetNamespace())
}

// drive runs a whole drive with 20 pods, and returns what it said. All phases have to have ended within most.
func (k *kubelet) drive(most time.Duration, set func(*driver)) (*driver, string, error) {
	k.t.Helper()
	var out bytes.Buffer
	d := &driver{client: k.client, nodes: [2]string{"node1", "node2"}, dir: k.dir, pods: 20, during: time.Minute, limit: 4 * time.Minute,
		kill: "true", killEvery: 10 * time.Second, reboot: "true", out: &out}
	if set != nil {
		set(d)
	}
	start := time.Now()
	err := d.run(k.t.Context())
	if took := time.Since(start); took > most {
		k.t.Errorf("it took %v, more than %v", took, most)
	}
	return d, out.String(), err
}

func TestTheNodeIsNeverFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 40)
		k.ends = 20 * time.Second // many end at once, if nobody looks
		d, out, err := k.drive(25*time.Minute, nil)
		if k.most > k.takes-spare || d.failures > 0 {
			t.Errorf("%d pods on a node that takes %d and keeps %d free, %d failed", k.most, k.takes, spare, d.failures)
		}
		if k.most < 20 || d.next < 80 {
			t.Errorf("at most %d pods at once, %d in all: that is not what it is for", k.most, d.next)
		}
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestNoMorePodsThanFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 20)
		d, out, err := k.drive(15*time.Minute, nil)
		// Three of the cluster's, four that stay, spare, and one more in a turn.
		if want := 20 - 3 - 4 - spare - 1; d.pods != want || k.most > k.takes-spare {
			t.Errorf("%d pods come and go, want %d; at most %d on a node that takes %d", d.pods, want, k.most, k.takes)
		}
		if err != nil || !strings.Contains(out, "7 instead of 20 come and go") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAPodThatIsTurnedDownGetsASuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 40)
		refused := map[string]bool{"server1": true, "p0003-mute": true, "p0040-client": true}
		k.refuse = func(pod string) bool { return refused[pod] }
		d, out, err := k.drive(10*time.Minute, nil)
		if err != nil || d.failures != len(refused) {
			t.Errorf("%d failures, want %d: %v\n%s", d.failures, len(refused), err, out)
		}
		for pod := range refused {
			if !strings.Contains(out, pod+" failed: OutOfpods: Node didn't have enough resource: pods\n") {
				t.Errorf("%s is not told of:\n%s", pod, out)
			}
		}
		if !strings.Contains(out, "of which 3 failed and were made again") {
			t.Error(out)
		}
		if d.servers[0] == "" {
			t.Error("there is no server")
		}
	})
}

func TestPodsThatFailAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 40)
		k.refuse = func(pod string) bool { return strings.HasPrefix(pod, "p") }
		_, out, err := k.drive(5*time.Minute, nil)
		if err == nil || errors.Is(err, errCut) || !strings.Contains(err.Error(), "21 pods failed, the last of them") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAPhaseIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 40)
		k.never = func(pod string) bool { return pod == "p0012-client" || pod == "p0013-intruder" }
		d, out, err := k.drive(16*time.Minute, nil)
		if err != errCut {
			t.Errorf("%v, want %v\n%s", err, errCut, out)
		}
		for _, want := range []string{
			"CUT SHORT: 10 pods, after 5m0s 1 pods do not run (p0012-client)\n",
			"CUT SHORT: 20 pods, after 5m0s 1 pods do not run (p0013-intruder)\n",
			"1 start, 0 end",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("nothing of %q in\n%s", want, out)
			}
		}
		if len(d.cut) != 2 || d.kills == 0 {
			t.Errorf("%d phases cut short, want 2; %d agents killed in the others", len(d.cut), d.kills)
		}
	})
}

func TestAClientThatReachesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 40)
		k.silent = func(pod string) bool { return pod == "p0008-client" }
		_, out, err := k.drive(12*time.Minute, nil)
		if err == nil || errors.Is(err, errCut) || !strings.Contains(out, "STARVED: p0008-client ran for 2m0s or more and reached nobody\n") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestAServerThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKubelet(t, 40)
		time.AfterFunc(time.Minute, func() {
			k.update(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fenced, Name: "server2"}, Status: corev1.PodStatus{
				Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{
					Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}}}}})
		})
		_, out, err := k.drive(2*time.Minute, nil)
		if err == nil || !strings.Contains(err.Error(), "server2, which is to stay all the time, ended: OOMKilled, exit status 137") {
			t.Errorf("%v\n%s", err, out)
		}
		if !strings.Contains(out, "packets and connections sent that are denied: 0 arrived") {
			t.Errorf("what was seen until then is not said:\n%s", out)
		}
	})
}
