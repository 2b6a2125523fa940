package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// notes is the example of that name, which runs.
type notes struct {
	*machine
	up       *upProcess
	policies string // as in the example
}

// newNotes brings up the example by one command, and returns when all of its pods are ready. It skips the test where one
// of the example's programs is missing.
func newNotes(t *testing.T) *notes {
	t.Helper()
	mustHavePrograms(t)
	n := &notes{machine: newMachine(t)}
	if err := os.Chmod(filepath.Dir(n.manifests), 0o711); err != nil { // pods that are not root pass through
		t.Fatal(err)
	}
	for _, name := range []string{"workloads.yaml", "policies.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../examples/notes", name))
		if err != nil {
			t.Fatal(err)
		}
		n.write(name, string(text))
		n.policies = string(text)
	}
	old := syscall.Umask(0o077) // as a careful administrator has it
	n.up = n.machine.up()
	syscall.Umask(old)
	t.Log(n.up.await("in force"))
	n.awaitReady()
	return n
}

// mustHavePrograms looks where pods find their programs.
func mustHavePrograms(t *testing.T) {
	t.Helper()
	var missing []string
	for _, name := range []string{"nginx", "redis-server", "redis-cli", "psql", "python3", "curl", "../lib/postgresql/*/bin/postgres"} {
		found := false
		for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
			files, err := filepath.Glob(filepath.Join(dir, name))
			found = found || err == nil && len(files) > 0
		}
		if !found {
			missing = append(missing, filepath.Base(name))
		}
	}
	if len(missing) > 0 {
		t.Skipf("not installed: %s; apt-get install nginx redis-server postgresql python3 curl", strings.Join(missing, ", "))
	}
}

// awaitReady returns when every pod is ready. The first start of a database takes a while.
func (n *notes) awaitReady() {
	n.t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		s, err := statusOf(n.t.Context(), n.Instance)
		if err != nil {
			n.t.Fatal(err)
		}
		if len(s.Bad) == 0 {
			n.t.Logf("all pods are ready after %s", time.Since(start).Round(time.Millisecond))
			return
		}
		if time.Since(start) > time.Minute {
			logs, _ := n.ringfence("logs", "notes/db-0")
			n.t.Fatalf("not ready after a minute: %s\n%s", strings.Join(s.Bad, "\n"), logs)
		}
	}
}

// curl asks the front in a pod, or on the node, and returns the status and the text of the answer.
func (n *notes) curl(in string, args ...string) (status int, text string) {
	n.t.Helper()
	args = append([]string{"exec", in, "--", "curl", "-s", "-m", "5", "-w", "\n%{http_code}"}, args...)
	out, _ := n.ringfence(args...)
	end := strings.LastIndexByte(out, '\n')
	status, err := strconv.Atoi(out[end+1:])
	if err != nil {
		n.t.Fatalf("%s: %q", args, out)
	}
	return status, out[:max(end, 0)]
}

func (n *notes) mustRead(in, url, want string) {
	n.t.Helper()
	if status, text := n.curl(in, url); status != 200 || text != want {
		n.t.Errorf("%s reads %d %q, want %q", in, status, text, want)
	}
}

// mustBeDenied has redis-cli try, which does not give up by itself.
func (n *notes) mustBeDenied(from string) {
	n.t.Helper()
	const timedOut = 124 // of timeout(1)
	if out, code := n.ringfence("exec", from, "--", "timeout", "0.5", "redis-cli", "-h", "cache", "ping"); code != timedOut {
		n.t.Errorf("%s and redis: code %d, %q", from, code, out)
	}
}

// talk is a command that runs in a pod, and answers.
type talk struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func (n *notes) talk(args ...string) *talk {
	n.t.Helper()
	cmd := n.command(args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &talk{n.t, in, bufio.NewScanner(out)}
}

// must says something, and wants an answer.
func (c *talk) must(say, want string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, say+"\n"); err != nil {
		c.t.Fatalf("the connection is lost: %v", err)
	}
	if got := c.line(); got != want {
		c.t.Fatalf("%s: answer %q, want %q", say, got, want)
	}
}

// line is the next line that the command writes.
func (c *talk) line() string {
	c.t.Helper()
	line := make(chan string, 1)
	go func() {
		c.out.Scan()
		line <- c.out.Text()
	}()
	select {
	case text := <-line:
		return text
	case <-time.After(10 * time.Second):
		c.t.Fatal("no answer")
		return ""
	}
}

const frontURL = "http://front.notes/"

// TestNotes is the life of a real application: used, fenced, edited live, killed and adopted, and taken down.
func TestNotes(t *testing.T) {
	n := newNotes(t)
	n.use()
	n.edit()
	n.killAndAdopt()
	n.leaveBalancer()
	n.takeDown()
}

// use goes through the front, whose every door but one is shut.
func (n *notes) use() {
	n.t.Helper()
	if status, text := n.curl("visitors/browser", "-d", "first", frontURL); status != 201 || text != "1\n" {
		n.t.Fatalf("a new note: %d %q", status, text)
	}
	n.mustRead("visitors/browser", frontURL, "1|first\n")
	n.mustRead("node", "http://198.51.100.10:30080/", "1|first\n")
	denials := n.talk("flows", "-f", "--denied", "--last", "1")
	time.Sleep(200 * time.Millisecond) // until it listens; what it would miss it shows as the last one
	start := time.Now()
	n.talk("exec", "notes/front-1", "--", "redis-cli", "-h", "cache", "ping")
	line := denials.line()
	took := time.Since(start)
	n.mustBeDenied("notes/front-1")
	for _, want := range []string{"notes/front-1 ", "notes/cache-1 ", "6379/tcp", "notes/default-deny egress", "policies.yaml:2"} {
		if !strings.Contains(line, want) {
			n.t.Errorf("the denial does not tell %q: %s", want, line)
		}
	}
	n.t.Logf("from the attempt to the line that tells of the denial: %s", took)
	if took > 2*time.Second {
		n.t.Errorf("the denial is shown after %s", took)
	}
	if status, _ := n.curl("visitors/browser", "-m", "1", "http://api.notes/"); status != 0 {
		n.t.Errorf("a visitor reaches the API: %d", status)
	}
}

// edit closes the API's door to the front, and opens it again.
func (n *notes) edit() {
	n.t.Helper()
	const door = "  ingress:\n  - from:\n    - podSelector:\n        matchLabels: {app: front}\n"
	closed := strings.Replace(n.policies, door, strings.Replace(door, "front", "nobody", 1), 1)
	if closed == n.policies {
		n.t.Fatal("the policies have no such door")
	}
	for range 3 {
		n.write("policies.yaml", closed)
		n.up.await("policies.yaml: in force")
		if status, _ := n.curl("visitors/browser", frontURL); status != 504 {
			n.t.Errorf("with the API's door closed: %d", status)
		}
		n.write("policies.yaml", n.policies)
		n.t.Log(n.up.await("policies.yaml: in force"))
		n.mustRead("visitors/browser", frontURL, "1|first\n")
	}
}

// killAndAdopt has a transaction open in the database while `up` is dead.
func (n *notes) killAndAdopt() {
	n.t.Helper()
	db := n.talk("exec", "notes/api-1", "--", "psql", "-XAtq")
	db.must("BEGIN; INSERT INTO notes (note) VALUES ('second') RETURNING id;", "2")
	n.up.kill()
	db.must("SELECT count(*) FROM notes;", "2")
	n.mustBeDenied("notes/front-1")
	n.mustRead("visitors/browser", frontURL, "1|first\n")
	n.up = n.machine.up()
	n.t.Log(n.up.await("in force"))
	n.mustBeDenied("notes/front-2")
	db.must("COMMIT; SELECT count(*) FROM notes;", "2")
	if status, text := n.curl("visitors/browser", "-d", "third", frontURL); status != 201 || text != "3\n" {
		n.t.Errorf("a new note: %d %q", status, text)
	}
	n.mustRead("visitors/browser", frontURL, "1|first\n2|second\n3|third\n")
	s, err := statusOf(n.t.Context(), n.Instance)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range s.Pods {
		if p.Restarts > 0 {
			n.t.Errorf("%s was started %d times again", p.Pod, p.Restarts)
		}
	}
}

// leaveBalancer has a front say that it is not ready.
func (n *notes) leaveBalancer() {
	n.t.Helper()
	const long = 4 * time.Second
	n.ringfence("exec", "notes/front-1", "--", "touch", "closed")
	start := time.Now()
	var last time.Duration
	for time.Since(start) < long {
		asked := time.Since(start)
		status, head := n.curl("visitors/browser", "-I", frontURL+"healthz")
		if strings.Contains(head, "X-Front: front-1") {
			last = asked
		}
		if status == 0 {
			n.t.Errorf("no answer %s after a front is not ready", asked)
		}
	}
	n.t.Logf("the last connection to a front that is not ready: after %s", last)
	if last > 3*time.Second {
		n.t.Errorf("a front that is not ready is still asked after %s", last)
	}
	n.ringfence("exec", "notes/front-1", "--", "rm", "closed")
	n.mustAwait("the front is back in the balancer", func() bool {
		_, head := n.curl("visitors/browser", "-I", frontURL+"healthz")
		return strings.Contains(head, "X-Front: front-1")
	})
}

// takeDown leaves no process in the namespaces of the pods and of the node, and no folder.
func (n *notes) takeDown() {
	n.t.Helper()
	namespaces := map[string]bool{}
	node, err := n.NodeShim()
	if err != nil {
		n.t.Fatal(err)
	}
	namespaces[networkOf(node.PID)] = true
	record, _, err := n.Read()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range record.Pods {
		c, err := n.Shim(p.Key)
		if err != nil {
			n.t.Fatal(err)
		}
		namespaces[networkOf(c.PID)] = true
	}
	if before := processesIn(n.t, namespaces); len(before) < 2*len(record.Pods) {
		n.t.Errorf("only these run: %s", before)
	}
	if code := n.up.interrupt(); code != exitOK {
		n.t.Errorf("up ends with code %d", code)
	}
	if out, code := n.ringfence("down"); code != exitOK {
		n.t.Errorf("down: code %d, %s", code, out)
	}
	if left := processesIn(n.t, namespaces); len(left) > 0 {
		n.t.Errorf("down leaves behind: %s", left)
	}
	for _, dir := range []string{n.Run, n.State} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			n.t.Errorf("down leaves %s behind", dir)
		}
	}
}

// networkOf names the network namespace of a process; "" if it is gone.
func networkOf(pid int) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return name
}

// processesIn are the commands of all processes in one of the network namespaces.
func processesIn(t *testing.T, namespaces map[string]bool) []string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range folders {
		pid, err := strconv.Atoi(filepath.Base(f))
		if err != nil || !namespaces[networkOf(pid)] {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(f, "comm"))
		found = append(found, strings.TrimSpace(string(name)))
	}
	return found
}
