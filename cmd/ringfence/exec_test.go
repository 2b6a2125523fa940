package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExecSaysHowItWent(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.up().await("in force")
	for what, c := range map[string]struct {
		args []string
		code int
	}{
		"well":                {[]string{"true"}, 0},
		"its own code":        {[]string{"sh", "-c", "exit 7"}, 7},
		"by a signal":         {[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		"no such command":     {[]string{"no-such-command"}, exitNotFound},
		"no such file":        {[]string{"/no/such/file"}, exitNotFound},
		"not executable":      {[]string{"/etc/passwd"}, exitNotExecutable},
		"a folder":            {[]string{"/etc"}, exitNotExecutable},
		"what the shell says": {[]string{"sh", "-c", "no-such-command"}, exitNotFound},
	} {
		if _, code := m.ringfence(append([]string{"exec", "shop/web", "--"}, c.args...)...); code != c.code {
			t.Errorf("%s: code %d, want %d", what, code, c.code)
		}
	}
	if _, code := m.ringfence("exec", "node", "--", "no-such-command"); code != exitNotFound {
		t.Errorf("on the node: code %d", code)
	}
}

// TestExecEndsWithItsCaller has commands in a pod, and one on the node, that go on for ever.
func TestExecEndsWithItsCaller(t *testing.T) {
	m := newMachine(t)
	m.write("shop.yaml", shopManifest)
	m.up().await("in force")
	started := filepath.Join(m.WorkDir(key("shop/web")), "started")
	const stubborn = `trap "" TERM HUP INT; touch %; (trap "" TERM HUP INT; sleep 12345; :); sleep 12345`
	const polite = `trap "exit 3" TERM HUP INT; touch %; while true; do sleep 0.05; done`
	for _, c := range []struct {
		where, script string
		signal        syscall.Signal
		code          int // -1 if killed
	}{
		{"shop/web", polite, syscall.SIGTERM, 3},
		{"shop/web", polite, syscall.SIGHUP, 3},
		{"shop/web", polite, syscall.SIGINT, 3},
		{"node", polite, syscall.SIGTERM, 3},
		{"shop/web", "touch %; sleep 12345", syscall.SIGTERM, 128 + 15},
		{"shop/web", stubborn, syscall.SIGKILL, -1},
		{"node", "touch %; exec sleep 12345", syscall.SIGKILL, -1},
	} {
		os.Remove(started)
		cmd := m.command("exec", c.where, "--", "sh", "-c", strings.ReplaceAll(c.script, "%", started))
		var out bytes.Buffer
		cmd.Stderr = &out
		pipe, err := cmd.StdoutPipe() // which all that the command has started hold open
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		m.mustAwait("the command runs", func() bool { _, err := os.Stat(started); return err == nil })
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		mustEnd := time.AfterFunc(20*time.Second, func() { pipe.Close() })
		if _, err := io.ReadAll(pipe); err != nil {
			t.Errorf("%s in %s, told %s: something of it goes on: %v", c.script, c.where, c.signal, err)
		}
		mustEnd.Stop()
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.code {
			t.Errorf("%s in %s, told %s: code %d, want %d; %s", c.script, c.where, c.signal, got, c.code, out.String())
		}
	}
}

// endBy starts ringfence and sends it SIGINT again and again once ready says so, and returns how it ends.
func endBy(t *testing.T, cmd *exec.Cmd, ready func() bool, most int) *os.ProcessState {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mustEnd := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer mustEnd.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	for {
		select {
		case <-ended:
			return cmd.ProcessState
		case <-time.After(20 * time.Millisecond):
		}
		if most > 0 && ready() {
			_ = cmd.Process.Signal(os.Interrupt)
			most--
		}
	}
}

func TestInterruptEndsWhatWaitsForInput(t *testing.T) {
	for _, args := range [][]string{{"map", "-"}, {"can", "-f", "-", "a/b", "c/d", "80"}, {"lab", "%"}, {"map", "%"},
		{"can", "-f", "../../examples/ldap", "--queries", "-"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			fifo := filepath.Join(t.TempDir(), "manifests.yaml")
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Skipf("no pipes with names here: %v", err)
			}
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "%", fifo)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			if _, err := w.WriteString(" "); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("ringfence", args...)
			var said bytes.Buffer
			cmd.Stderr, cmd.Stdin = &said, r
			state := endBy(t, cmd, func() bool { // it has read the blank, or has the other pipe open
				left, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
				f, noReader := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
				if noReader == nil {
					t.Cleanup(func() { f.Close() })
				}
				return err == nil && left == 0 || noReader == nil
			}, 1)
			if state.ExitCode() != exitInterrupted || !strings.Contains(said.String(), "interrupted") {
				t.Errorf("%v, and it says %q", state, said.String())
			}
		})
	}
}

// TestSecondInterruptEndsAtOnce has a command that waits for somebody to read what it writes. The first interrupt has a
// handler, so that only a further one can end it by a signal.
func TestSecondInterruptEndsAtOnce(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	size, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Skipf("the size of pipes cannot be set: %v", err)
	}
	cmd := exec.Command("ringfence", "map", "../../examples/shop", "-o", "html")
	cmd.Stdout = w
	state := endBy(t, cmd, func() bool {
		full, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		return err == nil && full == size
	}, 100)
	if status, ok := state.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended otherwise: %v", state)
	}
}
