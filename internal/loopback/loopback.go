// Package loopback serves what a process says of itself: metrics, health and profiles. What is said names pods and policies,
// and nobody is asked who they are, so it is said on loopback addresses only.
package loopback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Describe returns what a registry's metrics are, whether or not there are values yet.
func Describe(r *prometheus.Registry) []*prometheus.Desc {
	to := make(chan *prometheus.Desc)
	go func() {
		defer close(to)
		r.Describe(to)
	}()
	var all []*prometheus.Desc
	for d := range to {
		all = append(all, d)
	}
	return all
}

// Mux answers /metrics, /healthz, /readyz and /debug/pprof/. notReady says why the process is not ready, "" if it is.
func Mux(metrics prometheus.Gatherer, notReady func() string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Serve answers at an address until ctx ends, which is no error. An address that is no loopback address is one.
func Serve(ctx context.Context, at string, h http.Handler) error {
	l, err := Listen(ctx, at)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// Listen listens at a loopback address.
func Listen(ctx context.Context, at string) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return nil, errors.Join(fmt.Errorf("serve metrics: %s is no loopback address", at), l.Close())
	}
	return l, nil
}
