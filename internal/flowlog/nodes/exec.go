//go:build linux

package nodes

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// Exec runs a command in a pod's container and copies what it writes, until the command ends, which is an error unless it
// succeeded, or ctx does. The command's standard input is open and empty until then.
type Exec func(ctx context.Context, namespace, pod, container string, command []string, stdout, stderr io.Writer) error

// errForbidden is what the API says to whoever may not run commands in the agents' containers.
var errForbidden = errors.New("you may not run commands in the agents' containers")

// stopped is the error of whoever takes what is told.
type stopped struct{ error }

// maxLine bounds one record.
const maxLine = 1 << 20

// Remote runs commands through the API server of config, as `kubectl exec` does: over websockets, or SPDY where the way
// there takes none.
func Remote(config *rest.Config, client kubernetes.Interface) Exec {
	return func(ctx context.Context, namespace, pod, container string, command []string, stdout, stderr io.Writer) error {
		options := &corev1.PodExecOptions{Container: container, Command: command, Stdin: true, Stdout: true, Stderr: true}
		url := client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec").
			VersionedParams(options, scheme.ParameterCodec).URL()
		socket, err := remotecommand.NewWebSocketExecutor(config, "GET", url.String())
		if err != nil {
			return fmt.Errorf("run a command in pod %s: %w", pod, err)
		}
		spdy, err := remotecommand.NewSPDYExecutor(config, "POST", url)
		if err != nil {
			return fmt.Errorf("run a command in pod %s: %w", pod, err)
		}
		either, err := remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
			return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
		})
		if err != nil {
			return fmt.Errorf("run a command in pod %s: %w", pod, err)
		}
		open, end := io.Pipe() // its end is how the command learns that nobody listens any more
		defer end.Close()
		return either.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: open, Stdout: stdout, Stderr: stderr})
	}
}

// ask runs `ringfence flows` in an agent's container and calls line for each line that it writes, until it ends, line
// fails, or ctx ends.
func (a *Agents) ask(ctx context.Context, g agent, args []string, line func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	var said tail
	ended := make(chan error, 1)
	go func() {
		err := a.Exec(ctx, a.namespace(), g.pod, Container, append(strings.Fields("ringfence flows --name agent --until-eof -o jsonl"), args...), w, &said)
		w.Close()
		ended <- err
	}()
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 16<<10), maxLine)
	var stop error
	for stop == nil && lines.Scan() {
		stop = line(lines.Bytes())
	}
	if stop == nil && lines.Err() != nil {
		stop = fmt.Errorf("read its answer: %w", lines.Err())
	}
	r.CloseWithError(io.ErrClosedPipe)
	if stop != nil {
		cancel()
	}
	err := <-ended
	switch {
	case stop != nil:
		return stop
	case ctx.Err() != nil:
		return ctx.Err()
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: it takes get and create of pods/exec in namespace %s (%w)",
			errForbidden, a.namespace(), err)
	case err != nil && said.last() != "":
		return errors.New(strings.TrimPrefix(said.last(), "error: "))
	case err != nil:
		return err
	}
	for text := range strings.Lines(said.String()) {
		a.warn("node %s: %s", g.node, strings.TrimSpace(text))
	}
	return nil
}

// tail is the last few thousand bytes of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 4096
	t.b = append(t.b, p...)
	if len(t.b) > most {
		t.b = append(t.b[:0], t.b[len(t.b)-most:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

// last is the last line that is not empty.
func (t *tail) last() string {
	text := bytes.TrimSpace(t.b)
	return string(bytes.TrimSpace(text[bytes.LastIndexByte(text, '\n')+1:]))
}
