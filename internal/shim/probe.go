//go:build linux

package shim

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/podspec"
)

// probe runs the pod's probes until ctx ends. It keeps the readiness in the status, and says on the channel once when
// the command is not alive, or does not start.
func (r *runner) probe(ctx context.Context) <-chan string {
	unhealthy := make(chan string, 1)
	go func() {
		if why := r.awaitStartup(ctx); why != "" {
			unhealthy <- why
		} else if ctx.Err() == nil {
			r.probeRunning(ctx, unhealthy)
		}
	}()
	return unhealthy
}

// awaitStartup returns when all startup probes came out well or ctx has ended, or why one has failed for too long.
func (r *runner) awaitStartup(ctx context.Context) (why string) {
	for _, p := range r.pod.Workload.Startup {
		r.ready(ctx, "it is starting: the startup probe has not come out well yet")
		// a probe is made more often at first, so not failures are counted but the time that they would take
		until := time.Now().Add(p.Delay + time.Duration(threshold(p, true)-1)*max(p.Period, leastPeriod))
		probing, stop := context.WithCancel(ctx)
		r.repeat(probing, p, false, func(err error) {
			if err != nil && time.Now().Before(until) {
				return
			}
			why = explain("startup", err)
			stop()
		})
		stop()
		if why != "" || ctx.Err() != nil {
			return why
		}
	}
	return ""
}

// probeRunning runs the probes of a command that has started.
func (r *runner) probeRunning(ctx context.Context, unhealthy chan<- string) {
	w := r.pod.Workload
	var mu sync.Mutex
	why := make([]string, len(w.Readiness)) // of each probe, why it is not ready
	for i := range why {
		why[i] = "not probed yet"
	}
	if len(why) == 0 {
		r.ready(ctx, "")
	}
	for i, p := range w.Readiness {
		go r.repeat(ctx, p, false, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			why[i] = explain("readiness", err)
			r.ready(ctx, firstOf(why))
		})
	}
	for _, p := range w.Liveness {
		go r.repeat(ctx, p, true, func(err error) {
			if err != nil {
				select {
				case unhealthy <- explain("liveness", err):
				default:
				}
			}
		})
	}
}

// ready sets the readiness, unless the run that it is about is over.
func (r *runner) ready(ctx context.Context, why string) {
	r.keeper.set(func(s *Status) {
		if ctx.Err() == nil {
			s.Ready, s.Why = why == "", why
		}
	})
}

func explain(what string, err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%s probe failed: %v", what, err)
}

func firstOf(why []string) string {
	for _, w := range why {
		if w != "" {
			return w
		}
	}
	return ""
}

// leastPeriod bounds how often a probe is made, and firstRetry is the first time between two failures at the start,
// before it grows to the probe's period.
const (
	leastPeriod = 100 * time.Millisecond
	firstRetry  = 50 * time.Millisecond
)

// repeat makes a probe again and again. It says what came out when that changes sides, from the given one, and each
// failure while it counts as failed.
func (r *runner) repeat(ctx context.Context, p podspec.Probe, good bool, say func(error)) {
	streak, soon := 0, firstRetry
	next := time.NewTimer(p.Delay)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		err := r.check(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if (err == nil) == good {
			streak = 0
		} else if streak++; streak >= threshold(p, good) {
			good, streak = !good, 0
			say(err)
		}
		if !good && err != nil { // another reason than before, perhaps
			say(err)
		}
		wait := max(p.Period, leastPeriod)
		if !good { // what is not ready often is so soon
			wait, soon = min(wait, soon), 2*min(soon, wait)
		}
		next.Reset(wait)
	}
}

// threshold is how many times in a row a probe has to come out otherwise.
func threshold(p podspec.Probe, good bool) int {
	if good {
		return max(p.Failure, 1)
	}
	return max(p.Success, 1)
}

// check makes a probe once, from inside the pod.
func (r *runner) check(ctx context.Context, p podspec.Probe) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(p.Timeout, 100*time.Millisecond), errors.New("it took too long"))
	defer cancel()
	var err error
	switch {
	case len(p.Exec) > 0:
		err = r.checkExec(ctx, p.Exec)
	case p.HTTP != nil:
		err = r.checkHTTP(ctx, p.HTTP)
	default:
		err = r.checkTCP(ctx, p.TCP)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// own is the address that probes go to.
func (r *runner) own() netip.Addr {
	if len(r.pod.Addresses) > 0 {
		return r.pod.Addresses[0]
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (r *runner) checkTCP(ctx context.Context, port uint16) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(r.own(), port).String())
	if err != nil {
		return err
	}
	return c.Close()
}

// maxOutput is how much of a failed check's output is kept.
const maxOutput = 256

func (r *runner) checkExec(ctx context.Context, args []string) error {
	cmd := command(r.pod, args...)
	var out bytes.Buffer
	cmd.Stdout = &limitedWriter{&out, maxOutput}
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = time.Second // for one that leaves its output open to others
	if err := r.keeper.children.startOn(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer stop()
	if err := r.keeper.children.wait(cmd); err != nil {
		if said := strings.TrimSpace(out.String()); said != "" {
			return fmt.Errorf("%s: %w: %s", args[0], err, said)
		}
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// limitedWriter keeps the first bytes that are written to it.
type limitedWriter struct {
	to   *bytes.Buffer
	left int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.to.Write(p[:n])
	return len(p), nil
}

func (r *runner) checkHTTP(ctx context.Context, h *podspec.HTTPGet) error {
	host := h.Host
	if host == "" {
		host = r.own().String()
	}
	target := url.URL{Scheme: "http", Host: net.JoinHostPort(host, fmt.Sprint(h.Port))}
	if strings.EqualFold(h.Scheme, "https") {
		target.Scheme = "https"
	}
	path, err := url.ParseRequestURI("/" + strings.TrimPrefix(h.Path, "/"))
	if err != nil {
		return err
	}
	target.Path, target.RawPath, target.RawQuery = path.Path, path.RawPath, path.RawQuery
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "ringfence-probe")
	for name, value := range h.Headers {
		req.Header.Set(name, value)
		if strings.EqualFold(name, "host") {
			req.Host = value
		}
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", target.String(), resp.Status)
	}
	return nil
}
