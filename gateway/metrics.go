package gateway

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts at the boundary: whole requests, by operation and status.
type metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	in, out  prometheus.Counter
	unknown  *series
}

// series is what one operation counts, with its labels resolved.
type series struct {
	m       *metrics
	name    string
	latency prometheus.Observer
	codes   [len(statuses) + 1]atomic.Pointer[prometheus.Counter]
}

// statuses that the gateway answers with; others are counted together.
var statuses = [...]struct {
	status int
	label  string
}{
	{200, "200"}, {204, "204"}, {206, "206"}, {304, "304"}, {400, "400"}, {403, "403"}, {404, "404"},
	{405, "405"}, {409, "409"}, {411, "411"}, {412, "412"}, {416, "416"}, {500, "500"}, {501, "501"}, {503, "503"},
}

func newMetrics(reg prometheus.Registerer, inFlight *atomic.Int64) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kintsugi_s3_requests_total", Help: "S3 requests by operation and HTTP status; status none: cut off before an answer.",
		}, []string{"operation", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kintsugi_s3_request_seconds", Help: "Time from a request's headers to its answer's end, in seconds.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation"}),
		in:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kintsugi_s3_received_bytes_total", Help: "Bytes of request bodies, decoded."}),
		out: prometheus.NewCounter(prometheus.CounterOpts{Name: "kintsugi_s3_sent_bytes_total", Help: "Bytes of answers' bodies."}),
	}
	m.unknown = m.series("Unknown")
	if reg != nil {
		reg.MustRegister(m.requests, m.latency, m.in, m.out, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kintsugi_s3_requests_in_flight", Help: "S3 requests being served.",
		}, func() float64 { return float64(inFlight.Load()) }))
	}
	return m
}

func (m *metrics) series(name string) *series {
	return &series{m: m, name: name, latency: m.latency.WithLabelValues(name)}
}

func (s *series) count(status int) {
	at, label := len(statuses), "other"
	if status == 0 {
		label = "none"
	}
	for i := range statuses {
		if statuses[i].status == status {
			at, label = i, statuses[i].label
			break
		}
	}
	c := s.codes[at].Load()
	if c == nil || at == len(statuses) {
		made := s.m.requests.WithLabelValues(s.name, label)
		c = &made
		s.codes[at].Store(c)
	}
	(*c).Inc()
}

// observe counts a request that has ended.
func (m *metrics) observe(x *exchange, now time.Time) {
	s := m.unknown
	if x.op != nil {
		s = x.op.series
	}
	s.count(x.status)
	s.latency.Observe(now.Sub(x.start).Seconds())
	if x.body != nil {
		m.in.Add(float64(x.body.Total()))
	}
	if x.out > 0 {
		m.out.Add(float64(x.out))
	}
}
