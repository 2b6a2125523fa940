package controller

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-project/ringfence/internal/loopback"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
	"github.com/ringfence-project/ringfence/internal/source/kube"
)

// metrics are what Prometheus is told. Those of rollouts are told by the leader only.
type metrics struct {
	registry   *prometheus.Registry
	leader     prometheus.Gauge
	phase      *prometheus.GaugeVec
	step       *prometheus.GaugeVec
	findings   *prometheus.GaugeVec
	conditions *prometheus.GaugeVec
	writes     *prometheus.CounterVec
	// generations counts what was to be kept.
	generations *prometheus.CounterVec
}

func newMetrics() *metrics {
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{registry: prometheus.NewRegistry(),
		leader:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "ringfence_leader", Help: "1 if this controller drives the rollouts."}),
		phase:      gauges("ringfence_rollout_phase", "1 for the phase that a rollout is in.", "rollout", "phase"),
		step:       gauges("ringfence_rollout_step", "The current step of a rollout, from 1; behind the last one when complete.", "rollout"),
		findings:   gauges("ringfence_rollout_findings", "Connections of the step on which candidate and policies before differ.", "rollout", "kind"),
		conditions: gauges("ringfence_conditions", "Things that are wrong, by type.", "type"),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringfence_rollout_writes_total",
			Help: "Statuses of rollouts that were written, by result: ok, conflict or error."}, []string{"result"}),
		generations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringfence_generation_writes_total",
			Help: "Generations that came in force and were written down, by result: ok, error or too large."}, []string{"result"}),
	}
	m.registry.MustRegister(m.leader, m.phase, m.step, m.findings, m.conditions, m.writes, m.generations)
	return m
}

// Metrics are those that a controller tells Prometheus.
func Metrics() []*prometheus.Desc { return loopback.Describe(newMetrics().registry) }

// show says how the rollouts are.
func (m *metrics) show(all []record.Record, conditions []kube.Condition) {
	for _, g := range []*prometheus.GaugeVec{m.phase, m.step, m.findings, m.conditions} {
		g.Reset()
	}
	for _, r := range all {
		m.phase.WithLabelValues(r.Name, string(r.Status.Phase)).Set(1)
		m.step.WithLabelValues(r.Name).Set(float64(r.Status.Step + 1))
		for _, k := range []rollout.FindingKind{rollout.NewlyDenied, rollout.NewlyAllowed} {
			n := 0
			for _, f := range r.Status.Evidence.Findings {
				if f.Kind == k {
					n += f.Count
				}
			}
			m.findings.WithLabelValues(r.Name, string(k)).Set(float64(n))
		}
	}
	for _, c := range conditions {
		m.conditions.WithLabelValues(c.Type).Inc()
	}
}
