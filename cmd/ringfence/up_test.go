package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/netns"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// machine is an instance in folders of the test, and ringfence run on it as users do.
type machine struct {
	t         *testing.T
	manifests string
	folders   []string // the flags
	runtime.Instance
}

// newMachine skips the test where nobody may make namespaces. What runs ends with the test.
func newMachine(t *testing.T) *machine {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Skipf("no right to make network namespaces: %v", err)
	}
	ns.Close()
	top, err := os.MkdirTemp("", "rf") // the paths of sockets are short, so no t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, manifests: filepath.Join(top, "manifests")}
	m.folders = []string{"--run", filepath.Join(top, "run"), "--state", filepath.Join(top, "state")}
	if err := os.Mkdir(m.manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	if m.Instance, err = runtime.NewInstance("default", m.folders[1], m.folders[3]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := m.Down(context.Background()); err != nil {
			t.Errorf("down: %v", err)
		}
		os.RemoveAll(top)
	})
	return m
}

func (m *machine) command(args ...string) *exec.Cmd {
	args = slices.Concat(args[:1], m.folders, args[1:])
	return exec.Command("ringfence", args...) // this very binary, see TestMain
}

// ringfence runs a command to its end.
func (m *machine) ringfence(args ...string) (stdout string, code int) {
	m.t.Helper()
	cmd := m.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatalf("%s: %v", args, err)
	}
	if errs.Len() > 0 {
		m.t.Logf("ringfence %s: %s", strings.Join(args, " "), errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// upProcess is a running `up`.
type upProcess struct {
	t   *testing.T
	cmd *exec.Cmd

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed when a line has come
	seen  int           // lines that await has passed
}

func (m *machine) up(args ...string) *upProcess {
	m.t.Helper()
	u := &upProcess{t: m.t, cmd: m.command(append([]string{"up", m.manifests}, args...)...), more: make(chan struct{})}
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	u.cmd.Stderr = os.Stderr
	if err := u.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go u.collect(out)
	m.t.Cleanup(u.kill)
	return u
}

func (u *upProcess) collect(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		u.mu.Lock()
		u.lines = append(u.lines, lines.Text())
		close(u.more)
		u.more = make(chan struct{})
		u.mu.Unlock()
	}
}

// await returns the next line of output that contains text.
func (u *upProcess) await(text string) string {
	u.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		u.mu.Lock()
		for u.seen < len(u.lines) {
			line := u.lines[u.seen]
			u.seen++
			if strings.Contains(line, text) {
				u.mu.Unlock()
				return line
			}
		}
		more := u.more
		u.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			u.t.Fatalf("up did not say %q but:\n%s", text, strings.Join(u.lines, "\n"))
		}
	}
}

// mustNotSay fails if output after what await has passed contains text.
func (u *upProcess) mustNotSay(text string) {
	u.t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, line := range u.lines[u.seen:] {
		if strings.Contains(line, text) {
			u.t.Errorf("up said %q", line)
		}
	}
}

// kill ends it as a crash does.
func (u *upProcess) kill() {
	if u.cmd.ProcessState == nil {
		_ = u.cmd.Process.Kill()
		_ = u.cmd.Wait()
	}
}

// interrupt ends it as Ctrl-C does, and returns its exit code.
func (u *upProcess) interrupt() int {
	_ = u.cmd.Process.Signal(syscall.SIGINT)
	_ = u.cmd.Wait()
	return u.cmd.ProcessState.ExitCode()
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.manifests, name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func key(ref string) cluster.Key {
	ns, name, _ := strings.Cut(ref, "/")
	return cluster.Key{Namespace: ns, Name: name}
}

func (m *machine) address(ref string) netip.Addr {
	m.t.Helper()
	r, _, err := m.Read()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, p := range r.Pods {
		if p.Key == key(ref) {
			return p.Addresses[0]
		}
	}
	m.t.Fatalf("no pod %s in %v", ref, r.Pods)
	return netip.Addr{}
}

// dial connects from one pod to another.
func (m *machine) dial(from, to string, port int, timeout time.Duration) (net.Conn, error) {
	m.t.Helper()
	c, err := m.Shim(key(from))
	if err != nil {
		m.t.Fatal(err)
	}
	ns, err := c.NetNS()
	if err != nil {
		m.t.Fatal(err)
	}
	defer ns.Close()
	at := net.TCPAddrFromAddrPort(netip.AddrPortFrom(m.address(to), uint16(port)))
	var conn net.Conn
	err = ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", at.String(), timeout)
		return err
	})
	return conn, err
}

func (m *machine) mustReach(from, to string, port int) net.Conn {
	m.t.Helper()
	c, err := m.dial(from, to, port, 5*time.Second)
	if err != nil {
		m.t.Fatalf("%s does not reach %s: %v", from, to, err)
	}
	m.t.Cleanup(func() { c.Close() })
	m.mustEcho(c)
	return c
}

func (m *machine) mustNotReach(from, to string, port int) {
	m.t.Helper()
	c, err := m.dial(from, to, port, 300*time.Millisecond)
	if err == nil {
		c.Close()
		m.t.Errorf("%s reaches %s", from, to)
	}
}

func (m *machine) mustEcho(c net.Conn) {
	m.t.Helper()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 5)
	if _, err := c.Write([]byte("hello")); err != nil {
		m.t.Fatalf("the connection broke: %v", err)
	}
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		m.t.Fatalf("the connection broke: got %q, %v", buf, err)
	}
}

// shopManifest is a web pod that may reach the database, and another that may not.
const shopManifest = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
`

const shopPolicy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
`

func TestUpOutlivesItsDeath(t *testing.T) {
	for _, topology := range []string{"routed", "bridge"} {
		t.Run(topology, func(t *testing.T) { upOutlivesItsDeath(t, topology) })
	}
}

func upOutlivesItsDeath(t *testing.T, topology string) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up("--topology", topology)
	t.Log(u.await("in force"))
	open := m.mustReach("shop/web", "shop/db", 5432)
	m.mustNotReach("shop/other", "shop/db", 5432)
	before := m.processes()
	u.kill()
	m.mustEcho(open)
	m.mustReach("shop/web", "shop/db", 5432)
	m.mustNotReach("shop/other", "shop/db", 5432)
	u = m.up("--topology", topology)
	t.Log(u.await("in force"))
	m.mustEcho(open)
	m.mustReach("shop/web", "shop/db", 5432)
	m.mustNotReach("shop/other", "shop/db", 5432)
	if after := m.processes(); after != before {
		t.Errorf("the next up did not take over what ran: %s, then %s", before, after)
	}
	if code := u.interrupt(); code != exitOK {
		t.Errorf("Ctrl-C ends up with code %d", code)
	}
	u.await("stay as they are")
	m.mustEcho(open)
	if out, code := m.ringfence("down"); code != exitOK || !strings.Contains(out, "4 pod(s)") {
		t.Errorf("down: code %d, %s", code, out)
	}
	for _, dir := range []string{m.Run, m.State} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("down leaves %s behind", dir)
		}
	}
	if out, code := m.ringfence("down"); code != exitOK {
		t.Errorf("a second down: code %d, %s", code, out)
	}
}

// processes says which shims run.
func (m *machine) processes() string {
	m.t.Helper()
	node, err := m.NodeShim()
	if err != nil {
		m.t.Fatal(err)
	}
	text := fmt.Sprint(node.PID)
	for _, ref := range []string{"shop/web", "shop/other", "shop/db"} {
		c, err := m.Shim(key(ref))
		if err != nil {
			m.t.Fatal(err)
		}
		text += fmt.Sprint(" ", c.PID)
	}
	return text
}

// mustAwait returns when ok does.
func (m *machine) mustAwait(what string, ok func() bool) {
	m.t.Helper()
	for start := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			out, _ := m.ringfence("status")
			m.t.Fatalf("%s: not after 20 s\n%s", what, out)
		}
	}
}

const denyEgress = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: fence, namespace: shop}
spec: {podSelector: {matchLabels: {app: other}}, policyTypes: [Egress]}
`

// TestLeavingPodStaysFenced takes a pod away together with the policy that fences it, while it tries to connect.
func TestLeavingPodStaysFenced(t *testing.T) {
	m := newMachine(t)
	web, other, ok := strings.Cut(shopManifest, "---")
	other, db, both := strings.Cut(other, "---")
	if !ok || !both {
		t.Fatal("the manifest has other pods")
	}
	m.write("stay.yaml", web+"---"+db)
	m.write("leave.yaml", other+"---"+denyEgress)
	u := m.up()
	u.await("in force")
	leaving, err := m.Shim(key("shop/other"))
	if err != nil {
		t.Fatal(err)
	}
	ns, err := leaving.NetNS() // which keeps it when the pod has ended
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	to := netip.AddrPortFrom(m.address("shop/db"), 5432).String()
	ctx, stop := context.WithCancel(t.Context())
	reached := make(chan string, 1)
	go func() {
		defer close(reached)
		for ctx.Err() == nil {
			err := ns.Do(func() error {
				c, err := net.DialTimeout("tcp", to, 20*time.Millisecond)
				if err == nil {
					c.Close()
				}
				return err
			})
			if err == nil {
				reached <- "a pod that leaves got out"
				return
			}
		}
	}()
	if err := os.Remove(filepath.Join(m.manifests, "leave.yaml")); err != nil {
		t.Fatal(err)
	}
	u.await("leave.yaml: in force")
	m.mustReach("shop/web", "shop/db", 5432)
	m.mustAwait("it has ended", func() bool { return !leaving.Alive() })
	stop()
	for text := range reached {
		t.Error(text)
	}
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  replicas: %d
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: c, image: c, ports: [{containerPort: 8080}]}]}
`

func TestUpFollowsItsFiles(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up()
	u.await("in force")
	other, err := m.Shim(key("shop/other"))
	if err != nil {
		t.Fatal(err)
	}
	m.mustNotReach("shop/other", "shop/db", 5432)

	m.write("shop.yaml", strings.Replace(shopManifest, "app: other", "app: web", 1))
	t.Log(u.await("shop.yaml: in force"))
	m.mustReach("shop/other", "shop/db", 5432)
	if again, err := m.Shim(key("shop/other")); err != nil || again.Process != other.Process {
		t.Errorf("a new label restarted the pod: %v", err)
	}
	m.write("shop.yaml", shopManifest)
	u.await("shop.yaml: in force")
	m.mustNotReach("shop/other", "shop/db", 5432)

	m.write("api.yaml", fmt.Sprintf(deployment, 3))
	if line := u.await("api.yaml: in force"); !strings.Contains(line, "3 pods started") {
		t.Error(line)
	}
	m.mustReach("shop/api-3", "shop/api-1", 8080)
	m.write("api.yaml", fmt.Sprintf(deployment, 1))
	if line := u.await("api.yaml: in force"); !strings.Contains(line, "2 pods stopped") {
		t.Error(line)
	}
	defer u.mustNotSay("pods stopped") // of pods that are ending
	m.mustAwait("api-3 is gone", func() bool { _, err := m.Shim(key("shop/api-3")); return err != nil })

	if err := os.Remove(filepath.Join(m.manifests, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	t.Log(u.await("policy.yaml: in force"))
	m.mustReach("shop/other", "shop/db", 5432)
}

func TestBadManifests(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up()
	u.await("in force")
	held := func(when string) {
		t.Helper()
		m.mustReach("shop/web", "shop/db", 5432)
		m.mustNotReach("shop/other", "shop/db", 5432)
		out, code := m.ringfence("status")
		if code != exitFailed || !strings.Contains(out, "policy.yaml:10") || !strings.Contains(out, "held") {
			t.Errorf("status, %s: code %d\n%s", when, code, out)
		}
	}
	m.write("policy.yaml", strings.Replace(shopPolicy, "ports:", "prots:", 1))
	t.Log(u.await(`did you mean "ports"`))
	u.await("in force")
	held("after a typo")
	u.kill()
	u = m.up()
	u.await("in force")
	held("after a restart")
	m.write("policy.yaml", shopPolicy)
	u.await("all manifests are good again")
	u.await("in force")
	m.mustAwait("all is well", func() bool { _, code := m.ringfence("status"); return code == exitOK })

	m.write("never.yaml", strings.NewReplacer("name: db", "name: never", "app: db", "app: other", "ingress:\n", "ingres:\n").Replace(shopPolicy))
	t.Log(u.await("is denied"))
	u.await("in force")
	m.mustNotReach("shop/web", "shop/other", 80)
}

const commandManifest = `
apiVersion: v1
kind: Pod
metadata:
  name: worker
  namespace: jobs
  annotations:
    ringfence.dev/exec: |
      echo "run by $WHO in $(hostname)"
      rm -f dead
      exec sleep 1000
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: c
    env: [{name: WHO, value: me}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    readinessProbe: {exec: {command: [test, -e, ready]}, periodSeconds: 1}
    livenessProbe: {exec: {command: [sh, -c, "test ! -e dead"]}, initialDelaySeconds: 1, periodSeconds: 1, failureThreshold: 1}
`

func TestCommands(t *testing.T) {
	m := newMachine(t)
	m.write("worker.yaml", commandManifest)
	m.write("shop.yaml", shopManifest)
	u := m.up("--exec", "shop/web=while true; do echo tick; sleep 0.1; done")
	u.await("in force")
	status := func() (s podStatus) {
		t.Helper()
		full, err := statusOf(t.Context(), m.Instance)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range full.Pods {
			if p.Pod == "jobs/worker" {
				s = p
			}
		}
		return s
	}
	m.mustAwait("the command runs", func() bool { return status().State == "running" })
	if s := status(); s.Ready || s.Restarts != 0 {
		t.Errorf("before it is ready: %+v", s)
	}
	if out, code := m.ringfence("exec", "jobs/worker", "--", "sh", "-c", "touch ready; echo $IP; hostname; exit 7"); code != 7 ||
		out != m.address("jobs/worker").String()+"\nworker\n" {
		t.Errorf("exec: code %d, %q", code, out)
	}
	m.mustAwait("it is ready", func() bool { return status().Ready })
	m.ringfence("exec", "jobs/worker", "--", "touch", "dead")
	m.mustAwait("it was started again", func() bool { return status().Restarts == 1 })
	m.mustAwait("it is ready again", func() bool { return status().Ready })
	m.mustAwait("its log has both runs", func() bool { // it may be ready before it has said anything
		out, code := m.ringfence("logs", "jobs/worker")
		return code == exitOK && strings.Count(out, "run by me in worker\n") == 2 && strings.Contains(out, "liveness probe failed")
	})
	if out, code := m.ringfence("logs", "shop/web", "--tail", "2"); code != exitOK || out != "tick\ntick\n" {
		t.Errorf("logs --tail 2: code %d, %q", code, out)
	}
	if out, code := m.ringfence("exec", "jobs/worker", "--", "ip", "link", "set", "eth0", "down"); code == 0 {
		t.Errorf("a pod may change its own network: %s", out)
	}
	m.write("worker.yaml", strings.Replace(commandManifest, "value: me", "value: another", 1))
	u.await("worker.yaml: in force")
	m.mustAwait("the new command runs", func() bool {
		out, _ := m.ringfence("logs", "jobs/worker")
		return strings.Contains(out, "run by another in worker")
	})
}

// TestUpMendsWhatDies kills what `up` has started, while it runs and while it does not.
func TestUpMendsWhatDies(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("policy.yaml", shopPolicy)
	u := m.up()
	u.await("in force")
	works := func() {
		t.Helper()
		m.mustReach("shop/web", "shop/db", 5432)
		m.mustNotReach("shop/other", "shop/db", 5432)
	}
	kill := func(c *shim.Client, err error) {
		t.Helper()
		if err == nil {
			err = c.Signal(syscall.SIGKILL)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Await(5 * time.Second)
	}
	kill(m.Shim(key("shop/db")))
	u.await("the shim of pod shop/db has ended")
	u.await("1 pod started")
	works()
	open := m.mustReach("shop/web", "shop/db", 5432)
	kill(m.NodeShim())
	m.mustAwait("the node's shim is back", func() bool { _, err := m.NodeShim(); return err == nil })
	m.mustEcho(open)
	works()

	u.kill()
	kill(m.Shim(key("shop/db")))
	u = m.up()
	u.await("1 pod started")
	works()
	for range 2 { // shims that it did not start itself, and then one that it did
		kill(m.NodeShim())
		u.await("the shim of node has ended")
		kill(m.Shim(key("shop/web")))
		u.await("the shim of pod shop/web has ended")
		u.await("1 pod started")
		works()
	}
	u.kill()
	kill(m.NodeShim()) // and with it the node, as nobody else holds it
	u = m.up()
	u.await("in force")
	works()
	kill(m.Shim(key("shop/web")))
	u.kill()
	kill(m.NodeShim())
	if out, code := m.ringfence("down"); code != exitOK {
		t.Errorf("down, with half of it dead: code %d, %s", code, out)
	}
}

func TestOnlyOneUp(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.up().await("in force")
	if _, code := m.ringfence("up", m.manifests); code != exitUsage {
		t.Errorf("a second up of the same instance: code %d", code)
	}
	if _, code := m.ringfence("up", m.manifests, "--name", "other", "--run", filepath.Dir(m.manifests), "--name", "manifests"); code != exitUsage {
		t.Errorf("up in a folder of somebody else's: code %d", code)
	}
}

func TestDoctor(t *testing.T) {
	m := newMachine(t)
	out, code := m.ringfence("doctor", "-o", "json")
	var findings []runtime.Finding
	if err := json.Unmarshal([]byte(out), &findings); err != nil || len(findings) == 0 {
		t.Fatalf("%v in %s", err, out)
	}
	want := exitOK
	for _, f := range findings {
		if f.Level == runtime.Lack {
			want = exitFailed
		}
		if (f.Level == runtime.OK) != (f.Follows == "") {
			t.Errorf("%s is %s, and from that follows %q", f.Name, f.Level, f.Follows)
		}
	}
	if code != want {
		t.Errorf("code %d, want %d: %s", code, want, out)
	}
}

func TestUpOfNothing(t *testing.T) {
	m := newMachine(t)
	if _, code := m.ringfence("up", m.manifests+"/none"); code != exitUsage {
		t.Errorf("up of a folder that does not exist: code %d", code)
	}
	if out, code := m.ringfence("status"); code != exitFailed || !strings.Contains(out, "does not run") {
		t.Errorf("status of nothing: code %d, %s", code, out)
	}
}

// TestHostNetwork moves a pod to the node's network and back.
func TestHostNetwork(t *testing.T) {
	m := newMachine(t)
	agent := "apiVersion: v1\nkind: Pod\nmetadata: {name: agent, namespace: shop}\n" +
		"spec: {hostNetwork: %t, containers: [{name: c, image: c, ports: [{containerPort: 9100}]}]}\n"
	m.write("shop.yaml", shopManifest)
	m.write("agent.yaml", fmt.Sprintf(agent, false))
	u := m.up()
	u.await("in force")
	m.mustReach("shop/web", "shop/agent", 9100)
	m.write("agent.yaml", fmt.Sprintf(agent, true))
	u.await("1 pod started")
	m.mustReach("shop/web", "shop/agent", 9100)
	if got, want := m.address("shop/agent"), runtime.NodeAddresses[0]; got != want {
		t.Errorf("its address is %s, want the node's, %s", got, want)
	}
	m.write("agent.yaml", fmt.Sprintf(agent, false))
	u.await("1 pod started")
	m.mustReach("shop/web", "shop/agent", 9100)
}

// TestNodeReachesServices connects from the node, which hostNetwork pods share, to addresses of a Service.
func TestNodeReachesServices(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.write("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: shop}\n"+
		"spec: {selector: {app: db}, clusterIPs: [10.96.0.77, \"fd00:10:96::77\"], ports: [{port: 80, targetPort: 5432}]}\n")
	for range 2 { // a node that is new, and one that is adopted
		u := m.up()
		u.await("in force")
		shim, err := m.NodeShim()
		if err != nil {
			t.Fatal(err)
		}
		node, err := shim.NetNS()
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []string{"10.96.0.77:80", "[fd00:10:96::77]:80"} {
			m.mustAwait(to+" answers", func() bool {
				err := node.Do(func() error {
					c, err := net.DialTimeout("tcp", to, 5*time.Second)
					if err == nil {
						defer c.Close()
						m.mustEcho(c)
					}
					return err
				})
				return err == nil
			})
		}
		node.Close()
		u.kill()
	}
}
