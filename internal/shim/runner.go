//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ringfence-project/ringfence/internal/echo"
)

// How long to wait before a command that ended is started again: twice as long each time, until it ran for a while.
const (
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
	steady       = time.Minute
)

// runner runs one Pod until it is told another.
type runner struct {
	keeper *podKeeper
	pod    Pod
	log    *logFile
}

// run runs the pod's command over and over, or the built-in listener, until ctx ends.
func (r *runner) run(ctx context.Context) {
	wait := firstBackoff
	for {
		start := time.Now()
		why := r.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) >= steady {
			wait = firstBackoff
		}
		r.say("%s; it is started again in %s", why, wait)
		r.keeper.set(func(s *Status) { s.State, s.Ready, s.Why = Backoff, false, why })
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		r.keeper.set(func(s *Status) { s.Restarts++ })
		wait = min(2*wait, lastBackoff)
	}
}

// say adds a line to the pod's log.
func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.log, "ringfence: "+format+"\n", args...)
}

// once runs the pod until it ends, and says how.
func (r *runner) once(ctx context.Context) string {
	if err := makeWorkDir(r.pod); err != nil {
		return fmt.Sprintf("the pod's folder cannot be made: %v", err)
	}
	if r.pod.Workload.Command == "" {
		return r.listen(ctx)
	}
	return r.command(ctx)
}

// listen is the built-in listener. What manifests say of probes is about the program that it stands for.
func (r *runner) listen(ctx context.Context) string {
	var servers echo.Servers
	defer servers.Close()
	for _, a := range r.pod.Addresses {
		for _, p := range r.pod.Ports {
			if err := servers.Listen(a, p); err != nil {
				return fmt.Sprintf("the built-in listener does not start: %v", err)
			}
		}
	}
	r.keeper.set(func(s *Status) { s.State, s.Ready, s.Why = Running, true, "" })
	<-ctx.Done()
	return "stopped"
}

// makeWorkDir makes the pod's folder, which commands of exec start in too, and gives it to the user that they run as.
func makeWorkDir(p Pod) error {
	if err := os.MkdirAll(filepath.Dir(p.WorkDir), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(p.WorkDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	uid, gid := -1, -1
	if u := p.Workload.User; u != nil {
		uid = int(*u)
	}
	if g := p.Workload.Group; g != nil {
		gid = int(*g)
	}
	return os.Chown(p.WorkDir, uid, gid)
}

// command runs the pod's command once, with its probes.
func (r *runner) command(ctx context.Context) string {
	c, err := r.keeper.children.start(r.pod, r.log.pipe)
	if err != nil {
		return fmt.Sprintf("the command does not start: %v", err)
	}
	r.keeper.set(func(s *Status) { s.State, s.Ready, s.Why = Running, false, "not probed yet" })
	probing, stopProbing := context.WithCancel(ctx)
	unhealthy := r.probe(probing)
	why := ""
	select {
	case <-c.ended:
		why = "the command ended: " + c.how
	case why = <-unhealthy:
	case <-ctx.Done():
	}
	stopProbing()
	r.keeper.set(func(s *Status) { s.Ready = false })
	c.end(r.pod.Workload.Grace)
	return why
}
