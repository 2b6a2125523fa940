package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-project/ringfence/internal/engine"
	"github.com/ringfence-project/ringfence/internal/loopback"
)

// metrics are what Prometheus is told.
type metrics struct {
	registry *prometheus.Registry
	apply    prometheus.Histogram
	enforced *prometheus.HistogramVec
	lost     prometheus.Counter
	failures prometheus.Counter
}

var seconds = prometheus.ExponentialBuckets(0.001, 2, 16)

func newMetrics(a *Agent) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ringfence_apply_seconds",
			Help: "Time to put one change in force.", Buckets: seconds}),
		enforced: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "ringfence_enforced_seconds",
			Help: "Time from when the agent saw a change until it was in force; of a pod's addresses, or of a policy.", Buckets: seconds},
			[]string{"what"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: "ringfence_lost_denials_total",
			Help: "Denials that were not reported one by one, because there were too many. They are counted all the same."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "ringfence_failures_total",
			Help: "Changes that could not be put in force at once."}),
	}
	m.registry.MustRegister(m.apply, m.enforced, m.lost, m.failures, a.denials.denied, collector{a})
	return m
}

// Metrics are those that an agent tells Prometheus.
func Metrics() []*prometheus.Desc {
	return loopback.Describe(newMetrics(&Agent{denials: newDenials(Options{}, nil)}).registry)
}

func (m *metrics) observe(what string, took time.Duration) {
	m.enforced.WithLabelValues(what).Observe(took.Seconds())
}

func (m *metrics) applied(s engine.Status) {
	if s.Err != nil {
		m.failures.Inc()
	}
	if s.Ops > 0 {
		m.apply.Observe(s.Apply.Seconds())
	}
}

var (
	readyDesc = prometheus.NewDesc("ringfence_ready", "1 if all that the API says is in force and pods' packets are known to pass it.", nil, nil)
	genDesc   = prometheus.NewDesc("ringfence_generation", "Generation of the ruleset in force.", nil, nil)
	podsDesc  = prometheus.NewDesc("ringfence_pods", "Pods of this node, by whether it is known where they are plugged in. Those that wait are closed.", []string{"state"}, nil)
	condDesc  = prometheus.NewDesc("ringfence_conditions", "Things that are wrong, by type.", []string{"type"}, nil)
	trackDesc = prometheus.NewDesc("ringfence_tracked_connections", "Connections that the kernel tracks.", nil, nil)
	mostDesc  = prometheus.NewDesc("ringfence_tracked_connections_max", "Connections that the kernel can track; beyond it drops new ones.", nil, nil)
	lostDesc  = prometheus.NewDesc("ringfence_untracked_connections_total", "Connections that the kernel dropped because it could track no more.", nil, nil)
	fixDesc   = prometheus.NewDesc("ringfence_repairs_total", "How often a change that somebody else made to the kernel's tables was undone.", nil, nil)
)

// collector reads what is kept elsewhere anyway.
type collector struct{ *Agent }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{readyDesc, genDesc, podsDesc, condDesc, trackDesc, mostDesc, lostDesc, fixDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ready := 0.0
	if c.notReady() == "" {
		ready = 1
	}
	gauge(readyDesc, ready)
	placed, waiting := c.feed.count()
	gauge(podsDesc, float64(placed), "known")
	gauge(podsDesc, float64(waiting), "waiting")
	types := map[string]int{}
	for _, x := range c.conditions() {
		types[x.Type]++
	}
	for kind, n := range types {
		gauge(condDesc, float64(n), kind)
	}
	if now, most, ok := c.tracked(); ok {
		gauge(trackDesc, float64(now))
		gauge(mostDesc, float64(most))
	}
	if lost, ok := c.untracked(); ok {
		to <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(lost))
	}
	if e := c.running(); e != nil {
		s := e.Status()
		gauge(genDesc, float64(s.Generation))
		to <- prometheus.MustNewConstMetric(fixDesc, prometheus.CounterValue, float64(s.Repairs))
	}
}

func (a *Agent) running() *engine.Engine {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.engine
}
