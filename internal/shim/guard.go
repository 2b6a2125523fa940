//go:build linux

package shim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// released is what is said on a guarding connection before it ends in peace.
const released = "released\n"

// guard has the shim end a process, with all that it has started, if the caller ends before it calls release. The
// parent-death signal does not do: it is of no use across PID namespaces, and reaches one process only. A shim that is
// older than the operation guards nothing.
func (c *Client) guard(pid int) (release func()) {
	inside, err := pidInside(pid)
	if err != nil {
		return func() {} // it has ended
	}
	conn, err := net.DialTimeout("unix", c.dir.file("sock"), requestTimeout)
	if err != nil {
		return func() {}
	}
	if data, err := json.Marshal(Request{Op: OpGuard, Process: inside}); err == nil {
		_ = conn.SetDeadline(time.Now().Add(requestTimeout))
		_, _ = conn.Write(append(data, '\n'))
		_, _ = bufio.NewReader(conn).ReadBytes('\n') // from now on it is guarded
	}
	return func() {
		_, _ = conn.Write([]byte(released))
		conn.Close()
	}
}

// pidInside is the number that a process has in its own PID namespace.
func pidInside(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if numbers, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			all := bytes.Fields(numbers)
			return strconv.Atoi(string(all[len(all)-1]))
		}
	}
	return 0, fmt.Errorf("process %d has no number", pid)
}

// guard is the shim's side.
func (e *endpoint) guard(c net.Conn, said *bufio.Reader, pid int) {
	if os.Getpid() != 1 || pid <= 1 { // only in a PID namespace of its own does the shim know whose a number is
		e.reply(c, errors.New("there is no such process in a pod"))
		return
	}
	held, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		e.reply(c, fmt.Errorf("process %d: %w", pid, err))
		return
	}
	defer unix.Close(held)
	e.reply(c, nil)
	_ = c.SetDeadline(time.Time{})
	if text, _ := io.ReadAll(said); string(text) == released {
		return
	}
	alive := unix.PidfdSendSignal(held, 0, nil, 0) == nil // else the number may be another's, but not that of its session
	for range 100 {                                       // they may start others meanwhile
		all := startedBy(pid, alive)
		if len(all) == 0 {
			return
		}
		for _, p := range all {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// startedBy tells the processes of a session that is called after its first process, and if withTree that process and
// those that descend from it.
func startedBy(pid int, withTree bool) []int {
	entries, _ := os.ReadDir("/proc")
	parents, sessions := map[int]int{}, map[int]int{}
	for _, entry := range entries {
		p, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if s, err := stat(p); err == nil && s.state != 'Z' {
			parents[p], sessions[p] = s.parent, s.session
		}
	}
	var all []int
	for p := range parents {
		ours := sessions[p] == pid
		for up := p; withTree && !ours && up > 1; up = parents[up] {
			ours = up == pid
		}
		if ours {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}
