package rpc

import (
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/storagenode"
)

// metrics counts at the boundary: whole calls, by operation and outcome.
type metrics struct {
	calls   *prometheus.CounterVec
	latency *prometheus.HistogramVec
}

// outcomes are the sentinels as labels, in the order of sentinels.
var outcomes = [len(sentinels)]string{
	"not_found", "corrupt", "stale_epoch", "read_only", "too_large", "deleted", "broken", "suspect", "unavailable",
	"eof", "canceled", "deadline", "other_life", "other_cluster", "name_taken",
}

func newMetrics(reg prometheus.Registerer, drives storagenode.Reporter) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kintsugi_node_calls_total", Help: "Calls to drives by operation and outcome.",
		}, []string{"operation", "outcome"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kintsugi_node_call_seconds", Help: "Time from a call's head to its answer's end, in seconds.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation"}),
	}
	if reg != nil {
		reg.MustRegister(m.calls, m.latency, driveGauges{drives})
	}
	return m
}

func (m *metrics) count(op string, err error, took time.Duration) {
	m.calls.WithLabelValues(op, outcome(err)).Inc()
	m.latency.WithLabelValues(op).Observe(took.Seconds())
}

func outcome(err error) string {
	if err == nil || err == io.EOF {
		return "ok"
	}
	for i := len(sentinels) - 1; i >= 0; i-- { // what wraps unavailable comes behind it
		if errors.Is(err, sentinels[i]) {
			return outcomes[i]
		}
	}
	return "other"
}

// DriveGauges is a collector of what the drives hold and are. A Server registers
// one of its own.
func DriveGauges(drives storagenode.Reporter) prometheus.Collector { return driveGauges{drives} }

// driveGauges shows the node's drives as they are when asked.
type driveGauges struct{ drives storagenode.Reporter }

var (
	driveBytes = prometheus.NewDesc("kintsugi_node_drive_bytes", "Capacity of a drive; free excludes the reserve, dead is what compaction can win back.", []string{"drive", "dir", "kind"}, nil)
	driveState = prometheus.NewDesc("kintsugi_node_drive_state", "1 for the state a drive is in.", []string{"drive", "dir", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (g driveGauges) Describe(to chan<- *prometheus.Desc) {
	to <- driveBytes
	to <- driveState
}

// Collect implements prometheus.Collector.
func (g driveGauges) Collect(to chan<- prometheus.Metric) {
	for _, r := range g.drives.Reports() {
		id := r.ID.String()
		for kind, n := range map[string]int64{"total": r.Space.Total, "used": r.Space.Used, "free": r.Space.Free, "dead": r.Space.Dead} {
			to <- prometheus.MustNewConstMetric(driveBytes, prometheus.GaugeValue, float64(n), id, r.Dir, kind)
		}
		to <- prometheus.MustNewConstMetric(driveState, prometheus.GaugeValue, 1, id, r.Dir, r.State.String())
	}
}
