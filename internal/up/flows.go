package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/flowlog/watch"
	"github.com/ringfence-project/ringfence/internal/runtime"
)

// FlowsSocket is where an instance with that run folder tells flows; see flowlog/socket.
func FlowsSocket(run string) string { return filepath.Join(run, "flows.sock") }

// flowService is the part of `up` that sees connections and tells `flows`.
type flowService struct {
	log      *flowlog.Log
	watch    *watch.Watch
	listener net.Listener
}

func newFlowService(node *runtime.Node, s *services, r *rollouts) (*flowService, error) {
	judged := func() *cluster.State { return r.judged(s) }
	f := &flowService{log: flowlog.New(flowNames(node.Engine(), s.current, judged, r.Driver, s.name), flowlog.Limits{})}
	var err error
	if f.watch, err = watch.New(node.Namespace(), f.log, node.Dataplane()); err != nil {
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	if f.listener, err = socket.Listen(FlowsSocket(node.Run)); err != nil {
		return nil, errors.Join(err, f.watch.Close())
	}
	return f, nil
}

// run watches and answers until ctx ends or something fails.
func (f *flowService) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 2)
	go func() { done <- f.watch.Run(ctx) }()
	go func() { done <- socket.Serve(ctx, f.listener, f.log) }()
	err := <-done
	cancel()
	return errors.Join(err, <-done, f.watch.Close())
}

// observe takes what the dataplane saw.
func (f *flowService) observe(e engine.Event) {
	if d := e.Seen.Denial; d != nil {
		f.log.Denied(flowlog.Denial{Time: d.Time, Row: d.Row, Tuple: d.Tuple})
	}
	if e.Seen.Lost > 0 {
		f.log.Lose(e.Seen.Lost)
	}
}
